//! A backend dies at any step; its successor finishes what was left, and only that.
#![allow(clippy::unwrap_used)] // The lint's exception for tests does not reach their helpers.

use std::rc::Rc;
use std::sync::Arc;

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap, MmapRegion, VolatileMemory};
use weft_vhost_client::{DriverRing, Part};
use weft_virtio::GuestMemory;
use weft_virtio::queue::{
    InFlightRegion, Layout, QueueError, QueueOptions, SplitQueue, in_flight_stride,
};

const SIZE: u16 = 8;

/// What outlives a backend: the guest and the region.
struct World {
    memory: GuestMemoryMmap,
    driver: DriverRing,
    region: Arc<MmapRegion>,
}

impl World {
    fn new(base: u16) -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x10000)]).unwrap();
        let mut driver = DriverRing::new(&memory, 0x1000, SIZE, false);
        driver.start_at(base);
        Self {
            memory,
            driver,
            region: Arc::new(MmapRegion::new(in_flight_stride(SIZE)).unwrap()),
        }
    }

    /// A backend; the front end knows only the used index of one that died.
    fn backend(&self) -> SplitQueue {
        self.try_backend().unwrap()
    }

    fn try_backend(&self) -> Result<SplitQueue, QueueError> {
        let at = self.driver.addresses();
        let layout = Layout {
            size: at.size,
            desc: at.desc,
            avail: at.avail,
            used: at.used,
        };
        let base: u16 = self.memory.read_obj(GuestAddress(at.used + 2)).unwrap();
        let region = InFlightRegion::new(self.region.clone(), 0, SIZE).unwrap();
        let memory = Rc::new(GuestMemory::new(self.memory.clone()));
        SplitQueue::new(memory, &layout, QueueOptions::default(), base, Some(region))
    }

    fn add(&mut self) -> Option<u16> {
        let head = self.driver.add(&[Part {
            address: 0x8000,
            len: 512,
            writable: true,
        }]);
        self.driver.publish();
        head
    }

    fn bytes(&self, offset: usize, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let slice = self.region.get_slice(offset, len).unwrap();
        slice.copy_to(&mut bytes[..]);
        bytes
    }

    fn put(&self, offset: usize, bytes: &[u8]) {
        let slice = self.region.get_slice(offset, bytes.len()).unwrap();
        slice.copy_from(bytes);
    }
}

#[test]
fn the_region_is_laid_out_as_the_protocol_says() {
    let mut world = World::new(0x100);
    assert_eq!(in_flight_stride(SIZE), 192);
    let mut queue = world.backend();
    assert_eq!(world.bytes(8, 8), [1, 0, 8, 0, 0, 0, 0, 1]);
    let head = world.add().unwrap();
    queue.pop().unwrap().unwrap();
    let entry = 16 + 16 * usize::from(head);
    assert_eq!(world.bytes(entry, 1), [1]);
    queue.push(head, 512);
    assert_eq!(world.bytes(12, 2), head.to_le_bytes());
    queue.publish();
    assert_eq!(world.bytes(entry, 1), [0]);
    assert_eq!(world.bytes(14, 2), 0x101_u16.to_le_bytes());
}

#[test]
fn unfinished_chains_come_again_in_their_order() {
    let mut world = World::new(u16::MAX - 2);
    let heads: Vec<u16> = (0..5).map(|_| world.add().unwrap()).collect();
    let mut queue = world.backend();
    for _ in 0..4 {
        queue.pop().unwrap().unwrap();
    }
    queue.push(heads[1], 1);
    queue.publish();
    drop(queue);
    let mut queue = world.backend();
    assert_eq!(queue.outstanding(), 0);
    let again: Vec<u16> = std::iter::from_fn(|| queue.pop().unwrap())
        .map(|chain| chain.head())
        .collect();
    assert_eq!(again, [heads[0], heads[2], heads[3], heads[4]]);
}

#[test]
fn a_death_between_publishing_and_unmarking_repeats_nothing() {
    let mut world = World::new(7);
    let heads: Vec<u16> = (0..3).map(|_| world.add().unwrap()).collect();
    let mut queue = world.backend();
    for _ in 0..3 {
        queue.pop().unwrap().unwrap();
    }
    queue.push(heads[2], 1);
    queue.push(heads[0], 1);
    let before = world.bytes(0, in_flight_stride(SIZE));
    queue.publish();
    drop(queue);
    // The index moved, and the marks of the batch were not taken away any more.
    world.put(0, &before);
    let mut queue = world.backend();
    assert_eq!(queue.pop().unwrap().unwrap().head(), heads[1]);
    assert!(queue.pop().unwrap().is_none());
}

#[test]
fn a_region_of_another_life_is_started_anew() {
    let mut world = World::new(100);
    let mut queue = world.backend();
    world.add().unwrap();
    queue.pop().unwrap().unwrap();
    drop(queue);
    let other = World::new(3000);
    world.driver = other.driver;
    world.memory = other.memory;
    assert_eq!(world.backend().base(), 3000);
    assert!(world.backend().pop().unwrap().is_none());
}

#[test]
fn a_broken_batch_list_is_an_error() {
    let mut world = World::new(0);
    let head = world.add().unwrap();
    let mut queue = world.backend();
    queue.pop().unwrap().unwrap();
    queue.push(head, 1);
    let before = world.bytes(0, in_flight_stride(SIZE));
    queue.publish();
    drop(queue);
    world.put(0, &before);
    world.put(12, &[200]);
    assert!(matches!(
        world.try_backend(),
        Err(QueueError::BadInFlight(_))
    ));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Pops, pushes, publications and deaths in any order: every chain is used once, and none is lost.
    #[test]
    fn every_chain_is_used_exactly_once(
        base in any::<u16>(),
        steps in proptest::collection::vec((0_u8..6, any::<prop::sample::Index>()), 1..200),
    ) {
        let mut world = World::new(base);
        let mut queue = world.backend();
        let mut popped: Vec<u16> = Vec::new();
        let (mut added, mut taken) = (0, 0);
        for (step, which) in steps {
            match step {
                0 => added += usize::from(world.add().is_some()),
                1 | 2 => popped.extend(queue.pop().unwrap().map(|chain| chain.head())),
                3 if !popped.is_empty() => {
                    let head = popped.swap_remove(which.index(popped.len()));
                    queue.push(head, 512);
                }
                4 => {
                    queue.publish();
                    while world.driver.take().is_some() { taken += 1; }
                }
                5 if which.index(4) == 0 => {
                    drop(queue);
                    queue = world.backend();
                    popped.clear();
                }
                _ => {}
            }
        }
        drop(queue);
        let mut queue = world.backend();
        while let Some(chain) = queue.pop().unwrap() {
            queue.push(chain.head(), 512);
        }
        queue.publish();
        // `take` panics when a chain comes back twice.
        while world.driver.take().is_some() { taken += 1; }
        prop_assert_eq!(taken, added);
    }
}
