//! Read errors.

use super::harness::*;
use crate::ArrayState;
use crate::level::{CopiesLayout, Level};

#[test]
fn a_bad_sector_is_answered_from_redundancy_and_rewritten() {
    for (seed, shape) in (0..).zip(shapes()) {
        if !shape.level.is_redundant() || shape.members < 2 {
            continue;
        }
        let rig = Rig::new(seed, shape.members);
        let array = rig.create(&options(shape, seed));
        rig.sync(&array).expect("synced");
        let data = pattern(MIB as usize, seed);
        rig.write(&array, 0, &data).expect("it writes");
        for disk in &rig.faults[..2] {
            disk.bad_sectors(MIB + 4096..MIB + 5120);
        }
        // A second member's bad sectors lie elsewhere.
        rig.faults[1].bad_sectors(MIB + 40_960..MIB + 41_984);
        if shape.level == Level::Raid1 && shape.members == 2 {
            rig.faults[1].clear();
        } else if shape.level != Level::Raid1 {
            rig.faults[0].clear();
            rig.faults[0].bad_sectors(MIB + 90_112..MIB + 90_624);
        }
        for _ in 0..3 {
            assert_eq!(
                rig.read(&array, 0, data.len()).expect("it reads"),
                data,
                "{shape:?}"
            );
        }
        assert_eq!(array.status().state, ArrayState::Active, "{shape:?}");
        rig.stop(&array);
    }
}

#[test]
fn a_bad_sector_under_a_small_write_costs_nothing() {
    let rig = Rig::new(3, 5);
    let array = rig.create(&options(shape(Level::Raid5, 5), 3));
    rig.sync(&array).expect("synced");
    let mut data = pattern(4 * CHUNK as usize, 1);
    rig.write(&array, 0, &data).expect("it writes");
    for disk in 0..5 {
        rig.faults[disk].bad_sectors(MIB..MIB + 512);
        let patch = pattern(512, 50 + disk as u64);
        rig.write(&array, CHUNK, &patch).expect("it writes");
        data[CHUNK as usize..][..512].copy_from_slice(&patch);
        assert_eq!(rig.read(&array, 0, data.len()).expect("it reads"), data);
        rig.faults[disk].clear();
    }
}

/// Before the first resync, with a member away, a small write over a block of parity that could not be read left all its
/// parity as it was: the lost member's blocks beside that one were made of it.
#[test]
fn parity_beside_a_bad_block_of_it_goes_with_its_data() {
    let rig = Rig::new(5, 4);
    let mut options = options(shape(Level::Raid5, 4), 5);
    options.assume_clean = false;
    let array = rig.create(&options);
    let mut data = pattern(3 * CHUNK as usize, 1);
    rig.write(&array, 0, &data).expect("it writes");
    rig.run(array.fail("disk2", &rig.executor.spawner()))
        .expect("it fails");
    rig.faults[3].bad_sectors(MIB + 4096..MIB + 4608);
    let patch = pattern(4608, 2);
    rig.write(&array, 4096, &patch).expect("it writes");
    data[4096..][..4608].copy_from_slice(&patch);
    let read = |at: usize, len| rig.read(&array, at as u64, len).expect("it reads");
    assert_eq!(read(0, 2 * CHUNK as usize), data[..2 * CHUNK as usize]);
    let beside = 2 * CHUNK as usize + 4608;
    assert!(read(beside, 8192) == data[beside..][..8192]);
}

