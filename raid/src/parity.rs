//! Parity, with the widest registers that the processor has.
//!
//! [`xor`] makes one block out of many: P of a row, a missing block out of the others, or a parity that a changed block is
//! taken out of and put into. RAID-6 adds Q, in which every block of data is multiplied by a power of the [`field`]'s
//! generator: [`syndrome`] makes both at once, [`sum`] makes any block out of others by [`plan::recipe`](crate::plan).
//! What is used is found once at run time; [`scalar`] is the twin that every other path must equal.

pub mod field;
pub mod scalar;
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)] // A room of unsafe: vector registers and raw pointers over checked slices.
mod x86;

use smallvec::SmallVec;

use crate::geometry::ParityRows;

/// From this size of a destination on, and only if it and its sources together leave the second-level cache, the
/// result is stored past the caches: nobody reads parity soon, and the line need not be fetched to be overwritten.
/// 1 MiB is the smallest second-level cache of the machines in use.
const STREAM_BYTES: usize = 1 << 20;

/// A block and what it is multiplied by.
pub type Term<'a> = (u8, &'a [u8]);

/// `into` becomes the exclusive or of all `sources`. With no source it becomes zero.
///
/// # Panics
/// If a source is not as long as `into`.
pub fn xor(into: &mut [u8], sources: &[&[u8]]) {
    check(into.len(), sources.iter().copied());
    let stream = leaves_the_cache(into.len(), sources.len() + 1);
    (kernel().xor)(into, sources, stream);
}

/// `into` becomes the sum of the products of all `terms`, each a factor and a block. With no term it becomes zero.
///
/// # Panics
/// If a block is not as long as `into`.
pub fn sum(into: &mut [u8], terms: &[Term<'_>]) {
    check(into.len(), terms.iter().map(|(_, source)| *source));
    if terms.iter().all(|(factor, _)| *factor == 1) {
        let sources: SmallVec<[&[u8]; 16]> = terms.iter().map(|(_, source)| *source).collect();
        return xor(into, &sources);
    }
    let stream = leaves_the_cache(into.len(), terms.len() + 1);
    (kernel().sum)(into, terms, stream);
}

/// `p` becomes the exclusive or of all `data`, and `q` the sum in which `data[i]` is multiplied by the generator's power
/// `i`.
///
/// # Panics
/// If they are not all equally long.
pub fn syndrome(p: &mut [u8], q: &mut [u8], data: &[&[u8]]) {
    check(p.len(), data.iter().copied().chain([&*q]));
    let stream = leaves_the_cache(p.len(), data.len() + 2);
    (kernel().syndrome)(p, q, data, stream);
}

/// The parities of a row from all its data, each block with its slot: `p`, and with RAID-6 `q`.
///
/// # Panics
/// If they are not all equally long.
pub fn of_row(
    rows: &ParityRows,
    row: u64,
    data: &[(u32, &[u8])],
    p: &mut [u8],
    q: Option<&mut [u8]>,
) {
    let mut ordered: SmallVec<[(u32, &[u8]); 16]> = data
        .iter()
        .map(|&(slot, block)| (rows.power(row, slot), block))
        .collect();
    let Some(q) = q else {
        let blocks: SmallVec<[&[u8]; 16]> = data.iter().map(|&(_, block)| block).collect();
        return xor(p, &blocks);
    };
    ordered.sort_unstable_by_key(|&(power, _)| power);
    let blocks: SmallVec<[&[u8]; 16]> = ordered.iter().map(|&(_, block)| block).collect();
    if ordered
        .iter()
        .zip(0..)
        .all(|(&(power, _), place)| power == place)
    {
        return syndrome(p, q, &blocks);
    }
    // DDF's powers have gaps where the parities lie.
    xor(p, &blocks);
    let terms: SmallVec<[Term<'_>; 16]> = ordered
        .into_iter()
        .map(|(power, block)| (field::power(power), block))
        .collect();
    sum(q, &terms);
}

fn check<'a>(len: usize, mut others: impl Iterator<Item = &'a [u8]>) {
    assert!(
        others.all(|other| other.len() == len),
        "sources and result are equally long"
    );
}

fn leaves_the_cache(len: usize, blocks: usize) -> bool {
    len * blocks >= STREAM_BYTES
}

/// The name of what this runs on: `gfni`, `avx512`, `avx2`, `ssse3`, `sse2` or `scalar`.
pub fn engine() -> &'static str {
    kernel().name
}

/// A way to compute all three. The slices are equally long; the flag asks for stores past the caches.
#[derive(Clone, Copy)]
struct Kernel {
    name: &'static str,
    xor: fn(into: &mut [u8], sources: &[&[u8]], stream: bool),
    sum: fn(into: &mut [u8], terms: &[Term<'_>], stream: bool),
    syndrome: Syndrome,
}

type Syndrome = fn(p: &mut [u8], q: &mut [u8], data: &[&[u8]], stream: bool);

const SCALAR: Kernel = Kernel {
    name: "scalar",
    xor: |into, sources, _| scalar::xor(into, sources),
    sum: |into, terms, _| scalar::sum(into, terms),
    syndrome: |p, q, data, _| scalar::syndrome(p, q, data),
};

/// Every kernel that this processor can run, best first.
fn kernels() -> Vec<Kernel> {
    let mut found = Vec::new();
    #[cfg(target_arch = "x86_64")]
    found.extend(x86::kernels());
    found.push(SCALAR);
    found
}

fn kernel() -> Kernel {
    static BEST: std::sync::OnceLock<Kernel> = std::sync::OnceLock::new();
    *BEST.get_or_init(|| kernels().first().copied().unwrap_or(SCALAR))
}

#[cfg(test)]
mod tests;
