//! Volumes against a model of where each byte is.

use std::sync::Arc;

use proptest::prelude::*;
use weft_block::{BlockDevice, ErrorKind, IoVec, Request, SECTOR};
use weft_sim::{Executor, MemoryDevice, conformance};

use super::*;
use crate::format::Id;
use crate::model::{LogicalVolume, Mapping, Segment, Stripe, VolumeGroup};
use crate::plan::{NewGroup, add_physical_volume, new_group};

const EXTENT: u64 = 64 << 10;
const START: u64 = 1 << 20;
const EXTENTS: u64 = 20;
pub(super) const SIZE: u64 = START + EXTENTS * EXTENT;

fn id(number: u8) -> Id {
    Id::from_random([number; 32])
}

pub(super) fn group(volumes: u8) -> VolumeGroup {
    let mut group = new_group(NewGroup {
        name: "tank".into(),
        id: id(100),
        extent_size: EXTENT,
        metadata_copies: 0,
    })
    .expect("a group");
    for number in 0..volumes {
        add_physical_volume(&mut group, id(number), "disk", SIZE, START).expect("a volume");
    }
    group
}

pub(super) fn volume(segments: Vec<Segment>) -> LogicalVolume {
    LogicalVolume {
        name: "lv".into(),
        id: id(50),
        status: ["READ", "WRITE", "VISIBLE"].map(String::from).to_vec(),
        flags: Vec::new(),
        tags: Vec::new(),
        creation_time: None,
        creation_host: None,
        segments,
        rest: Vec::new(),
    }
}

/// Extents in each stripe, sectors in a chunk, and where the stripes are: volume and extent.
type Shape<'a> = (u64, u64, &'a [(usize, u64)]);

fn segments(shapes: &[Shape<'_>]) -> Vec<Segment> {
    let mut start = 0;
    let segment = |&(length, stripe_size, stripes): &Shape<'_>| {
        let count = length * stripes.len() as u64;
        let segment = Segment {
            start,
            count,
            tags: Vec::new(),
            mapping: Mapping::Striped {
                stripe_size,
                stripes: stripes
                    .iter()
                    .map(|&(pv, start)| Stripe { pv, start })
                    .collect(),
            },
            rest: Vec::new(),
        };
        start += count;
        segment
    };
    shapes.iter().map(segment).collect()
}

pub(super) fn mixed() -> Vec<Segment> {
    segments(&[
        (3, 0, &[(0, 4)]),
        (4, 16, &[(1, 0), (0, 10), (2, 3)]),
        (2, 0, &[(2, 10)]),
        (1, 0, &[(2, 12)]),
        (2, 8, &[(2, 15), (1, 9)]),
    ])
}

fn disks(count: usize) -> Vec<MemoryDevice> {
    (0..count).map(|_| MemoryDevice::new(SIZE)).collect()
}

fn devices(disks: &[MemoryDevice]) -> Vec<Option<Arc<dyn BlockDevice>>> {
    let one = |disk: &MemoryDevice| Some(Arc::new(disk.clone()) as Arc<dyn BlockDevice>);
    disks.iter().map(one).collect()
}

fn activate(group: &VolumeGroup, segments: Vec<Segment>, disks: &[MemoryDevice]) -> Volume {
    let map = Map::new(group, &volume(segments), &devices(disks));
    Volume::new(map.expect("a map"))
}

/// Where a byte is, by the definition of striping.
fn place(group: &VolumeGroup, segments: &[Segment], byte: u64) -> (usize, u64) {
    let segment = segments
        .iter()
        .find(|segment| byte / EXTENT < segment.start + segment.count)
        .expect("inside");
    let inside = byte - segment.start * EXTENT;
    let Mapping::Striped {
        stripe_size,
        stripes,
    } = &segment.mapping
    else {
        panic!("striped")
    };
    let (column, below) = match stripes.len() as u64 {
        1 => (0, inside),
        width => {
            let chunk = stripe_size * SECTOR;
            let number = inside / chunk;
            (number % width, number / width * chunk + inside % chunk)
        }
    };
    let stripe = stripes[column as usize];
    let start = group.physical_volumes[stripe.pv].extent_start * SECTOR;
    (stripe.pv, start + stripe.start * EXTENT + below)
}

