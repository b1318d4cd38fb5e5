//! Arrays whose shape is changed while they are used.

use weft_block::{BlockDevice, ErrorKind, IoVec, Request};

use super::harness::*;
use crate::level::{Level, ParityLayout};
use crate::superblock::{Features, SUPER_BYTE};
use crate::{Array, ArrayState, Consistency, Growth, SyncAction};

/// What is to become of an array.
struct Change {
    shape: Shape,
    growth: Growth,
}

fn members(count: u32) -> Growth {
    Growth {
        members: Some(count),
        ..Growth::default()
    }
}

fn changes() -> Vec<Change> {
    let layout = |layout| Growth {
        layout: Some(layout),
        ..Growth::default()
    };
    let chunk = |chunk| Growth {
        chunk: Some(chunk),
        ..Growth::default()
    };
    let change = |level, count, growth| Change {
        shape: shape(level, count),
        growth,
    };
    vec![
        change(Level::Raid5, 3, members(4)),
        change(Level::Raid5, 2, members(5)),
        change(Level::Raid4, 3, members(4)),
        change(Level::Raid6, 4, members(5)),
        change(Level::Raid5, 4, chunk(64 << 10)),
        change(Level::Raid6, 5, chunk(4 << 10)),
        change(Level::Raid5, 4, layout(ParityLayout::ParityLast)),
        change(Level::Raid6, 4, layout(ParityLayout::LeftSymmetric6)),
        change(
            Level::Raid5,
            3,
            Growth {
                members: Some(5),
                chunk: Some(32 << 10),
                layout: Some(ParityLayout::RightAsymmetric),
                ..Growth::default()
            },
        ),
    ]
}

/// An array that holds something, with the spares that the growth takes, and what it holds.
fn rig(change: &Change, seed: u64, consistency: Consistency) -> (Rig, Array, Vec<u8>) {
    let after = change.growth.members.unwrap_or(0) as usize;
    let rig = Rig::new(seed, change.shape.members.max(after));
    let mut options = options(change.shape, seed);
    options.assume_clean = true;
    options.consistency = consistency;
    let array = rig.create(&options);
    let spawner = rig.executor.spawner();
    for index in change.shape.members..after {
        let added = array.add(rig.members[index].clone(), [index as u8 + 50; 16], &spawner);
        rig.run(added).expect("a spare");
    }
    let data = pattern(array.geometry().size() as usize, seed);
    rig.write(&array, 0, &data).expect("written");
    (rig, array, data)
}

fn grow(rig: &Rig, array: &Array, growth: &Growth) -> weft_block::Result<()> {
    rig.run(array.grow(growth, &rig.executor.spawner()))
}

#[test]
fn a_shape_changes_under_reads_and_writes() {
    for (seed, change) in (0..).zip(changes()) {
        let (rig, array, mut data) = rig(&change, seed, Consistency::Bitmap);
        let old_size = data.len();
        let shape = change.shape;
        grow(&rig, &array, &change.growth).expect("it begins");
        let queue = array.open(&rig.executor.spawner()).expect("a queue");
        let syncer = array.syncer(&rig.executor.spawner()).expect("a syncer");
        for step in 0.. {
            assert!(step < 400, "{shape:?} never ends");
            let progress = rig.run(syncer.step(64 << 10)).expect("a step");
            if progress.is_idle() {
                break;
            }
            assert_eq!(progress.action, SyncAction::Reshape);
            let at = (step * 137_777) % (data.len() - 70_144) / 512 * 512;
            let patch = pattern(69_632, step as u64);
            let write = Request::write(at as u64, IoVec::copy_of(&patch));
            rig.run(queue.submit(write)).result.expect("written");
            data[at..at + patch.len()].copy_from_slice(&patch);
            assert_eq!(
                rig.read(&array, 0, old_size).expect("read"),
                data,
                "{shape:?}"
            );
        }
        let status = array.status();
        assert_eq!(status.state, ArrayState::Active);
        let after = array.geometry().size();
        assert_eq!(status.size_bytes, after);
        data.resize(after as usize, 0);
        assert_eq!(rig.read(&array, 0, data.len()).expect("read"), data);
        let all: Vec<usize> = (0..rig.disks.len()).collect();
        assert!(rig.is_consistent(&array, &all), "{shape:?}");
        rig.stop(&array);
        let array = rig.assemble(&all).expect("it starts");
        assert_eq!(array.status().state, ArrayState::Clean);
        assert_eq!(array.geometry().size(), after);
        rig.faults[1].set_offline(true);
        assert_eq!(rig.read(&array, 0, data.len()).expect("read"), data);
    }
}

