//! The planners against brute force: every byte that a plan touches, one by one.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::geometry::{Geometry, ParityRows, Shape};
use crate::level::{Level, ParityLayout, ZoneLayout};
use crate::parity::field;

const CHUNK: u64 = 8;
const ROWS: u64 = 12;

fn raid5(layout: usize, members: u32) -> Geometry {
    Geometry::parity(
        Level::Raid5,
        ParityLayout::of(Level::Raid5)
            .nth(layout)
            .expect("one of six"),
        members,
        CHUNK,
        ROWS * CHUNK,
    )
    .expect("it can be")
}

fn range(size: u64, offset: u64, len: u64) -> (u64, u64) {
    let offset = offset % size;
    (offset, 1 + len % (size - offset))
}

proptest! {
    #[test]
    fn a_read_touches_every_byte_once(layout in 0_usize..6, members in 2_u32..=9, offset: u64, len: u64, stripes: bool) {
        let geometry = if stripes {
            let sizes: Vec<u64> = (0..u64::from(members)).map(|i| (3 + i % 3) * CHUNK).collect();
            Geometry::stripes(&sizes, CHUNK, ZoneLayout::Alternate).expect("it can be")
        } else {
            raid5(layout, members)
        };
        let (offset, len) = range(geometry.size(), offset, len);
        let mut seen = BTreeMap::new();
        for io in read(&geometry, offset, len) {
            let mut member = io.offset;
            for part in &io.parts {
                for byte in 0..part.len {
                    let twice = seen.insert(part.at + byte, (io.slot, member));
                    prop_assert!(twice.is_none());
                    member += 1;
                }
            }
            prop_assert_eq!(member, io.offset + io.len);
        }
        prop_assert_eq!(seen.len() as u64, len);
        for (at, found) in seen {
            let place = geometry.locate(offset + at as u64);
            prop_assert_eq!(found, (place.slot, place.offset));
        }
    }

    #[test]
    fn units_cover_a_write_once_and_are_uniform(
        layout in 0_usize..6, members in 2_u32..=9, offset: u64, len: u64, most in 1_u64..40,
    ) {
        let geometry = raid5(layout, members);
        let Shape::Parity(shape) = geometry.shape() else { panic!("a parity level") };
        let (offset, len) = range(geometry.size(), offset, len);
        let mut seen = BTreeSet::new();
        let mut member_space = BTreeSet::new();
        for unit in split(shape, offset, len, most) {
            prop_assert!(unit.count >= 1 && unit.first + unit.count <= shape.data());
            prop_assert!(unit.start + unit.len <= CHUNK && unit.len >= 1);
            prop_assert!(unit.rows == 1 || (unit.count == shape.data() && unit.len == CHUNK));
            prop_assert!(unit.member_len() <= most.max(CHUNK));
            for at in unit.offset(shape)..unit.offset(shape) + unit.member_len() {
                prop_assert!(member_space.insert(at), "units do not overlap");
            }
            for row in unit.row..unit.row + unit.rows {
                for index in unit.first..unit.first + unit.count {
                    for byte in unit.start..unit.start + unit.len {
                        prop_assert!(seen.insert(shape.logical(row, index) + byte));
                    }
                }
            }
        }
        let expected: BTreeSet<u64> = (offset..offset + len).collect();
        prop_assert_eq!(seen, expected);
    }

    #[test]
    fn the_method_reads_least_and_only_what_is_there(
        data in 1_usize..9, two: bool, first: usize, count: usize, lost in proptest::collection::vec(0_usize..11, 0..4),
        absent: bool, trusted: bool,
    ) {
        let first = first % data;
        let count = 1 + count % (data - first);
        let unit = Unit { row: 0, rows: 1, start: 0, len: CHUNK, first: first as u32, count: count as u32 };
        let position = |index: usize| Position {
            present: !(absent && lost.contains(&index)),
            readable: !lost.contains(&index),
        };
        let positions: Vec<Position> = (0..data).map(position).collect();
        let parities: Vec<Position> = (data..data + 1 + usize::from(two)).map(position).collect();
        let present = parities.iter().filter(|parity| parity.present);
        let written = |index: usize| (first..first + count).contains(&index);
        let old_readable = (0..data).filter(|&i| written(i)).all(|i| positions[i].readable);
        let rest_readable = (0..data).filter(|&i| !written(i)).all(|i| positions[i].readable);
        let modify = old_readable && present.clone().all(|parity| parity.readable);
        let gone = positions.iter().chain(&parities).filter(|position| !position.readable).count();
        // Nothing can be made of a parity that is not trusted, but what is written can be without it.
        let apart = !trusted && (0..data).filter(|&i| written(i)).all(|i| positions[i].present);
        match choose(&unit, &positions, &parities, trusted) {
            None => {
                prop_assert!(present.count() > 0 && !rest_readable && !modify && !apart && gone > parities.len());
            }
            Some(Method::NoParity) => {
                prop_assert!(present.count() == 0 || (apart && !rest_readable && !old_readable));
            }
            Some(Method::Full) => prop_assert_eq!(count, data),
            Some(Method::ReadModify) => {
                prop_assert!(modify || (apart && old_readable));
                prop_assert!(!rest_readable || (trusted && count + present.count() < data - count));
            }
            Some(Method::Reconstruct) => {
                prop_assert!(rest_readable);
                prop_assert!(!(trusted && modify) || data - count <= count + present.count());
            }
            Some(Method::Recover) => prop_assert!(two && !rest_readable && !modify && !apart && gone <= 2),
        }
    }
}

