//! Who lies, when what should agree does not.

use smallvec::SmallVec;

use crate::geometry::ParityRows;
use crate::parity::{self, field};

/// What blocks that belong together say of each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// They agree.
    Agree,
    /// These slots hold something else than the rest says.
    Lies(SmallVec<[u32; 2]>),
    /// They disagree, and nothing tells which of them is right.
    Unknown,
}

impl Verdict {
    fn lies(slot: u32) -> Self {
        Self::Lies(SmallVec::from_slice(&[slot]))
    }
}

/// Judges copies of one block: what more than half of them hold is right.
pub fn judge_copies(copies: &[(u32, &[u8])]) -> Verdict {
    let equal_to = |block: &[u8]| copies.iter().filter(|(_, other)| *other == block).count();
    let Some(&(_, first)) = copies.first() else {
        return Verdict::Agree;
    };
    if equal_to(first) == copies.len() {
        return Verdict::Agree;
    }
    let right = copies
        .iter()
        .find(|(_, block)| 2 * equal_to(block) > copies.len());
    match right {
        Some(&(_, right)) => {
            let others = copies.iter().filter(|(_, block)| *block != right);
            Verdict::Lies(others.map(|(slot, _)| *slot).collect())
        }
        None => Verdict::Unknown,
    }
}

/// Judges all blocks of a row at one place, each with its slot. One parity tells only that something is wrong; two tell
/// which single block is.
///
/// Source: H. P. Anvin, "The mathematics of RAID-6", section 4, "single-disk corruption recovery".
pub fn judge_row(rows: &ParityRows, row: u64, blocks: &[(u32, &[u8])]) -> Verdict {
    let len = blocks.first().map_or(0, |(_, block)| block.len());
    let is_data = |slot: u32| rows.data_index(row, slot).is_some();
    let data = blocks.iter().filter(|(slot, _)| is_data(*slot)).copied();
    let data: SmallVec<[(u32, &[u8]); 8]> = data.collect();
    let (mut p, mut q) = (vec![0; len], vec![0; len]);
    let q_slot = rows.q_slot(row);
    parity::of_row(
        rows,
        row,
        &data,
        &mut p,
        q_slot.is_some().then_some(&mut q[..]),
    );
    // The syndromes: what the parities are off by.
    for (slot, block) in blocks {
        let syndrome = match *slot {
            slot if slot == rows.parity_slot(row) => &mut p,
            slot if Some(slot) == q_slot => &mut q,
            _ => continue,
        };
        for (sum, byte) in syndrome.iter_mut().zip(*block) {
            *sum ^= byte;
        }
    }
    let is_zero = |syndrome: &[u8]| syndrome.iter().all(|&byte| byte == 0);
    match (is_zero(&p), is_zero(&q), q_slot) {
        (true, true, _) => Verdict::Agree,
        (_, _, None) => Verdict::Unknown,
        (false, true, Some(_)) => Verdict::lies(rows.parity_slot(row)),
        (true, false, Some(q_slot)) => Verdict::lies(q_slot),
        (false, false, Some(_)) => match wrong_factor(&p, &q) {
            Some(factor) => {
                let mut slots = data.iter().map(|(slot, _)| *slot);
                let liar = slots.find(|&slot| field::power(rows.power(row, slot)) == factor);
                liar.map_or(Verdict::Unknown, Verdict::lies)
            }
            None => Verdict::Unknown,
        },
    }
}

