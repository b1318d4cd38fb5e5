//! Groups on disks in memory.

use std::sync::Arc;

use crate::rig::{MIB, Rig, disk, options};
use weft_block::{BlockDevice, Error, ErrorKind, Info, IoVec, Request};
use weft_lvm::model::parse_metadata;
use weft_lvm::{Amount, Group, GroupOptions, NewVolume, VolumeState, wipe};
use weft_sim::{Faulty, MemoryDevice, conformance};

fn linear(name: &str, mib: u64) -> NewVolume {
    NewVolume::linear(name, Amount::Bytes(mib * MIB))
}

fn expect_error<T>(result: Result<T, Error>, kind: ErrorKind, part: &str) {
    let Err(error) = result else {
        panic!("an error with {part:?} was due")
    };
    let sentence = error.sentence();
    assert!(sentence.contains(part), "{sentence}");
    assert_eq!(error.kind(), kind, "{sentence}");
}

#[test]
fn groups_can_cross_threads() {
    fn check<T: Send>() {}
    check::<Group>();
    check::<weft_lvm::Volume>();
}

#[test]
fn a_group_is_made_found_and_taken_apart() {
    let rig = Rig::new(&[16, 24, 16]);
    let spawner = rig.spawner();
    let mut group = rig.create();
    rig.run(group.create_volume(&linear("a", 20), &spawner))
        .unwrap();
    let striped = NewVolume {
        stripes: 3,
        ..linear("b", 8)
    };
    rig.run(group.create_volume(&striped, &spawner)).unwrap();
    rig.run(group.resize_volume("a", Amount::Bytes(21 * MIB), &[], &spawner))
        .unwrap();
    rig.run(group.rename_volume("a", "data", &spawner)).unwrap();
    rig.run(group.rename("pool", &spawner)).unwrap();

    let mut scan = rig.scan();
    assert!(scan.problems.is_empty() && scan.unused.is_empty() && scan.blank.is_empty());
    let found = scan.take("pool").expect("found");
    assert!(found.problems().is_empty(), "{:?}", found.problems());
    assert_eq!(found.model(), group.model());
    assert_eq!(found.model().seqno, 6);
    let sizes: Vec<_> = group
        .volume_reports()
        .iter()
        .map(|lv| (lv.name.clone(), lv.size / MIB, lv.kind.clone()))
        .collect();
    assert_eq!(
        sizes,
        [
            ("data".into(), 21, "linear".into()),
            ("b".into(), 9, "striped".into())
        ]
    );

    let mut group = rig
        .run(Group::open(found, Arc::clone(&rig.host), &spawner))
        .unwrap();
    expect_error(
        rig.run(group.remove(&spawner)),
        ErrorKind::Busy,
        "pool has 2 volumes",
    );
    rig.run(group.remove_volume("data", &spawner)).unwrap();
    expect_error(
        rig.run(group.reduce(&["disk1"], &spawner)),
        ErrorKind::Busy,
        "extents of b",
    );
    rig.run(group.remove_volume("b", &spawner)).unwrap();
    rig.run(group.reduce(&["disk1"], &spawner)).unwrap();
    assert_eq!(rig.scan().unused.len(), 1);
    rig.run(group.extend(&rig.disks[1..2], &options(), &spawner))
        .unwrap();
    rig.run(group.remove(&spawner)).unwrap();
    let scan = rig.scan();
    assert_eq!((scan.groups.len(), scan.unused.len()), (0, 3));
    assert!(scan.unused.iter().all(|volume| !volume.marked_used));
    for disk in &rig.disks {
        rig.run(wipe(disk, &spawner)).unwrap();
    }
    assert_eq!(rig.scan().blank.len(), 3);
}

