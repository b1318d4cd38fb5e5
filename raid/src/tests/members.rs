//! Members that fail, come back and are replaced.

use weft_block::ErrorKind;

use super::harness::*;
use crate::level::Level;
use crate::{ArrayState, MemberState, SyncAction};

fn redundant() -> Vec<Shape> {
    let several = |shape: &Shape| shape.level.is_redundant() && shape.members > 1;
    shapes().into_iter().filter(several).collect()
}

#[test]
fn a_new_member_is_rebuilt_under_writes() {
    for (seed, shape) in (0..).zip(redundant()) {
        let mut rig = Rig::new(seed, shape.members);
        rig.add_disk(4 * MIB);
        let spawner = rig.executor.spawner();
        let array = rig.create(&options(shape, seed));
        rig.sync(&array).expect("synced");
        let mut data = pattern(MIB as usize, seed);
        rig.write(&array, 0, &data).expect("it writes");
        rig.run(array.fail("disk1", &spawner)).expect("it fails");
        let again = rig.run(array.fail("disk1", &spawner)).expect_err("already");
        assert_eq!(again.kind(), ErrorKind::Invalid);
        rig.run(array.remove("disk1", &spawner)).expect("removed");
        let new = rig.members[shape.members].clone();
        let path = new.path.clone();
        let by_bitmap = rig.run(array.add(new, [9; 16], &spawner)).expect("added");
        assert!(!by_bitmap);
        let status = array.status();
        assert_eq!(status.sync.action, SyncAction::Recover);
        assert_eq!(
            states(&status)[1],
            (Some(path.as_str()), MemberState::Rebuilding)
        );
        let syncer = array.syncer(&spawner).expect("a syncer");
        for step in 0..1000 {
            let progress = rig.run(syncer.step(64 << 10)).expect("a step");
            let at = (step * 37_777) % (data.len() - 70_144) / 512 * 512;
            let patch = pattern(69_632, step as u64);
            rig.write(&array, at as u64, &patch).expect("it writes");
            data[at..at + patch.len()].copy_from_slice(&patch);
            if progress.is_idle() {
                break;
            }
        }
        assert_ne!(array.status().state, ArrayState::Degraded, "{shape:?}");
        assert_eq!(rig.read(&array, 0, data.len()).expect("it reads"), data);
        let mut members: Vec<usize> = (0..shape.members).collect();
        members[1] = shape.members;
        assert!(rig.is_consistent(&array, &members), "{shape:?}");
        rig.stop(&array);
        let array = rig.assemble(&members).expect("it starts");
        assert_eq!(array.status().state, ArrayState::Clean);
    }
}

#[test]
fn a_member_that_was_away_is_caught_up_by_the_bitmap() {
    for (seed, shape) in (20..).zip(redundant()) {
        let rig = Rig::new(seed, shape.members);
        let spawner = rig.executor.spawner();
        let array = rig.create(&options(shape, seed));
        rig.sync(&array).expect("synced");
        rig.write(&array, 0, &pattern(MIB as usize, 1))
            .expect("it writes");
        rig.stop(&array);
        let all: Vec<usize> = (0..shape.members).collect();
        let array = rig.assemble(&all[1..]).expect("it starts degraded");
        rig.write(&array, 5 << 16, &pattern(4096, 2))
            .expect("it writes");
        rig.stop(&array);
        let reads = rig.faults[0].requests();
        let array = rig.assemble(&all).expect("it starts");
        assert_eq!(array.status().sync.action, SyncAction::Recover);
        assert!(array.status().messages[0].contains("disk0 was away"));
        let steps = rig.sync(&array).expect("synced");
        assert!(steps <= 10, "only a chunk is copied, in {steps} steps");
        assert!(rig.faults[0].requests() - reads < 60);
        assert!(rig.is_consistent(&array, &all), "{shape:?}");
        // The same on a running array.
        rig.run(array.fail("disk0", &spawner)).expect("it fails");
        rig.write(&array, 0, &pattern(4096, 3)).expect("it writes");
        let back = rig.members[0].clone();
        assert!(rig.run(array.add(back, [1; 16], &spawner)).expect("added"));
        rig.sync(&array).expect("synced");
        assert!(rig.is_consistent(&array, &all), "{shape:?}");
        rig.stop(&array);
    }
}

#[test]
fn a_member_that_missed_cleared_bits_is_rebuilt_whole() {
    let rig = Rig::new(1, 3);
    let array = rig.create(&options(shape(Level::Raid1, 3), 1));
    rig.sync(&array).expect("synced");
    let old = rig.disks[0].peek(0, MIB as usize);
    rig.write(&array, 0, &pattern(4096, 1)).expect("it writes");
    for _ in 0..4 {
        rig.tick(&array);
    }
    rig.stop(&array);
    // As if the disk had been a copy of long ago.
    rig.disks[0].poke(0, &old);
    let array = rig.assemble(&[0, 1, 2]).expect("it starts");
    let status = array.status();
    assert_eq!(states(&status)[0], (None, MemberState::Missing));
    assert!(
        status.messages[0].contains("add it again"),
        "{:?}",
        status.messages
    );
    let spawner = rig.executor.spawner();
    let by_bitmap = rig.run(array.add(rig.members[0].clone(), [5; 16], &spawner));
    assert!(!by_bitmap.expect("added"));
    rig.sync(&array).expect("synced");
    assert!(rig.is_consistent(&array, &[0, 1, 2]));
}

