//! Arrays with a journal.

use std::sync::Arc;

use weft_block::{BlockDevice, ErrorKind, IoVec, Request, yield_now};
use weft_sim::{Executor, conformance};

use super::harness::*;
use crate::fields::array;
use crate::journal::{BLOCK_BYTES, MetaBlock, Payload, Seed};
use crate::level::Level;
use crate::superblock::Role;
use crate::{Array, ArrayState, Consistency, CreateOptions, MemberRole, MemberState, SyncAction};

/// Bytes of the journal's disk.
const JOURNAL: u64 = 2 * MIB;

fn journaled(shape: Shape, seed: u64) -> CreateOptions {
    let mut options = options(shape, seed);
    options.consistency = Consistency::Journal;
    options.member_uuids.push([0x10; 16]);
    options.assume_clean = true;
    options
}

/// An array whose last disk is its journal.
fn made(shape: Shape) -> (Rig, Array) {
    let mut rig = Rig::new(1, shape.members);
    rig.add_disk(JOURNAL);
    let array = rig.create(&journaled(shape, 1));
    (rig, array)
}

fn with_journal() -> Vec<Shape> {
    let has_parity =
        |shape: &Shape| matches!(shape.level, Level::Raid4 | Level::Raid5 | Level::Raid6);
    shapes().into_iter().filter(has_parity).collect()
}

/// The meta blocks from where the log begins on, by the superblock of disk `disk`.
fn log(rig: &Rig, disk: usize) -> Vec<MetaBlock> {
    let own = rig.superblock(disk);
    let seed = Seed::of(&own.set_uuid);
    let mut found: Vec<MetaBlock> = Vec::new();
    let mut at = own.recovery_offset;
    loop {
        let block = rig.disks[disk].peek((own.data_offset + at) * 512, BLOCK_BYTES);
        let Ok(meta) = MetaBlock::parse(&array(&block, 0), at, seed) else {
            return found;
        };
        if found.last().is_some_and(|last| last.seq + 1 != meta.seq) {
            return found;
        }
        at = (at + 8 * meta.blocks()) % own.data_size;
        found.push(meta);
    }
}

#[test]
fn every_level_keeps_the_block_contract_with_a_journal() {
    for shape in with_journal().into_iter().step_by(4) {
        let (rig, array) = made(shape);
        assert_eq!(array.status().consistency, "journal");
        rig.run(conformance::check(
            Arc::new(array.clone()),
            &rig.executor.spawner(),
        ));
        let all: Vec<usize> = (0..shape.members).collect();
        assert!(rig.is_consistent(&array, &all), "{shape:?}");
        rig.faults[0].set_offline(true);
        rig.run(conformance::check(
            Arc::new(array.clone()),
            &rig.executor.spawner(),
        ));
        assert_eq!(array.status().state, ArrayState::Degraded, "{shape:?}");
    }
}

#[test]
fn a_change_is_in_the_journal_whole() {
    let (rig, array) = made(shape(Level::Raid6, 5));
    // A sector in the middle of a block: all of the block is logged.
    rig.write(&array, 4096, &pattern(8192, 1)).expect("written");
    rig.write(&array, 5 * 512, &[7; 512]).expect("written");
    let metas = log(&rig, 5);
    let [beginning, first, second] = &metas[..] else {
        panic!("{metas:?}");
    };
    assert!(beginning.payloads.is_empty());
    let sectors = |meta: &MetaBlock| {
        let payloads = meta.payloads.iter();
        let (data, parity): (Vec<_>, Vec<_>) = payloads
            .map(|payload| match payload {
                Payload::Data { sector, .. } => (Some(*sector), None),
                Payload::Parity { sector, checksums } => (None, Some((*sector, checksums.len()))),
                Payload::Flush { .. } => (None, None),
            })
            .unzip();
        let data: Vec<u64> = data.into_iter().flatten().collect();
        (data, parity.into_iter().flatten().collect::<Vec<_>>())
    };
    assert_eq!(sectors(first), (vec![8, 16], vec![(8, 2), (16, 2)]));
    assert_eq!(sectors(second), (vec![0], vec![(0, 2)]));
    rig.stop(&array);
    let metas = log(&rig, 5);
    assert!(
        metas.len() == 1 && metas[0].payloads.is_empty(),
        "{metas:?}"
    );
    assert_eq!(rig.superblock(5).role(), Role::Journal);
}