#[test]
fn volumes_keep_the_block_contract_and_their_data() {
    let rig = Rig::new(&[16, 16]);
    let spawner = rig.spawner();
    let mut group = rig.create();
    let striped = NewVolume {
        stripes: 2,
        stripe_size: 8192,
        ..linear("s", 6)
    };
    rig.run(group.create_volume(&striped, &spawner)).unwrap();
    let volume = group.volume("s").unwrap();
    rig.run(conformance::check(volume.clone(), &spawner));
    let bytes = vec![7; 300 * 512];
    let queue = volume.open(&spawner).unwrap();
    let write = Request::write(1024, IoVec::copy_of(&bytes));
    rig.run(queue.submit(write)).result.unwrap();
    expect_error(
        rig.run(group.remove_volume("s", &spawner)),
        ErrorKind::Busy,
        "in use",
    );
    let shrink = group.resize_volume("s", Amount::Bytes(2 * MIB), &[], &spawner);
    expect_error(rig.run(shrink), ErrorKind::Busy, "in use");
    // It grows under the open queue.
    let grow = group.resize_volume("s", Amount::Bytes(16 * MIB), &[], &spawner);
    rig.run(grow).unwrap();
    assert_eq!(volume.info().size, 16 * MIB);
    let read = Request::read(16 * MIB - 512, IoVec::zeroed(512));
    rig.run(queue.submit(read)).result.unwrap();
    drop((queue, volume));
    let mut group = rig.open();
    assert_eq!(group.volume_reports()[0].state, VolumeState::Inactive);
    let queue = group.volume("s").unwrap().open(&spawner).unwrap();
    let read = rig.run(queue.submit(Request::read(1024, IoVec::zeroed(bytes.len()))));
    assert_eq!(&read.buffer.to_buffer()[..], &bytes[..]);
}

#[test]
fn used_disks_are_refused_unless_forced() {
    let rig = Rig::new(&[16, 16, 16]);
    let spawner = rig.spawner();
    let create = |name: &'static str, disks: std::ops::Range<usize>, force| {
        let options = GroupOptions { force, ..options() };
        let (rig, spawner) = (&rig, spawner.clone());
        rig.run(async move {
            let host = Arc::clone(&rig.host);
            Group::create(name, &rig.disks[disks], &options, host, &spawner).await
        })
    };
    rig.memory[1].poke(1080, b"\x53\xef");
    expect_error(
        create("tank", 0..2, false),
        ErrorKind::Busy,
        "disk1 holds an ext2/3/4 file system",
    );
    assert_eq!(
        rig.memory[0].peek(0, 8192),
        [0; 8192],
        "nothing was written"
    );
    create("tank", 0..2, true).unwrap();
    expect_error(
        create("other", 1..3, false),
        ErrorKind::Busy,
        "disk1 belongs to volume group tank",
    );
    let twice = [rig.disks[2].clone(), rig.disks[2].clone()];
    let host = Arc::clone(&rig.host);
    let result = rig.run(Group::create("x", &twice, &options(), host, &spawner));
    expect_error(result, ErrorKind::Invalid, "named twice");
    expect_error(create("a b", 2..3, false), ErrorKind::Invalid, "letters");
    rig.memory[2].resize(MIB);
    expect_error(create("x", 2..3, false), ErrorKind::Invalid, "too small");
    assert_eq!(rig.scan().blank.len(), 1);
}

#[test]
fn missing_and_stale_disks() {
    let mut rig = Rig::new(&[16, 16, 16]);
    let spawner = rig.spawner();
    let mut group = rig.create();
    let on = |group: &Group, disk| vec![group.physical_volume(disk).unwrap()];
    for (name, disk) in [("a", "disk0"), ("b", "disk2")] {
        let new = NewVolume {
            on: on(&group, disk),
            ..linear(name, 5)
        };
        rig.run(group.create_volume(&new, &spawner)).unwrap();
    }
    let away = rig.disks.pop().unwrap();
    let mut group = rig.open();
    assert!(
        group.problems()[0].contains("(last seen as disk2) is missing"),
        "{:?}",
        group.problems()
    );
    assert!(group.volume("a").is_ok());
    expect_error(group.volume("b"), ErrorKind::Offline, "missing");
    assert_eq!(group.volume_reports()[1].state, VolumeState::Partial);
    expect_error(
        rig.run(group.create_volume(&linear("c", 1), &spawner)),
        ErrorKind::Offline,
        "is missing",
    );
    expect_error(
        rig.run(group.remove_missing(&spawner)),
        ErrorKind::Busy,
        "extents of b",
    );
    rig.run(group.remove_lost_volume("b", &spawner)).unwrap();
    // While it is away the group goes on; when it is back it is told.
    rig.disks.push(away);
    let found = rig.found();
    assert!(
        found.problems()[0].contains("disk2 holds version 3"),
        "{:?}",
        found.problems()
    );
    drop(rig.open());
    assert!(rig.found().problems().is_empty());
    let away = rig.disks.pop().unwrap();
    let mut group = rig.open();
    rig.run(group.remove_missing(&spawner)).unwrap();
    rig.run(group.create_volume(&linear("c", 1), &spawner))
        .unwrap();
    rig.disks.push(away);
    assert!(rig.found().problems()[0].contains("belongs to it no more"));
    drop(rig.open());
    let scan = rig.scan();
    assert_eq!(scan.unused.len(), 1);
    assert!(scan.groups[0].problems().is_empty());
}