/// A row of one byte for each slot, with its parities by the definition.
fn row_of_bytes(rows: &ParityRows, row: u64) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..rows.members())
        .map(|slot| (slot * 37 + 11) as u8)
        .collect();
    let data: Vec<u32> = (0..rows.data())
        .map(|index| rows.data_slot(row, index))
        .collect();
    let sum = |factor: &dyn Fn(u32) -> u8| {
        let products = data
            .iter()
            .map(|&slot| field::mul(factor(slot), bytes[slot as usize]));
        products.fold(0, |sum, product| sum ^ product)
    };
    let (p, q) = (
        sum(&|_| 1),
        sum(&|slot| field::power(rows.power(row, slot))),
    );
    bytes[rows.parity_slot(row) as usize] = p;
    if let Some(slot) = rows.q_slot(row) {
        bytes[slot as usize] = q;
    }
    bytes
}

#[test]
fn every_block_is_made_from_whatever_is_left() {
    for (level, least) in [(Level::Raid5, 2), (Level::Raid6, 4)] {
        for layout in ParityLayout::of(level) {
            for members in least..=9 {
                let geometry = Geometry::parity(level, layout, members, CHUNK, ROWS * CHUNK)
                    .expect("it can be");
                let Shape::Parity(rows) = geometry.shape() else {
                    panic!("a parity level")
                };
                for row in 0..ROWS {
                    let bytes = row_of_bytes(rows, row);
                    for want in 0..members {
                        for lost in 0..members {
                            let made = recipe(rows, row, want, &[want, lost]);
                            if want != lost && rows.parities() == 1 {
                                assert_eq!(made, None);
                                continue;
                            }
                            let made = made.expect("it can be made");
                            let terms = made.iter().map(|&(slot, factor)| {
                                assert!(slot != want && slot != lost, "{layout:?}");
                                field::mul(factor, bytes[slot as usize])
                            });
                            let sum = terms.fold(0, |sum, product| sum ^ product);
                            assert_eq!(sum, bytes[want as usize], "{layout:?} {want} {lost}");
                        }
                    }
                    if members > 3 {
                        assert_eq!(recipe(rows, row, 0, &[1, 2, 3]), None);
                    }
                }
            }
        }
    }
}

#[test]
fn a_long_read_is_one_request_for_each_member() {
    let sizes = [64 * CHUNK; 4];
    let geometry = Geometry::stripes(&sizes, CHUNK, ZoneLayout::Original).expect("it can be");
    let plan = read(&geometry, 0, 40 * CHUNK);
    assert_eq!(plan.len(), 4);
    assert!(
        plan.iter()
            .all(|io| io.len == 10 * CHUNK && io.parts.len() == 10)
    );
}

#[test]
fn a_small_write_is_one_unit() {
    let geometry = raid5(2, 5);
    let Shape::Parity(shape) = geometry.shape() else {
        panic!("a parity level")
    };
    let units = split(shape, 3 * CHUNK + 2, 4, 1 << 20);
    assert_eq!(units.len(), 1);
    let unit = units[0];
    assert_eq!(
        (unit.row, unit.start, unit.len, unit.first, unit.count),
        (0, 2, 4, 3, 1)
    );
    let fine = Position {
        present: true,
        readable: true,
    };
    assert_eq!(
        choose(&unit, &[fine; 4], &[fine], true),
        Some(Method::ReadModify)
    );
    assert_eq!(
        choose(&unit, &[fine; 4], &[fine], false),
        Some(Method::Reconstruct)
    );
}