#[test]
fn what_the_members_did_not_get_is_written_from_the_journal() {
    for shape in with_journal() {
        let (rig, array) = made(shape);
        let data = pattern(array.geometry().row_bytes() as usize, 3);
        rig.write(&array, 1536, &data).expect("written");
        // As if nothing had got there.
        for disk in 0..shape.members {
            rig.poke(disk, 0, &vec![0xee; CHUNK as usize / 2]);
        }
        let all: Vec<usize> = (0..=shape.members).collect();
        let array = rig.assemble(&all).expect("it starts");
        let status = array.status();
        assert!(status.sync.is_idle(), "{status:?}");
        assert!(
            status.messages[0].contains("written from the journal"),
            "{status:?}"
        );
        assert_eq!(rig.read(&array, 1536, data.len()).expect("read"), data);
        assert!(
            rig.is_consistent(&array, &all[..shape.members]),
            "{shape:?}"
        );
        assert_eq!(log(&rig, shape.members).len(), 1, "it begins anew");
    }
}

#[test]
fn a_crash_while_degraded_costs_nothing() {
    for shape in with_journal().into_iter().step_by(3) {
        if shape.members < 3 {
            continue;
        }
        for lost in 0..shape.members {
            let (rig, array) = made(shape);
            let mut expected = pattern(array.info().size as usize, 4);
            rig.write(&array, 0, &expected).expect("written");
            rig.stop(&array);
            let all: Vec<usize> = (0..=shape.members).collect();
            let array = rig.assemble(&all).expect("it starts");
            let change = pattern(array.geometry().row_bytes() as usize - 1024, 5);
            rig.write(&array, 512, &change).expect("written");
            expected[512..512 + change.len()].copy_from_slice(&change);
            // Half of it got there, and a member does not come back.
            for disk in (0..shape.members).step_by(2) {
                rig.poke(disk, 4096, &[0xee; 4096]);
            }
            let left: Vec<usize> = all.into_iter().filter(|disk| *disk != lost).collect();
            let array = rig
                .assemble(&left)
                .expect("it starts without being told to");
            assert_eq!(array.status().state, ArrayState::Degraded);
            let read = rig.read(&array, 0, expected.len()).expect("read");
            assert!(read == expected, "{shape:?} without {lost}");
        }
    }
}

#[test]
fn the_ring_goes_round_and_the_tail_with_it() {
    let (rig, array) = made(shape(Level::Raid5, 4));
    let mut expected = vec![0; array.info().size as usize];
    for turn in 0..60_usize {
        let data = pattern(70_144, turn as u64);
        let at = turn * 37_888 % (expected.len() - data.len()) / 512 * 512;
        rig.write(&array, at as u64, &data).expect("written");
        expected[at..at + data.len()].copy_from_slice(&data);
        if turn % 7 == 6 {
            // No stop: what follows a crash.
            let again = rig.assemble(&[0, 1, 2, 3, 4]).expect("it starts");
            assert!(rig.read(&again, 0, expected.len()).expect("read") == expected);
            rig.stop(&again);
            break;
        }
    }
    let array = rig.assemble(&[0, 1, 2, 3, 4]).expect("it starts");
    for turn in 0..100_usize {
        let data = pattern(70_144, turn as u64);
        let at = turn * 37_888 % (expected.len() - data.len()) / 512 * 512;
        rig.write(&array, at as u64, &data).expect("written");
        expected[at..at + data.len()].copy_from_slice(&data);
    }
    drop(array);
    let array = rig.assemble(&[0, 1, 2, 3, 4]).expect("it starts");
    assert!(rig.read(&array, 0, expected.len()).expect("read") == expected);
    assert!(rig.is_consistent(&array, &[0, 1, 2, 3]));
}

#[test]
fn a_tick_empties_the_journal_of_an_array_at_rest() {
    let (rig, array) = made(shape(Level::Raid5, 4));
    rig.write(&array, 0, &pattern(8192, 1)).expect("written");
    assert_eq!(log(&rig, 4).len(), 2);
    (0..3).for_each(|_| rig.tick(&array));
    assert_eq!(log(&rig, 4).len(), 1);
    assert_eq!(array.status().state, ArrayState::Clean);
    // Nothing to write at the next start.
    let before: Vec<_> = rig
        .disks
        .iter()
        .map(|disk| disk.peek(0, 2 * MIB as usize))
        .collect();
    let array = rig.assemble(&[0, 1, 2, 3, 4]).expect("it starts");
    assert_eq!(array.status().state, ArrayState::Clean);
    let after: Vec<_> = rig
        .disks
        .iter()
        .map(|disk| disk.peek(0, 2 * MIB as usize))
        .collect();
    assert!(before == after);
}

