//! Virtio 1.2 as the guest sees it: a modern PCI device whose queues are served elsewhere.

pub(crate) mod pci;
pub(crate) mod transport;

use std::sync::Arc;

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};
use vmm_sys_util::eventfd::EventFd;

use crate::memory::GuestRam;

/// The largest ring a queue can have.
pub(crate) const MAX_RING: u16 = 256;

pub(crate) const F_VERSION_1: u64 = 1 << 32;

/// A split ring in guest memory, checked: all three parts lie in RAM and are aligned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Ring {
    pub(crate) size: u16,
    pub(crate) descriptors: u64,
    pub(crate) available: u64,
    pub(crate) used: u64,
}

impl Ring {
    /// Whether the ring can be given to a back end (virtio 1.2, section 2.7).
    pub(crate) fn is_valid(&self, ram: &GuestRam) -> bool {
        let size = usize::from(self.size);
        let parts = [
            (self.descriptors, 16 * size, 16),
            (self.available, 6 + 2 * size, 2),
            (self.used, 6 + 8 * size, 4),
        ];
        self.size.is_power_of_two()
            && self.size <= MAX_RING
            && parts.into_iter().all(|(start, length, align)| {
                start % align == 0 && ram.get_slice(GuestAddress(start), length).is_ok()
            })
    }

    /// The index behind the last request that was answered.
    pub(crate) fn used_index(&self, ram: &GuestRam) -> u16 {
        let index = GuestAddress(self.used.saturating_add(2));
        ram.load(index, std::sync::atomic::Ordering::Acquire)
            .unwrap_or(0)
    }
}

/// One queue of a device that the guest has started.
#[derive(Clone)]
pub(crate) struct Queue {
    pub(crate) index: u16,
    pub(crate) ring: Ring,
    /// Signalled by the guest's notify.
    pub(crate) kick: Arc<EventFd>,
    /// Signal it to interrupt the guest.
    pub(crate) call: Arc<EventFd>,
}

/// What the guest started a device with.
#[derive(Clone)]
pub(crate) struct Activation {
    pub(crate) ram: Arc<GuestRam>,
    /// The features that the guest took.
    pub(crate) features: u64,
    pub(crate) queues: Vec<Queue>,
}

/// What does a virtio device's work. All calls return at once.
pub(crate) trait Device: Send + Sync {
    /// The virtio device type (virtio 1.2, section 5).
    fn kind(&self) -> u16;
    /// The features that the guest may take.
    fn features(&self) -> u64;
    /// How many queues there are.
    fn queue_count(&self) -> u16;
    /// Counts changes of the configuration.
    fn config_generation(&self) -> u8;
    /// Reads the device's configuration; beyond its end it is zero.
    fn read_config(&self, offset: u64, data: &mut [u8]);
    /// Writes the device's configuration.
    fn write_config(&self, offset: u64, data: &[u8]);
    /// Starts the queues.
    fn activate(&self, activation: Activation);
    /// Stops the queues. [`Device::is_idle`] tells when that is done.
    fn reset(&self);
    /// Whether no queue is being served.
    fn is_idle(&self) -> bool;
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use crate::sync::lock;
    use std::sync::Mutex;

    /// A device that notes what is done to it.
    pub(crate) struct Noted {
        pub(crate) activation: Mutex<Option<Activation>>,
        pub(crate) idle: Mutex<bool>,
        pub(crate) written: Mutex<Vec<(u64, Vec<u8>)>>,
    }

    impl Default for Noted {
        fn default() -> Self {
            Self {
                activation: Mutex::new(None),
                idle: Mutex::new(true),
                written: Mutex::default(),
            }
        }
    }

    impl Device for Noted {
        fn kind(&self) -> u16 {
            2
        }
        fn features(&self) -> u64 {
            F_VERSION_1 | 1 << 9 | 1 << 29
        }
        fn queue_count(&self) -> u16 {
            2
        }
        fn config_generation(&self) -> u8 {
            3
        }
        fn read_config(&self, offset: u64, data: &mut [u8]) {
            data.fill((offset as u8).wrapping_add(1));
        }
        fn write_config(&self, offset: u64, data: &[u8]) {
            lock(&self.written).push((offset, data.to_vec()));
        }
        fn activate(&self, activation: Activation) {
            *lock(&self.activation) = Some(activation);
            *lock(&self.idle) = false;
        }
        fn reset(&self) {
            *lock(&self.activation) = None;
        }
        fn is_idle(&self) -> bool {
            *lock(&self.idle)
        }
    }
}
