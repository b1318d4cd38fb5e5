//! Which device answers at an address: one bus of I/O ports, one of memory.

use std::sync::{Arc, Mutex};

use crate::sync::lock;

/// A device that the guest reads and writes. Offsets are from the start of its range; an access never leaves the range.
pub(crate) trait BusDevice: Send {
    /// Fills `data`. What is not known reads as the device likes, never as a failure.
    fn read(&mut self, offset: u64, data: &mut [u8]);
    /// Takes `data`. What is not known is dropped.
    fn write(&mut self, offset: u64, data: &[u8]);
}

struct Range {
    start: u64,
    length: u64,
    device: Arc<Mutex<dyn BusDevice>>,
}

/// Ranges and their devices, fixed once the machine runs.
#[derive(Default)]
pub(crate) struct Bus {
    ranges: Vec<Range>,
}

impl Bus {
    /// Puts `device` at `start`. Ranges must not overlap.
    pub(crate) fn insert(&mut self, start: u64, length: u64, device: Arc<Mutex<dyn BusDevice>>) {
        debug_assert!(
            self.ranges
                .iter()
                .all(|range| start + length <= range.start || range.start + range.length <= start)
        );
        self.ranges.push(Range {
            start,
            length,
            device,
        });
    }

    fn find(&self, address: u64, length: usize) -> Option<(&Range, u64)> {
        self.ranges.iter().find_map(|range| {
            let offset = address.checked_sub(range.start)?;
            let end = offset.checked_add(length as u64)?;
            (end <= range.length).then_some((range, offset))
        })
    }

    /// A read by the guest. Where nothing is, all bits are set, as on a real bus.
    pub(crate) fn read(&self, address: u64, data: &mut [u8]) {
        match self.find(address, data.len()) {
            Some((range, offset)) => lock(&range.device).read(offset, data),
            None => data.fill(0xff),
        }
    }

    /// A write by the guest. Where nothing is, it is lost.
    pub(crate) fn write(&self, address: u64, data: &[u8]) {
        if let Some((range, offset)) = self.find(address, data.len()) {
            lock(&range.device).write(offset, data);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Echo(u8);

    impl BusDevice for Echo {
        fn read(&mut self, offset: u64, data: &mut [u8]) {
            data.fill(self.0 + offset as u8);
        }
        fn write(&mut self, _offset: u64, data: &[u8]) {
            self.0 = data[0];
        }
    }

    #[test]
    fn accesses_reach_their_device_and_nothing_else() {
        let mut bus = Bus::default();
        bus.insert(0x10, 8, Arc::new(Mutex::new(Echo(1))));
        bus.insert(0x18, 8, Arc::new(Mutex::new(Echo(100))));
        let read = |address, length| {
            let mut data = vec![0; length];
            bus.read(address, &mut data);
            data
        };
        assert_eq!(read(0x12, 1), [3]);
        assert_eq!(read(0x18, 2), [100, 100]);
        assert_eq!(read(0x17, 2), [0xff, 0xff], "across two devices");
        assert_eq!(read(0x20, 4), [0xff; 4]);
        assert_eq!(read(u64::MAX, 8), [0xff; 8]);
        bus.write(0x10, &[9]);
        bus.write(0x0f, &[7]);
        assert_eq!(read(0x10, 1), [9]);
    }
}
