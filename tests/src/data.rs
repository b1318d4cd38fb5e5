//! Bytes that can be made again from a seed, and their checksums by a program that others made.

use std::path::Path;

use anyhow::{Context as _, Result};

use crate::run;

/// A small generator (SplitMix64): the same seed gives the same sequence on every machine and in every version.
#[derive(Debug, Clone)]
pub struct Sequence(u64);

impl Sequence {
    /// The sequence of `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is not zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.draw() % bound
    }
}

/// `len` bytes of the sequence of `seed`.
pub fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut sequence = Sequence::new(seed);
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend_from_slice(&sequence.draw().to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// The SHA-256 of a file in hexadecimal, by `sha256sum`, as a script in the Linux guest computes it.
///
/// # Errors
/// If the file cannot be read.
pub fn sha256(file: &Path) -> Result<String> {
    let printed = run("sha256sum", ["--".as_ref(), file.as_os_str()])?;
    let sum = printed.split_whitespace().next();
    Ok(sum
        .context("sha256sum printed nothing")?
        .trim_start_matches('\\')
        .into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_bytes_for_ever() {
        // The first outputs of SplitMix64 with seed 1234567, as its reference implementation prints them.
        let mut sequence = Sequence::new(1_234_567);
        assert_eq!(sequence.draw(), 6_457_827_717_110_365_317);
        assert_eq!(sequence.draw(), 3_203_168_211_198_807_973);
        assert_eq!(bytes(7, 1000), bytes(7, 2000)[..1000]);
        assert_ne!(bytes(7, 16), bytes(8, 16));
    }
}
