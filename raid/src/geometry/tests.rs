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
}

/// Draws `rows` rows of a RAID-5 array: `table[row][slot]`.
fn drawing(layout: ParityLayout, members: usize, rows: usize) -> Vec<Vec<Cell>> {
    use ParityLayout::*;
    let mut next = 0;
    let mut parity = match layout {
        LeftAsymmetric | LeftSymmetric | ParityLast => members - 1,
        RightAsymmetric | RightSymmetric | ParityFirst => 0,
    };
    let mut table = Vec::new();
    for _ in 0..rows {
        let mut row = vec![Cell::Parity; members];
        let first = match layout {
            LeftSymmetric | RightSymmetric => parity + 1,
            _ => 0,
        };
        for slot in (first..first + members).map(|slot| slot % members) {
            if slot != parity {
                row[slot] = Cell::Data(next);
                next += 1;
            }
        }
        table.push(row);
        parity = match layout {
            LeftAsymmetric | LeftSymmetric => (parity + members - 1) % members,
            RightAsymmetric | RightSymmetric => (parity + 1) % members,
            ParityFirst | ParityLast => parity,
        };
    }
    table
}

#[test]
fn every_parity_layout_is_as_drawn() {
    for layout in ParityLayout::ALL {
        for members in 2..=9_u32 {
            let rows = u64::from(members) * 3;
            let geometry = Geometry::parity(Level::Raid5, layout, members, CHUNK, rows * CHUNK + 5)
                .expect("it can be");
            let table = drawing(layout, members as usize, rows as usize);
            let Shape::Parity(shape) = geometry.shape() else {
                panic!("a parity level")
            };
            assert_eq!(geometry.size(), rows * u64::from(members - 1) * CHUNK);
            for (row, cells) in (0..).zip(&table) {
                for (slot, cell) in (0..).zip(cells) {
                    match cell {
                        Cell::Parity => {
                            assert_eq!(shape.parity_slot(row), slot);
                            assert_eq!(shape.data_index(row, slot), None);
                        }
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
                        }
                    }
                }
            }
        }
    }
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
    assert!(Geometry::stripes(&[CHUNK, 5], CHUNK, ZoneLayout::Original).is_err());
    assert!(Geometry::stripes(&[], CHUNK, ZoneLayout::Original).is_err());
}
