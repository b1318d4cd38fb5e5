//! Moves, played through on members of numbers.

use proptest::prelude::*;

use super::*;
use crate::level::{Level, ParityLayout};

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
