//! Sums of products, and the two parities of RAID-6 at once.
//!
//! A product with a constant is two table look-ups of half a byte each (`pshufb`), or with GFNI one multiplication by a
//! matrix of bits. Doubling, all that a syndrome needs, is an addition and a correction where the highest bit was set.

use std::arch::x86_64::*;

use super::cut;
use crate::parity::field::{self, POLYNOMIAL};
use crate::parity::{Term, scalar};

/// Registers of a stride: eight sums are in flight at once, four of each parity.
const LANES: usize = 4;

/// The products of a factor with the low and with the high half of a byte.
#[derive(Clone, Copy)]
struct Halves {
    low: [u8; 16],
    high: [u8; 16],
}

/// Those of every factor.
static HALVES: [Halves; 256] = {
    let mut table = [Halves {
        low: [0; 16],
        high: [0; 16],
    }; 256];
    let mut at = 0;
    while at < 256 * 16 {
        let (factor, half) = (at / 16, at % 16);
        table[factor].low[half] = field::mul(factor as u8, half as u8);
        table[factor].high[half] = field::mul(factor as u8, (half as u8) << 4);
        at += 1;
    }
    table
};

fn halves(factor: u8) -> &'static Halves {
    &HALVES[usize::from(factor)]
}

/// A sum of products in one register width.
///
/// `$prepare` turns a factor into `$prepared`; `$product` multiplies a register by it.
macro_rules! sum {
    ($name:ident, $feature:literal, $vector:ty, $zero:expr, $load:ident, $store:ident, $stream:ident, $xor:ident,
     $prepare:expr, $spread:expr, $product:expr) => {
        /// # Safety
        /// The processor has the features, and every source is as long as `into`.
        #[target_feature(enable = $feature)]
        pub(super) unsafe fn $name(into: &mut [u8], terms: &[Term<'_>], stream: bool) {
            const WIDTH: usize = size_of::<$vector>();
            let (head, body) = cut(into, WIDTH, LANES);
            let factors: smallvec::SmallVec<[_; 16]> =
                terms.iter().map(|(factor, _)| $prepare(*factor)).collect();
            edge(into, terms, 0..head);
            let mut at = head;
            while at < head + body {
                let mut sums = [$zero; LANES];
                for ((_, source), factor) in terms.iter().zip(&factors) {
                    let spread = $spread(factor);
                    for (lane, sum) in sums.iter_mut().enumerate() {
                        // SAFETY: a stride from `at` on is within `into`, and the sources are as long.
                        let more = unsafe { $load(source.as_ptr().add(at + WIDTH * lane).cast()) };
                        *sum = $xor(*sum, $product(more, spread));
                    }
                }
                for (lane, sum) in sums.into_iter().enumerate() {
                    // SAFETY: within `into`; `head` aligns the place, which streaming needs.
                    unsafe {
                        let place: *mut $vector = into.as_mut_ptr().add(at + WIDTH * lane).cast();
                        if stream {
                            $stream(place, sum);
                        } else {
                            $store(place, sum);
                        }
                    }
                }
                at += WIDTH * LANES;
            }
            edge(into, terms, head + body..into.len());
            if stream {
                // Streamed lines are ordered for other threads and for devices only by a fence.
                _mm_sfence();
            }
        }
    };
}

/// Both parities in one register width; `$double` is twice a register, whose second argument is the polynomial in every
/// byte.
macro_rules! syndrome {
    ($name:ident, $feature:literal, $vector:ty, $zero:expr, $constant:expr, $load:ident, $store:ident, $stream:ident,
     $xor:ident, $double:expr) => {
        /// # Safety
        /// The processor has the features, and `p`, `q` and all data are equally long.
        #[target_feature(enable = $feature)]
        pub(super) unsafe fn $name(p: &mut [u8], q: &mut [u8], data: &[&[u8]], stream: bool) {
            const WIDTH: usize = size_of::<$vector>();
            let (head, body) = cut(p, WIDTH, LANES);
            // Both must be aligned to be streamed.
            let stream = stream && q[head..].as_ptr().align_offset(WIDTH) == 0;
            syndrome_edge(p, q, data, 0..head);
            let constant = $constant;
            let mut at = head;
            while at < head + body {
                let mut ps = [$zero; LANES];
                let mut qs = [$zero; LANES];
                for source in data.iter().rev() {
                    for lane in 0..LANES {
                        // SAFETY: a stride from `at` on is within `p`, and the others are as long.
                        let more = unsafe { $load(source.as_ptr().add(at + WIDTH * lane).cast()) };
                        ps[lane] = $xor(ps[lane], more);
                        qs[lane] = $xor($double(qs[lane], constant), more);
                    }
                }
                for lane in 0..LANES {
                    // SAFETY: within `p` and `q`, and aligned if they are streamed.
                    unsafe {
                        let p: *mut $vector = p.as_mut_ptr().add(at + WIDTH * lane).cast();
                        let q: *mut $vector = q.as_mut_ptr().add(at + WIDTH * lane).cast();
                        if stream {
                            $stream(p, ps[lane]);
                            $stream(q, qs[lane]);
                        } else {
                            $store(p, ps[lane]);
                            $store(q, qs[lane]);
                        }
                    }
                }
                at += WIDTH * LANES;
            }
            syndrome_edge(p, q, data, head + body..p.len());
            if stream {
                // As in the sums.
                _mm_sfence();
            }
        }
    };
}

/// The bytes `range` of a sum by the twin's rule.
pub(super) fn edge(into: &mut [u8], terms: &[Term<'_>], range: std::ops::Range<usize>) {
    let terms: smallvec::SmallVec<[_; 16]> = terms
        .iter()
        .map(|(factor, source)| (*factor, &source[range.clone()]))
        .collect();
    scalar::sum(&mut into[range], &terms);
}

/// The bytes `range` of both parities by the twin's rule.
pub(super) fn syndrome_edge(
    p: &mut [u8],
    q: &mut [u8],
    data: &[&[u8]],
    range: std::ops::Range<usize>,
) {
    let data: smallvec::SmallVec<[_; 16]> =
        data.iter().map(|source| &source[range.clone()]).collect();
    scalar::syndrome(&mut p[range.clone()], &mut q[range], &data);
}

#[target_feature(enable = "ssse3")]
fn spread_ssse3(halves: &Halves) -> (__m128i, __m128i) {
    // SAFETY: each half is 16 bytes.
    unsafe {
        (
            _mm_loadu_si128(halves.low.as_ptr().cast()),
            _mm_loadu_si128(halves.high.as_ptr().cast()),
        )
    }
}

#[target_feature(enable = "ssse3")]
fn product_ssse3(value: __m128i, (low, high): (__m128i, __m128i)) -> __m128i {
    let mask = _mm_set1_epi8(0x0f);
    let from_low = _mm_shuffle_epi8(low, _mm_and_si128(value, mask));
    let from_high = _mm_shuffle_epi8(high, _mm_and_si128(_mm_srli_epi64::<4>(value), mask));
    _mm_xor_si128(from_low, from_high)
}

#[target_feature(enable = "ssse3")]
fn double_ssse3(value: __m128i, polynomial: __m128i) -> __m128i {
    let overflow = _mm_cmpgt_epi8(_mm_setzero_si128(), value);
    _mm_xor_si128(
        _mm_add_epi8(value, value),
        _mm_and_si128(overflow, polynomial),
    )
}

#[target_feature(enable = "avx2")]
fn spread_avx2(halves: &Halves) -> (__m256i, __m256i) {
    let (low, high) = spread_ssse3(halves);
    (
        _mm256_broadcastsi128_si256(low),
        _mm256_broadcastsi128_si256(high),
    )
}

#[target_feature(enable = "avx2")]
fn product_avx2(value: __m256i, (low, high): (__m256i, __m256i)) -> __m256i {
    let mask = _mm256_set1_epi8(0x0f);
    let from_low = _mm256_shuffle_epi8(low, _mm256_and_si256(value, mask));
    let from_high =
        _mm256_shuffle_epi8(high, _mm256_and_si256(_mm256_srli_epi64::<4>(value), mask));
    _mm256_xor_si256(from_low, from_high)
}

#[target_feature(enable = "avx2")]
fn double_avx2(value: __m256i, polynomial: __m256i) -> __m256i {
    let overflow = _mm256_cmpgt_epi8(_mm256_setzero_si256(), value);
    _mm256_xor_si256(
        _mm256_add_epi8(value, value),
        _mm256_and_si256(overflow, polynomial),
    )
}

#[target_feature(enable = "avx512f,avx512bw")]
fn spread_avx512(halves: &Halves) -> (__m512i, __m512i) {
    let (low, high) = spread_ssse3(halves);
    (_mm512_broadcast_i32x4(low), _mm512_broadcast_i32x4(high))
}

#[target_feature(enable = "avx512f,avx512bw")]
fn product_avx512(value: __m512i, (low, high): (__m512i, __m512i)) -> __m512i {
    let mask = _mm512_set1_epi8(0x0f);
    let from_low = _mm512_shuffle_epi8(low, _mm512_and_si512(value, mask));
    let from_high =
        _mm512_shuffle_epi8(high, _mm512_and_si512(_mm512_srli_epi64::<4>(value), mask));
    _mm512_xor_si512(from_low, from_high)
}

#[target_feature(enable = "avx512f,avx512bw")]
fn double_avx512(value: __m512i, polynomial: __m512i) -> __m512i {
    let overflow = _mm512_movepi8_mask(value);
    let doubled = _mm512_add_epi8(value, value);
    _mm512_xor_si512(doubled, _mm512_maskz_mov_epi8(overflow, polynomial))
}

sum!(
    sum_ssse3,
    "ssse3",
    __m128i,
    _mm_setzero_si128(),
    _mm_loadu_si128,
    _mm_storeu_si128,
    _mm_stream_si128,
    _mm_xor_si128,
    halves,
    spread_ssse3,
    product_ssse3
);
sum!(
    sum_avx2,
    "avx2",
    __m256i,
    _mm256_setzero_si256(),
    _mm256_loadu_si256,
    _mm256_storeu_si256,
    _mm256_stream_si256,
    _mm256_xor_si256,
    halves,
    spread_avx2,
    product_avx2
);
sum!(
    sum_avx512,
    "avx512f,avx512bw",
    __m512i,
    _mm512_setzero_si512(),
    _mm512_loadu_si512,
    _mm512_storeu_si512,
    _mm512_stream_si512,
    _mm512_xor_si512,
    halves,
    spread_avx512,
    product_avx512
);

syndrome!(
    syndrome_ssse3,
    "ssse3",
    __m128i,
    _mm_setzero_si128(),
    _mm_set1_epi8(POLYNOMIAL as i8),
    _mm_loadu_si128,
    _mm_storeu_si128,
    _mm_stream_si128,
    _mm_xor_si128,
    double_ssse3
);
syndrome!(
    syndrome_avx2,
    "avx2",
    __m256i,
    _mm256_setzero_si256(),
    _mm256_set1_epi8(POLYNOMIAL as i8),
    _mm256_loadu_si256,
    _mm256_storeu_si256,
    _mm256_stream_si256,
    _mm256_xor_si256,
    double_avx2
);
syndrome!(
    syndrome_avx512,
    "avx512f,avx512bw",
    __m512i,
    _mm512_setzero_si512(),
    _mm512_set1_epi8(POLYNOMIAL as i8),
    _mm512_loadu_si512,
    _mm512_storeu_si512,
    _mm512_stream_si512,
    _mm512_xor_si512,
    double_avx512
);
