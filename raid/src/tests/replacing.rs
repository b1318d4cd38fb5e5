//! Members that are copied onto others.

use super::harness::*;
use crate::level::Level;
use crate::{Array, ArrayState, MemberState, SyncAction};

/// An array whose disk 1 is being replaced by the last disk.
fn replacing(shape: Shape, seed: u64) -> (Rig, Array, Vec<u8>) {
    let mut rig = Rig::new(seed, shape.members);
    rig.add_disk(2 * MIB);
    let mut options = options(shape, seed);
    options.assume_clean = true;
    let array = rig.create(&options);
    let data = pattern(900 << 10, seed);
    rig.write(&array, 0, &data).expect("written");
    let new = rig.members[shape.members].clone();
    let spawner = rig.executor.spawner();
    rig.run(array.replace("disk1", new, [9; 16], &spawner))
        .expect("it begins");
    (rig, array, data)
}

fn redundant() -> impl Iterator<Item = Shape> {
    let several = |shape: &Shape| shape.level.is_redundant() && shape.members > 1;
    shapes().into_iter().filter(several)
}

#[test]
fn a_member_is_replaced_under_writes_and_nothing_is_degraded() {
    for (seed, shape) in (0..).zip(redundant()) {
        let (rig, array, mut data) = replacing(shape, seed);
        let syncer = array.syncer(&rig.executor.spawner()).expect("a syncer");
        let mut idle = false;
        for step in 0..200 {
            assert_ne!(array.status().state, ArrayState::Degraded, "{shape:?}");
            if idle {
                break;
            }
            assert_eq!(array.progress().action, SyncAction::Recover);
            idle = rig.run(syncer.step(64 << 10)).expect("a step").is_idle();
            let at = (step * 37_777) % (data.len() - 70_144) / 512 * 512;
            let patch = pattern(69_632, step as u64);
            rig.write(&array, at as u64, &patch).expect("written");
            data[at..at + patch.len()].copy_from_slice(&patch);
        }
        let mut members: Vec<usize> = (0..shape.members).collect();
        members[1] = shape.members;
        let status = array.status();
        assert_eq!(
            status.members[1].path,
            Some(format!("disk{}", shape.members))
        );
        let old = status.members.last().expect("the old one");
        assert_eq!(old.why.as_deref(), Some("it was replaced"));
        assert!(rig.is_consistent(&array, &members), "{shape:?}");
        assert_eq!(rig.read(&array, 0, data.len()).expect("read"), data);
        rig.stop(&array);
        let array = rig.assemble(&members).expect("it starts");
        assert_eq!(array.status().state, ArrayState::Clean);
    }
}

#[test]
fn what_the_old_member_cannot_read_comes_from_the_others() {
    for shape in [
        shape(Level::Raid5, 4),
        shape(Level::Raid1, 2),
        shape(Level::Raid10, 4),
    ] {
        let (rig, array, data) = replacing(shape, 1);
        rig.faults[1].fail_reads(MIB + 4096..MIB + 8192);
        rig.sync(&array).expect("synced");
        assert_ne!(array.status().state, ArrayState::Degraded);
        assert_eq!(array.status().members[1].state, MemberState::InSync);
        rig.run(array.fail("disk0", &rig.executor.spawner()))
            .expect("it can do without");
        assert_eq!(rig.read(&array, 0, data.len()).expect("read"), data);
    }
}

#[test]
fn a_member_that_dies_while_it_is_replaced_is_rebuilt_from_where_it_was() {
    let (rig, array, data) = replacing(shape(Level::Raid5, 4), 1);
    let spawner = rig.executor.spawner();
    let syncer = array.syncer(&spawner).expect("a syncer");
    rig.run(syncer.step(256 << 10)).expect("a step");
    rig.run(array.fail("disk1", &spawner)).expect("failed");
    let status = array.status();
    assert_eq!(status.state, ArrayState::Degraded);
    assert_eq!(status.members[1].state, MemberState::Rebuilding);
    assert_eq!(status.sync.done, 256 << 10);
    rig.sync(&array).expect("synced");
    assert!(rig.is_consistent(&array, &[0, 4, 2, 3]));
    assert_eq!(rig.read(&array, 0, data.len()).expect("read"), data);
}

#[test]
fn a_new_member_that_fails_costs_nothing() {
    let (rig, array, data) = replacing(shape(Level::Raid6, 5), 1);
    rig.faults[5].set_offline(true);
    rig.write(&array, 0, &data[..8192]).expect("written");
    let status = array.status();
    assert_ne!(status.state, ArrayState::Degraded);
    assert_eq!(status.members[5].state, MemberState::Faulty);
    assert!(status.sync.is_idle());
    // It is out of the others' superblocks too.
    rig.stop(&array);
    rig.faults[5].set_offline(false);
    let array = rig.assemble(&[0, 1, 2, 3, 4, 5]).expect("it starts");
    assert_eq!(array.status().members.len(), 5);
    assert_eq!(rig.read(&array, 0, data.len()).expect("read"), data);
}

#[test]
fn a_replacement_goes_on_after_a_stop() {
    let (rig, array, data) = replacing(shape(Level::Raid5, 3), 1);
    let syncer = array.syncer(&rig.executor.spawner()).expect("a syncer");
    rig.run(syncer.step(128 << 10)).expect("a step");
    rig.stop(&array);
    let array = rig.assemble(&[0, 1, 2, 3]).expect("it starts");
    let sync = array.progress();
    assert_eq!((sync.action, sync.done), (SyncAction::Recover, 128 << 10));
    assert_ne!(array.status().state, ArrayState::Degraded);
    rig.stop(&array);
    // Without the old member it is a rebuild.
    let array = rig.assemble(&[0, 2, 3]).expect("it starts");
    assert_eq!(array.status().state, ArrayState::Degraded);
    assert_eq!(array.progress().done, 128 << 10);
    rig.sync(&array).expect("synced");
    assert_eq!(rig.read(&array, 0, data.len()).expect("read"), data);
}

#[test]
fn what_cannot_be_replaced_is_told() {
    let (rig, array, _) = replacing(shape(Level::Raid5, 3), 1);
    let spawner = rig.executor.spawner();
    let refused = |old: &str, new: usize| {
        let new = rig.members[new].clone();
        let refused = rig.run(array.replace(old, new, [1; 16], &spawner));
        refused.expect_err("it cannot be").sentence()
    };
    assert_eq!(
        refused("disk1", 0),
        "array tank: disk1 is being replaced already"
    );
    assert_eq!(refused("disk9", 0), "array tank: disk9 is not a member");
    assert_eq!(refused("disk0", 3), "array tank: disk3 is a member already");
    let spare = rig.run(array.replace_by_spare("disk0", "disk2", &spawner));
    let sentence = spare.expect_err("it is none").sentence();
    assert_eq!(sentence, "array tank: disk2 is not a spare");
}
