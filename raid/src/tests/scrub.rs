//! Check and repair: what is found, who is blamed, and what is left alone.

use weft_block::{BlockDevice, ErrorKind};

use super::harness::*;
use crate::level::Level;
use crate::{Array, Scrub, ScrubReport, geometry};

/// Runs a scrub to its end.
fn scrub(rig: &Rig, array: &Array, scrub: Scrub) -> ScrubReport {
    array.scrub(scrub).expect("it begins");
    rig.sync(array).expect("it runs");
    let report = array.scrub_report().expect("there is a report");
    assert!(report.complete);
    report
}

/// A whole array that holds a pattern.
fn filled(shape: Shape, seed: u64) -> (Rig, Array, Vec<u8>) {
    let rig = Rig::new(seed, shape.members);
    let array = rig.create(&options(shape, seed));
    rig.sync(&array).expect("synced");
    let data = pattern(array.info().size as usize, seed);
    rig.write(&array, 0, &data).expect("it writes");
    (rig, array, data)
}

/// Changes a sector of a member behind the array's back; what it held.
fn corrupt(rig: &Rig, disk: usize, sector: u64) -> Vec<u8> {
    let before = rig.member_data(disk, sector * 512, 512);
    let mut after = before.clone();
    after[17] ^= 0x20;
    after[400] ^= 0x02;
    rig.poke(disk, sector * 512, &after);
    before
}

/// How many legs or parities there are beyond the first.
fn can_locate(shape: Shape) -> bool {
    let copies = shape.copies.map_or(0, |layout| layout.copies());
    shape.level == Level::Raid6 || (shape.level == Level::Raid1 && shape.members > 2) || copies > 2
}

#[test]
fn a_sound_array_has_no_mismatch() {
    for (seed, shape) in (0..).zip(shapes()) {
        let (rig, array, _) = filled(shape, seed);
        if !shape.level.is_redundant() || shape.members < 2 {
            assert_eq!(
                array.scrub(Scrub::Check).unwrap_err().kind(),
                ErrorKind::Invalid
            );
            continue;
        }
        let report = scrub(&rig, &array, Scrub::Check);
        assert_eq!((report.mismatches, report.unreadable), (0, 0), "{shape:?}");
    }
}

#[test]
fn the_liar_is_named_and_healed_and_never_the_others() {
    for (seed, shape) in (100..).zip(shapes()) {
        if !can_locate(shape) {
            continue;
        }
        for liar in 0..shape.members {
            let (rig, array, data) = filled(shape, seed);
            let was = corrupt(&rig, liar, 77);
            let found = scrub(&rig, &array, Scrub::Check);
            assert_eq!(
                (found.mismatches, found.located, found.repaired),
                (1, 1, 0),
                "{shape:?}"
            );
            assert_eq!(found.places[0].liars[..], [liar as u32], "{shape:?}");
            let offset = match array.geometry().shape() {
                geometry::Shape::Copies(copies) => copies.origin(liar as u32, 77 * 512),
                _ => Some(77 * 512),
            };
            assert_eq!(Some(found.places[0].offset), offset);
            let mended = scrub(&rig, &array, Scrub::Repair);
            assert_eq!((mended.mismatches, mended.repaired), (1, 1));
            assert_eq!(rig.member_data(liar, 77 * 512, 512), was, "{shape:?}");
            assert_eq!(scrub(&rig, &array, Scrub::Check).mismatches, 0);
            assert_eq!(rig.read(&array, 0, data.len()).expect("it reads"), data);
        }
    }
}

/// md takes the data for true and writes parity that makes the corruption permanent.
#[test]
fn parity_is_not_made_to_agree_with_corrupt_data() {
    for (seed, shape) in (200..).zip(shapes()) {
        if !shape.level.is_redundant() || shape.members < 2 || can_locate(shape) {
            continue;
        }
        let (rig, array, _) = filled(shape, seed);
        corrupt(&rig, 1, 33);
        let all: Vec<usize> = (0..shape.members).collect();
        let bytes = || {
            all.iter()
                .map(|&disk| rig.member_data(disk, 33 * 512, 512))
                .collect::<Vec<_>>()
        };
        let before = bytes();
        let report = scrub(&rig, &array, Scrub::Repair);
        assert_eq!(
            (report.mismatches, report.located, report.repaired),
            (1, 0, 0),
            "{shape:?}"
        );
        assert!(report.places[0].liars.is_empty());
        assert!(bytes() == before, "nobody was rewritten");
        let told = scrub(&rig, &array, Scrub::RepairFromData);
        assert_eq!(told.repaired, 1);
        assert_eq!(scrub(&rig, &array, Scrub::Check).mismatches, 0);
        assert!(rig.is_consistent(&array, &all), "{shape:?}");
    }
}

#[test]
fn a_bad_sector_is_made_again_by_a_check() {
    for (seed, shape) in (300..).zip(shapes()) {
        if !shape.level.is_redundant() || shape.members < 2 {
            continue;
        }
        let (rig, array, data) = filled(shape, seed);
        let at = crate::fields::le64(&rig.disks[0].peek(4096, 512), 128) * 512;
        rig.faults[0].bad_sectors(at + 9 * 512..at + 10 * 512);
        let report = scrub(&rig, &array, Scrub::Check);
        assert_eq!((report.mismatches, report.unreadable), (0, 0), "{shape:?}");
        assert_eq!(rig.read(&array, 0, data.len()).expect("it reads"), data);
        assert_eq!(scrub(&rig, &array, Scrub::Check).unreadable, 0);
    }
}

#[test]
fn a_scrub_needs_all_members_and_ends_when_one_goes() {
    let (rig, array, _) = filled(shape(Level::Raid6, 5), 1);
    array.scrub(Scrub::Check).expect("it begins");
    assert_eq!(
        array.scrub(Scrub::Check).unwrap_err().kind(),
        ErrorKind::Busy
    );
    let syncer = array.syncer(&rig.executor.spawner()).expect("a syncer");
    rig.run(syncer.step(64 << 10)).expect("a step");
    rig.run(array.fail("disk2", &rig.executor.spawner()))
        .expect("it fails");
    assert!(rig.run(syncer.step(64 << 10)).expect("a step").is_idle());
    assert!(!array.scrub_report().expect("a report").complete);
    assert_eq!(
        array.scrub(Scrub::Check).unwrap_err().kind(),
        ErrorKind::Degraded
    );
}
