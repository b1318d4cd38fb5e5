//! Writes that are taken together: neighbours that wait at the same time become one write, so that they share what is
//! read for their parity, and whole rows of them read nothing.

use std::collections::BTreeMap;
use std::ops::Range;

use smallvec::SmallVec;
use weft_block::Op;

use crate::geometry::ParityRows;

/// Bytes of the array that are written as one at most, however many writes lie side by side.
pub const MERGED_BYTES: u64 = 8 << 20;
/// Bytes after which a merged write ends where a row does: longer ones cost no less, and wait for each other.
const ENOUGH: u64 = 1 << 20;

/// A write that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// What it is: only writes that carry data merge, and only with their like.
    pub op: Op,
    /// Bytes of the array.
    pub range: Range<u64>,
}

/// Writes that are written as one, in the order in which they came, by their place among those that wait.
pub type Run = SmallVec<[usize; 4]>;

struct Open {
    run: Run,
    range: Range<u64>,
}

impl Open {
    fn takes(&self, write: &Waiting, row: u64) -> bool {
        let end = self.range.end.max(write.range.end);
        let len = self.range.end - self.range.start;
        let is_enough = len >= ENOUGH
            && self.range.end.is_multiple_of(row)
            && write.range.start >= self.range.end;
        write.range.start <= self.range.end && end - self.range.start <= MERGED_BYTES && !is_enough
    }
}

/// Joins writes that touch or overlap; those that came first come first. `row` are the bytes of the array in a row.
pub fn runs(writes: &[Waiting], row: u64) -> Vec<Run> {
    let mut order: SmallVec<[usize; 32]> = (0..writes.len()).collect();
    order.sort_by_key(|&index| (writes[index].range.start, index));
    let mut found: Vec<Open> = Vec::new();
    // Where the last one of each kind is.
    let mut last = [None; 2];
    for index in order {
        let write = &writes[index];
        let kind = match write.op {
            Op::Write { fua } => Some(usize::from(fua)),
            _ => None,
        };
        let open = kind.and_then(|kind| last[kind]);
        if let Some(open) = open.filter(|&open: &usize| found[open].takes(write, row)) {
            let open = &mut found[open];
            open.range.end = open.range.end.max(write.range.end);
            open.run.push(index);
            continue;
        }
        if let Some(kind) = kind {
            last[kind] = Some(found.len());
        }
        found.push(Open {
            run: SmallVec::from_slice(&[index]),
            range: write.range.clone(),
        });
    }
    let mut runs: Vec<Run> = found.into_iter().map(|open| open.run).collect();
    runs.iter_mut().for_each(|run| run.sort_unstable());
    runs.sort_unstable_by_key(|run| run[0]);
    runs
}

/// What of each range is seen when they are written one after the other: the last one that has a byte wins. In the order
/// of the bytes.
pub fn pieces(ranges: impl Iterator<Item = Range<u64>>) -> Vec<(usize, Range<u64>)> {
    let mut seen: BTreeMap<u64, (u64, usize)> = BTreeMap::new();
    for (index, range) in ranges.enumerate() {
        let before = seen.range_mut(..range.start).next_back();
        if let Some((_, (end, other))) = before.filter(|(_, (end, _))| *end > range.start) {
            let (tail, other) = (*end, *other);
            *end = range.start;
            if tail > range.end {
                seen.insert(range.end, (tail, other));
            }
        }
        while let Some((&start, &(end, other))) = seen.range(range.clone()).next() {
            seen.remove(&start);
            if end > range.end {
                seen.insert(range.end, (end, other));
            }
        }
        seen.insert(range.start, (range.end, index));
    }
    let pieces = seen.into_iter();
    pieces
        .map(|(start, (end, index))| (index, start..end))
        .collect()
}

