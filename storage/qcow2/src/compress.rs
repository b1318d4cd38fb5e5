//! Compressed clusters, both ways.
//!
//! A cluster is compressed for itself, without its neighbours: as raw deflate in a window of 4 KiB, which is all that QEMU
//! gives its reader, or as a Zstandard frame. The compressed bytes are read in whole sectors, so rubbish of up to a
//! sector may follow them; what counts is that they make exactly one cluster (QEMU's `docs/interop/qcow2.txt`,
//! "Compressed Clusters Descriptor").
//!
//! Each thread keeps the memory that it worked with: some hundred KiB for deflate, a few MiB for Zstandard.

use std::cell::RefCell;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use weft_block::{Error, ErrorKind, Result};
use zstd_safe::{CCtx, CParameter, DCtx, DParameter, InBuffer, OutBuffer, ResetDirective};

use crate::format::CompressionType;

/// The base-2 logarithm of deflate's window. QEMU inflates with this one, so nothing may reach farther back.
const WINDOW_BITS: u8 = 12;

/// The largest window of a Zstandard frame that is taken, as its logarithm: eight of the largest clusters. A hostile frame
/// gets no more memory than this.
const ZSTD_WINDOW_BITS: u32 = 24;

/// Zstandard's own default, which QEMU takes.
const ZSTD_LEVEL: i32 = 3;

thread_local! {
    static DEFLATE: RefCell<Option<Compress>> = const { RefCell::new(None) };
    static INFLATE: RefCell<Option<Decompress>> = const { RefCell::new(None) };
    static ZSTD: RefCell<Option<CCtx<'static>>> = const { RefCell::new(None) };
    static UNZSTD: RefCell<Option<DCtx<'static>>> = const { RefCell::new(None) };
}

/// Compresses a cluster. Nothing if that saves no byte: then it is stored as it is.
pub fn compress(kind: CompressionType, cluster: &[u8]) -> Option<Vec<u8>> {
    let room = cluster.len().checked_sub(1)?;
    match kind {
        CompressionType::Zlib => deflate(cluster, room),
        CompressionType::Zstd => zstd(cluster, room),
    }
}

/// Fills `cluster` with what `input` was made of.
///
/// # Errors
/// `Corrupt` unless it makes exactly one cluster. Whether the stream would go on is not asked, as QEMU does not ask.
pub fn decompress(kind: CompressionType, input: &[u8], cluster: &mut [u8]) -> Result<()> {
    let filled = match kind {
        CompressionType::Zlib => inflate(input, cluster),
        CompressionType::Zstd => unzstd(input, cluster),
    };
    filled.ok_or_else(|| {
        let sentence = "a compressed cluster is damaged: its data makes no whole cluster";
        Error::new(ErrorKind::Corrupt, sentence)
    })
}

fn deflate(cluster: &[u8], room: usize) -> Option<Vec<u8>> {
    let mut out = vec![0; room];
    let len = DEFLATE.with_borrow_mut(|kept| {
        let state = kept.get_or_insert_with(|| {
            Compress::new_with_window_bits(Compression::default(), false, WINDOW_BITS)
        });
        state.reset();
        if let Ok(Status::StreamEnd) = state.compress(cluster, &mut out, FlushCompress::Finish) {
            return usize::try_from(state.total_out()).ok();
        }
        // zlib-rs 0.6.8 does not reset the output that a stream without an end has left, and panics later.
        *kept = None;
        None
    })?;
    out.truncate(len);
    Some(out)
}

fn inflate(input: &[u8], cluster: &mut [u8]) -> Option<()> {
    INFLATE.with_borrow_mut(|kept| {
        let state = kept.get_or_insert_with(|| Decompress::new(false));
        state.reset(false);
        let whole = state
            .decompress(input, cluster, FlushDecompress::Finish)
            .is_ok()
            && state.total_out() == cluster.len() as u64;
        whole.then_some(())
    })
}

fn zstd(cluster: &[u8], room: usize) -> Option<Vec<u8>> {
    // Memory that is not zeroed first; the allocator may give more than was asked for.
    let mut out = Vec::with_capacity(room);
    ZSTD.with_borrow_mut(|kept| {
        let state = kept.get_or_insert_with(CCtx::create);
        state.reset(ResetDirective::SessionAndParameters).ok()?;
        state
            .set_parameter(CParameter::CompressionLevel(ZSTD_LEVEL))
            .ok()?;
        state.compress2(&mut out, cluster).ok()
    })?;
    (out.len() <= room).then_some(out)
}