#[test]
fn a_write_error_fails_the_member_before_the_write_is_acknowledged() {
    for (seed, shape) in (40..).zip(redundant()) {
        let rig = Rig::new(seed, shape.members);
        let array = rig.create(&options(shape, seed));
        rig.sync(&array).expect("synced");
        rig.faults[1].fail_writes(MIB..2 * MIB);
        let data = pattern(300_032, 7);
        rig.write(&array, 512, &data)
            .expect("it writes all the same");
        assert_eq!(array.status().state, ArrayState::Degraded);
        assert_eq!(rig.read(&array, 512, data.len()).expect("it reads"), data);
        // As after a crash at this instant: the failed member does not pass for current.
        rig.faults[1].clear();
        let all: Vec<usize> = (0..shape.members).collect();
        let found = rig.assemble_with(&all, true).expect("it starts");
        let status = found.status();
        assert_eq!(
            states(&status)[1].1,
            MemberState::Missing,
            "{shape:?}: {status:?}"
        );
        assert_eq!(rig.read(&found, 512, data.len()).expect("it reads"), data);
    }
}

#[test]
fn too_many_failures_end_the_array_in_a_sentence() {
    let rig = Rig::new(1, 3);
    let spawner = rig.executor.spawner();
    let array = rig.create(&options(shape(Level::Raid5, 3), 1));
    rig.sync(&array).expect("synced");
    rig.run(array.fail("disk2", &spawner)).expect("it fails");
    let refused = rig.run(array.fail("disk0", &spawner)).expect_err("needed");
    assert!(refused.sentence().contains("data would be lost"));
    rig.faults[0].set_offline(true);
    let error = rig
        .write(&array, 0, &pattern(65_536, 1))
        .expect_err("two are gone");
    assert_eq!(error.kind(), ErrorKind::Offline);
    assert_eq!(array.status().state, ArrayState::Failed);
    let error = rig.read(&array, 0, 512).expect_err("it has failed");
    assert!(
        error.sentence().contains("array tank has failed"),
        "{}",
        error.sentence()
    );
    rig.stop(&array);
}

#[test]
fn spares_take_over() {
    let rig = Rig::new(1, 4);
    let mut options = options(shape(Level::Raid5, 4), 1);
    options.spares = 1;
    let array = rig.create(&options);
    rig.sync(&array).expect("synced");
    rig.write(&array, 0, &pattern(MIB as usize, 1))
        .expect("it writes");
    rig.faults[0].set_offline(true);
    assert!(rig.read(&array, 0, 65_536).is_ok());
    rig.sync(&array).expect("synced");
    let status = array.status();
    assert_eq!(states(&status)[0], (Some("disk3"), MemberState::InSync));
    assert_eq!(
        rig.read(&array, 0, MIB as usize).expect("it reads"),
        pattern(MIB as usize, 1)
    );
    assert!(rig.is_consistent(&array, &[3, 1, 2]));
}

#[test]
fn a_write_mostly_leg_answers_only_when_it_must() {
    let rig = Rig::new(1, 3);
    let mut options = options(shape(Level::Raid1, 3), 1);
    options.assume_clean = true;
    let array = rig.create(&options);
    let spawner = rig.executor.spawner();
    let data = pattern(MIB as usize / 2, 1);
    rig.write(&array, 0, &data).expect("written");
    rig.run(array.set_write_mostly("disk0", true, &spawner))
        .expect("it is a member");
    rig.stop(&array);
    let array = rig.assemble(&[0, 1, 2]).expect("it starts");
    let flags: Vec<bool> = array
        .status()
        .members
        .iter()
        .map(|member| member.write_mostly)
        .collect();
    assert_eq!(flags, [true, false, false], "it is remembered");
    // What it would answer is wrong.
    rig.poke(0, 0, &[0x55; 65536]);
    for at in (0..65536).step_by(4096) {
        let read = rig.read(&array, at as u64, 4096).expect("read");
        assert!(read == data[at..at + 4096], "at {at}");
    }
    for lost in ["disk1", "disk2"] {
        rig.run(array.fail(lost, &spawner)).expect("failed");
    }
    assert_eq!(rig.read(&array, 0, 4096).expect("read"), [0x55; 4096]);
    let parity = Rig::new(1, 3);
    let array = parity.create(&super::harness::options(shape(Level::Raid5, 3), 1));
    let refused = parity.run(array.set_write_mostly("disk0", true, &parity.executor.spawner()));
    assert_eq!(
        refused.expect_err("it has no copies").sentence(),
        "array tank: only RAID-1 and RAID-10 have copies to choose from"
    );
}

/// The power could go in the second attempt of an update, and the one superblock that it had written then was two events
/// ahead of the others: the array did not start.
#[test]
fn an_update_that_wrote_nothing_counts_no_events() {
    let rig = Rig::new(1, 2);
    let mut options = options(shape(Level::Raid1, 2), 1);
    options.assume_clean = true;
    let array = rig.create(&options);
    let events = || crate::fields::le64(&rig.disks[1].peek(4096, 512), 200);
    let before = events();
    // The bitmap's head, which is written first, does not get there.
    rig.faults[0].set_offline(true);
    rig.write(&array, 0, &[1; 512]).expect("one leg is left");
    assert_eq!(events(), before + 2, "two passes tell of the loss");
}
