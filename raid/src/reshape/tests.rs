//! Moves, played through on members of numbers.

use proptest::prelude::*;

use super::*;
use crate::level::{Level, ParityLayout};
use crate::superblock::tests::reshaping;

/// Bytes that a cell of a member stands for.
const CELL: u64 = 4096;

/// The members: what array cell lies where, from `headroom` cells before the old data on.
struct Members {
    cells: Vec<Vec<Option<u64>>>,
    headroom: i64,
}

impl Members {
    fn at(&mut self, slot: u32, offset: u64, shift: i64) -> &mut Option<u64> {
        let cell = (offset / CELL) as i64 + shift / CELL as i64 + self.headroom;
        &mut self.cells[slot as usize][cell as usize]
    }
}

fn layout(number: usize) -> ParityLayout {
    ParityLayout::of(Level::Raid5)
        .nth(number % 6)
        .expect("there are six")
}

/// Moves everything, as far as every step may go, and checks after each that nothing was lost that is still needed.
fn play(before: &Geometry, after: &Geometry, shift: i64, backwards: bool, most: u64) -> bool {
    let moves = Moves::new(before, after, shift, backwards).expect("it grows");
    let rows = before.member_size() / CELL;
    let headroom = shift.abs() / CELL as i64;
    let mut members = Members {
        cells: vec![vec![None; rows as usize + 2 * headroom as usize]; after.members() as usize],
        headroom,
    };
    for offset in (0..before.size()).step_by(CELL as usize) {
        let place = before.locate(offset);
        *members.at(place.slot, place.offset, 0) = Some(offset);
    }
    let mut position = moves.first();
    while position != moves.last() {
        let Some(step) = moves.step(position, most) else {
            return false;
        };
        let next = if backwards { step.start } else { step.end };
        assert!(moves.is_position(next) && moves.done(next) > moves.done(position));
        let read: Vec<_> = (step.start..step.end.min(before.size()))
            .step_by(CELL as usize)
            .map(|offset| {
                assert!(!moves.is_moved(position, offset) && moves.is_moved(next, offset));
                let place = before.locate(offset);
                (offset, *members.at(place.slot, place.offset, 0))
            })
            .collect();
        for (offset, found) in read {
            assert_eq!(found, Some(offset), "it was written over");
            let place = after.locate(offset);
            assert!(moves.new_space(next).contains(&place.offset));
            *members.at(place.slot, place.offset, shift) = Some(offset);
        }
        // A crash now would begin the step anew: nothing of what it reads may be gone, nor of the rows around it.
        let space = moves.old_space(position);
        for offset in (0..before.size()).step_by(CELL as usize) {
            let place = before.locate(offset);
            if space.contains(&place.offset) {
                let found = *members.at(place.slot, place.offset, 0);
                assert_eq!(found, Some(offset), "it would be read again");
            }
        }
        position = next;
    }
    for offset in (0..before.size()).step_by(CELL as usize) {
        let place = after.locate(offset);
        assert_eq!(*members.at(place.slot, place.offset, shift), Some(offset));
    }
    true
}

proptest! {
    #[test]
    fn nothing_is_written_over_that_is_needed(
        (old, more) in (2_u32..6, 0_u32..4),
        layouts in (0_usize..6, 0_usize..6),
        chunks in (0_u32..4, 0_u32..4),
        rows in 1_u64..9,
        shift in 1_i64..4,
        most in 0_u64..40,
        backwards in any::<bool>(),
    ) {
        let chunk = |power: u32| CELL << power;
        let larger = chunk(chunks.0.max(chunks.1));
        let size = rows * larger;
        let members = (old, old + more);
        let geometry = |layout, members, chunk| {
            Geometry::parity(Level::Raid5, layout, members, chunk, size).expect("it is one")
        };
        let before = geometry(layout(layouts.0), members.0, chunk(chunks.0));
        let after = geometry(layout(layouts.1), members.1, chunk(chunks.1));
        let backwards = backwards && more == 0;
        let way = shift * larger as i64 * if backwards { 1 } else { -1 };
        prop_assert!(play(&before, &after, way, backwards, most * CELL), "it comes to its end");
    }
}