/// The cluster may be made by several frames, one after the other.
fn unzstd(input: &[u8], cluster: &mut [u8]) -> Option<()> {
    UNZSTD.with_borrow_mut(|kept| {
        let state = kept.get_or_insert_with(DCtx::create);
        state.reset(ResetDirective::SessionAndParameters).ok()?;
        state
            .set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_BITS))
            .ok()?;
        let len = cluster.len();
        let mut from = InBuffer::around(input);
        let mut into = OutBuffer::around(cluster);
        while into.pos() < len {
            let before = (from.pos(), into.pos());
            state.decompress_stream(&mut into, &mut from).ok()?;
            if (from.pos(), into.pos()) == before {
                return None;
            }
        }
        Some(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use CompressionType::{Zlib, Zstd};
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    const KINDS: [CompressionType; 2] = [Zlib, Zstd];

    /// Bytes that shrink: a few letters, and copies of what was there long before.
    fn cluster(len: usize, seed: u64) -> Vec<u8> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut bytes: Vec<u8> = (0..len).map(|_| random.random_range(b'a'..b'h')).collect();
        for _ in 0..len / 512 {
            let (from, to) = (random.random_range(0..len), random.random_range(0..len));
            let part = random.random_range(0..=512.min(len - from.max(to)));
            bytes.copy_within(from..from + part, to);
        }
        bytes
    }

    fn noise(len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        ChaCha8Rng::seed_from_u64(1).fill(&mut bytes[..]);
        bytes
    }

    #[test]
    fn what_was_compressed_comes_back_whatever_follows_it() {
        for kind in KINDS {
            for bits in 9..=21 {
                let plain = cluster(1 << bits, bits);
                let mut packed = compress(kind, &plain).unwrap();
                assert!(packed.len() < plain.len());
                let mut back = vec![0xee; plain.len()];
                for _ in 0..2 {
                    decompress(kind, &packed, &mut back).unwrap();
                    assert!(back == plain, "{kind:?}, {bits} bits");
                    packed.extend_from_slice(&noise(512));
                }
            }
        }
    }

    #[test]
    fn noise_is_stored_as_it_is() {
        for kind in KINDS {
            for len in [512, 65536] {
                assert_eq!(compress(kind, &noise(len)), None);
            }
            assert_eq!(compress(kind, &[]), None);
            assert!(compress(kind, &vec![0; 65536]).unwrap().len() < 100);
        }
    }

    /// zlib-rs kept a part of its output buffer through a reset, less and less of it, and panicked in the end.
    #[test]
    fn noise_leaves_nothing_behind() {
        for len in [512, 4096, 65536] {
            for _ in 0..300 {
                assert_eq!(compress(Zlib, &noise(len)), None);
            }
        }
    }

    #[test]
    fn nothing_reaches_back_farther_than_qemus_window() {
        // Noise that comes again after 5000 bytes: only a longer window would find it.
        let part = noise(5000);
        let plain = [&part[..], &part, &part].concat();
        assert_eq!(compress(Zlib, &plain), None);
        let near = [&part[..3000], &part[..3000], &part[..3000]].concat();
        assert!(compress(Zlib, &near).unwrap().len() < 3300);
    }

    #[test]
    fn too_little_and_broken_data_is_corrupt() {
        for kind in KINDS {
            let plain = cluster(65536, 5);
            let packed = compress(kind, &plain).unwrap();
            let mut back = vec![0; plain.len()];
            let half = compress(kind, &plain[..32768]).unwrap();
            for bad in [&packed[..packed.len() / 2], &[], &half, &noise(3000)] {
                let error = decompress(kind, bad, &mut back).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Corrupt);
            }
            // What it was asked after a failure, it answers.
            decompress(kind, &packed, &mut back).unwrap();
            assert!(back == plain);
        }
    }

    #[test]
    fn a_stream_that_would_go_on_fills_the_cluster() {
        for kind in KINDS {
            let plain = cluster(65536, 6);
            let packed = compress(kind, &plain).unwrap();
            let mut back = vec![0; 4096];
            decompress(kind, &packed, &mut back).unwrap();
            assert!(back == plain[..4096]);
        }
    }

    #[test]
    fn several_frames_make_a_cluster() {
        let plain = cluster(65536, 7);
        let parts = [&plain[..1000], &plain[1000..40000], &plain[40000..]];
        let frames: Vec<u8> = parts
            .iter()
            .flat_map(|part| compress(Zstd, part).unwrap())
            .collect();
        let mut back = vec![0; plain.len()];
        decompress(Zstd, &frames, &mut back).unwrap();
        assert!(back == plain);
    }

    #[test]
    fn a_frame_with_a_huge_window_is_refused() {
        // Magic, a header without a content size, and a window of 2 GiB (RFC 8878, section 3.1.1.1).
        let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 21 << 3];
        frame.extend_from_slice(&[0x01, 0x00, 0x00]);
        let error = decompress(Zstd, &frame, &mut [0; 512]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }
}
