//! The geometry against a twin that draws every row as md's documentation does, and against rows that were read off
//! arrays made by the kernel.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const CHUNK: u64 = 4096;

/// What one cell of the drawing holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Cell {
    Data(u64),
    Parity,
    Q,
}

/// Draws `rows` rows of a RAID-5 array: `table[row][slot]`.
fn drawing(layout: ParityLayout, members: usize, rows: usize) -> Vec<Vec<Cell>> {
    use ParityLayout::*;
    let mut parity = match layout {
        LeftAsymmetric | LeftSymmetric | ParityLast => members - 1,
        _ => 0,
    };
    let mut table = Vec::new();
    for _ in 0..rows {
        let mut row = vec![None; members];
        row[parity] = Some(Cell::Parity);
        let symmetric = matches!(layout, LeftSymmetric | RightSymmetric);
        fill(&mut row, if symmetric { parity + 1 } else { 0 }, &mut table);
        parity = match layout {
            LeftAsymmetric | LeftSymmetric => (parity + members - 1) % members,
            RightAsymmetric | RightSymmetric => (parity + 1) % members,
            _ => parity,
        };
    }
    table
}

/// Puts the next data into what is free of a row, from slot `first` on and around, and the row under the table.
fn fill(row: &mut [Option<Cell>], first: usize, table: &mut Vec<Vec<Cell>>) {
    let data = |row: &Vec<Cell>| {
        row.iter()
            .filter(|cell| matches!(cell, Cell::Data(_)))
            .count()
    };
    let mut next = table.iter().map(data).sum::<usize>() as u64;
    let members = row.len();
    for slot in (first..first + members).map(|slot| slot % members) {
        if row[slot].is_none() {
            row[slot] = Some(Cell::Data(next));
            next += 1;
        }
    }
    table.push(row.iter().map(|cell| cell.expect("it is full")).collect());
}

/// The same of a RAID-6 array.
fn drawing6(layout: ParityLayout, members: usize, rows: usize) -> Vec<Vec<Cell>> {
    use ParityLayout::*;
    let raid5 = match layout {
        LeftAsymmetric6 => Some(LeftAsymmetric),
        RightAsymmetric6 => Some(RightAsymmetric),
        LeftSymmetric6 => Some(LeftSymmetric),
        RightSymmetric6 => Some(RightSymmetric),
        ParityFirst6 => Some(ParityFirst),
        _ => None,
    };
    if let Some(raid5) = raid5 {
        let mut table = drawing(raid5, members - 1, rows);
        table.iter_mut().for_each(|row| row.push(Cell::Q));
        return table;
    }
    // P of the first row, how far it moves, where Q is from there, and where data starts.
    let (mut p, step) = match layout {
        LeftAsymmetric | LeftSymmetric | DdfNContinue => (members - 1, members - 1),
        DdfNRestart => (members - 2, members - 1),
        RightAsymmetric | RightSymmetric | DdfZeroRestart => (0, 1),
        ParityFirst => (0, 0),
        _ => (members - 2, 0),
    };
    let mut table = Vec::new();
    for _ in 0..rows {
        let q = match layout {
            DdfNContinue => p + members - 1,
            _ => p + 1,
        } % members;
        let first = match layout {
            LeftSymmetric | RightSymmetric => q + 1,
            DdfNContinue => p + 1,
            _ => 0,
        };
        let mut row = vec![None; members];
        (row[p], row[q]) = (Some(Cell::Parity), Some(Cell::Q));
        fill(&mut row, first, &mut table);
        p = (p + step) % members;
    }
    table
}

#[test]
fn every_parity_layout_is_as_drawn() {
    for (level, least) in [(Level::Raid5, 2), (Level::Raid6, 4)] {
        for layout in ParityLayout::of(level) {
            for members in least..=9_u32 {
                check_drawing(level, layout, members);
            }
        }
    }
}

