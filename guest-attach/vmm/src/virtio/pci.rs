//! A virtio device on the PCI bus (virtio 1.2, section 4.1): one memory BAR with all structures, MSI-X for interrupts,
//! an ioeventfd for each queue's notify.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use vmm_sys_util::eventfd::EventFd;

use super::Device;
use super::transport::{COMMON_BYTES, Transport};
use crate::memory::GuestRam;
use crate::pci::Function;
use crate::pci::config::{ConfigSpace, Identity};
use crate::pci::msix::{self, MsiX, Wire};

/// The BAR: a page for each structure.
pub(crate) const MEMORY_BYTES: u32 = 0x8000;
const PAGE: u64 = 0x1000;
const COMMON: u64 = 0;
const ISR: u64 = 0x1000;
const CONFIG: u64 = 0x2000;
const NOTIFY: u64 = 0x3000;
const MSIX_TABLE: u64 = 0x4000;
const MSIX_PENDING: u64 = 0x5000;
/// The notify address of queue N is N times this from the structure's start.
const NOTIFY_STEP: u32 = 4;

const VENDOR_RED_HAT: u16 = 0x1af4;
/// Modern virtio devices are 0x1040 and up, by their type.
const FIRST_MODERN: u16 = 0x1040;
const REVISION_MODERN: u8 = 1;
const CLASS_STORAGE_OTHER: [u8; 3] = [0x01, 0x80, 0];
const CLASS_NETWORK_ETHERNET: [u8; 3] = [0x02, 0, 0];
pub(crate) const KIND_NET: u16 = 1;

const CAPABILITY_VENDOR: u8 = 9;
const COMMON_CFG: u8 = 1;
const NOTIFY_CFG: u8 = 2;
const ISR_CFG: u8 = 3;
const DEVICE_CFG: u8 = 4;
const PCI_CFG: u8 = 5;

const ISR_CONFIG: u8 = 2;

/// Turns writes to a guest address into signals of an eventfd.
pub(crate) trait Doorbells: Send {
    /// From now on a write to `address` signals `event`.
    fn connect(&self, address: u64, event: &EventFd);
    /// No longer.
    fn disconnect(&self, address: u64, event: &EventFd);
}

/// The device as a PCI function.
pub(crate) struct VirtioPci {
    config: ConfigSpace,
    msix: MsiX,
    msix_control: u16,
    pci_cfg: u16,
    transport: Transport,
    config_changed: Arc<AtomicBool>,
    doorbells: Box<dyn Doorbells>,
    /// Where the doorbells are connected now.
    connected_at: Option<u64>,
}

impl VirtioPci {
    /// The function with its BAR at `address`. `wires` are its interrupts: the configuration's and one for each queue.
    pub(crate) fn new(
        device: Arc<dyn Device>,
        ram: Arc<GuestRam>,
        address: u32,
        wires: Vec<Box<dyn Wire>>,
        doorbells: Box<dyn Doorbells>,
    ) -> std::io::Result<Self> {
        let kind = device.kind();
        let queues = device.queue_count();
        let mut config = ConfigSpace::new(&Identity {
            vendor: VENDOR_RED_HAT,
            device: FIRST_MODERN + kind,
            subsystem_vendor: VENDOR_RED_HAT,
            subsystem: FIRST_MODERN + kind,
            revision: REVISION_MODERN,
            class: if kind == KIND_NET {
                CLASS_NETWORK_ETHERNET
            } else {
                CLASS_STORAGE_OTHER
            },
        });
        config.set_memory(address, MEMORY_BYTES);
        let msix = MsiX::new(wires);
        let body = msix.capability(MSIX_TABLE as u32, MSIX_PENDING as u32);
        let writable = [(3, msix::CONTROL_WRITABLE)];
        let msix_at = config.add_capability(msix::CAPABILITY, &body, &writable);
        structure(&mut config, COMMON_CFG, COMMON, COMMON_BYTES as u32, &[]);
        let notify_bytes = u32::from(queues) * NOTIFY_STEP;
        structure(
            &mut config,
            NOTIFY_CFG,
            NOTIFY,
            notify_bytes,
            &NOTIFY_STEP.to_le_bytes(),
        );
        structure(&mut config, ISR_CFG, ISR, 1, &[]);
        structure(&mut config, DEVICE_CFG, CONFIG, PAGE as u32, &[]);
        let pci_cfg = window(&mut config);
        let mut function = Self {
            config,
            msix,
            msix_control: msix_at as u16 + 2,
            pci_cfg: pci_cfg as u16,
            transport: Transport::new(device, ram)?,
            config_changed: Arc::default(),
            doorbells,
            connected_at: None,
        };
        function.place_doorbells();
        Ok(function)
    }

