//! Which free extents a volume gets.

use crate::model::{Run, Stripe};

/// Extents for a volume: as many in each stripe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Extents in each stripe.
    pub count: u64,
    /// Where each stripe starts, each on a physical volume of its own.
    pub stripes: Vec<Stripe>,
}

/// How many extents each of `stripes` stripes can have at most, given the free runs of each physical volume.
///
/// No more than `length` extents of a volume can serve a stripe of `length`, and that many always can: the stripes
/// may lie on different volumes from piece to piece.
pub fn capacity(free: &[Vec<Run>], stripes: usize) -> u64 {
    let totals: Vec<u64> = free.iter().map(|runs| total(runs)).collect();
    let fits = |length: u64| {
        let usable: u128 = totals
            .iter()
            .map(|&total| u128::from(total.min(length)))
            .sum();
        usable >= u128::from(length) * stripes as u128
    };
    let (mut low, mut high) = (0, totals.iter().sum::<u64>() / stripes.max(1) as u64);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        match fits(middle) {
            true => low = middle,
            false => high = middle - 1,
        }
    }
    low
}

/// Finds `length` extents for each of `stripes` stripes in the free runs of each physical volume, in few pieces.
///
/// First it goes on at `after`, where the volume that grows ends now. A linear volume then takes the smallest run that
/// holds all that is left, or else the largest runs, which makes as few pieces as there can be. A striped one takes the
/// largest runs of as many physical volumes; where that leaves too little side by side it balances the physical volumes
/// instead. `None` if [`capacity`] is less than `length`.
pub fn allocate(
    mut free: Vec<Vec<Run>>,
    stripes: usize,
    length: u64,
    after: &[Stripe],
) -> Option<Vec<Piece>> {
    if stripes == 0 || capacity(&free, stripes) < length {
        return None;
    }
    let mut pieces = Vec::new();
    let mut left = length;
    if after.len() == stripes
        && let Some(piece) = go_on(&free, after, left)
    {
        // Not at the price of the rest: what is next to the end may be all that another stripe needs.
        let mut rest = free.clone();
        take(&mut rest, &piece);
        if capacity(&rest, stripes) >= left - piece.count {
            left -= piece.count;
            free = rest;
            pieces.push(piece);
        }
    }
    let rest = match stripes {
        1 => Some(linear(&mut free, left)),
        _ => largest_runs(free.clone(), stripes, left),
    };
    pieces.extend(rest.unwrap_or_else(|| balanced(&mut free, stripes, left)));
    Some(pieces)
}

/// The extents that follow directly on `after`, if all stripes have some.
fn go_on(free: &[Vec<Run>], after: &[Stripe], most: u64) -> Option<Piece> {
    let room = after.iter().map(|stripe| {
        let runs = free.get(stripe.pv)?.iter();
        let mut runs = runs.filter(|run| run.start == stripe.start);
        runs.next().map(|run| run.count)
    });
    let count = room.collect::<Option<Vec<u64>>>()?.into_iter().min()?;
    let count = count.min(most);
    let stripes = after.to_vec();
    (count > 0).then_some(Piece { count, stripes })
}

fn linear(free: &mut [Vec<Run>], mut left: u64) -> Vec<Piece> {
    let mut pieces = Vec::new();
    while left > 0 {
        let runs = || {
            let each = free.iter().enumerate();
            each.flat_map(|(pv, runs)| runs.iter().map(move |&run| (pv, run)))
        };
        let whole = runs().filter(|(_, run)| run.count >= left);
        let chosen = whole
            .min_by_key(|&(pv, run)| (run.count, pv, run.start))
            .or_else(|| runs().max_by_key(|&(pv, run)| (run.count, usize::MAX - pv)));
        let Some((pv, run)) = chosen else {
            unreachable!("the capacity was checked")
        };
        let count = run.count.min(left);
        let start = run.start;
        let piece = Piece {
            count,
            stripes: vec![Stripe { pv, start }],
        };
        take(free, &piece);
        left -= count;
        pieces.push(piece);
    }
    pieces
}

/// Stripes side by side on the largest runs; `None` if fewer volumes than stripes have room at some point.
fn largest_runs(mut free: Vec<Vec<Run>>, stripes: usize, mut left: u64) -> Option<Vec<Piece>> {
    let mut pieces = Vec::new();
    while left > 0 {
        let mut largest: Vec<(usize, Run)> = free
            .iter()
            .enumerate()
            .filter_map(|(pv, runs)| {
                let largest = runs
                    .iter()
                    .max_by_key(|run| (run.count, u64::MAX - run.start))?;
                Some((pv, *largest))
            })
            .collect();
        largest.sort_by_key(|(pv, run)| (u64::MAX - run.count, *pv));
        let chosen = largest.get(..stripes)?;
        let count = chosen.iter().map(|(_, run)| run.count).min()?.min(left);
        let mut stripes: Vec<Stripe> = chosen
            .iter()
            .map(|&(pv, run)| Stripe {
                pv,
                start: run.start,
            })
            .collect();
        stripes.sort_by_key(|stripe| stripe.pv);
        let piece = Piece { count, stripes };
        take(&mut free, &piece);
        left -= count;
        pieces.push(piece);
    }
    Some(pieces)
}

/// Extent by extent on the volumes with most left, which never strands any; pieces are as long as the choice stays.
fn balanced(free: &mut [Vec<Run>], stripes: usize, length: u64) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    for _ in 0..length {
        let mut order: Vec<usize> = (0..free.len()).collect();
        order.sort_by_key(|&pv| (u64::MAX - total(&free[pv]), pv));
        let mut chosen = order[..stripes].to_vec();
        chosen.sort_unstable();
        let piece = Piece {
            count: 1,
            stripes: chosen
                .into_iter()
                .map(|pv| Stripe {
                    pv,
                    start: free[pv][0].start,
                })
                .collect(),
        };
        take(free, &piece);
        match pieces.last_mut() {
            Some(last) if continues(last, &piece) => last.count += 1,
            _ => pieces.push(piece),
        }
    }
    pieces
}

