//! Forms for x86-64: SSE, AVX2, AVX-512 and GFNI.
//!
//! All walk their destination in strides of a few registers, and for each stride through all sources, so that every byte
//! is loaded once and stored once. Loads may be unaligned; streaming stores need an aligned destination, so the walk
//! starts at its first aligned byte, and what is before and behind is done by the twin's rule.

mod gfni;
mod products;
mod xor;

use super::{Kernel, scalar};

/// `ternarylogic` constant for the exclusive or of three.
const XOR3: i32 = 0x96;
/// Registers of a stride of the exclusive or: eight of 64 bytes are in flight at once, which hides the latency of memory.
const LANES: usize = 8;

/// The kernels of this processor, best first.
pub(super) fn kernels() -> Vec<Kernel> {
    let mut found = Vec::new();
    let wide = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw");
    if wide && is_x86_feature_detected!("gfni") {
        found.push(Kernel {
            name: "gfni",
            // SAFETY: AVX-512F, AVX-512BW and GFNI were found; the caller of a kernel passes slices of one length.
            xor: |into, sources, stream| unsafe { xor::avx512(into, sources, stream) },
            // SAFETY: as above.
            sum: |into, terms, stream| unsafe { gfni::sum(into, terms, stream) },
            // SAFETY: as above.
            syndrome: |p, q, data, stream| unsafe { gfni::syndrome(p, q, data, stream) },
        });
    }
    if wide {
        found.push(Kernel {
            name: "avx512",
            // SAFETY: AVX-512F and AVX-512BW were found; the caller of a kernel passes slices of one length.
            xor: |into, sources, stream| unsafe { xor::avx512(into, sources, stream) },
            // SAFETY: as above.
            sum: |into, terms, stream| unsafe { products::sum_avx512(into, terms, stream) },
            // SAFETY: as above.
            syndrome: |p, q, data, stream| unsafe { products::syndrome_avx512(p, q, data, stream) },
        });
    }
    if is_x86_feature_detected!("avx2") {
        found.push(Kernel {
            name: "avx2",
            // SAFETY: AVX2 was found; the caller of a kernel passes slices of one length.
            xor: |into, sources, stream| unsafe { xor::avx2(into, sources, stream) },
            // SAFETY: as above.
            sum: |into, terms, stream| unsafe { products::sum_avx2(into, terms, stream) },
            // SAFETY: as above.
            syndrome: |p, q, data, stream| unsafe { products::syndrome_avx2(p, q, data, stream) },
        });
    }
    if is_x86_feature_detected!("ssse3") {
        found.push(Kernel {
            name: "ssse3",
            // SAFETY: SSSE3 was found; the caller of a kernel passes slices of one length.
            xor: |into, sources, stream| unsafe { xor::sse2(into, sources, stream) },
            // SAFETY: as above.
            sum: |into, terms, stream| unsafe { products::sum_ssse3(into, terms, stream) },
            // SAFETY: as above.
            syndrome: |p, q, data, stream| unsafe { products::syndrome_ssse3(p, q, data, stream) },
        });
    }
    found.push(Kernel {
        name: "sse2",
        // SAFETY: x86-64 has SSE2; the caller of a kernel passes slices of one length.
        xor: |into, sources, stream| unsafe { xor::sse2(into, sources, stream) },
        sum: |into, terms, _| scalar::sum(into, terms),
        syndrome: |p, q, data, _| scalar::syndrome(p, q, data),
    });
    found
}

/// The bytes before the first one that is aligned to a register, and those in whole strides of `lanes` registers behind
/// them.
fn cut(into: &[u8], register: usize, lanes: usize) -> (usize, usize) {
    let stride = register * lanes;
    let head = into.as_ptr().align_offset(register).min(into.len());
    let body = (into.len() - head) / stride * stride;
    (head, body)
}