/// The member space that a write of `range` of the array holds while it is under way.
pub fn touched(shape: &ParityRows, range: &Range<u64>) -> SmallVec<[Range<u64>; 2]> {
    let chunk = shape.chunk();
    let row_bytes = chunk * u64::from(shape.data());
    let (first, last) = (range.start / row_bytes, (range.end - 1) / row_bytes);
    let whole = first * chunk..(last + 1) * chunk;
    let chunks = (range.end - 1) / chunk - range.start / chunk;
    let (head, tail) = (range.start % chunk, (range.end - 1) % chunk + 1);
    let mut touched = SmallVec::new();
    match chunks {
        0 => touched.push(whole.start + head..whole.start + tail),
        1 if first == last && tail < head => {
            touched.push(whole.start..whole.start + tail);
            touched.push(whole.start + head..whole.end);
        }
        _ => touched.push(whole),
    }
    touched
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::{Geometry, Shape};
    use crate::level::{Level, ParityLayout};
    use crate::plan::split;
    use proptest::prelude::*;

    fn write(range: Range<u64>) -> Waiting {
        Waiting {
            op: Op::Write { fua: false },
            range,
        }
    }

    #[test]
    fn neighbours_are_one_run_whatever_their_order() {
        let writes: Vec<Waiting> = [3, 1, 9, 0, 2]
            .map(|at| write(at * 4096..(at + 1) * 4096))
            .into();
        let found = runs(&writes, 1 << 20);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0][..], [0, 1, 3, 4]);
        assert_eq!(found[1][..], [2]);
    }

    #[test]
    fn a_run_has_a_bound_and_ends_with_a_row() {
        let row = 3 << 20;
        let step = 256 << 10;
        let writes: Vec<Waiting> = (0..100)
            .map(|at| write(at * step..(at + 1) * step))
            .collect();
        let lens: Vec<usize> = runs(&writes, row).iter().map(|run| run.len()).collect();
        assert_eq!(lens, [12, 12, 12, 12, 12, 12, 12, 12, 4]);
        let beyond: Vec<usize> = runs(&writes, 1 << 40).iter().map(|run| run.len()).collect();
        assert_eq!(beyond, [32, 32, 32, 4]);
    }

    proptest! {
        #[test]
        fn runs_hold_every_write_once_and_have_no_gap(
            drawn in proptest::collection::vec((0_u64..64, 1_u64..12, 0_usize..4), 1..40),
        ) {
            let ops = [
                Op::Write { fua: false },
                Op::Write { fua: false },
                Op::Write { fua: true },
                Op::WriteZeroes { unmap: false, fua: false },
            ];
            let writes = drawn.iter().map(|&(start, len, op)| Waiting { op: ops[op], range: start..start + len });
            let writes: Vec<Waiting> = writes.collect();
            let found = runs(&writes, 8);
            let mut all: Vec<usize> = found.iter().flatten().copied().collect();
            all.sort_unstable();
            prop_assert_eq!(all, (0..writes.len()).collect::<Vec<_>>());
            for run in &found {
                prop_assert!(run.is_sorted());
                prop_assert!(run.iter().all(|&index| writes[index].op == writes[run[0]].op));
                let zeroes = matches!(writes[run[0]].op, Op::WriteZeroes { .. });
                prop_assert!(run.len() == 1 || !zeroes);
                let pieces = pieces(run.iter().map(|&index| writes[index].range.clone()));
                let gaps = pieces.windows(2).filter(|pair| pair[0].1.end != pair[1].1.start);
                prop_assert_eq!(gaps.count(), 0);
            }
        }

        #[test]
        fn the_last_write_of_a_byte_is_seen(
            drawn in proptest::collection::vec((0_u64..60, 1_u64..20), 1..30),
        ) {
            let ranges: Vec<Range<u64>> = drawn.iter().map(|&(start, len)| start..start + len).collect();
            let mut bytes = [None; 80];
            for (index, range) in ranges.iter().enumerate() {
                range.clone().for_each(|at| bytes[at as usize] = Some(index));
            }
            let mut seen = [None; 80];
            for (index, range) in pieces(ranges.iter().cloned()) {
                for at in range {
                    prop_assert_eq!(seen[at as usize].replace(index), None);
                }
            }
            prop_assert_eq!(bytes, seen);
        }

        #[test]
        fn a_write_touches_what_its_units_hold(members in 2_u32..8, offset in 0_u64..700, len in 1_u64..200) {
            let geometry = Geometry::parity(Level::Raid5, ParityLayout::LeftSymmetric, members, 8, 8 * 1000)
                .expect("it can be");
            let Shape::Parity(shape) = geometry.shape() else { panic!("parity") };
            let touched = touched(shape, &(offset..offset + len));
            for unit in split(shape, offset, len, 1 << 30) {
                let start = unit.offset(shape);
                let held = |at: &u64| touched.iter().any(|range| range.contains(at));
                prop_assert!((start..start + unit.member_len()).all(|at| held(&at)));
            }
        }
    }
}
