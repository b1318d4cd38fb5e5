//! The recognition of what a disk already holds.

use weft_block::signature::{in_words, recognise};

pub(super) fn signatures(bytes: &[u8]) {
    let half = bytes.len() / 2;
    let (first, last) = bytes.split_at(half);
    for size in [0, bytes.len() as u64, 1 << 20, (1 << 20) + 511, u64::MAX] {
        let found = recognise(first, last, size);
        let _ = in_words(&found);
        assert!(found.iter().all(|mark| mark.len > 0));
    }
    let _ = recognise(bytes, bytes, bytes.len() as u64);
}
