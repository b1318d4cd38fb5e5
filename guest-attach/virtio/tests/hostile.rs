//! Broken rings, one by one: each is the error that names what is wrong, and nothing more.
#![allow(clippy::unwrap_used)] // The lint's exception for tests does not reach their helpers.

use std::rc::Rc;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use weft_vhost_client::{DriverRing, Part};
use weft_virtio::GuestMemory;
use weft_virtio::queue::{Layout, QueueError, QueueOptions, SplitQueue};

const SIZE: u16 = 8;
const DATA: u64 = 0x8000;
const TABLE: u64 = 0x7000;
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

struct Guest {
    memory: GuestMemoryMmap,
    driver: DriverRing,
    options: QueueOptions,
}

impl Guest {
    fn new() -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x10000)]).unwrap();
        let driver = DriverRing::new(&memory, 0x1000, SIZE, false);
        let options = QueueOptions {
            event_idx: false,
            indirect: true,
        };
        Self {
            memory,
            driver,
            options,
        }
    }

    fn layout(&self) -> Layout {
        let at = self.driver.addresses();
        Layout {
            size: at.size,
            desc: at.desc,
            avail: at.avail,
            used: at.used,
        }
    }

    fn queue(&self) -> SplitQueue {
        let memory = Rc::new(GuestMemory::new(self.memory.clone()));
        SplitQueue::new(memory, &self.layout(), self.options, 0, None).unwrap()
    }

    fn write(&self, table: u64, descriptors: &[(u64, u32, u16, u16)]) {
        for (index, &(address, len, flags, next)) in descriptors.iter().enumerate() {
            let place = table + 16 * index as u64;
            let word = u64::from(len) | u64::from(flags) << 32 | u64::from(next) << 48;
            self.memory.write_obj(address, GuestAddress(place)).unwrap();
            self.memory
                .write_obj(word, GuestAddress(place + 8))
                .unwrap();
        }
    }

    /// The error of a ring whose descriptors are these and whose first head is 0.
    fn error(&self, descriptors: &[(u64, u32, u16, u16)]) -> QueueError {
        self.write(self.layout().desc, descriptors);
        self.available(1);
        self.queue().pop().unwrap_err()
    }

    fn available(&self, count: u16) {
        let index = GuestAddress(self.layout().avail + 2);
        self.memory.write_obj(count, index).unwrap();
    }
}

#[test]
fn a_loop_ends() {
    let error = Guest::new().error(&[(DATA, 8, NEXT, 1), (DATA, 8, NEXT, 0)]);
    assert_eq!(
        error,
        QueueError::Endless {
            head: 0,
            limit: SIZE
        }
    );
}

#[test]
fn an_address_outside_the_memory_is_refused() {
    let guest = Guest::new();
    for (address, len) in [(0xfff8, 9), (u64::MAX, 1), (u64::MAX - 7, 16), (0x10000, 1)] {
        let error = guest.error(&[(address, len, 0, 0)]);
        assert_eq!(error, QueueError::BadAddress { address, len });
    }
}

#[test]
fn a_used_index_ahead_of_the_device_is_refused() {
    let guest = Guest::new();
    let index = GuestAddress(guest.layout().used + 2);
    guest.memory.write_obj(1_u16, index).unwrap();
    let memory = Rc::new(GuestMemory::new(guest.memory.clone()));
    let error = SplitQueue::new(memory, &guest.layout(), guest.options, 0, None).err();
    let ahead = QueueError::IndexAhead {
        available: u16::MAX,
        size: SIZE,
    };
    assert_eq!(error, Some(ahead));
}

#[test]
fn a_segment_is_not_empty_and_not_out_of_order() {
    let guest = Guest::new();
    assert_eq!(
        guest.error(&[(DATA, 0, 0, 0)]),
        QueueError::EmptySegment { head: 0 }
    );
    assert_eq!(
        guest.error(&[(DATA, 8, WRITE | NEXT, 1), (DATA, 8, 0, 0)]),
        QueueError::WrongDirection { head: 0 }
    );
}

