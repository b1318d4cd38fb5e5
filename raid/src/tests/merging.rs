//! Writes that wait and lie side by side are written as one.

use std::sync::Arc;

use futures_util::future::join_all;
use weft_block::{BlockDevice, BlockQueue, Completion, IoVec, Request};
use weft_sim::{Mix, Oracle, Workload, for_each_seed};

use super::harness::*;
use crate::level::Level;
use crate::{Array, Consistency};

/// Requests that the members have seen.
fn seen(rig: &Rig) -> u64 {
    rig.faults.iter().map(|faults| faults.requests()).sum()
}

/// Submits requests at once and waits for all of them.
fn at_once(rig: &Rig, queue: &dyn BlockQueue, requests: Vec<Request>) -> Vec<Completion> {
    let sent: Vec<_> = requests
        .into_iter()
        .map(|request| queue.submit(request))
        .collect();
    rig.run(join_all(sent))
}

/// A whole array that has been written to, so that its metadata is.
fn warm(level: Level, members: usize, chunk: u64, consistency: Consistency) -> (Rig, Array) {
    let disks = members + usize::from(consistency == Consistency::Journal);
    let mut rig = Rig::new(9, 0);
    (0..disks).for_each(|_| rig.add_disk(4 * MIB));
    let mut options = options(shape(level, members), 9);
    options.chunk = chunk;
    options.consistency = consistency;
    options.bitmap_chunk = Some(1 << 20);
    options.assume_clean = true;
    if consistency == Consistency::Journal {
        options.member_uuids.push([0x10; 16]);
    }
    let array = rig.create(&options);
    rig.sync(&array).expect("synced");
    rig.write(&array, 0, &pattern(4096, 1)).expect("it writes");
    (rig, array)
}

/// What 64 writes of 4 KiB in sequence cost the members, one after the other and all at once.
fn cost(level: Level, members: usize, chunk: u64, consistency: Consistency) -> (u64, u64) {
    let (rig, array) = warm(level, members, chunk, consistency);
    let data = pattern(64 * 4096, 2);
    let before = seen(&rig);
    for (at, part) in (0..).step_by(4096).zip(data.chunks(4096)) {
        rig.write(&array, at, part).expect("it writes");
    }
    let between = seen(&rig);
    let queue = array.open(&rig.executor.spawner()).expect("a queue");
    let data = pattern(64 * 4096, 3);
    let parts = (0..).step_by(4096).zip(data.chunks(4096));
    let writes = parts.map(|(at, part)| Request::write(at, IoVec::copy_of(part)));
    let done = at_once(&rig, &*queue, writes.collect());
    assert!(done.iter().all(|completion| completion.result.is_ok()));
    let after = seen(&rig);
    assert_eq!(rig.read(&array, 0, data.len()).expect("it reads"), data);
    let all: Vec<usize> = (0..members).collect();
    assert!(rig.is_consistent(&array, &all));
    (between - before, after - between)
}

#[test]
fn small_writes_in_sequence_cost_what_one_large_write_does() {
    let bitmap = Consistency::Bitmap;
    // Whole rows: every member is written once, and nothing is read.
    assert_eq!(cost(Level::Raid5, 5, 16 << 10, bitmap), (64 * 4, 5));
    assert_eq!(cost(Level::Raid6, 6, 16 << 10, bitmap), (64 * 6, 6));
    assert_eq!(cost(Level::Raid4, 5, 4 << 10, bitmap), (64 * 4, 5));
    // In one chunk: old data and old parity are read, both are written.
    assert_eq!(cost(Level::Raid5, 5, 512 << 10, bitmap), (64 * 4, 4));
    // With the log of the row's parity, once.
    let (apart, merged) = cost(Level::Raid5, 5, 512 << 10, Consistency::Ppl);
    assert!(apart >= 64 * 5 && merged < 16, "{apart} and {merged}");
    let (apart, merged) = cost(Level::Raid5, 5, 16 << 10, Consistency::Journal);
    assert!(apart >= 64 * 5 && merged < 32, "{apart} and {merged}");
}

