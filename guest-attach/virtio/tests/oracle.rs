//! The split queue against `virtio-queue`: the same ring memory gives the same chains and the same used ring.
#![allow(clippy::unwrap_used)] // The lint's exception for tests does not reach their helpers.

use std::rc::Rc;

use proptest::collection::vec;
use proptest::prelude::*;
use virtio_queue::{Queue, QueueT};
use vm_memory::{
    Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion,
    MemoryRegionAddress,
};
use weft_vhost_client::{DriverRing, Part, RingAddresses};
use weft_virtio::GuestMemory;
use weft_virtio::queue::{Chain, Layout, QueueOptions, SplitQueue};

const SIZE: u16 = 16;
const RING: u64 = 0x1000;
const TABLES: u64 = 0x8000;
const DATA: u64 = 0x10000;
const END: u64 = 0x40000;

fn guest() -> GuestMemoryMmap {
    // Two neighbouring regions, so that segments cross between them.
    GuestMemoryMmap::from_ranges(&[
        (GuestAddress(0), 0x20000),
        (GuestAddress(0x20000), (END - 0x20000) as usize),
    ])
    .unwrap()
}

fn layout(at: RingAddresses) -> Layout {
    Layout {
        size: at.size,
        desc: at.desc,
        avail: at.avail,
        used: at.used,
    }
}

fn ours(guest: &GuestMemoryMmap, at: RingAddresses, base: u16, event_idx: bool) -> SplitQueue {
    let memory = Rc::new(GuestMemory::new(guest.clone()));
    let options = QueueOptions {
        event_idx,
        indirect: true,
    };
    SplitQueue::new(memory, &layout(at), options, base, None).unwrap()
}

fn oracle(at: RingAddresses, base: u16, event_idx: bool) -> Queue {
    let mut queue = Queue::new(at.size).unwrap();
    queue.set_size(at.size);
    queue
        .try_set_desc_table_address(GuestAddress(at.desc))
        .unwrap();
    queue
        .try_set_avail_ring_address(GuestAddress(at.avail))
        .unwrap();
    queue
        .try_set_used_ring_address(GuestAddress(at.used))
        .unwrap();
    queue.set_event_idx(event_idx);
    queue.set_next_avail(base);
    queue.set_next_used(base);
    queue.set_ready(true);
    queue
}

/// Segments as (guest-physical address, bytes, writable); neighbours joined, for we split them between regions.
type Seen = Vec<(u64, u64, bool)>;

fn joined(parts: impl IntoIterator<Item = (u64, u64, bool)>) -> Seen {
    let mut seen: Seen = Vec::new();
    for (start, len, writable) in parts {
        match seen.last_mut() {
            Some(last) if last.0 + last.1 == start && last.2 == writable => last.1 += len,
            _ => seen.push((start, len, writable)),
        }
    }
    seen
}

fn seen_by_us(guest: &GuestMemoryMmap, chain: &Chain) -> Seen {
    let physical = |host: usize| {
        guest
            .iter()
            .find_map(|region| {
                let start = region.get_host_address(MemoryRegionAddress(0)).unwrap() as usize;
                let inside = (start..start + region.len() as usize).contains(&host);
                inside.then(|| region.start_addr().0 + (host - start) as u64)
            })
            .expect("a segment is guest memory")
    };
    let part = |segment: &weft_block::Segment, writable| {
        let start = physical(segment.start.as_ptr() as usize);
        (start, segment.len as u64, writable)
    };
    let readable = chain.readable().iter().map(|segment| part(segment, false));
    let writable = chain.writable().iter().map(|segment| part(segment, true));
    joined(readable.chain(writable))
}

fn seen_by_oracle(chain: virtio_queue::DescriptorChain<&GuestMemoryMmap>) -> Seen {
    joined(chain.map(|descriptor| {
        let len = u64::from(descriptor.len());
        (descriptor.addr().0, len, descriptor.is_write_only())
    }))
}

fn part(writable: bool) -> impl Strategy<Value = Part> {
    (DATA..END - 0x3000, 1_u32..0x3000).prop_map(move |(address, len)| Part {
        address,
        len,
        writable,
    })
}

/// A proper chain: readable parts, then writable ones; direct or through a table.
fn chain() -> impl Strategy<Value = (Vec<Part>, bool)> {
    (vec(part(false), 0..4), vec(part(true), 0..4), any::<bool>())
        .prop_map(|(readable, writable, indirect)| ([readable, writable].concat(), indirect))
        .prop_filter("a chain has a part", |(parts, _)| !parts.is_empty())
}

/// Chains that the driver adds, how many the device gives back, whether the driver listens.
type Round = (Vec<(Vec<Part>, bool)>, usize, bool);

/// What the driver does, then how much of what was popped the device gives back.
fn rounds() -> impl Strategy<Value = Vec<Round>> {
    vec((vec(chain(), 0..6), 0_usize..8, any::<bool>()), 1..40)
}

