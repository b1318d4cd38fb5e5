//! The common configuration structure of a modern device: features, status, queues (virtio 1.2, section 4.1.4.3).
//!
//! A machine without I/O: the guest's accesses go in, calls of [`Device`] come out. Nothing that the guest writes makes it
//! panic; what makes no sense is dropped or sets DEVICE_NEEDS_RESET.

use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use super::{Activation, Device, F_VERSION_1, MAX_RING, Queue, Ring};
use crate::memory::GuestRam;

pub(crate) const NO_VECTOR: u16 = 0xffff;

const ACKNOWLEDGE_TO_FEATURES: u8 = 1 | 2 | 8;
const STATUS_DRIVER_OK: u8 = 4;
const STATUS_FEATURES_OK: u8 = 8;
const STATUS_NEEDS_RESET: u8 = 0x40;

/// Registers by their offset.
mod at {
    pub(super) const DEVICE_FEATURE_SELECT: u64 = 0;
    pub(super) const DEVICE_FEATURE: u64 = 4;
    pub(super) const DRIVER_FEATURE_SELECT: u64 = 8;
    pub(super) const DRIVER_FEATURE: u64 = 12;
    pub(super) const CONFIG_VECTOR: u64 = 16;
    pub(super) const NUM_QUEUES: u64 = 18;
    pub(super) const STATUS: u64 = 20;
    pub(super) const CONFIG_GENERATION: u64 = 21;
    pub(super) const QUEUE_SELECT: u64 = 22;
    pub(super) const QUEUE_SIZE: u64 = 24;
    pub(super) const QUEUE_VECTOR: u64 = 26;
    pub(super) const QUEUE_ENABLE: u64 = 28;
    pub(super) const QUEUE_NOTIFY_OFF: u64 = 30;
    pub(super) const QUEUE_DESC: u64 = 32;
    pub(super) const QUEUE_DRIVER: u64 = 40;
    pub(super) const QUEUE_DEVICE: u64 = 48;
}

/// The length of the structure.
pub(crate) const COMMON_BYTES: u64 = 56;

/// The eventfds of a device's interrupts.
pub(crate) trait Vectors {
    /// The eventfd of a vector; none for [`NO_VECTOR`] and what is beyond the table.
    fn event(&self, vector: u16) -> Option<Arc<EventFd>>;
    /// How many vectors there are.
    fn count(&self) -> u16;
}

struct QueueState {
    ring: Ring,
    vector: u16,
    enabled: bool,
    kick: Arc<EventFd>,
    /// Where interrupts go that the guest does not want.
    nowhere: Arc<EventFd>,
}

impl QueueState {
    fn reset(&mut self) {
        self.ring = Ring {
            size: MAX_RING,
            ..Ring::default()
        };
        self.vector = NO_VECTOR;
        self.enabled = false;
    }
}

/// The state of one device's common configuration.
pub(crate) struct Transport {
    device: Arc<dyn Device>,
    ram: Arc<GuestRam>,
    device_feature_select: u32,
    driver_feature_select: u32,
    driver_features: u64,
    config_vector: u16,
    status: u8,
    queue_select: u16,
    queues: Vec<QueueState>,
    /// The guest wrote zero to the status and waits until it reads it.
    resetting: bool,
}