#[test]
fn an_array_without_its_journal_needs_to_be_told() {
    let (rig, array) = made(shape(Level::Raid5, 4));
    rig.write(&array, 0, &pattern(8192, 1)).expect("written");
    drop(array);
    let refused = rig.assemble(&[0, 1, 2, 3]).err().expect("it has a journal");
    assert_eq!(refused.kind(), ErrorKind::Offline);
    assert!(
        refused.sentence().contains("its journal is missing"),
        "{}",
        refused.sentence()
    );
    let array = rig.assemble_with(&[0, 1, 2, 3], true).expect("forced");
    let status = array.status();
    assert_eq!(
        (status.consistency, status.sync.action),
        ("resync", SyncAction::Resync)
    );
    drop(array);
    // The members know it by now, and its disk is nobody's any more.
    let array = rig.assemble(&[0, 1, 2, 3, 4]).expect("it starts");
    assert_eq!(array.status().members.len(), 4);
    assert_eq!(array.status().consistency, "resync");
}

#[test]
fn a_journal_that_fails_stops_the_writes_until_there_is_a_new_one() {
    let (mut rig, array) = made(shape(Level::Raid6, 5));
    let data = pattern(65_536, 1);
    rig.write(&array, 0, &data).expect("written");
    rig.faults[5].set_offline(true);
    let refused = rig.write(&array, 0, &[1; 4096]).expect_err("no journal");
    assert!(
        refused.sentence().contains("its journal has failed"),
        "{}",
        refused.sentence()
    );
    let refused = rig.write(&array, 0, &[1; 4096]).expect_err("no journal");
    assert_eq!(refused.kind(), ErrorKind::ReadOnly);
    assert_eq!(rig.read(&array, 0, data.len()).expect("read"), data);
    let status = array.status();
    assert_eq!(status.state, ArrayState::Degraded);
    let journal = status.members.last().expect("it is shown");
    assert_eq!(
        (journal.role, journal.state),
        (MemberRole::Journal, MemberState::Faulty)
    );
    rig.add_disk(JOURNAL);
    let spawner = rig.executor.spawner();
    let new = rig.members[6].clone();
    rig.run(array.add_journal(new.clone(), [3; 16], &spawner))
        .expect("added");
    rig.write(&array, 512, &[1; 4096]).expect("written");
    let refused = rig
        .run(array.add_journal(new, [4; 16], &spawner))
        .expect_err("it has one");
    assert_eq!(refused.sentence(), "array tank: it has a journal, disk6");
    rig.run(array.remove("disk5", &spawner)).expect("let go");
    let refused = rig
        .run(array.remove("disk6", &spawner))
        .expect_err("in use");
    assert!(refused.sentence().contains("holds its journal"));
    // No stop.
    rig.poke(1, 0, &[0xee; 4096]);
    let array = rig.assemble(&[0, 1, 2, 3, 4, 5, 6]).expect("it starts");
    let mut expected = data;
    expected[512..4608].fill(1);
    assert_eq!(rig.read(&array, 0, expected.len()).expect("read"), expected);
    assert!(rig.is_consistent(&array, &[0, 1, 2, 3, 4]));
}

#[test]
fn members_come_and_go_beside_a_journal() {
    let (mut rig, array) = made(shape(Level::Raid5, 4));
    let data = pattern(array.info().size as usize, 1);
    rig.write(&array, 0, &data).expect("written");
    let spawner = rig.executor.spawner();
    rig.run(array.fail("disk1", &spawner)).expect("failed");
    rig.write(&array, 512, &[9; 1024]).expect("written");
    rig.add_disk(2 * MIB);
    rig.run(array.add(rig.members[5].clone(), [4; 16], &spawner))
        .expect("added");
    rig.sync(&array).expect("synced");
    assert!(rig.is_consistent(&array, &[0, 5, 2, 3]));
    rig.write(&array, 0, &[8; 512]).expect("written");
    drop(array);
    let array = rig.assemble(&[0, 5, 2, 3, 4]).expect("it starts");
    let mut expected = data;
    expected[..512].fill(8);
    expected[512..1536].fill(9);
    assert!(rig.read(&array, 0, expected.len()).expect("read") == expected);
    rig.stop(&array);
    let array = rig.assemble(&[0, 5, 2, 3, 4]).expect("it starts");
    assert_eq!(array.status().state, ArrayState::Clean);
}

