//! The same with GFNI: a product with a constant is one instruction, so nothing need be doubled step by step, and sums take
//! two blocks at a time.

use std::arch::x86_64::*;

use smallvec::SmallVec;

use super::products::{edge, syndrome_edge};
use super::{XOR3, cut};
use crate::parity::{Term, field};

/// Registers of a stride: eight sums are in flight at once, four of each parity.
const LANES: usize = 4;
const WIDTH: usize = 64;
const STRIDE: usize = WIDTH * LANES;

/// The product with every factor as a matrix of bits, row `i` of the result in byte `7 - i` (Intel's manual,
/// GF2P8AFFINEQB).
static MATRICES: [u64; 256] = {
    let mut table = [0; 256];
    let mut at = 0;
    while at < 256 * 64 {
        let (factor, row, column) = (at / 64, at / 8 % 8, at % 8);
        let bit = field::mul(factor as u8, 1 << column) as u64 >> row & 1;
        table[factor] |= bit << (8 * (7 - row) + column);
        at += 1;
    }
    table
};

/// The products with the powers of the generator.
static POWERS: [i64; 255] = {
    let mut table = [0; 255];
    let (mut power, mut at) = (1, 0);
    while at < 255 {
        table[at] = MATRICES[power as usize] as i64;
        power = field::double(power);
        at += 1;
    }
    table
};

fn matrix(factor: u8) -> i64 {
    MATRICES[usize::from(factor)] as i64
}

/// The registers of a stride of `block` from `at` on.
///
/// # Safety
/// The processor has AVX-512F, and a stride from `at` on is within the block.
#[target_feature(enable = "avx512f")]
unsafe fn load(block: &[u8], at: usize) -> [__m512i; LANES] {
    // SAFETY: as the caller promises.
    std::array::from_fn(|lane| unsafe {
        _mm512_loadu_si512(block.as_ptr().add(at + WIDTH * lane).cast())
    })
}

/// # Safety
/// The processor has AVX-512F, a stride from `at` on is within the block, and is aligned there if it is streamed.
#[target_feature(enable = "avx512f")]
unsafe fn store(block: &mut [u8], at: usize, values: [__m512i; LANES], stream: bool) {
    for (lane, value) in values.into_iter().enumerate() {
        // SAFETY: as the caller promises.
        unsafe {
            let place: *mut __m512i = block.as_mut_ptr().add(at + WIDTH * lane).cast();
            if stream {
                _mm512_stream_si512(place, value);
            } else {
                _mm512_storeu_si512(place, value);
            }
        }
    }
}

/// # Safety
/// The processor has AVX-512F and GFNI, and every source is as long as `into`.
#[target_feature(enable = "avx512f,gfni")]
pub(super) unsafe fn sum(into: &mut [u8], terms: &[Term<'_>], stream: bool) {
    let (head, body) = cut(into, WIDTH, LANES);
    edge(into, terms, 0..head);
    let factors: SmallVec<[i64; 16]> = terms.iter().map(|(factor, _)| matrix(*factor)).collect();
    let (pairs, single) = terms.as_chunks::<2>();
    let (pair_factors, single_factor) = factors.as_chunks::<2>();
    let mut at = head;
    while at < head + body {
        let mut sums = [_mm512_setzero_si512(); LANES];
        for ([(_, a), (_, b)], [first, second]) in pairs.iter().zip(pair_factors) {
            let (first, second) = (_mm512_set1_epi64(*first), _mm512_set1_epi64(*second));
            // SAFETY: a stride from `at` on is within `into`, and the sources are as long.
            let (a, b) = unsafe { (load(a, at), load(b, at)) };
            for lane in 0..LANES {
                let a = _mm512_gf2p8affine_epi64_epi8::<0>(a[lane], first);
                let b = _mm512_gf2p8affine_epi64_epi8::<0>(b[lane], second);
                sums[lane] = _mm512_ternarylogic_epi64::<XOR3>(sums[lane], a, b);
            }
        }
        for ((_, source), factor) in single.iter().zip(single_factor) {
            let factor = _mm512_set1_epi64(*factor);
            // SAFETY: as above.
            let more = unsafe { load(source, at) };
            for lane in 0..LANES {
                let more = _mm512_gf2p8affine_epi64_epi8::<0>(more[lane], factor);
                sums[lane] = _mm512_xor_si512(sums[lane], more);
            }
        }
        // SAFETY: within `into`; `head` aligns the place.
        unsafe { store(into, at, sums, stream) };
        at += STRIDE;
    }
    edge(into, terms, head + body..into.len());
    if stream {
        // Streamed lines are ordered for other threads and for devices only by a fence.
        _mm_sfence();
    }
}

/// # Safety
/// The processor has AVX-512F and GFNI, and `p`, `q` and all data are equally long.
#[target_feature(enable = "avx512f,gfni")]
pub(super) unsafe fn syndrome(p: &mut [u8], q: &mut [u8], data: &[&[u8]], stream: bool) {
    let (head, body) = cut(p, WIDTH, LANES);
    // Both must be aligned to be streamed.
    let stream = stream && q[head..].as_ptr().align_offset(WIDTH) == 0;
    syndrome_edge(p, q, data, 0..head);
    let (pairs, single) = data.as_chunks::<2>();
    let (pair_factors, single_factor) = POWERS[..data.len()].as_chunks::<2>();
    let mut at = head;
    while at < head + body {
        let mut ps = [_mm512_setzero_si512(); LANES];
        let mut qs = [_mm512_setzero_si512(); LANES];
        for ([a, b], [first, second]) in pairs.iter().zip(pair_factors) {
            let (first, second) = (_mm512_set1_epi64(*first), _mm512_set1_epi64(*second));
            // SAFETY: a stride from `at` on is within `p`, and the others are as long.
            let (a, b) = unsafe { (load(a, at), load(b, at)) };
            for lane in 0..LANES {
                ps[lane] = _mm512_ternarylogic_epi64::<XOR3>(ps[lane], a[lane], b[lane]);
                let a = _mm512_gf2p8affine_epi64_epi8::<0>(a[lane], first);
                let b = _mm512_gf2p8affine_epi64_epi8::<0>(b[lane], second);
                qs[lane] = _mm512_ternarylogic_epi64::<XOR3>(qs[lane], a, b);
            }
        }
        for (source, factor) in single.iter().zip(single_factor) {
            let factor = _mm512_set1_epi64(*factor);
            // SAFETY: as above.
            let more = unsafe { load(source, at) };
            for lane in 0..LANES {
                ps[lane] = _mm512_xor_si512(ps[lane], more[lane]);
                let more = _mm512_gf2p8affine_epi64_epi8::<0>(more[lane], factor);
                qs[lane] = _mm512_xor_si512(qs[lane], more);
            }
        }
        // SAFETY: within `p` and `q`, and aligned if they are streamed.
        unsafe {
            store(p, at, ps, stream);
            store(q, at, qs, stream);
        }
        at += STRIDE;
    }
    syndrome_edge(p, q, data, head + body..p.len());
    if stream {
        // As in the sum.
        _mm_sfence();
    }
}