#[test]
fn damaged_copies_are_mended() {
    let rig = Rig::new(&[16, 16]);
    let spawner = rig.spawner();
    let mut group = rig.create();
    rig.run(group.create_volume(&linear("a", 5), &spawner))
        .unwrap();
    let model = group.model().clone();
    let places: [(u64, &str); 3] = [
        (4096 + 60, "header"),
        (4096 + 2048, "text"),
        (512 + 40, "label"),
    ];
    for (offset, what) in places {
        rig.memory[0].poke(offset, &[0xa5; 4]);
        let mut scan = rig.scan();
        let found = scan.take("tank").unwrap();
        assert!(scan.problems.len() + found.problems().len() > 0, "{what}");
        assert_eq!(found.model(), &model);
        if what != "label" {
            drop(rig.open());
            assert!(
                rig.found().problems().is_empty(),
                "{what}: {:?}",
                rig.found().problems()
            );
        }
    }
}

#[test]
fn history_backup_and_restore() {
    let rig = Rig::new(&[16]);
    let spawner = rig.spawner();
    let mut group = rig.create();
    rig.run(group.create_volume(&linear("a", 5), &spawner))
        .unwrap();
    let backup = group.backup_text();
    assert_eq!(&parse_metadata(backup.as_bytes()).unwrap(), group.model());
    rig.run(group.remove_volume("a", &spawner)).unwrap();
    let versions = rig.run(group.history(&spawner)).unwrap();
    let seqnos: Vec<u64> = versions.iter().map(|version| version.model.seqno).collect();
    assert_eq!(seqnos, [3, 2, 1]);
    assert_eq!(
        versions[0].origin.description,
        "weft: removed volume tank/a"
    );
    rig.run(group.restore(&backup, &spawner)).unwrap();
    assert!(group.volume("a").is_ok());
    assert_eq!(rig.found().model().seqno, 4);
}

#[test]
fn a_group_may_keep_few_copies() {
    let rig = Rig::new(&[16, 16, 16]);
    let spawner = rig.spawner();
    let few = GroupOptions {
        metadata_copies: 1,
        ..options()
    };
    let host = Arc::clone(&rig.host);
    let mut group = rig
        .run(Group::create("tank", &rig.disks, &few, host, &spawner))
        .unwrap();
    rig.run(group.create_volume(&linear("a", 3), &spawner))
        .unwrap();
    let holds = |number: usize| {
        rig.memory[number]
            .peek(4096, 60_000)
            .windows(6)
            .any(|bytes| bytes == b"tank {")
    };
    assert_eq!([holds(0), holds(1), holds(2)], [true, false, false]);
    assert!(rig.found().problems().is_empty());
    rig.run(group.remove_volume("a", &spawner)).unwrap();
    rig.run(group.reduce(&["disk0"], &spawner)).unwrap();
    assert_eq!([holds(1), holds(2)], [true, false]);
    assert_eq!(rig.found().model(), group.model());
}

#[test]
fn blocks_of_4096_bytes_work() {
    let mut rig = Rig::new(&[]);
    let spawner = rig.spawner();
    for number in 0..2 {
        let memory = MemoryDevice::with_info(Info::new(32 * MIB, 4096));
        rig.disks.push(disk(&format!("disk{number}"), memory));
    }
    let mut group = rig.create();
    for number in 0..40 {
        let name = format!("v{number}");
        rig.run(group.create_volume(&linear(&name, 1), &spawner))
            .unwrap();
    }
    assert_eq!(rig.open().model(), group.model());
    let volume = group.volume("v3").unwrap();
    rig.run(conformance::check(volume, &spawner));
}

#[test]
fn a_failed_write_leaves_the_old_state() {
    let mut rig = Rig::new(&[16]);
    let spawner = rig.spawner();
    let memory = MemoryDevice::new(16 * MIB);
    let faulty = Faulty::new(Arc::new(memory), 3);
    let faults = faulty.faults();
    rig.disks.push(disk("disk1", faulty));
    let mut group = rig.create();
    let model = group.model().clone();
    faults.fail_writes(4096..MIB);
    let result = rig.run(group.create_volume(&linear("a", 1), &spawner));
    expect_error(result, ErrorKind::Io, "volume group tank is unchanged");
    assert_eq!(group.model(), &model);
    faults.clear();
    assert_eq!(rig.found().model(), &model);
    rig.run(group.create_volume(&linear("b", 1), &spawner))
        .unwrap();
    assert_eq!(rig.open().model(), group.model());
}

