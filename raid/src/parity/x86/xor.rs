//! SSE2, AVX2 and AVX-512 forms of the exclusive or.
//!
//! All three walk the destination in strides of a few registers, and for each stride through all sources, so that
//! every byte is loaded once and stored once. Loads may be unaligned; streaming stores need an aligned destination,
//! so the walk starts at its first aligned byte and the rest is done by the twin's rule, byte by byte.

use std::arch::x86_64::{
    __m128i, __m256i, __m512i, _mm_loadu_si128, _mm_sfence, _mm_storeu_si128, _mm_stream_si128,
    _mm_xor_si128, _mm256_loadu_si256, _mm256_storeu_si256, _mm256_stream_si256, _mm256_xor_si256,
    _mm512_loadu_si512, _mm512_storeu_si512, _mm512_stream_si512, _mm512_ternarylogic_epi64,
    _mm512_xor_si512,
};

use super::{LANES, XOR3, cut};

/// The bytes `range` of the result, one by one: heads and tails are shorter than a stride.
fn edge(into: &mut [u8], sources: &[&[u8]], range: std::ops::Range<usize>) {
    let part = &mut into[range.clone()];
    part.fill(0);
    for source in sources {
        for (sum, byte) in part.iter_mut().zip(&source[range.clone()]) {
            *sum ^= byte;
        }
    }
}

/// # Safety
/// The processor has AVX-512F and every source is as long as `into`.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn avx512(into: &mut [u8], sources: &[&[u8]], stream: bool) {
    const STRIDE: usize = 64 * LANES;
    let Some((first, rest)) = sources.split_first() else {
        into.fill(0);
        return;
    };
    let (head, body) = cut(into, STRIDE / LANES, LANES);
    edge(into, sources, 0..head);
    let (pairs, single) = rest.as_chunks::<2>();
    let mut at = head;
    while at < head + body {
        let mut sum = [zero512(); LANES];
        for (lane, value) in sum.iter_mut().enumerate() {
            // SAFETY: `at + STRIDE` is within `into`, and the sources are as long.
            *value = unsafe { _mm512_loadu_si512(first.as_ptr().add(at + 64 * lane).cast()) };
        }
        for [a, b] in pairs {
            for (lane, value) in sum.iter_mut().enumerate() {
                // SAFETY: as above.
                let (a, b) = unsafe {
                    (
                        _mm512_loadu_si512(a.as_ptr().add(at + 64 * lane).cast()),
                        _mm512_loadu_si512(b.as_ptr().add(at + 64 * lane).cast()),
                    )
                };
                *value = _mm512_ternarylogic_epi64::<XOR3>(*value, a, b);
            }
        }
        for source in single {
            for (lane, value) in sum.iter_mut().enumerate() {
                // SAFETY: as above.
                let more =
                    unsafe { _mm512_loadu_si512(source.as_ptr().add(at + 64 * lane).cast()) };
                *value = _mm512_xor_si512(*value, more);
            }
        }
        for (lane, value) in sum.into_iter().enumerate() {
            // SAFETY: within `into`; `head` makes the place a multiple of 64, which streaming needs.
            unsafe {
                let place: *mut __m512i = into.as_mut_ptr().add(at + 64 * lane).cast();
                if stream {
                    _mm512_stream_si512(place, value);
                } else {
                    _mm512_storeu_si512(place, value);
                }
            }
        }
        at += STRIDE;
    }
    edge(into, sources, head + body..into.len());
    if stream {
        // Streamed lines are ordered for other threads and for devices only by a fence.
        _mm_sfence();
    }
}

#[target_feature(enable = "avx512f")]
fn zero512() -> __m512i {
    std::arch::x86_64::_mm512_setzero_si512()
}

/// # Safety
/// The processor has AVX2 and every source is as long as `into`.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn avx2(into: &mut [u8], sources: &[&[u8]], stream: bool) {
    const STRIDE: usize = 32 * LANES;
    let (head, body) = cut(into, STRIDE / LANES, LANES);
    edge(into, sources, 0..head);
    let mut at = head;
    while at < head + body {
        let mut sum = [std::arch::x86_64::_mm256_setzero_si256(); LANES];
        for source in sources {
            for (lane, value) in sum.iter_mut().enumerate() {
                // SAFETY: `at + STRIDE` is within `into`, and the sources are as long.
                let more =
                    unsafe { _mm256_loadu_si256(source.as_ptr().add(at + 32 * lane).cast()) };
                *value = _mm256_xor_si256(*value, more);
            }
        }
        for (lane, value) in sum.into_iter().enumerate() {
            // SAFETY: within `into`; `head` makes the place a multiple of 32, which streaming needs.
            unsafe {
                let place: *mut __m256i = into.as_mut_ptr().add(at + 32 * lane).cast();
                if stream {
                    _mm256_stream_si256(place, value);
                } else {
                    _mm256_storeu_si256(place, value);
                }
            }
        }
        at += STRIDE;
    }
    edge(into, sources, head + body..into.len());
    if stream {
        // As in `avx512`.
        _mm_sfence();
    }
}

/// # Safety
/// Every source is as long as `into`.
pub(super) unsafe fn sse2(into: &mut [u8], sources: &[&[u8]], stream: bool) {
    const STRIDE: usize = 16 * LANES;
    let (head, body) = cut(into, STRIDE / LANES, LANES);
    edge(into, sources, 0..head);
    let mut at = head;
    while at < head + body {
        // SAFETY: x86-64 has SSE2.
        let mut sum = [unsafe { std::arch::x86_64::_mm_setzero_si128() }; LANES];
        for source in sources {
            for (lane, value) in sum.iter_mut().enumerate() {
                // SAFETY: `at + STRIDE` is within `into`, and the sources are as long.
                *value = unsafe {
                    _mm_xor_si128(
                        *value,
                        _mm_loadu_si128(source.as_ptr().add(at + 16 * lane).cast()),
                    )
                };
            }
        }
        for (lane, value) in sum.into_iter().enumerate() {
            // SAFETY: within `into`; `head` makes the place a multiple of 16, which streaming needs.
            unsafe {
                let place: *mut __m128i = into.as_mut_ptr().add(at + 16 * lane).cast();
                if stream {
                    _mm_stream_si128(place, value);
                } else {
                    _mm_storeu_si128(place, value);
                }
            }
        }
        at += STRIDE;
    }
    edge(into, sources, head + body..into.len());
    if stream {
        // As in `avx512`. SAFETY: x86-64 has SSE.
        unsafe { _mm_sfence() };
    }
}