#[test]
fn without_a_shift_the_first_step_has_no_room() {
    let geometry = |members| {
        Geometry::parity(
            Level::Raid5,
            ParityLayout::LeftSymmetric,
            members,
            4 * CELL,
            64 * CELL,
        )
        .expect("it is one")
    };
    let (before, after) = (geometry(3), geometry(4));
    assert!(!play(&before, &after, 0, false, 4 * CELL));
    // Once the beginning has been moved, what follows has room.
    let moves = Moves::new(&before, &after, 0, false).expect("it grows");
    assert_eq!(moves.step(0, u64::MAX / 2), None);
    let unit = 3 * 4 * CELL;
    assert_eq!(moves.step(2 * unit, unit), Some(2 * unit..3 * unit));
    assert_eq!(
        Moves::new(&after, &before, 0, false),
        None,
        "it becomes smaller"
    );
}

#[test]
fn only_a_change_that_can_be_gone_on_with_is_one() {
    let change = Change::of(&reshaping()).expect("it is one");
    let change = change.expect("it is under way");
    assert_eq!(change.before.members(), 2);
    assert_eq!(change.moves.done(change.position), 7 * 2 * (64 << 10));
    let end = change.moves.last() / SECTOR;
    let refused = |change: &dyn Fn(&mut Superblock)| {
        let mut superblock = reshaping();
        change(&mut superblock);
        Change::of(&superblock).expect_err("it was refused")
    };
    let rows = "only rows with parity";
    let position = "its position is not between two rows";
    type Hostile<'a> = (&'a dyn Fn(&mut Superblock), &'a str);
    let cases: [Hostile; 14] = [
        (&|sb| sb.level = Level::Raid0, rows),
        (&|sb| sb.level = Level::Raid1, rows),
        (&|sb| sb.level = Level::Raid10, rows),
        (&|sb| sb.reshape.new_level = 6, rows),
        (&|sb| sb.reshape.new_level = -7, rows),
        (
            &|sb| sb.reshape.delta_disks = -1,
            "the array becomes smaller",
        ),
        (&|sb| sb.reshape.delta_disks = 2, "RAID-5 of 1 members"),
        (&|sb| sb.reshape.new_layout = 77, "layout 77 of RAID-5"),
        (&|sb| sb.layout = 77, "layout 77 of RAID-5"),
        (&|sb| sb.reshape.new_chunk = 1 << 27, "in chunks of"),
        (&|sb| sb.reshape.new_chunk = 1 << 11, "no multiple of both"),
        (&|sb| sb.reshape.position += 1, position),
        (&|sb| sb.reshape.position = end + 128 * 2, position),
        (&|sb| sb.reshape.position = u64::MAX, position),
    ];
    assert_eq!(end % (128 * 2), 0);
    for (number, (change, why)) in cases.into_iter().enumerate() {
        let sentence = refused(change).sentence();
        assert!(sentence.contains(why), "{number}: {sentence}");
    }
}

proptest! {
    #[test]
    fn any_change_is_answered(
        (levels, chunks, layouts) in (0_usize..3, (3_u32..31, 3_u32..31), (0_u32..21, 0_u32..21)),
        (members, delta) in (0_u32..1921, any::<i32>()),
        small in any::<bool>(),
        (position, offset, size) in (any::<u64>(), any::<i32>(), 0_u64..1 << 54),
        backwards in any::<bool>(),
    ) {
        let mut superblock = reshaping();
        superblock.level = [Level::Raid4, Level::Raid5, Level::Raid6][levels];
        superblock.raid_disks = members;
        superblock.size = size;
        (superblock.chunk, superblock.layout) = (1 << chunks.0, layouts.0);
        if backwards {
            superblock.features = superblock.features.with(Features::RESHAPE_BACKWARDS);
        }
        superblock.reshape = crate::superblock::Reshape {
            new_level: superblock.level.number(),
            position,
            delta_disks: if small { delta % 4 } else { delta },
            new_layout: layouts.1,
            new_chunk: 1 << chunks.1,
            new_offset: offset,
        };
        let Ok(Some(first)) = Change::of(&superblock) else {
            // Only where it is at may be wrong then.
            superblock.reshape.position = 0;
            let Ok(Some(change)) = Change::of(&superblock) else { return Ok(()) };
            let at = change.moves.first();
            prop_assert!(change.moves.is_position(at));
            if let Some(step) = change.moves.step(at, 4 << 20) {
                prop_assert!(step.start < step.end && step.end <= change.moves.new_size());
                prop_assert!(step.start == at || step.end == at);
            }
            return Ok(());
        };
        prop_assert!(first.moves.is_position(first.position));
    }
}