#[test]
fn impossible_journals_are_refused() {
    let try_it = |level: Level, members: usize, journal: u64| {
        let mut rig = Rig::new(1, members);
        rig.add_disk(journal);
        let options = journaled(shape(level, members), 1);
        let devices = rig.members.clone();
        let refused = rig.run(crate::create(&options, devices, &rig.executor.spawner()));
        refused.err().expect("it cannot be").sentence()
    };
    let why = try_it(Level::Raid1, 2, JOURNAL);
    assert!(
        why.contains("only RAID-4, 5 and 6 take a journal, RAID-1 does not"),
        "{why}"
    );
    let why = try_it(Level::Raid5, 4, MIB + 64 * 1024);
    assert!(why.contains("disk4 is too small for a journal"), "{why}");
}

#[test]
fn an_array_that_has_lost_its_journal_starts_without_by_force() {
    let (rig, array) = made(shape(Level::Raid5, 4));
    rig.write(&array, 0, &pattern(8192, 1)).expect("written");
    let spawner = rig.executor.spawner();
    rig.run(array.fail("disk4", &spawner)).expect("failed");
    rig.stop(&array);
    let refused = rig.assemble(&[0, 1, 2, 3, 4]).err().expect("it has none");
    assert!(refused.sentence().contains("its journal has failed"));
    let array = rig.assemble_with(&[0, 1, 2, 3], true).expect("forced");
    // It was at rest when it was stopped.
    assert!(array.progress().is_idle());
    drop(array);
    let array = rig.assemble(&[0, 1, 2, 3]).expect("it has been told to");
    assert_eq!(array.status().consistency, "resync");
}

/// A batch was torn at its start; what was whole behind it would follow on from what is logged there next, by its place
/// and by its number, but for the gap in the numbers.
#[test]
fn what_lies_behind_a_torn_batch_is_never_taken_for_what_comes_next() {
    let (rig, array) = made(shape(Level::Raid5, 4));
    for (at, salt) in [(2 * CHUNK, 1), (4 * CHUNK, 2), (0, 3)] {
        let data = pattern(BLOCK_BYTES, salt);
        rig.write(&array, at, &data).expect("written");
    }
    drop(array);
    let metas = log(&rig, 4);
    assert_eq!(
        metas.iter().map(MetaBlock::blocks).collect::<Vec<_>>(),
        [1, 3, 3, 3]
    );
    let torn = (rig.superblock(4).data_offset + metas[1].position + 8) * 512;
    rig.disks[4].poke(torn, &[0xee; 512]);
    let array = rig.assemble(&[0, 1, 2, 3, 4]).expect("it starts");
    // A beginning and this take as much as the first two.
    let new = pattern(2 * BLOCK_BYTES, 4);
    rig.write(&array, 0, &new).expect("written");
    drop(array);
    let array = rig.assemble(&[0, 1, 2, 3, 4]).expect("it starts");
    assert!(rig.read(&array, 0, new.len()).expect("read") == new);
}

/// A block of data that is in the journal alone, as md's write-back mode leaves it: puts it at the end of the log.
fn cached(rig: &Rig, disk: usize, sector: u64, data: &[u8]) {
    let own = rig.superblock(disk);
    let seed = Seed::of(&own.set_uuid);
    let metas = log(rig, disk);
    let last = metas.last().expect("it begins somewhere");
    let payload = Payload::Data {
        sector,
        checksum: seed.checksum(data),
    };
    let meta = MetaBlock {
        seq: last.seq + 1,
        position: last.position + 8 * last.blocks(),
        payloads: vec![payload],
    };
    let at = (own.data_offset + meta.position) * 512;
    rig.disks[disk].poke(at, &meta.to_bytes(seed));
    rig.disks[disk].poke(at + BLOCK_BYTES as u64, data);
}

