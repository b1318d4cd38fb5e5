//! The configuration space of one function: a type 0 header and a list of capabilities (PCI local bus 3.0, chapter 6).

/// The bytes of the header and capabilities. The rest of the 4 KiB of PCI Express is empty.
const BYTES: usize = 256;
const HEADER_BYTES: usize = 64;

const COMMAND: usize = 4;
const COMMAND_MEMORY: u8 = 2;
const COMMAND_MASTER: u8 = 4;
const COMMAND_NO_INTX: u8 = 4;
const STATUS: usize = 6;
const STATUS_CAPABILITIES: u8 = 0x10;
const BAR0: usize = 0x10;
const SUBSYSTEM: usize = 0x2c;
const CAPABILITIES: usize = 0x34;
const INTERRUPT_LINE: usize = 0x3c;

/// What a function says about itself.
pub(crate) struct Identity {
    pub(crate) vendor: u16,
    pub(crate) device: u16,
    pub(crate) subsystem_vendor: u16,
    pub(crate) subsystem: u16,
    pub(crate) revision: u8,
    /// Base class, subclass, programming interface.
    pub(crate) class: [u8; 3],
}

/// The space: what it holds, and which bits the guest may change.
pub(crate) struct ConfigSpace {
    bytes: [u8; BYTES],
    writable: [u8; BYTES],
    capabilities_end: usize,
    last_link: usize,
    bar_size: u64,
}

impl ConfigSpace {
    pub(crate) fn new(identity: &Identity) -> Self {
        let mut space = Self {
            bytes: [0; BYTES],
            writable: [0; BYTES],
            capabilities_end: HEADER_BYTES,
            last_link: CAPABILITIES,
            bar_size: 0,
        };
        space.put(0, &identity.vendor.to_le_bytes());
        space.put(2, &identity.device.to_le_bytes());
        let [class, subclass, interface] = identity.class;
        space.put(8, &[identity.revision, interface, subclass, class]);
        space.put(SUBSYSTEM, &identity.subsystem_vendor.to_le_bytes());
        space.put(SUBSYSTEM + 2, &identity.subsystem.to_le_bytes());
        space.writable[COMMAND] = COMMAND_MEMORY | COMMAND_MASTER;
        space.writable[COMMAND + 1] = COMMAND_NO_INTX;
        space.writable[INTERRUPT_LINE] = 0xff;
        space
    }

    fn put(&mut self, at: usize, value: &[u8]) {
        self.bytes[at..at + value.len()].copy_from_slice(value);
    }

    /// Gives BAR 0 a memory of `size` bytes (a power of two, 4 KiB or more) at `address`, switched on as firmware does.
    pub(crate) fn set_memory(&mut self, address: u32, size: u32) {
        debug_assert!(size.is_power_of_two() && size >= 4096 && address.is_multiple_of(size));
        self.put(BAR0, &address.to_le_bytes());
        self.writable[BAR0..BAR0 + 4].copy_from_slice(&(!(size - 1)).to_le_bytes());
        self.bytes[COMMAND] |= COMMAND_MEMORY;
        self.bar_size = u64::from(size);
    }

    /// Adds a capability: its number, its body behind the link byte, and the bits of the body that the guest may change.
    /// Where it lies comes back. The caller adds no more than fits.
    pub(crate) fn add_capability(
        &mut self,
        id: u8,
        body: &[u8],
        writable: &[(usize, u8)],
    ) -> usize {
        let at = self.capabilities_end;
        self.bytes[self.last_link] = at as u8;
        self.bytes[STATUS] |= STATUS_CAPABILITIES;
        self.bytes[at] = id;
        self.put(at + 2, body);
        for &(offset, bits) in writable {
            self.writable[at + offset] = bits;
        }
        self.last_link = at + 1;
        self.capabilities_end = (at + 2 + body.len()).next_multiple_of(4);
        at
    }

    /// A read by the guest.
    pub(crate) fn read(&self, offset: u16, data: &mut [u8]) {
        for (at, byte) in data.iter_mut().enumerate() {
            *byte = self
                .bytes
                .get(usize::from(offset) + at)
                .copied()
                .unwrap_or(0);
        }
    }

    /// A write by the guest: only the writable bits change.
    pub(crate) fn write(&mut self, offset: u16, data: &[u8]) {
        for (at, value) in data.iter().enumerate() {
            let at = usize::from(offset) + at;
            if let (Some(byte), Some(mask)) = (self.bytes.get_mut(at), self.writable.get(at)) {
                *byte = *byte & !mask | value & mask;
            }
        }
    }

    /// Where BAR 0 lies, if the function answers memory accesses.
    pub(crate) fn memory(&self) -> Option<(u64, u64)> {
        let address = self.word(BAR0) & !0xf;
        let on = self.bytes[COMMAND] & COMMAND_MEMORY != 0 && self.bar_size > 0;
        on.then_some((u64::from(address), self.bar_size))
    }

    /// The 32-bit word at `at`.
    pub(crate) fn word(&self, at: usize) -> u32 {
        let mut bytes = [0; 4];
        self.read(at as u16, &mut bytes);
        u32::from_le_bytes(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space() -> ConfigSpace {
        ConfigSpace::new(&Identity {
            vendor: 0x1af4,
            device: 0x1042,
            subsystem_vendor: 0x1af4,
            subsystem: 0x1100,
            revision: 1,
            class: [1, 0x80, 0],
        })
    }

    #[test]
    fn the_header_says_what_it_is() {
        let space = space();
        assert_eq!(space.word(0), 0x1042_1af4);
        assert_eq!(space.word(8), 0x0180_0001);
        assert_eq!(space.word(0x2c), 0x1100_1af4);
        assert_eq!(space.word(0x3c), 0, "no interrupt pin: MSI-X only");
    }

    #[test]
    fn a_bar_is_sized_and_moved() {
        let mut space = space();
        space.set_memory(0xc000_8000, 0x8000);
        assert_eq!(space.memory(), Some((0xc000_8000, 0x8000)));
        space.write(0x10, &[0xff; 4]);
        assert_eq!(
            space.word(0x10),
            0xffff_8000,
            "the size shows in the fixed bits"
        );
        space.write(0x10, &0xc100_1234_u32.to_le_bytes());
        assert_eq!(space.memory(), Some((0xc100_0000, 0x8000)));
        space.write(4, &[0, 0]);
        assert_eq!(space.memory(), None);
        space.write(0x14, &[0xff; 4]);
        assert_eq!(space.word(0x14), 0, "there is no other BAR");
    }

    #[test]
    fn capabilities_form_a_list() {
        let mut space = space();
        let first = space.add_capability(0x11, &[1, 0, 3, 0, 0, 0, 4, 0, 0, 0], &[(3, 0xc0)]);
        let second = space.add_capability(9, &[5; 18], &[]);
        assert_eq!(space.word(0x34) & 0xff, first as u32);
        assert_eq!(space.word(first) & 0xffff, (second as u32) << 8 | 0x11);
        assert_eq!(space.word(second) & 0xffff, 9, "the list ends");
        assert_eq!(space.word(4) >> 16 & 0x10, 0x10);
        space.write(first as u16, &[0xff; 4]);
        assert_eq!(space.word(first) >> 16, 0xc001, "control bits only");
    }

    #[test]
    fn beyond_the_space_is_nothing() {
        let mut space = space();
        space.write(254, &[0xff; 8]);
        space.write(4095, &[0xff; 8]);
        let mut data = [9; 8];
        space.read(252, &mut data);
        assert_eq!(data, [0; 8]);
    }
}
