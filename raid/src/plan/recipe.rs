//! How a block of a parity row is made from others.

use smallvec::SmallVec;

use crate::geometry::ParityRows;
use crate::parity::field;

/// A block as a sum of products: slots that are read, and the factor of each.
pub type Recipe = SmallVec<[(u32, u8); 8]>;

/// How the block of slot `want` in `row` is made if those of `lost` cannot be read (`want` among them or not). None if too
/// many are lost.
///
/// With P as the sum of all data and Q as the sum of the data times powers of the generator, one unknown is solved by
/// either, two by both.
///
/// Source: H. P. Anvin, "The mathematics of RAID-6", section 4.
pub fn recipe(rows: &ParityRows, row: u64, want: u32, lost: &[u32]) -> Option<Recipe> {
    let is_there = |slot: u32| slot != want && !lost.contains(&slot);
    let p = Some(rows.parity_slot(row)).filter(|&slot| is_there(slot));
    let q = rows.q_slot(row).filter(|&slot| is_there(slot));
    let data = (0..rows.data()).map(|index| rows.data_slot(row, index));
    let (there, gone): (SmallVec<[u32; 16]>, SmallVec<[u32; 16]>) =
        data.partition(|&slot| is_there(slot));
    let power = |slot: u32| field::power(rows.power(row, slot));
    // What is there, each times its factor, and the parities.
    let with = |factor: &dyn Fn(u32) -> u8, parities: &[(u32, u8)]| -> Option<Recipe> {
        let terms = there.iter().map(|&slot| (slot, factor(slot)));
        let terms = terms.chain(parities.iter().copied());
        Some(terms.filter(|(_, factor)| *factor != 0).collect())
    };
    let wants_p = want == rows.parity_slot(row);
    let wants_q = Some(want) == rows.q_slot(row);
    match (&gone[..], p, q) {
        ([], ..) if wants_p => with(&|_| 1, &[]),
        ([], ..) if wants_q => with(&power, &[]),
        // P, and a block of data that Q gives: P = sum(D) + (Q + sum(g^i D)) / g^y.
        (&[other], _, Some(q)) if wants_p => {
            let inverse = field::div(1, power(other));
            with(
                &|slot| 1 ^ field::mul(power(slot), inverse),
                &[(q, inverse)],
            )
        }
        // Q, and a block of data that P gives: Q = sum(g^i D) + g^y (P + sum(D)).
        (&[other], Some(p), _) if wants_q => {
            with(&|slot| power(slot) ^ power(other), &[(p, power(other))])
        }
        (&[_], Some(p), _) => with(&|_| 1, &[(p, 1)]),
        (&[own], None, Some(q)) => {
            let inverse = field::div(1, power(own));
            with(&|slot| field::mul(power(slot), inverse), &[(q, inverse)])
        }
        // Both parities give two blocks of data: D = (g^y (P + sum(D)) + Q + sum(g^i D)) / (g^x + g^y).
        (&[_, _], Some(p), Some(q)) if !wants_p && !wants_q => {
            let other = gone.iter().copied().find(|&slot| slot != want)?;
            let scale = field::div(1, power(want) ^ power(other));
            with(
                &|slot| field::mul(power(slot) ^ power(other), scale),
                &[(p, field::mul(power(other), scale)), (q, scale)],
            )
        }
        _ => None,
    }
}