fn check_drawing(level: Level, layout: ParityLayout, members: u32) {
    let rows = u64::from(members) * 3;
    let geometry =
        Geometry::parity(level, layout, members, CHUNK, rows * CHUNK + 5).expect("it can be");
    let draw = if level == Level::Raid6 {
        drawing6
    } else {
        drawing
    };
    let table = draw(layout, members as usize, rows as usize);
    let Shape::Parity(shape) = geometry.shape() else {
        panic!("a parity level")
    };
    assert_eq!(geometry.size(), rows * u64::from(shape.data()) * CHUNK);
    for (row, cells) in (0..).zip(&table) {
        let mut powers = Vec::new();
        for (slot, cell) in (0..).zip(cells) {
            match cell {
                Cell::Parity => assert_eq!(shape.parity_slot(row), slot, "{layout:?}"),
                Cell::Q => assert_eq!(shape.q_slot(row), Some(slot), "{layout:?}"),
                Cell::Data(number) => {
                    let place = geometry.locate(number * CHUNK + 7);
                    let expected = Place {
                        slot,
                        offset: row * CHUNK + 7,
                        left: CHUNK - 7,
                    };
                    assert_eq!(place, expected, "{layout:?} of {members}");
                    let index = shape.data_index(row, slot).expect("data");
                    assert_eq!(shape.data_slot(row, index), slot);
                    assert_eq!(shape.logical(row, index), number * CHUNK);
                    powers.push(shape.power(row, slot));
                    continue;
                }
            }
            assert_eq!(shape.data_index(row, slot), None);
        }
        if level == Level::Raid6 {
            powers.sort_unstable();
            powers.dedup();
            assert_eq!(powers.len() as u32, shape.data(), "each has its own power");
            assert!(powers.iter().all(|&power| power < members));
        }
    }
}

#[test]
fn powers_are_counted_from_behind_q() {
    let shape = |layout| ParityRows::new(Level::Raid6, layout, 5, CHUNK, 5);
    // Row 1 of left-asymmetric over five: D3 D4 D5 P Q, and row 2: D6 D7 P Q D8.
    let rows = shape(ParityLayout::LeftAsymmetric);
    assert_eq!([0, 1, 2].map(|slot| rows.power(1, slot)), [0, 1, 2]);
    assert_eq!([4, 0, 1].map(|slot| rows.power(2, slot)), [0, 1, 2]);
    // Q on the last: the first member counts as the first, whatever the order of the data.
    let rows = shape(ParityLayout::LeftSymmetric6);
    assert_eq!(rows.data_slot(1, 0), 3);
    assert_eq!([0, 1, 3].map(|slot| rows.power(1, slot)), [0, 1, 2]);
    // DDF counts every member.
    let rows = shape(ParityLayout::DdfNContinue);
    assert_eq!([0, 1, 4].map(|slot| rows.power(1, slot)), [0, 1, 4]);
}

/// Zones the slow way: chunk by chunk, each to the next member that still has room in this zone.
fn stripes_drawing(sizes: &[u64], layout: ZoneLayout) -> Vec<(u32, u64)> {
    let mut left: BTreeMap<u32, u64> = (0..).zip(sizes.iter().copied()).collect();
    let mut used = 0;
    let mut order = Vec::new();
    while !left.is_empty() {
        let depth = *left.values().min().expect("not empty");
        let slots: Vec<u32> = left.keys().copied().collect();
        let zone_start = order.len();
        for row in used..depth {
            for turn in 0..slots.len() {
                let number = match layout {
                    ZoneLayout::Original => zone_start % slots.len() + turn,
                    ZoneLayout::Alternate => turn,
                };
                order.push((slots[number % slots.len()], row));
            }
        }
        used = depth;
        left.retain(|_, size| *size > depth);
    }
    order
}

proptest! {
    #[test]
    fn stripes_are_as_drawn(sizes in proptest::collection::vec(1_u64..12, 1..9), alternate in any::<bool>()) {
        let layout = if alternate { ZoneLayout::Alternate } else { ZoneLayout::Original };
        let bytes: Vec<u64> = sizes.iter().map(|size| size * CHUNK + 100).collect();
        let geometry = Geometry::stripes(&bytes, CHUNK, layout).expect("it can be");
        let order = stripes_drawing(&sizes, layout);
        prop_assert_eq!(geometry.size(), order.len() as u64 * CHUNK);
        for (number, (slot, row)) in (0..).zip(order) {
            let place = geometry.locate(number * CHUNK + 1);
            prop_assert_eq!(place, Place { slot, offset: row * CHUNK + 1, left: CHUNK - 1 });
        }
    }
}

#[test]
fn impossible_arrays_are_refused() {
    let parity = |members, size| {
        Geometry::parity(
            Level::Raid5,
            ParityLayout::LeftSymmetric,
            members,
            CHUNK,
            size,
        )
    };
    assert!(parity(1, CHUNK).is_err() && parity(3, CHUNK - 1).is_err());
    assert!(parity(1900, u64::MAX).is_err());
    let raid6 = |members| {
        Geometry::parity(
            Level::Raid6,
            ParityLayout::LeftSymmetric,
            members,
            CHUNK,
            CHUNK,
        )
    };
    assert!(raid6(3).is_err() && raid6(4).is_ok() && raid6(257).is_ok() && raid6(258).is_err());
    assert!(Geometry::stripes(&[CHUNK, 5], CHUNK, ZoneLayout::Original).is_err());
    assert!(Geometry::stripes(&[], CHUNK, ZoneLayout::Original).is_err());
}