#[test]
fn a_change_goes_on_after_a_stop_and_after_a_member_has_gone() {
    for (seed, change) in (0..).zip(changes()) {
        let (rig, array, data) = rig(&change, seed, Consistency::Resync);
        grow(&rig, &array, &change.growth).expect("it begins");
        let all: Vec<usize> = (0..rig.disks.len()).collect();
        let step = |array: &Array| {
            let syncer = array.syncer(&rig.executor.spawner()).expect("a syncer");
            for _ in 0..2 {
                rig.run(syncer.step(64 << 10)).expect("a step");
            }
        };
        step(&array);
        rig.stop(&array);
        let array = rig.assemble(&all).expect("it starts");
        assert_eq!(array.status().sync.action, SyncAction::Reshape);
        assert_eq!(rig.read(&array, 0, data.len()).expect("read"), data);
        rig.faults[1].set_offline(true);
        step(&array);
        assert_eq!(array.status().state, ArrayState::Degraded);
        assert_eq!(rig.read(&array, 0, data.len()).expect("read"), data);
        rig.stop(&array);
        rig.faults[1].set_offline(false);
        let left: Vec<usize> = all.iter().copied().filter(|&index| index != 1).collect();
        let array = rig.assemble(&left).expect("it starts");
        rig.sync(&array).expect("synced");
        assert_eq!(array.status().sync.action, SyncAction::Idle);
        assert_eq!(rig.read(&array, 0, data.len()).expect("read"), data);
        let back = rig.members[1].clone();
        rig.run(array.add(back, [7; 16], &rig.executor.spawner()))
            .expect("it comes back");
        rig.sync(&array).expect("synced");
        assert!(rig.is_consistent(&array, &all), "{:?}", change.shape);
    }
}

/// mdadm moves the data of each member as its room and alignment suggest.
#[test]
fn members_may_have_moved_differently_far() {
    let change = Change {
        shape: shape(Level::Raid5, 3),
        growth: Growth {
            chunk: Some(8 << 10),
            ..Growth::default()
        },
    };
    let (rig, array, data) = rig(&change, 5, Consistency::Resync);
    grow(&rig, &array, &change.growth).expect("it begins");
    rig.stop(&array);
    for (index, sectors) in [(0, -96), (2, -64)] {
        let mut superblock = rig.superblock(index);
        superblock.reshape.new_offset = sectors;
        rig.disks[index].poke(SUPER_BYTE, &superblock.to_bytes(512));
    }
    let array = rig.assemble(&[0, 1, 2]).expect("it starts");
    let syncer = array.syncer(&rig.executor.spawner()).expect("a syncer");
    for step in 0.. {
        assert!(step < 1000, "it never ends");
        let progress = rig.run(syncer.step(64 << 10)).expect("a step");
        assert_eq!(rig.read(&array, 0, data.len()).expect("read"), data);
        if progress.is_idle() {
            break;
        }
    }
    assert!(rig.is_consistent(&array, &[0, 1, 2]));
    rig.stop(&array);
    let array = rig.assemble(&[0, 1, 2]).expect("it starts");
    assert_eq!(rig.read(&array, 0, data.len()).expect("read"), data);
}

/// Only mdadm's backup file has what was written over when it stopped.
#[test]
fn data_that_is_moved_in_place_is_left_to_mdadm() {
    let change = Change {
        shape: shape(Level::Raid5, 3),
        growth: members(4),
    };
    let (rig, array, data) = rig(&change, 5, Consistency::Resync);
    grow(&rig, &array, &change.growth).expect("it begins");
    let in_place = || {
        for index in 0..4 {
            let mut superblock = rig.superblock(index);
            superblock.features = superblock.features.without(Features::NEW_OFFSET);
            superblock.reshape.new_offset = 0;
            rig.disks[index].poke(SUPER_BYTE, &superblock.to_bytes(512));
        }
    };
    rig.stop(&array);
    let before: Vec<_> = (0..4).map(|index| rig.superblock(index)).collect();
    in_place();
    let refused = rig.assemble(&[0, 1, 2, 3]).err().expect("it is refused");
    assert_eq!(refused.kind(), ErrorKind::Unsupported);
    assert!(refused.sentence().contains("backup file"), "{refused:?}");
    for (index, superblock) in before.iter().enumerate() {
        assert_eq!(rig.superblock(index).events, superblock.events);
        rig.disks[index].poke(SUPER_BYTE, &superblock.to_bytes(512));
    }
    let array = rig.assemble(&[0, 1, 2, 3]).expect("it starts");
    rig.sync(&array).expect("synced");
    let read = rig.read(&array, 0, data.len()).expect("read");
    assert_eq!(read, data);
}