    /// Tells the guest that the device's configuration has changed.
    pub(crate) fn config_has_changed(&mut self) {
        use super::transport::Vectors;
        self.config_changed.store(true, Ordering::Relaxed);
        if let Some(event) = self.msix.event(self.transport.config_vector()) {
            let _ = event.write(1);
        }
    }

    /// Connects the doorbells to where the BAR lies now.
    fn place_doorbells(&mut self) {
        let now = self.config.memory().map(|(start, _)| start + NOTIFY);
        if now == self.connected_at {
            return;
        }
        let addresses = |base: u64| (base..).step_by(NOTIFY_STEP as usize);
        if let Some(base) = self.connected_at {
            for (kick, address) in self.transport.kicks().zip(addresses(base)) {
                self.doorbells.disconnect(address, kick);
            }
        }
        if let Some(base) = now {
            for (kick, address) in self.transport.kicks().zip(addresses(base)) {
                self.doorbells.connect(address, kick);
            }
        }
        self.connected_at = now;
    }

    /// The part of BAR 0 that the PCI configuration access capability points at, if an access of it touches its data.
    fn window_target(&self, offset: u16, length: usize) -> Option<(u64, usize)> {
        let data = self.pci_cfg + 16;
        if offset != data {
            return None;
        }
        let word = |at: u16| self.config.word(usize::from(self.pci_cfg + at));
        let (bar, target, width) = (word(4) & 0xff, word(8), word(12));
        let fits = bar == 0
            && matches!(width, 1 | 2 | 4)
            && target % width == 0
            && target < MEMORY_BYTES
            && length >= width as usize;
        fits.then_some((u64::from(target), width as usize))
    }
}

/// Adds the capability of a structure that lies in BAR 0.
fn structure(config: &mut ConfigSpace, kind: u8, offset: u64, length: u32, more: &[u8]) {
    let mut body = vec![16 + more.len() as u8, kind, 0, 0, 0, 0];
    body.extend((offset as u32).to_le_bytes());
    body.extend(length.to_le_bytes());
    body.extend(more);
    config.add_capability(CAPABILITY_VENDOR, &body, &[]);
}

/// Adds the capability by which configuration accesses reach BAR 0: its bar, offset, length and data can be written.
fn window(config: &mut ConfigSpace) -> usize {
    let mut body = vec![20, PCI_CFG];
    body.resize(18, 0);
    let writable: Vec<_> = std::iter::once(4)
        .chain(8..20)
        .map(|at| (at, 0xff))
        .collect();
    config.add_capability(CAPABILITY_VENDOR, &body, &writable)
}

impl Function for VirtioPci {
    fn read_config(&mut self, offset: u16, data: &mut [u8]) {
        self.config.read(offset, data);
        if let Some((target, width)) = self.window_target(offset, data.len()) {
            self.read_memory(target, &mut data[..width]);
        }
    }

    fn write_config(&mut self, offset: u16, data: &[u8]) {
        self.config.write(offset, data);
        if let Some((target, width)) = self.window_target(offset, data.len()) {
            self.write_memory(target, &data[..width]);
        }
        let control = self.config.word(usize::from(self.msix_control & !3)) >> 16;
        self.msix.set_control(control as u16);
        self.place_doorbells();
    }

    fn memory(&self) -> Option<(u64, u64)> {
        self.config.memory()
    }

    fn read_memory(&mut self, offset: u64, data: &mut [u8]) {
        let at = offset % PAGE;
        match offset - at {
            COMMON => self.transport.read(at, data),
            ISR => {
                data.fill(0);
                // Reading acknowledges. Queues interrupt by MSI-X alone, so their bit is never set.
                if at == 0 && self.config_changed.swap(false, Ordering::Relaxed) {
                    data[..1].fill(ISR_CONFIG);
                }
            }
            CONFIG => self.transport.device().read_config(at, data),
            MSIX_TABLE => self.msix.read(at, data),
            _ => data.fill(0),
        }
    }

    fn write_memory(&mut self, offset: u64, data: &[u8]) {
        let at = offset % PAGE;
        match offset - at {
            COMMON => self.transport.write(at, data, &self.msix),
            CONFIG => self.transport.device().write_config(at, data),
            MSIX_TABLE => self.msix.write(at, data),
            // Comes here only where no ioeventfd took it, as by the configuration access capability.
            NOTIFY => {
                let queue = (at / u64::from(NOTIFY_STEP)) as usize;
                if let Some(kick) = self.transport.kicks().nth(queue) {
                    let _ = kick.write(1);
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