#[test]
fn a_rebuild_marks_what_cannot_be_made_and_goes_on() {
    let rig = Rig::new(4, 4);
    let spawner = rig.executor.spawner();
    let array = rig.create(&options(shape(Level::Raid5, 3), 4));
    rig.sync(&array).expect("synced");
    let data = pattern(2 * MIB as usize, 1);
    rig.write(&array, 0, &data).expect("it writes");
    rig.run(array.fail("disk0", &spawner)).expect("it fails");
    rig.run(array.add(rig.members[3].clone(), [1; 16], &spawner))
        .expect("added");
    // Member space 700: rows have 32 sectors, so row 21, whose parity lies on slot 2 and whose first chunk on slot 0.
    rig.faults[1].bad_sectors(MIB + 700 * 512..MIB + 701 * 512);
    rig.sync(&array).expect("synced");
    let status = array.status();
    assert_eq!(status.state, ArrayState::Active);
    assert!(
        status
            .messages
            .iter()
            .any(|message| message.contains("is lost")),
        "{status:?}"
    );
    rig.stop(&array);
    let array = rig.assemble(&[3, 1, 2]).expect("it starts");
    let (row, sector) = (700 / 32, 700 % 32);
    let lost = (row * 2 * 32 + sector) as usize * 512;
    assert!(
        rig.read(&array, lost as u64, 512).is_err(),
        "it is not made up"
    );
    assert!(rig.read(&array, lost as u64 + CHUNK, 512).is_err());
    for (from, to) in [(0, lost), (lost + 512, lost + CHUNK as usize)] {
        let read = rig.read(&array, from as u64, to - from).expect("it reads");
        assert!(read == data[from..to]);
    }
    // Written again, it is there again, for good.
    let again = pattern(2 * CHUNK as usize, 2);
    let row_start = row as u64 * 2 * CHUNK;
    rig.write(&array, row_start, &again).expect("it writes");
    assert_eq!(
        rig.read(&array, row_start, again.len()).expect("it reads"),
        again
    );
    rig.stop(&array);
    let array = rig.assemble(&[3, 1, 2]).expect("it starts");
    assert_eq!(
        rig.read(&array, row_start, again.len()).expect("it reads"),
        again
    );
    assert!(rig.is_consistent(&array, &[3, 1, 2]));
}

/// Two near copies on three members: the second chunk lies first on slot 2 and second on slot 0.
#[test]
fn a_torn_log_of_raid_10_is_guessed_where_its_own_copies_lie() {
    let near = Shape {
        copies: CopiesLayout::from_name("n2"),
        ..shape(Level::Raid10, 3)
    };
    let rig = Rig::new(1, 3);
    let array = rig.create(&options(near, 1));
    let (first, third) = (0, 2);
    let state = || array.core.state();
    state().members[third].bad = std::iter::once(512..1024).collect();
    let id = state().members[first].id;
    assert!(array.guess_lost(&[id]));
    let guessed = state().members[first].bad.clone();
    assert_eq!(guessed.len(), 1, "{guessed:?}");
    assert_eq!(guessed[0], CHUNK + 512..CHUNK + 1024);
    let notices = state().notices.join("\n");
    assert!(
        notices.contains("disk0 was torn by a power cut: 512 bytes"),
        "{notices}"
    );
}

/// Reads every page of an array whose disk 1 cannot read the first `pages` of its data.
fn wear_out(rig: &Rig, array: &crate::Array, pages: u64) {
    let syncer = array.syncer(&rig.executor.spawner()).expect("a syncer");
    for page in 0..pages {
        let at = MIB + page * 4096;
        rig.faults[1].fail_reads(at..at + 4096);
    }
    array.scrub(crate::Scrub::Check).expect("it is whole");
    while array.progress().action == crate::SyncAction::Check {
        if rig.run(syncer.step(64 << 10)).is_err() {
            break;
        }
    }
}

#[test]
fn a_member_with_repeated_errors_is_failed() {
    for shape in [shape(Level::Raid1, 2), shape(Level::Raid5, 3)] {
        let rig = Rig::new(1, shape.members);
        let mut options = options(shape, 1);
        options.assume_clean = true;
        let array = rig.create(&options);
        wear_out(&rig, &array, 20);
        assert_ne!(array.status().state, ArrayState::Degraded, "{shape:?}");
        wear_out(&rig, &array, 25);
        let status = array.status();
        assert_eq!(status.state, ArrayState::Degraded, "{shape:?}");
        let why = status.members.last().and_then(|member| member.why.clone());
        let why = why.expect("it was failed");
        assert!(
            why.contains("could not read 21 pages within an hour"),
            "{why}"
        );
    }
}

#[test]
fn a_worn_member_is_replaced_by_a_spare() {
    let rig = Rig::new(1, 4);
    let mut options = options(shape(Level::Raid5, 4), 1);
    (options.assume_clean, options.spares) = (true, 1);
    let array = rig.create(&options);
    wear_out(&rig, &array, 25);
    rig.sync(&array).expect("synced");
    let status = array.status();
    assert_ne!(status.state, ArrayState::Degraded);
    assert_eq!(status.members[1].path.as_deref(), Some("disk3"));
    assert!(rig.is_consistent(&array, &[0, 3, 2]));
}