/// A bitmap that remembers what a member has missed counts in a shape that the member knows nothing of.
#[test]
fn no_bitmap_catches_a_member_up_that_missed_a_change_of_shape() {
    for (seed, change) in (0..).zip(changes()) {
        let (rig, array, data) = rig(&change, seed, Consistency::Bitmap);
        let all: Vec<usize> = (0..rig.disks.len()).collect();
        let left: Vec<usize> = all.iter().copied().filter(|&index| index != 1).collect();
        let spawner = rig.executor.spawner();
        grow(&rig, &array, &change.growth).expect("it begins");
        let syncer = array.syncer(&spawner).expect("a syncer");
        rig.run(syncer.step(64 << 10)).expect("a step");
        rig.stop(&array);
        // It is away while some is moved, and nobody calls it failed.
        let array = rig.assemble(&left).expect("it starts");
        let syncer = array.syncer(&spawner).expect("a syncer");
        rig.run(syncer.step(64 << 10)).expect("a step");
        let back = rig.run(array.readmit(rig.members[1].clone(), &spawner));
        assert!(!back.expect("it is looked at"), "{:?}", change.shape);
        rig.stop(&array);
        let array = rig.assemble(&all).expect("it starts");
        assert_eq!(array.status().state, ArrayState::Degraded);
        rig.sync(&array).expect("synced");
        assert_eq!(array.status().state, ArrayState::Degraded);
        rig.stop(&array);
        let array = rig.assemble(&all).expect("it starts");
        assert_eq!(array.status().state, ArrayState::Degraded);
        let back = rig.members[1].clone();
        let back = rig.run(array.add(back, [77; 16], &spawner));
        assert!(!back.expect("it is taken"), "{:?}", change.shape);
        rig.sync(&array).expect("synced");
        assert_eq!(rig.read(&array, 0, data.len()).expect("read"), data);
        assert!(rig.is_consistent(&array, &all), "{:?}", change.shape);
        rig.stop(&array);
        let array = rig.assemble(&all).expect("it starts");
        assert_eq!(array.status().state, ArrayState::Clean);
    }
}

#[test]
fn the_partial_parity_log_comes_back_afterwards() {
    let change = Change {
        shape: shape(Level::Raid5, 3),
        growth: members(4),
    };
    let change = &change;
    let mut rig = Rig::new(1, 0);
    (0..4).for_each(|_| rig.add_disk(4 * MIB));
    let mut options = options(change.shape, 1);
    options.assume_clean = true;
    options.consistency = Consistency::Ppl;
    let array = rig.create(&options);
    let spawner = rig.executor.spawner();
    rig.run(array.add(rig.members[3].clone(), [50; 16], &spawner))
        .expect("a spare");
    grow(&rig, &array, &change.growth).expect("it begins");
    assert_eq!(array.status().consistency, "resync");
    rig.sync(&array).expect("synced");
    assert_eq!(array.status().consistency, "ppl");
    let data = pattern(200_704, 3);
    rig.write(&array, 0, &data).expect("written");
    rig.stop(&array);
    let array = rig.assemble(&[0, 1, 2, 3]).expect("it starts");
    assert_eq!(array.status().consistency, "ppl");
    assert_eq!(rig.read(&array, 0, data.len()).expect("read"), data);
}

#[test]
fn what_cannot_be_is_refused_and_nothing_is_changed() {
    let change = Change {
        shape: shape(Level::Raid5, 3),
        growth: members(3),
    };
    let (rig, array, _) = rig(&change, 1, Consistency::Bitmap);
    let refused = |growth: &Growth| grow(&rig, &array, growth).expect_err("it is refused");
    let chunk = |chunk| Growth {
        chunk: Some(chunk),
        ..Growth::default()
    };
    let layout = Growth {
        layout: Some(ParityLayout::DdfNRestart),
        ..Growth::default()
    };
    for (growth, why) in [
        (members(3), "that shape already"),
        (members(2), "cannot have fewer"),
        (members(4), "1 more members need as many spares, it has 0"),
        (chunk(12_000), "not a power of two"),
        (chunk(1 << 30), "no multiple of a chunk"),
        (layout, "RAID-5 has no layout ddf-N-restart"),
    ] {
        let error = refused(&growth);
        assert!(error.sentence().contains(why), "{}", error.sentence());
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
    let spawner = rig.executor.spawner();
    rig.run(array.fail("disk1", &spawner)).expect("failed");
    assert_eq!(refused(&chunk(64 << 10)).kind(), ErrorKind::Degraded);
    assert_eq!(array.geometry().members(), 3);
}
