//! MSI-X: the table of a function's interrupt messages (PCI local bus 3.0, section 6.8.2).
//!
//! A vector's eventfd is joined to the guest's interrupt only while it is not masked. What is signalled meanwhile stays in
//! the eventfd, and interrupts when it is joined again: that is the pending bit, without a table of them.

use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use crate::virtio::transport::Vectors;

pub(crate) const CAPABILITY: u8 = 0x11;
const CONTROL_ENABLE: u16 = 1 << 15;
const CONTROL_MASK_ALL: u16 = 1 << 14;
/// The writable bits of the control register's upper byte.
pub(crate) const CONTROL_WRITABLE: u8 = 0xc0;

const ENTRY_BYTES: u64 = 16;
const ENTRY_MASKED: u32 = 1;

/// A message: writing `data` to `address` is the interrupt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) address: u64,
    pub(crate) data: u32,
}

/// The wire from an eventfd to the guest's interrupt controller.
pub(crate) trait Wire: Send {
    /// The eventfd.
    fn event(&self) -> &Arc<EventFd>;
    /// Joins the eventfd to this message, or parts it.
    fn join(&mut self, message: Option<Message>);
}

struct Vector {
    address: u64,
    data: u32,
    masked: bool,
    wire: Box<dyn Wire>,
    joined: Option<Message>,
}

/// The table of one function.
pub(crate) struct MsiX {
    vectors: Vec<Vector>,
    enabled: bool,
}

impl MsiX {
    /// A table with a vector for each wire, all masked.
    pub(crate) fn new(wires: Vec<Box<dyn Wire>>) -> Self {
        let vectors = wires
            .into_iter()
            .map(|wire| Vector {
                address: 0,
                data: 0,
                masked: true,
                wire,
                joined: None,
            })
            .collect();
        Self {
            vectors,
            enabled: false,
        }
    }

    /// The capability's body: table at `table`, pending bits at `pending`, both in BAR 0.
    pub(crate) fn capability(&self, table: u32, pending: u32) -> Vec<u8> {
        let mut body = Vec::new();
        body.extend((self.vectors.len() as u16 - 1).to_le_bytes());
        body.extend(table.to_le_bytes());
        body.extend(pending.to_le_bytes());
        body
    }

    /// Takes the control register as the guest left it.
    pub(crate) fn set_control(&mut self, control: u16) {
        self.enabled = control & (CONTROL_ENABLE | CONTROL_MASK_ALL) == CONTROL_ENABLE;
        let enabled = self.enabled;
        self.vectors
            .iter_mut()
            .for_each(|vector| vector.update(enabled));
    }

    /// A read of the table.
    pub(crate) fn read(&self, offset: u64, data: &mut [u8]) {
        let mut bytes = [0; ENTRY_BYTES as usize];
        if let Some(vector) = self.vectors.get((offset / ENTRY_BYTES) as usize) {
            bytes[..8].copy_from_slice(&vector.address.to_le_bytes());
            bytes[8..12].copy_from_slice(&vector.data.to_le_bytes());
            bytes[12..].copy_from_slice(&u32::from(vector.masked).to_le_bytes());
        }
        let start = (offset % ENTRY_BYTES) as usize;
        for (at, byte) in data.iter_mut().enumerate() {
            *byte = bytes.get(start + at).copied().unwrap_or(0);
        }
    }

    /// A write of the table, of 4 or 8 bytes.
    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) {
        for (at, word) in data.chunks(4).enumerate() {
            if let Ok(word) = word.try_into() {
                self.write_word(offset + 4 * at as u64, u32::from_le_bytes(word));
            }
        }
    }

    fn write_word(&mut self, offset: u64, value: u32) {
        let enabled = self.enabled;
        let Some(vector) = self.vectors.get_mut((offset / ENTRY_BYTES) as usize) else {
            return;
        };
        match offset % ENTRY_BYTES {
            0 => vector.address = vector.address & !0xffff_ffff | u64::from(value),
            4 => vector.address = vector.address & 0xffff_ffff | u64::from(value) << 32,
            8 => vector.data = value,
            12 => vector.masked = value & ENTRY_MASKED != 0,
            _ => {}
        }
        vector.update(enabled);
    }
}

impl Vector {
    fn update(&mut self, enabled: bool) {
        let message = Message {
            address: self.address,
            data: self.data,
        };
        let wanted = (enabled && !self.masked).then_some(message);
        if wanted != self.joined {
            self.wire.join(wanted);
            self.joined = wanted;
        }
    }
}

impl Vectors for MsiX {
    fn event(&self, vector: u16) -> Option<Arc<EventFd>> {
        let vector = self.vectors.get(usize::from(vector))?;
        Some(vector.wire.event().clone())
    }

    fn count(&self) -> u16 {
        self.vectors.len() as u16
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use crate::sync::lock;
    use std::sync::Mutex;

    /// A wire that notes what it was joined to.
    pub(crate) struct Noted {
        pub(crate) event: Arc<EventFd>,
        pub(crate) joins: Arc<Mutex<Vec<Option<Message>>>>,
    }

    impl Noted {
        pub(crate) fn new() -> Self {
            let event = Arc::new(EventFd::new(libc::EFD_NONBLOCK).unwrap());
            Self {
                event,
                joins: Arc::default(),
            }
        }
    }

    impl Wire for Noted {
        fn event(&self) -> &Arc<EventFd> {
            &self.event
        }
        fn join(&mut self, message: Option<Message>) {
            lock(&self.joins).push(message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::Noted;
    use super::*;
    use crate::sync::lock;

    #[test]
    fn a_vector_is_joined_while_it_is_enabled_and_not_masked() {
        let wire = Noted::new();
        let joins = wire.joins.clone();
        let mut table = MsiX::new(vec![Box::new(wire)]);
        table.write(0, &0xfee0_1000_u64.to_le_bytes());
        table.write(8, &0x41_u32.to_le_bytes());
        table.write(12, &0_u32.to_le_bytes());
        assert!(lock(&joins).is_empty(), "MSI-X is off");
        table.set_control(CONTROL_ENABLE | CONTROL_MASK_ALL);
        assert!(lock(&joins).is_empty());
        table.set_control(CONTROL_ENABLE);
        let message = Message {
            address: 0xfee0_1000,
            data: 0x41,
        };
        assert_eq!(*lock(&joins), [Some(message)]);
        table.write(12, &1_u32.to_le_bytes());
        table.write(8, &0x42_u32.to_le_bytes());
        table.write(12, &0_u32.to_le_bytes());
        let moved = Message {
            data: 0x42,
            ..message
        };
        assert_eq!(*lock(&joins), [Some(message), None, Some(moved)]);
        table.set_control(0);
        assert_eq!(lock(&joins).last(), Some(&None));
    }

    #[test]
    fn the_table_reads_back_and_ends() {
        let mut table = MsiX::new(vec![Box::new(Noted::new()), Box::new(Noted::new())]);
        table.write(16, &7_u64.to_le_bytes());
        let mut data = [0; 8];
        table.read(16, &mut data);
        assert_eq!(data, 7_u64.to_le_bytes());
        table.read(24, &mut data);
        assert_eq!(data, [0, 0, 0, 0, 1, 0, 0, 0], "masked from the start");
        table.write(32, &[0xff; 8]);
        table.write(1, &[0xff; 3]);
        table.read(4000, &mut data);
        assert_eq!(data, [0; 8]);
        assert_eq!(table.capability(0x4000, 0x5000)[..2], [1, 0]);
    }
}
