//! What is refused, and what is left out.

use weft_block::ErrorKind;

use super::harness::*;
use crate::level::{CopiesLayout, Level};
use crate::superblock::{Features, Role, SUPER_BYTE, Superblock};
use crate::{ArrayState, MemberDevice, create, examine};

fn sentence(result: weft_block::Result<crate::Array>) -> String {
    result.err().expect("it is refused").sentence()
}

fn made(shape: Shape) -> Rig {
    let rig = Rig::new(1, shape.members);
    let array = rig.create(&options(shape, 1));
    rig.sync(&array).expect("synced");
    rig.write(&array, 0, &pattern(65_536, 1))
        .expect("it writes");
    rig.stop(&array);
    rig
}

fn change(rig: &Rig, disk: usize, change: impl FnOnce(&mut Superblock)) {
    let sectors = 2 * MIB / 512;
    let bytes = rig.disks[disk].peek(SUPER_BYTE, 4096);
    let mut superblock = Superblock::parse(&bytes, sectors).expect("a superblock");
    change(&mut superblock);
    rig.disks[disk].poke(SUPER_BYTE, &superblock.to_bytes(512));
}

#[test]
fn a_clean_array_starts_without_a_write() {
    for shape in shapes() {
        let rig = made(shape);
        let before: Vec<_> = rig
            .disks
            .iter()
            .map(|disk| disk.peek(0, MIB as usize))
            .collect();
        let all: Vec<usize> = (0..shape.members).collect();
        let array = rig.assemble(&all).expect("it starts");
        assert_eq!(array.status().state, ArrayState::Clean);
        let after: Vec<_> = rig
            .disks
            .iter()
            .map(|disk| disk.peek(0, MIB as usize))
            .collect();
        assert!(before == after);
        assert_eq!(
            rig.read(&array, 0, 65_536).expect("it reads"),
            pattern(65_536, 1)
        );
    }
}

#[test]
fn members_of_different_arrays_are_refused() {
    let rig = made(shape(Level::Raid1, 2));
    change(&rig, 1, |superblock| superblock.set_uuid = [1; 16]);
    let why = sentence(rig.assemble(&[0, 1]));
    assert!(
        why.contains("disk0 and disk1 are members of different arrays"),
        "{why}"
    );
}

#[test]
fn too_many_missing_are_counted() {
    let rig = made(shape(Level::Raid5, 4));
    let why = sentence(rig.assemble(&[0, 3]));
    assert!(
        why.contains("2 of its 4 members are missing or incomplete, slot 1 and 2"),
        "{why}"
    );
    let rig = made(shape(Level::Raid0, 3));
    let why = sentence(rig.assemble(&[0, 2]));
    assert!(why.contains("1 of its 3 members"), "{why}");
}

#[test]
fn a_torn_superblock_is_replaced_by_its_copy() {
    let rig = made(shape(Level::Raid5, 3));
    rig.disks[1].poke(SUPER_BYTE + 70, b"torn");
    let array = rig.assemble(&[0, 1, 2]).expect("it starts");
    let status = array.status();
    assert_eq!(status.state, ArrayState::Clean);
    assert!(
        status.messages[0].contains("disk1: its copy was taken"),
        "{:?}",
        status.messages
    );
    // It was mended.
    assert!(Superblock::parse(&rig.disks[1].peek(SUPER_BYTE, 4096), 2 * MIB / 512).is_ok());
}

#[test]
fn a_damaged_superblock_without_a_copy_leaves_its_member_out() {
    let rig = made(shape(Level::Raid5, 3));
    rig.disks[1].poke(SUPER_BYTE + 70, b"torn");
    rig.disks[1].poke(MIB - 4096, &[0; 4096]);
    let array = rig.assemble(&[0, 1, 2]).expect("it starts");
    let status = array.status();
    assert_eq!(status.state, ArrayState::Degraded);
    assert!(
        status.messages[0].contains("disk1 cannot be used"),
        "{:?}",
        status.messages
    );
    assert!(
        status.messages[0].contains("checksum"),
        "{:?}",
        status.messages
    );
}

#[test]
fn the_same_member_twice_is_refused() {
    let rig = made(shape(Level::Raid1, 3));
    rig.disks[2].poke(0, &rig.disks[1].peek(0, MIB as usize));
    let why = sentence(rig.assemble(&[0, 1, 2]));
    assert!(
        why.contains("disk1 and disk2 are the same member twice"),
        "{why}"
    );
    change(&rig, 2, |superblock| superblock.device_uuid = [8; 16]);
    let why = sentence(rig.assemble(&[0, 1, 2]));
    assert!(why.contains("disk1 and disk2 both claim slot 1"), "{why}");
}