impl Transport {
    /// A device as it is after power-on.
    pub(crate) fn new(device: Arc<dyn Device>, ram: Arc<GuestRam>) -> std::io::Result<Self> {
        let event = || EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).map(Arc::new);
        let queues = (0..device.queue_count())
            .map(|_| {
                let mut queue = QueueState {
                    ring: Ring::default(),
                    vector: NO_VECTOR,
                    enabled: false,
                    kick: event()?,
                    nowhere: event()?,
                };
                queue.reset();
                Ok(queue)
            })
            .collect::<std::io::Result<_>>()?;
        Ok(Self {
            device,
            ram,
            device_feature_select: 0,
            driver_feature_select: 0,
            driver_features: 0,
            config_vector: NO_VECTOR,
            status: 0,
            queue_select: 0,
            queues,
            resetting: false,
        })
    }

    /// The device behind.
    pub(crate) fn device(&self) -> &Arc<dyn Device> {
        &self.device
    }

    /// The eventfds by which the guest notifies, one for each queue.
    pub(crate) fn kicks(&self) -> impl Iterator<Item = &Arc<EventFd>> {
        self.queues.iter().map(|queue| &queue.kick)
    }

    /// The vector for changes of the configuration.
    pub(crate) fn config_vector(&self) -> u16 {
        self.config_vector
    }

    /// A read by the guest.
    pub(crate) fn read(&mut self, offset: u64, data: &mut [u8]) {
        let bytes = self.registers();
        for (at, byte) in data.iter_mut().enumerate() {
            *byte = bytes.get(offset as usize + at).copied().unwrap_or(0);
        }
    }

    fn registers(&mut self) -> [u8; COMMON_BYTES as usize] {
        let mut bytes = [0; COMMON_BYTES as usize];
        let mut put = |at: u64, value: &[u8]| {
            bytes[at as usize..at as usize + value.len()].copy_from_slice(value);
        };
        let select = |features: u64, select: u32| match select {
            0 => features as u32,
            1 => (features >> 32) as u32,
            _ => 0,
        };
        let offered = select(self.device.features(), self.device_feature_select);
        let taken = select(self.driver_features, self.driver_feature_select);
        put(
            at::DEVICE_FEATURE_SELECT,
            &self.device_feature_select.to_le_bytes(),
        );
        put(at::DEVICE_FEATURE, &offered.to_le_bytes());
        put(
            at::DRIVER_FEATURE_SELECT,
            &self.driver_feature_select.to_le_bytes(),
        );
        put(at::DRIVER_FEATURE, &taken.to_le_bytes());
        put(at::CONFIG_VECTOR, &self.config_vector.to_le_bytes());
        put(at::NUM_QUEUES, &(self.queues.len() as u16).to_le_bytes());
        if self.resetting && self.device.is_idle() {
            self.resetting = false;
            self.status = 0;
        }
        put(at::STATUS, &[self.status]);
        put(at::CONFIG_GENERATION, &[self.device.config_generation()]);
        put(at::QUEUE_SELECT, &self.queue_select.to_le_bytes());
        if let Some(queue) = self.queues.get(usize::from(self.queue_select)) {
            put(at::QUEUE_SIZE, &queue.ring.size.to_le_bytes());
            put(at::QUEUE_VECTOR, &queue.vector.to_le_bytes());
            put(at::QUEUE_ENABLE, &u16::from(queue.enabled).to_le_bytes());
            put(at::QUEUE_NOTIFY_OFF, &self.queue_select.to_le_bytes());
            put(at::QUEUE_DESC, &queue.ring.descriptors.to_le_bytes());
            put(at::QUEUE_DRIVER, &queue.ring.available.to_le_bytes());
            put(at::QUEUE_DEVICE, &queue.ring.used.to_le_bytes());
        }
        bytes
    }

    /// A write by the guest. Registers take writes of their own width, 64-bit ones also by halves.
    pub(crate) fn write(&mut self, offset: u64, data: &[u8], vectors: &dyn Vectors) {
        match *data {
            [byte] if offset == at::STATUS => self.write_status(byte, vectors),
            [low, high] => self.write_half(offset, u16::from_le_bytes([low, high]), vectors),
            [a, b, c, d] => self.write_word(offset, u32::from_le_bytes([a, b, c, d])),
            [a, b, c, d, e, f, g, h] => {
                self.write_word(offset, u32::from_le_bytes([a, b, c, d]));
                self.write_word(offset + 4, u32::from_le_bytes([e, f, g, h]));
            }
            _ => {}
        }
    }

    fn write_half(&mut self, offset: u64, value: u16, vectors: &dyn Vectors) {
        let vector = if value < vectors.count() {
            value
        } else {
            NO_VECTOR
        };
        match offset {
            at::CONFIG_VECTOR => self.config_vector = vector,
            at::QUEUE_SELECT => self.queue_select = value,
            at::QUEUE_SIZE if value.is_power_of_two() && value <= MAX_RING => {
                self.change_queue(|queue| queue.ring.size = value);
            }
            at::QUEUE_VECTOR => self.change_queue(|queue| queue.vector = vector),
            at::QUEUE_ENABLE if value == 1 => self.change_queue(|queue| queue.enabled = true),
            _ => {}
        }
    }

    fn write_word(&mut self, offset: u64, value: u32) {
        let low = |old: u64| old & !0xffff_ffff | u64::from(value);
        let high = |old: u64| old & 0xffff_ffff | u64::from(value) << 32;
        match offset {
            at::DEVICE_FEATURE_SELECT => self.device_feature_select = value,
            at::DRIVER_FEATURE_SELECT => self.driver_feature_select = value,
            at::DRIVER_FEATURE if self.status & STATUS_FEATURES_OK == 0 => {
                match self.driver_feature_select {
                    0 => self.driver_features = low(self.driver_features),
                    1 => self.driver_features = high(self.driver_features),
                    _ => {}
                }
            }
            at::QUEUE_DESC => self.change_queue(|q| q.ring.descriptors = low(q.ring.descriptors)),
            0x24 => self.change_queue(|q| q.ring.descriptors = high(q.ring.descriptors)),
            at::QUEUE_DRIVER => self.change_queue(|q| q.ring.available = low(q.ring.available)),
            0x2c => self.change_queue(|q| q.ring.available = high(q.ring.available)),
            at::QUEUE_DEVICE => self.change_queue(|q| q.ring.used = low(q.ring.used)),
            0x34 => self.change_queue(|q| q.ring.used = high(q.ring.used)),
            _ => {}
        }
    }

    /// Changes the selected queue, unless the device runs: what a back end was given stays as it is.
    fn change_queue(&mut self, change: impl FnOnce(&mut QueueState)) {
        if self.status & STATUS_DRIVER_OK == 0
            && let Some(queue) = self.queues.get_mut(usize::from(self.queue_select))
        {
            change(queue);
        }
    }

    fn write_status(&mut self, value: u8, vectors: &dyn Vectors) {
        if self.resetting {
            return;
        }
        if value == 0 {
            self.reset();
            return;
        }
        // The driver only ever adds bits; NEEDS_RESET is the device's.
        let added = value & !self.status & !STATUS_NEEDS_RESET;
        self.status |= added;
        if added & STATUS_FEATURES_OK != 0 && !self.features_are_acceptable() {
            self.status &= !STATUS_FEATURES_OK;
        }
        if added & STATUS_DRIVER_OK != 0 {
            self.start(vectors);
        }
    }

    fn features_are_acceptable(&self) -> bool {
        self.driver_features & !self.device.features() == 0
            && self.driver_features & F_VERSION_1 != 0
    }

    fn start(&mut self, vectors: &dyn Vectors) {
        let enabled = || self.queues.iter().filter(|queue| queue.enabled);
        let ready = self.status & ACKNOWLEDGE_TO_FEATURES == ACKNOWLEDGE_TO_FEATURES
            && self.device.is_idle()
            && enabled().all(|queue| queue.ring.is_valid(&self.ram));
        if !ready {
            self.status |= STATUS_NEEDS_RESET;
            if let Some(event) = vectors.event(self.config_vector) {
                let _ = event.write(1);
            }
            return;
        }
        let queues = self
            .queues
            .iter()
            .zip(0..)
            .filter(|(queue, _)| queue.enabled)
            .map(|(queue, index)| Queue {
                index,
                ring: queue.ring,
                kick: queue.kick.clone(),
                call: vectors
                    .event(queue.vector)
                    .unwrap_or_else(|| queue.nowhere.clone()),
            })
            .collect();
        self.device.activate(Activation {
            ram: self.ram.clone(),
            features: self.driver_features,
            queues,
        });
    }

    fn reset(&mut self) {
        self.device.reset();
        self.device_feature_select = 0;
        self.driver_feature_select = 0;
        self.driver_features = 0;
        self.config_vector = NO_VECTOR;
        self.queue_select = 0;
        self.queues.iter_mut().for_each(QueueState::reset);
        // The guest may use the rings' memory again as soon as it reads a zero, so the status stays until then.
        self.resetting = !self.device.is_idle();
        if !self.resetting {
            self.status = 0;
        }
    }
}

#[cfg(test)]
mod tests;