#[test]
fn a_lone_write_waits_for_nobody() {
    let (rig, array) = warm(Level::Raid5, 5, 16 << 10, Consistency::Bitmap);
    let before = rig.executor.clock().now();
    rig.write(&array, 8192, &pattern(4096, 4))
        .expect("it writes");
    assert_eq!(rig.executor.clock().now(), before);
}

/// Neighbours of a write that cannot be done are done.
#[test]
fn a_write_that_fails_fails_alone() {
    let (rig, array) = warm(Level::Raid5, 4, 16 << 10, Consistency::Bitmap);
    let mut data = pattern(48 << 10, 5);
    rig.write(&array, 0, &data).expect("it writes");
    // A block of the row and its parity: what lies between them cannot be written any more.
    let base = crate::fields::le64(&rig.disks[0].peek(4096, 512), 128) * 512;
    for disk in [1, 3] {
        rig.faults[disk].bad_sectors(base + 5120..base + 5632);
    }
    let queue = array.open(&rig.executor.spawner()).expect("a queue");
    let new = pattern(12 << 10, 6);
    let parts = (0..).step_by(4096).zip(new.chunks(4096));
    let writes = parts.map(|(at, part)| Request::write(at, IoVec::copy_of(part)));
    let done = at_once(&rig, &*queue, writes.collect());
    let failed: Vec<bool> = done.iter().map(|done| done.result.is_err()).collect();
    assert_eq!(failed, [false, true, false]);
    data[..12 << 10].copy_from_slice(&new);
    for at in [0, 8192] {
        let read = rig.read(&array, at as u64, 4096).expect("it reads");
        assert!(read == data[at..][..4096]);
    }
}

#[test]
fn the_last_of_overlapping_writes_wins_where_they_come_at_once() {
    let (rig, array) = warm(Level::Raid6, 5, 16 << 10, Consistency::Bitmap);
    let queue = array.open(&rig.executor.spawner()).expect("a queue");
    let ranges = [(0, 20), (4, 8), (30, 6), (10, 12), (20, 12)];
    let mut model = rig.read(&array, 0, 64 * 512).expect("it reads");
    let writes = ranges.iter().zip(10..).map(|(&(start, len), salt)| {
        let data = pattern(len * 512, salt);
        model[start * 512..][..data.len()].copy_from_slice(&data);
        Request::write(start as u64 * 512, IoVec::copy_of(&data))
    });
    let done = at_once(&rig, &*queue, writes.collect());
    assert!(done.iter().all(|completion| completion.result.is_ok()));
    assert!(rig.read(&array, 0, model.len()).expect("it reads") == model);
}

/// Many small writes on top of and beside each other, and reads between them.
fn merges_honestly(seed: u64) {
    let all = shapes();
    let parity = |shape: &Shape| matches!(shape.level, Level::Raid4 | Level::Raid5 | Level::Raid6);
    let all: Vec<Shape> = all.into_iter().filter(parity).collect();
    let shape = all[seed as usize % all.len()];
    let rig = Rig::new(seed, shape.members);
    let array = rig.create(&options(shape, seed));
    let mut load = Workload::new(seed, 400);
    (load.depth, load.max_blocks) = (48, 10);
    load.region = 0..64 << 10;
    load.sequential = [0.0, 0.5, 0.95][seed as usize % 3];
    load.mix = Mix {
        write: 60,
        ..Mix::default()
    };
    let oracle = Oracle::new(512);
    let watched = oracle.watch(Arc::new(array.clone()));
    let spawner = rig.executor.spawner();
    if seed % 5 == 4 {
        rig.faults[1].set_offline_after(200);
    }
    let outcome = rig.run(load.run(&*watched, &spawner)).expect("it runs");
    assert_eq!((outcome.failed, outcome.offline), (0, false));
    let queue = watched.open(&spawner).expect("a queue");
    rig.run(oracle.verify(&*queue));
    oracle.assert_honest();
    if seed % 5 != 4 {
        rig.sync(&array).expect("synced");
        let members: Vec<usize> = (0..shape.members).collect();
        assert!(rig.is_consistent(&array, &members), "{shape:?}");
    }
}

#[test]
fn merged_writes_keep_the_block_contract() {
    for_each_seed(60, merges_honestly);
}