#[test]
fn features_that_are_not_run_are_named() {
    let rig = made(shape(Level::Raid5, 3));
    change(&rig, 0, |superblock| {
        superblock.features = superblock.features.with(Features::CLUSTERED)
    });
    let error = rig.assemble(&[0, 1, 2]).err().expect("refused");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(
        error
            .sentence()
            .contains("not supported yet (clustered bitmap)")
    );
}

#[test]
fn degraded_and_dirty_needs_to_be_told() {
    let rig = Rig::new(1, 3);
    let array = rig.create(&options(shape(Level::Raid5, 3), 1));
    rig.sync(&array).expect("synced");
    rig.write(&array, 0, &pattern(65_536, 1))
        .expect("it writes");
    // No stop: as after a crash.
    let why = sentence(rig.assemble(&[0, 2]));
    assert!(
        why.contains("degraded and was not stopped cleanly"),
        "{why}"
    );
    let array = rig.assemble_with(&[0, 2], true).expect("forced");
    assert_eq!(
        rig.read(&array, 0, 65_536).expect("it reads"),
        pattern(65_536, 1)
    );
    rig.sync(&array).expect("nothing to resync");
    rig.tick(&array);
    rig.tick(&array);
    rig.stop(&array);
    assert!(rig.assemble(&[0, 2]).is_ok(), "it was stopped cleanly");
}

#[test]
fn a_split_array_is_not_joined() {
    let rig = made(shape(Level::Raid1, 2));
    let half = rig.assemble(&[0]).expect("it starts");
    rig.write(&half, 0, &pattern(512, 5)).expect("it writes");
    rig.stop(&half);
    change(&rig, 1, |superblock| superblock.roles[0] = Role::Faulty);
    let array = rig.assemble(&[0, 1]).expect("it starts");
    let status = array.status();
    assert_eq!(status.state, ArrayState::Degraded);
    assert!(
        status.messages[0].contains("the array has been split"),
        "{:?}",
        status.messages
    );
}

#[test]
fn impossible_arrays_are_refused_before_anything_is_written() {
    let rig = Rig::new(1, 3);
    let spawner = rig.executor.spawner();
    let try_it = |change: &dyn Fn(&mut crate::CreateOptions, &mut Vec<MemberDevice>)| {
        let mut options = options(shape(Level::Raid5, 3), 1);
        let mut members = rig.members.clone();
        change(&mut options, &mut members);
        sentence(rig.run(create(&options, members, &spawner)))
    };
    let why = try_it(&|options, _| options.chunk = 5000);
    assert!(why.contains("a chunk of 5000 bytes"), "{why}");
    let why = try_it(&|_, members| members[1] = members[0].clone());
    assert!(why.contains("disk0 is given twice"), "{why}");
    let why = try_it(&|options, members| {
        members.truncate(1);
        options.member_uuids.truncate(1);
    });
    assert!(why.contains("needs at least 2 members"), "{why}");
    let why = try_it(&|options, _| options.name = "x".repeat(33));
    assert!(why.contains("1 to 32 bytes"), "{why}");
    let why = try_it(&|options, _| options.level = Level::Raid6);
    assert!(why.contains("needs at least 4 members"), "{why}");
    let why = try_it(&|options, _| {
        options.level = Level::Raid10;
        options.copies = CopiesLayout::from_name("n4");
    });
    assert!(why.contains("cannot keep 4 copies"), "{why}");
    rig.disks[2].resize(MIB);
    let why = try_it(&|_, _| ());
    assert!(why.contains("disk2 is too small"), "{why}");
    for disk in &rig.disks[..2] {
        assert!(disk.peek(0, MIB as usize).iter().all(|&byte| byte == 0));
    }
}

#[test]
fn examine_tells_what_is_there() {
    let rig = made(shape(Level::Raid5, 3));
    let spawner = rig.executor.spawner();
    let examined = rig
        .run(examine(&*rig.members[1].device, &spawner))
        .expect("a member");
    assert_eq!(examined.superblock.name(), "host:tank");
    assert_eq!(examined.superblock.role(), Role::Active(1));
    let head = examined
        .bitmap
        .expect("a bitmap")
        .expect("that can be read");
    assert_eq!((head.chunk, examined.dirty_bits), (64 << 10, 0));
    rig.disks[1].poke(0, &[0; 8192]);
    let error = rig
        .run(examine(&*rig.members[1].device, &spawner))
        .expect_err("nothing");
    assert_eq!(error.kind(), ErrorKind::Invalid);
}