#[test]
fn what_is_in_the_journal_alone_is_completed() {
    for (level, lost) in [
        (Level::Raid5, None),
        (Level::Raid5, Some(0)),
        (Level::Raid6, Some(1)),
    ] {
        let (rig, array) = made(shape(level, 5));
        let mut expected = pattern(array.info().size as usize, 1);
        rig.write(&array, 0, &expected).expect("written");
        rig.stop(&array);
        for (block, salt) in [(0, 2), (1, 3), (6, 4), (5, 5), (0, 6)] {
            let data = pattern(BLOCK_BYTES, salt);
            cached(&rig, 5, block * 8, &data);
            expected[block as usize * BLOCK_BYTES..][..BLOCK_BYTES].copy_from_slice(&data);
        }
        let left: Vec<usize> = (0..=5).filter(|disk| Some(*disk) != lost).collect();
        let array = rig.assemble(&left).expect("it starts");
        let told = &array.status().messages;
        assert!(
            told.iter().any(|told| told.starts_with("3 stripes")),
            "{told:?}"
        );
        assert!(
            rig.read(&array, 0, expected.len()).expect("read") == expected,
            "{level}"
        );
        if lost.is_none() {
            assert!(rig.is_consistent(&array, &[0, 1, 2, 3, 4]));
        }
        rig.stop(&array);
        let array = rig.assemble(&left).expect("it starts again");
        assert!(
            rig.read(&array, 0, expected.len()).expect("read") == expected,
            "{level}"
        );
    }
}

/// What is logged of a stripe once its parities were there is a change of its own; a flush payload takes back what was
/// logged before it; a place that the array does not have makes nobody panic.
#[test]
fn a_strange_log_is_compared_with_the_members() {
    let (rig, array) = made(shape(Level::Raid5, 5));
    let data = pattern(8192, 1);
    rig.write(&array, 0, &data).expect("written");
    rig.stop(&array);
    cached(&rig, 5, 8, &[9; BLOCK_BYTES]);
    cached(&rig, 5, u64::MAX / 512 / 8 * 8, &[9; BLOCK_BYTES]);
    let array = rig.assemble(&[0, 1, 2, 3, 4, 5]).expect("it starts");
    assert_eq!(array.progress().action, SyncAction::Resync);
    rig.sync(&array).expect("synced");
    assert!(rig.is_consistent(&array, &[0, 1, 2, 3, 4]));
    assert_eq!(rig.read(&array, 4096, 4096).expect("read"), [9; 4096]);
    rig.stop(&array);
    cached(&rig, 5, 4096, &[1; BLOCK_BYTES + 1][1..]);
    cached(&rig, 5, u64::MAX / 512 / 8 * 8, &[9; BLOCK_BYTES]);
    let refused = rig
        .assemble(&[0, 1, 2, 3, 5])
        .err()
        .expect("it may be wrong");
    assert!(
        refused
            .sentence()
            .contains("names what the array does not have")
    );
    rig.assemble_with(&[0, 1, 2, 3, 5], true)
        .expect("it was told to");
}

#[test]
fn a_journal_that_cannot_be_read_is_told_of() {
    let (rig, array) = made(shape(Level::Raid5, 4));
    rig.write(&array, 0, &pattern(8192, 1)).expect("written");
    let own = rig.superblock(4);
    rig.disks[4].poke((own.data_offset + own.recovery_offset) * 512, &[0; 4096]);
    let refused = rig.assemble(&[0, 1, 2, 4]).err().expect("degraded");
    assert!(refused.sentence().contains("its journal cannot be read"));
    let array = rig.assemble(&[0, 1, 2, 3, 4]).expect("it starts");
    assert_eq!(array.progress().action, SyncAction::Resync);
}

/// A thread may end at any step of a change, with the next batch of the journal half written: what the others write is in
/// the log all the same, and what it had begun awaits a resync.
#[test]
fn a_thread_that_ends_leaves_a_log_that_goes_on() {
    for steps in 0..24 {
        let (rig, array) = made(shape(Level::Raid5, 4));
        let mut expected = vec![0; array.info().size as usize];
        {
            let doomed = Executor::new(steps);
            let queue = array.open(&doomed.spawner()).expect("a queue");
            let change = IoVec::copy_of(&pattern(4 * CHUNK as usize, 2));
            let begun = queue.submit(Request::write(0, change));
            doomed.block_on(async {
                for _ in 0..steps {
                    yield_now().await;
                }
            });
            drop(begun);
        }
        for turn in 0..20_usize {
            let at = (6 * CHUNK as usize) + turn * 20_480;
            let data = pattern(9 * 1024, turn as u64);
            rig.write(&array, at as u64, &data).expect("written");
            expected[at..at + data.len()].copy_from_slice(&data);
        }
        let array = rig.assemble(&[0, 1, 2, 3, 4]).expect("it starts");
        rig.sync(&array).expect("synced");
        assert!(
            rig.is_consistent(&array, &[0, 1, 2, 3]),
            "after {steps} steps"
        );
        let from = 4 * CHUNK as usize;
        let read = rig.read(&array, from as u64, expected.len() - from);
        assert!(
            read.expect("read") == expected[from..],
            "after {steps} steps"
        );
    }
}