#[test]
fn it_keeps_the_contract() {
    let (group, disks, executor) = (group(3), disks(3), Executor::new(1));
    let device = Arc::new(activate(&group, mixed(), &disks));
    executor.block_on(conformance::check(device, &executor.spawner()));
    let linear = activate(&group, segments(&[(8, 0, &[(1, 5)])]), &disks);
    executor.block_on(conformance::check(Arc::new(linear), &executor.spawner()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn every_sector_goes_where_striping_says(start in 0_u64..2600, count in 1_u64..2600) {
        let (group, disks, executor) = (group(3), disks(3), Executor::new(1));
        let device = activate(&group, mixed(), &disks);
        let size = device.info().size;
        let (offset, end) = (start * SECTOR, ((start + count) * SECTOR).min(size));
        prop_assume!(offset < end);
        let mut bytes = vec![0; (end - offset) as usize];
        for (number, sector) in bytes.chunks_mut(512).enumerate() {
            sector[..8].copy_from_slice(&(number as u64 + 1).to_le_bytes());
        }
        let queue = device.open(&executor.spawner()).expect("opens");
        let write = queue.submit(Request::write(offset, IoVec::copy_of(&bytes)));
        prop_assert!(executor.block_on(write).result.is_ok());
        for (number, sector) in bytes.chunks(512).enumerate() {
            let (pv, below) = place(&group, &mixed(), offset + number as u64 * SECTOR);
            prop_assert_eq!(&disks[pv].peek(below, 512)[..], sector);
        }
        let read = queue.submit(Request::read(offset, IoVec::zeroed(bytes.len())));
        let completion = executor.block_on(read);
        prop_assert!(completion.result.is_ok());
        prop_assert_eq!(&completion.buffer.to_buffer()[..], &bytes[..]);
    }
}

#[test]
fn a_request_in_one_segment_is_one_request_below() {
    let (group, disks) = (group(3), disks(3));
    let device = activate(&group, mixed(), &disks);
    let map = Arc::clone(&device.shared.lock());
    assert!(map.direct(0, 3 * EXTENT).is_some());
    assert!(map.direct(EXTENT, 3 * EXTENT).is_none());
    // Two rows of three stripes: one request for each device, in two pieces.
    let parts = map.split(3 * EXTENT, 6 * 8192);
    assert_eq!(parts.len(), 3);
    assert!(
        parts
            .iter()
            .all(|part| part.len == 16384 && part.pieces.len() == 2)
    );
    // Linear segments that follow each other on a device are one run.
    assert!(map.direct(15 * EXTENT, 3 * EXTENT).is_some());
}

#[test]
fn an_open_queue_follows_a_resize() {
    let (group, disks, executor) = (group(3), disks(3), Executor::new(1));
    let device = activate(&group, segments(&[(2, 0, &[(0, 0)])]), &disks);
    let queue = device.open(&executor.spawner()).expect("opens");
    let read = || Request::read(2 * EXTENT, IoVec::zeroed(512));
    let kind = |completion: weft_block::Completion| completion.result.err().map(|e| e.kind());
    assert_eq!(
        kind(executor.block_on(queue.submit(read()))),
        Some(ErrorKind::OutOfRange)
    );
    let grown = volume(segments(&[(2, 0, &[(0, 0)]), (1, 0, &[(2, 7)])]));
    device.set_map(Map::new(&group, &grown, &devices(&disks)).expect("a map"));
    assert_eq!(device.info().size, 3 * EXTENT);
    disks[2].poke(START + 7 * EXTENT, &[8; 512]);
    let completion = executor.block_on(queue.submit(read()));
    assert_eq!(completion.buffer.to_buffer()[..], [8; 512]);
}

#[test]
fn a_volume_without_its_disks_is_not_activated() {
    let (group, disks) = (group(3), disks(3));
    let mut some = devices(&disks);
    some[1] = None;
    let error = Map::new(&group, &volume(mixed()), &some)
        .err()
        .expect("refused");
    assert_eq!(error.kind(), ErrorKind::Offline);
    assert!(Map::new(&group, &volume(segments(&[(2, 0, &[(0, 0)])])), &some).is_ok());
    disks[1].resize(START + 10 * EXTENT);
    let error = Map::new(&group, &volume(mixed()), &devices(&disks)).err();
    assert_eq!(error.expect("too small").kind(), ErrorKind::Corrupt);
}
