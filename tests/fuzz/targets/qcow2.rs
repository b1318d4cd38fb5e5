//! Pieces of qcow2 images from strangers.

use weft_qcow2::compress::{compress, decompress};
use weft_qcow2::format::CompressionType;

/// A byte for the kind, a byte for the size of the cluster, and the compressed bytes.
pub(super) fn compressed(bytes: &[u8]) {
    let [kind, size, input @ ..] = bytes else {
        return;
    };
    let kind = match kind % 2 {
        0 => CompressionType::Zlib,
        _ => CompressionType::Zstd,
    };
    let mut cluster = vec![0; 512 << (size % 8)];
    let _ = decompress(kind, input, &mut cluster);
    if let Some(packed) = compress(kind, input) {
        let mut back = vec![0; input.len()];
        decompress(kind, &packed, &mut back).expect("it was compressed here");
        assert_eq!(back, input);
    }
}
