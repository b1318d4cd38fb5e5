//! A bitmap in memory: which parts of the disk were written.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use weft_block::{Error, ErrorKind, Result};

/// Bytes that a bitmap may take in memory, as in QEMU.
const MOST_BYTES: u64 = 512 << 20;

/// A bit for each `1 << granularity_bits` bytes of a disk. Setting bits needs no lock.
#[derive(Debug)]
pub(crate) struct Bits {
    granularity_bits: u8,
    /// Bits there are.
    count: u64,
    words: Vec<AtomicU64>,
}

impl Bits {
    /// Clear bits for a disk of `size` bytes.
    ///
    /// # Errors
    /// `Invalid` if they take more memory than is allowed.
    pub(crate) fn new(size: u64, granularity_bits: u8) -> Result<Self> {
        let count = size.div_ceil(1 << granularity_bits);
        if count.div_ceil(8) > MOST_BYTES {
            let sentence = format!(
                "a bitmap with a bit for each {} bytes is too large for a disk of {size} bytes",
                1u64 << granularity_bits
            );
            return Err(Error::new(ErrorKind::Invalid, sentence));
        }
        let words = (0..count.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Ok(Self {
            granularity_bits,
            count,
            words,
        })
    }

    /// Sets the bits that `range` of the disk touches.
    pub(crate) fn set(&self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let first = range.start >> self.granularity_bits;
        let end = (((range.end - 1) >> self.granularity_bits) + 1).min(self.count);
        let mut bit = first;
        while bit < end {
            let within = bit % 64;
            let some = (end - bit).min(64 - within);
            let mask = (u64::MAX >> (64 - some)) << within;
            let word = &self.words[(bit / 64) as usize];
            // Most writes hit what is set already; that is a read that caches share.
            if word.load(Ordering::Relaxed) & mask != mask {
                word.fetch_or(mask, Ordering::Relaxed);
            }
            bit += some;
        }
    }

    /// Clears all.
    pub(crate) fn clear(&self) {
        self.words
            .iter()
            .for_each(|word| word.store(0, Ordering::Relaxed));
    }

    /// Bits that are set.
    pub(crate) fn set_count(&self) -> u64 {
        self.words
            .iter()
            .map(|word| u64::from(word.load(Ordering::Relaxed).count_ones()))
            .sum()
    }

    /// The parts of a disk of `size` bytes whose bits are set, in order.
    pub(crate) fn runs(&self, size: u64) -> Vec<Range<u64>> {
        let mut runs: Vec<Range<u64>> = Vec::new();
        for (index, word) in self.words.iter().enumerate() {
            let mut word = word.load(Ordering::Relaxed);
            let mut bit = index as u64 * 64;
            while word != 0 {
                let skip = word.trailing_zeros();
                word = word.checked_shr(skip).unwrap_or(0);
                bit += u64::from(skip);
                let some = word.trailing_ones();
                word = word.checked_shr(some).unwrap_or(0);
                let start = bit << self.granularity_bits;
                bit += u64::from(some);
                let end = (bit << self.granularity_bits).min(size);
                match runs.last_mut() {
                    Some(last) if last.end == start => last.end = end,
                    _ => runs.push(start..end),
                }
            }
        }
        runs
    }

    /// The same bits for a disk of another size; none is set for what is new.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub(crate) fn resized(&self, size: u64) -> Result<Self> {
        let new = Self::new(size, self.granularity_bits)?;
        self.runs(size).into_iter().for_each(|run| new.set(run));
        Ok(new)
    }

    /// The bits that a cluster of `len` bytes holds, the first in the lowest bit of its first byte.
    pub(crate) fn cluster(&self, index: u64, len: u64) -> Vec<u8> {
        let words = (len / 8) as usize;
        let first = index as usize * words;
        let words = self.words.iter().skip(first).take(words);
        let mut bytes: Vec<u8> = words
            .flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes())
            .collect();
        bytes.resize(len as usize, 0);
        bytes
    }

    /// Takes the bits of a cluster of bytes.
    pub(crate) fn load(&self, index: u64, bytes: &[u8]) {
        let first = index as usize * (bytes.len() / 8);
        for (number, chunk) in bytes.chunks_exact(8).enumerate() {
            let mut raw = [0; 8];
            raw.copy_from_slice(chunk);
            if let Some(word) = self.words.get(first + number) {
                word.store(u64::from_le_bytes(raw), Ordering::Relaxed);
            }
        }
        // Nothing is set behind the last bit.
        if let Some(last) = self.words.last().filter(|_| !self.count.is_multiple_of(64)) {
            last.fetch_and(u64::MAX >> (64 - self.count % 64), Ordering::Relaxed);
        }
    }

    /// Whether the cluster with `index` has all of its bits set.
    pub(crate) fn is_full(&self, index: u64, len: u64) -> bool {
        let bits = len * 8;
        let end = ((index + 1) * bits).min(self.count);
        let first = index * bits;
        (first..end).step_by(64).all(|bit| {
            let some = (end - bit).min(64);
            let mask = u64::MAX >> (64 - some);
            self.words[(bit / 64) as usize].load(Ordering::Relaxed) & mask == mask
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_is_told_in_runs() {
        let bits = Bits::new(1 << 20, 12).unwrap();
        bits.set(0..1);
        bits.set(5 * 4096..70 * 4096);
        bits.set((1 << 20) - 1..1 << 20);
        assert_eq!(
            bits.runs(1 << 20),
            [0..4096, 5 * 4096..70 * 4096, (1 << 20) - 4096..1 << 20]
        );
        assert_eq!(bits.set_count(), 1 + 65 + 1);
        let other = Bits::new(1 << 20, 12).unwrap();
        other.load(0, &bits.cluster(0, 4096));
        assert_eq!(other.runs(1 << 20), bits.runs(1 << 20));
        assert!(!bits.is_full(0, 4096));
        bits.set(0..1 << 20);
        assert!(bits.is_full(0, 4096));
        let shorter = bits.resized(4096 * 3).unwrap().runs(4096 * 3);
        assert!(shorter.len() == 1 && shorter[0] == (0..3 * 4096));
        bits.clear();
        assert!(bits.runs(1 << 20).is_empty());
    }
}