fn continues(last: &Piece, next: &Piece) -> bool {
    let pairs = last.stripes.iter().zip(&next.stripes);
    pairs
        .into_iter()
        .all(|(old, new)| old.pv == new.pv && old.start + last.count == new.start)
}

/// Takes a piece, whose stripes start where runs do, out of the free runs.
fn take(free: &mut [Vec<Run>], piece: &Piece) {
    for stripe in &piece.stripes {
        let runs = &mut free[stripe.pv];
        for run in runs.iter_mut().filter(|run| run.start == stripe.start) {
            run.start += piece.count;
            run.count -= piece.count;
        }
        runs.retain(|run| run.count > 0);
    }
}

fn total(runs: &[Run]) -> u64 {
    runs.iter().map(|run| run.count).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    /// Runs of free extents with used ones between them.
    fn free() -> impl Strategy<Value = Vec<Vec<Run>>> {
        let volume = prop::collection::vec((1_u64..4, 1_u64..6), 0..4).prop_map(|gaps| {
            let mut at = 0;
            let run = |(used, count)| {
                let start = at + used;
                at = start + count;
                Run { start, count }
            };
            gaps.into_iter().map(run).collect()
        });
        prop::collection::vec(volume, 1..5)
    }

    /// Whether `stripes` stripes of `length` exist, by trying every choice of volumes for every extent.
    fn exists(totals: &[u64], stripes: usize, length: u64, tried: &mut HashSet<Vec<u64>>) -> bool {
        if length == 0 {
            return true;
        }
        let mut key = totals.to_vec();
        key.sort_unstable();
        key.push(length);
        if !tried.insert(key) {
            return false;
        }
        (0_u32..1 << totals.len())
            .filter(|choice| choice.count_ones() as usize == stripes)
            .any(|choice| {
                let mut left = totals.to_vec();
                for (pv, total) in left.iter_mut().enumerate() {
                    if choice & (1 << pv) != 0 {
                        let Some(less) = total.checked_sub(1) else {
                            return false;
                        };
                        *total = less;
                    }
                }
                exists(&left, stripes, length - 1, tried)
            })
    }

    /// The fewest runs that hold `length`, by trying every set.
    fn fewest(free: &[Vec<Run>], length: u64) -> usize {
        let runs: Vec<u64> = free.iter().flatten().map(|run| run.count).collect();
        (0_u32..1 << runs.len())
            .filter(|set| {
                let held = runs
                    .iter()
                    .enumerate()
                    .filter(|(bit, _)| set & (1 << bit) != 0);
                held.map(|(_, count)| count).sum::<u64>() >= length
            })
            .map(|set| set.count_ones() as usize)
            .min()
            .unwrap_or(usize::MAX)
    }

    fn check_pieces(free: &[Vec<Run>], stripes: usize, length: u64, pieces: &[Piece]) {
        let mut taken = HashSet::new();
        for piece in pieces {
            assert!(piece.count > 0);
            assert_eq!(piece.stripes.len(), stripes);
            let volumes: HashSet<usize> = piece.stripes.iter().map(|stripe| stripe.pv).collect();
            assert_eq!(volumes.len(), stripes, "each stripe has its own volume");
            for stripe in &piece.stripes {
                for extent in stripe.start..stripe.start + piece.count {
                    let is_free = free[stripe.pv]
                        .iter()
                        .any(|run| (run.start..run.start + run.count).contains(&extent));
                    assert!(is_free && taken.insert((stripe.pv, extent)));
                }
            }
        }
        assert_eq!(pieces.iter().map(|piece| piece.count).sum::<u64>(), length);
    }

    proptest! {
        #[test]
        fn it_finds_what_brute_force_finds(
            free in free(),
            stripes in 1_usize..4,
            length in 1_u64..16,
            after in (0_usize..4, 0_u64..12),
        ) {
            let totals: Vec<u64> = free.iter().map(|runs| total(runs)).collect();
            let possible = exists(&totals, stripes, length, &mut HashSet::new());
            prop_assert_eq!(capacity(&free, stripes) >= length, possible);
            let after: Vec<Stripe> = (0..stripes)
                .map(|index| Stripe { pv: after.0 + index, start: after.1 })
                .collect();
            for after in [&after[..], &[]] {
                let found = allocate(free.clone(), stripes, length, after);
                prop_assert_eq!(found.is_some(), possible);
                if let Some(pieces) = found {
                    check_pieces(&free, stripes, length, &pieces);
                    if stripes == 1 && after.is_empty() {
                        prop_assert_eq!(pieces.len(), fewest(&free, length));
                    }
                }
            }
        }
    }

    #[test]
    fn a_growing_volume_goes_on_where_it_ends() {
        let run = |start, count| Run { start, count };
        let free = vec![vec![run(10, 5), run(100, 50)], vec![run(0, 8)]];
        let after = [Stripe { pv: 0, start: 10 }];
        let pieces = allocate(free, 1, 12, &after).expect("fits");
        assert_eq!(pieces[0].stripes, after);
        assert_eq!(pieces[0].count, 5);
        // The rest takes the smallest run that holds it.
        assert_eq!(pieces[1].stripes, [Stripe { pv: 1, start: 0 }]);
        assert_eq!(pieces.len(), 2);
    }
}