fn used_bytes(guest: &GuestMemoryMmap, at: RingAddresses) -> Vec<u8> {
    let mut bytes = vec![0; 4 + 8 * usize::from(at.size)];
    guest.read_slice(&mut bytes, GuestAddress(at.used)).unwrap();
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Two guests do the same; one is served by us, the other by the oracle.
    #[test]
    fn the_same_chains_used_elements_and_interrupts(
        base in any::<u16>(),
        event_idx in any::<bool>(),
        rounds in rounds(),
    ) {
        let guests = [guest(), guest()];
        let mut drivers = guests.each_ref().map(|guest| DriverRing::new(guest, RING, SIZE, event_idx));
        drivers.iter_mut().for_each(|driver| driver.start_at(base));
        let at = drivers[0].addresses();
        let mut ours = ours(&guests[0], at, base, event_idx);
        let mut oracle = oracle(at, base, event_idx);
        let mut out = Vec::new();
        let mut first = true;
        for (chains, back, listen) in rounds {
            for (number, (parts, indirect)) in chains.iter().enumerate() {
                let heads = drivers.each_mut().map(|driver| match indirect {
                    true => driver.add_indirect(TABLES + 0x100 * number as u64, parts),
                    false => driver.add(parts),
                });
                prop_assert_eq!(heads[0], heads[1]);
            }
            let kicks = drivers.each_mut().map(DriverRing::publish);
            prop_assert_eq!(kicks[0], kicks[1]);
            loop {
                let mine = ours.pop().unwrap();
                let other = oracle.pop_descriptor_chain(&guests[1]);
                let (Some(mine), Some(other)) = (&mine, other) else {
                    prop_assert!(mine.is_none(), "we popped more than the oracle");
                    break;
                };
                prop_assert_eq!(mine.head(), other.head_index());
                prop_assert_eq!(seen_by_us(&guests[0], mine), seen_by_oracle(other));
                out.push(mine.head());
            }
            // Out of order, as devices do.
            let back = back.min(out.len());
            for _ in 0..back {
                let head = out.swap_remove(0);
                ours.push(head, u32::from(head) + 7);
                oracle.add_used(&guests[1], head, u32::from(head) + 7).unwrap();
            }
            let wanted = ours.publish();
            if back > 0 {
                let expected = oracle.needs_notification(&guests[1]).unwrap();
                // The oracle does not look at the flag; and our first answer is yes, for one may have been lost.
                prop_assert!(wanted == expected || !event_idx || first);
                first = false;
            } else {
                prop_assert!(!wanted);
            }
            prop_assert_eq!(used_bytes(&guests[0], at), used_bytes(&guests[1], at));
            let more = (ours.enable_notifications().unwrap(), oracle.enable_notification(&guests[1]).unwrap());
            prop_assert_eq!(more.0, more.1);
            for driver in &mut drivers {
                while driver.take().is_some() {}
                if listen { driver.want_interrupt(); } else { driver.refuse_interrupts(); }
            }
            prop_assert_eq!(ours.base(), oracle.next_avail());
        }
    }

    /// Whatever the ring memory holds, we end with an error or see what the oracle sees.
    #[test]
    fn hostile_memory_is_an_error_or_the_oracles_chain(
        table in vec((0_u64..END + 0x1000, 0_u32..0x2000, 0_u16..8, 0_u16..SIZE + 2), usize::from(SIZE)),
        indirect in vec((DATA..END + 0x1000, 0_u32..0x2000, 0_u16..8, 0_u16..6), 4),
        heads in vec(0_u16..SIZE + 2, 1..6),
        ahead in 0_u16..24,
    ) {
        let guest = guest();
        let at = DriverRing::new(&guest, RING, SIZE, false).addresses();
        let write = |table: u64, index: usize, (address, len, flags, next): (u64, u32, u16, u16)| {
            let place = table + 16 * index as u64;
            let word = u64::from(len) | u64::from(flags) << 32 | u64::from(next) << 48;
            guest.write_obj(address, GuestAddress(place)).unwrap();
            guest.write_obj(word, GuestAddress(place + 8)).unwrap();
        };
        for (index, &(address, len, flags, next)) in table.iter().enumerate() {
            // Indirect ones mostly point at a table that exists.
            let descriptor = match flags & 4 != 0 && len & 3 != 0 {
                true => (TABLES, 16 * (len & 3), flags, next),
                false => (address, len, flags, next),
            };
            write(at.desc, index, descriptor);
        }
        for (index, &descriptor) in indirect.iter().enumerate() {
            write(TABLES, index, descriptor);
        }
        for (index, &head) in heads.iter().enumerate() {
            guest.write_obj(head, GuestAddress(at.avail + 4 + 2 * index as u64)).unwrap();
        }
        guest.write_obj(ahead, GuestAddress(at.avail + 2)).unwrap();
        let mut mine = ours(&guest, at, 0, false);
        let mut oracle = oracle(at, 0, false);
        while let Ok(Some(chain)) = mine.pop() {
            let other = oracle.pop_descriptor_chain(&guest).expect("the oracle pops what we take");
            prop_assert_eq!(chain.head(), other.head_index());
            prop_assert_eq!(seen_by_us(&guest, &chain), seen_by_oracle(other));
        }
    }
}