/// If one block of data is wrong, Q is off by its factor times what P is off by, in every byte.
fn wrong_factor(p: &[u8], q: &[u8]) -> Option<u8> {
    let mut factor = None;
    for (&p, &q) in p.iter().zip(q).filter(|&(&p, &q)| p != 0 || q != 0) {
        if p == 0 || q == 0 {
            return None;
        }
        let found = field::div(q, p);
        if *factor.get_or_insert(found) != found {
            return None;
        }
    }
    factor
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::{Geometry, Shape};
    use crate::level::{Level, ParityLayout};

    /// A row of the given shape, whose blocks agree.
    fn row_of(rows: &ParityRows, row: u64) -> Vec<Vec<u8>> {
        let mut blocks: Vec<Vec<u8>> = (0..rows.members())
            .map(|slot| (0..64).map(|at| (slot * 91 + at * 7 + 3) as u8).collect())
            .collect();
        let data: Vec<(u32, Vec<u8>)> = (0..rows.data())
            .map(|index| rows.data_slot(row, index))
            .map(|slot| (slot, blocks[slot as usize].clone()))
            .collect();
        let data: Vec<(u32, &[u8])> = data
            .iter()
            .map(|(slot, block)| (*slot, &block[..]))
            .collect();
        let (mut p, mut q) = (vec![0; 64], vec![0; 64]);
        parity::of_row(rows, row, &data, &mut p, Some(&mut q));
        blocks[rows.parity_slot(row) as usize] = p;
        if let Some(slot) = rows.q_slot(row) {
            blocks[slot as usize] = q;
        }
        blocks
    }

    fn judged(rows: &ParityRows, row: u64, blocks: &[Vec<u8>]) -> Verdict {
        let blocks: Vec<(u32, &[u8])> = (0..).zip(blocks.iter().map(|block| &block[..])).collect();
        judge_row(rows, row, &blocks)
    }

    fn rows(level: Level, layout: ParityLayout, members: u32) -> Geometry {
        Geometry::parity(level, layout, members, 4096, 8 * 4096).expect("it can be")
    }

    #[test]
    fn two_parities_name_the_liar_in_every_layout() {
        for layout in ParityLayout::of(Level::Raid6) {
            for members in 4..8 {
                let geometry = rows(Level::Raid6, layout, members);
                let Shape::Parity(rows) = geometry.shape() else {
                    panic!("parity")
                };
                for row in 0..8 {
                    let good = row_of(rows, row);
                    assert_eq!(judged(rows, row, &good), Verdict::Agree);
                    for liar in 0..members {
                        let mut bad = good.clone();
                        bad[liar as usize][5] ^= 0x41;
                        bad[liar as usize][60] ^= 0x80;
                        assert_eq!(judged(rows, row, &bad), Verdict::lies(liar), "{layout:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn two_liars_are_not_taken_for_a_third() {
        let geometry = rows(Level::Raid6, ParityLayout::LeftSymmetric, 6);
        let Shape::Parity(rows) = geometry.shape() else {
            panic!("parity")
        };
        let mut bad = row_of(rows, 0);
        for (slot, at) in [(1, 3), (2, 5)] {
            bad[slot][at] ^= 0x11;
        }
        assert_eq!(judged(rows, 0, &bad), Verdict::Unknown);
    }

    #[test]
    fn one_parity_and_two_legs_name_nobody() {
        let geometry = rows(Level::Raid5, ParityLayout::LeftSymmetric, 4);
        let Shape::Parity(rows) = geometry.shape() else {
            panic!("parity")
        };
        let mut bad = row_of(rows, 2);
        assert_eq!(judged(rows, 2, &bad), Verdict::Agree);
        bad[1][0] ^= 1;
        assert_eq!(judged(rows, 2, &bad), Verdict::Unknown);
        assert_eq!(judge_copies(&[(0, b"a"), (1, b"b")]), Verdict::Unknown);
        assert_eq!(judge_copies(&[(0, b"a"), (1, b"a")]), Verdict::Agree);
    }

    #[test]
    fn the_majority_of_legs_is_right() {
        assert_eq!(
            judge_copies(&[(0, b"a"), (1, b"b"), (2, b"b")]),
            Verdict::lies(0)
        );
        let two = Verdict::Lies(SmallVec::from_slice(&[1, 3]));
        let copies: [(u32, &[u8]); 5] = [(0, b"a"), (1, b"b"), (2, b"a"), (3, b"c"), (4, b"a")];
        assert_eq!(judge_copies(&copies), two);
        let split: [(u32, &[u8]); 4] = [(0, b"a"), (1, b"b"), (2, b"a"), (3, b"b")];
        assert_eq!(judge_copies(&split), Verdict::Unknown);
    }
}