#[test]
fn overlaps_of_metadata_and_data_are_refused() {
    let rig = Rig::new(&[16, 16]);
    let group = rig.create();
    // A text by somebody else, who lets the extents of the second disk start inside its metadata area.
    let text = group.backup_text();
    let at = text
        .rfind("pe_start = 2048")
        .expect("the second disk's extents start somewhere");
    let evil = format!("{}pe_start = 1024{}", &text[..at], &text[at + 15..])
        .replace("seqno = 1", "seqno = 2");
    let mut text = evil.into_bytes();
    text.push(0);
    let mut header = weft_lvm::format::AreaHeader::empty(4096, MIB - 4096);
    header.committed = weft_lvm::format::Location {
        offset: 512,
        size: text.len() as u64,
        checksum: weft_lvm::format::checksum(&text),
        flags: 0,
    };
    rig.memory[0].poke(4096 + 512, &text);
    rig.memory[0].poke(4096, &header.to_bytes());
    let host = Arc::clone(&rig.host);
    let opened = rig.run(Group::open(rig.found(), host, &rig.spawner()));
    expect_error(
        opened,
        ErrorKind::Corrupt,
        "extents of disk1 in volume group tank overlap",
    );
}

#[test]
fn different_metadata_of_one_version_is_refused() {
    let rig = Rig::new(&[16, 16]);
    let spawner = rig.spawner();
    let mut group = rig.create();
    let images = [0, 1].map(|number| rig.memory[number].peek(0, MIB as usize));
    rig.run(group.create_volume(&linear("a", 1), &spawner))
        .unwrap();
    let first = rig.memory[0].peek(0, MIB as usize);
    for (number, image) in images.iter().enumerate() {
        rig.memory[number].poke(0, image);
    }
    let mut group = rig.open();
    rig.run(group.create_volume(&linear("b", 1), &spawner))
        .unwrap();
    rig.memory[0].poke(0, &first);
    let host = Arc::clone(&rig.host);
    let opened = rig.run(Group::open(rig.found(), host, &spawner));
    expect_error(
        opened,
        ErrorKind::Corrupt,
        "different metadata of volume group tank",
    );
}

#[test]
fn what_a_disk_has_grown_by_is_taken_in() {
    let rig = Rig::new(&[16, 16]);
    let spawner = rig.spawner();
    let mut group = rig.create();
    rig.run(group.create_volume(&linear("a", 20), &spawner))
        .unwrap();
    let none = rig.run(group.take_growth(&[], &spawner));
    expect_error(
        none,
        ErrorKind::Invalid,
        "no disk of volume group tank has grown",
    );
    rig.memory[1].resize(40 * MIB);
    let other = rig.run(group.take_growth(&["disk0"], &spawner));
    expect_error(other, ErrorKind::Invalid, "has grown by an extent");
    let nobody = rig.run(group.take_growth(&["disk7"], &spawner));
    expect_error(
        nobody,
        ErrorKind::Invalid,
        "disk7 is not in volume group tank",
    );
    assert_eq!(group.model().physical_volumes[1].extent_count, 15);

    let volume = rig.run(async { group.volume("a") }).expect("active");
    rig.run(group.take_growth(&[], &spawner)).unwrap();
    assert_eq!(group.model().physical_volumes[1].extent_count, 39);
    assert_eq!(
        group.model().physical_volumes[1].device_size,
        40 * MIB / 512
    );
    rig.run(group.resize_volume("a", Amount::Bytes(50 * MIB), &[], &spawner))
        .unwrap();
    assert_eq!(volume.info().size, 50 * MIB);
    let queue = volume.open(&spawner).expect("a queue");
    let end = Request::write(50 * MIB - 512, IoVec::zeroed(512));
    rig.run(queue.submit(end)).result.expect("written");
    drop((queue, volume));

    let found = rig.found();
    assert!(found.problems().is_empty(), "{:?}", found.problems());
    assert_eq!(found.model(), group.model());
    rig.memory[0].resize(8 * MIB);
    let smaller = rig.run(group.take_growth(&["disk0"], &spawner));
    expect_error(smaller, ErrorKind::Invalid, "has become smaller");
}