#[test]
fn an_index_stays_in_its_table() {
    let guest = Guest::new();
    let beyond = QueueError::BadIndex {
        index: SIZE,
        size: SIZE,
    };
    assert_eq!(guest.error(&[(DATA, 8, NEXT, SIZE)]), beyond);
    let ring = GuestAddress(guest.layout().avail + 4);
    guest.memory.write_obj(SIZE, ring).unwrap();
    assert_eq!(guest.queue().pop().unwrap_err(), beyond);
}

#[test]
fn indirect_tables_are_whole_last_and_flat() {
    let mut guest = Guest::new();
    let bad = QueueError::BadIndirect { head: 0 };
    guest.write(TABLE, &[(TABLE, 16, INDIRECT, 0)]);
    assert_eq!(guest.error(&[(TABLE, 16, INDIRECT, 0)]), bad);
    assert_eq!(guest.error(&[(TABLE, 17, INDIRECT, 0)]), bad);
    assert_eq!(guest.error(&[(TABLE, 0, INDIRECT, 0)]), bad);
    assert_eq!(guest.error(&[(TABLE, 16, INDIRECT | NEXT, 0)]), bad);
    assert_eq!(guest.error(&[(TABLE, 16 << 17, INDIRECT, 0)]), bad);
    guest.write(TABLE, &[(DATA, 8, NEXT, 1), (DATA, 8, NEXT, 0)]);
    assert_eq!(
        guest.error(&[(TABLE, 32, INDIRECT, 0)]),
        QueueError::Endless { head: 0, limit: 2 }
    );
    assert!(matches!(
        guest.error(&[(0xfff8, 16, INDIRECT, 0)]),
        QueueError::BadAddress { .. }
    ));
    guest.options.indirect = false;
    assert_eq!(guest.error(&[(TABLE, 16, INDIRECT, 0)]), bad);
}

#[test]
fn no_more_is_available_than_the_ring_holds() {
    let guest = Guest::new();
    guest.available(SIZE + 1);
    assert_eq!(
        guest.queue().pop().unwrap_err(),
        QueueError::IndexAhead {
            available: SIZE + 1,
            size: SIZE
        }
    );
}

#[test]
fn chains_that_never_came_back_count() {
    let mut guest = Guest::new();
    guest.driver.add(&[Part {
        address: DATA,
        len: 8,
        writable: false,
    }]);
    guest.driver.publish();
    let mut queue = guest.queue();
    assert!(queue.pop().unwrap().is_some());
    // The ring again from its start, without having taken anything back.
    guest.available(SIZE + 1);
    assert!(queue.pop().is_err());
}

#[test]
fn a_ring_is_mapped_aligned_and_a_power_of_two() {
    let guest = Guest::new();
    let memory = Rc::new(GuestMemory::new(guest.memory.clone()));
    let layout = guest.layout();
    let refused = |layout: Layout| {
        SplitQueue::new(memory.clone(), &layout, guest.options, 0, None).unwrap_err()
    };
    for size in [0, 3, 0xffff] {
        assert_eq!(
            refused(Layout { size, ..layout }),
            QueueError::BadSize(size)
        );
    }
    for (part, at) in [("desc", 0xfff0), ("avail", 0xfff0), ("used", 0xffe0)] {
        let mut broken = layout;
        *match part {
            "desc" => &mut broken.desc,
            "avail" => &mut broken.avail,
            _ => &mut broken.used,
        } = at;
        assert!(matches!(refused(broken), QueueError::BadRing { .. }));
    }
    let misaligned = Layout {
        used: layout.used + 2,
        ..layout
    };
    assert!(matches!(refused(misaligned), QueueError::BadRing { .. }));
}

#[test]
fn what_was_unpopped_is_popped_again() {
    let mut guest = Guest::new();
    for number in 0..3 {
        guest.driver.add(&[Part {
            address: DATA + 64 * number,
            len: 64,
            writable: true,
        }]);
    }
    guest.driver.publish();
    let mut queue = guest.queue();
    let heads: Vec<u16> = (0..3)
        .map(|_| queue.pop().unwrap().unwrap().head())
        .collect();
    queue.unpop(2);
    assert_eq!(queue.base(), 1);
    assert_eq!(queue.pop().unwrap().unwrap().head(), heads[1]);
}
