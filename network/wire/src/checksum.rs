//! The Internet checksum (RFC 1071).

use std::net::Ipv4Addr;

/// The ones' complement sum of 16-bit words, not yet folded.
#[derive(Clone, Copy, Default)]
pub(crate) struct Sum(u64);

/// As [`Sum::fold`], of a sum of any words.
fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

impl Sum {
    /// Adds `bytes`, of which an odd last one is padded with zero. Only the last part added may be odd.
    pub(crate) fn bytes(self, bytes: &[u8]) -> Self {
        // The sum is the same in either byte order (RFC 1071, 2), so it is taken in the host's, four words at a time.
        let mut blocks = bytes.chunks_exact(8);
        let native: u64 = (&mut blocks)
            .map(|block| {
                let block = u64::from_ne_bytes(block.first_chunk().copied().unwrap_or_default());
                (block & 0xffff_ffff) + (block >> 32)
            })
            .sum();
        let mut pairs = blocks.remainder().chunks_exact(2);
        let whole: u64 = (&mut pairs)
            .map(|pair| u64::from(u16::from_be_bytes([pair[0], pair[1]])))
            .sum();
        let rest = pairs
            .remainder()
            .first()
            .map_or(0, |&byte| u64::from(byte) << 8);
        Self(self.0 + u64::from(fold(native).to_be()) + whole + rest)
    }

    /// Adds one word.
    pub(crate) fn word(self, word: u16) -> Self {
        Self(self.0 + u64::from(word))
    }

    /// Adds the pseudo header of UDP and TCP over IPv4 (RFC 768).
    pub(crate) fn pseudo_header(
        self,
        source: Ipv4Addr,
        destination: Ipv4Addr,
        protocol: u8,
        length: u16,
    ) -> Self {
        self.bytes(&source.octets())
            .bytes(&destination.octets())
            .word(u16::from(protocol))
            .word(length)
    }

    /// What goes into the checksum field. Over bytes with a right checksum it is 0.
    pub(crate) fn finish(self) -> u16 {
        !self.fold()
    }

    /// The sum itself in 16 bits: what stands in a checksum field that somebody else will fill in.
    pub(crate) fn fold(self) -> u16 {
        fold(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_the_same_as_word_by_word() {
        let bytes: Vec<u8> = (0..2000_u32).map(|n| ((n * n) >> 3) as u8 | 0x80).collect();
        for length in (0..100).chain(1400..1420) {
            let bytes = &bytes[..length];
            let words = bytes.chunks(2).map(|pair| match *pair {
                [high, low] => u64::from(high) << 8 | u64::from(low),
                [high] => u64::from(high) << 8,
                _ => 0,
            });
            let slow = fold(words.sum());
            assert_eq!(Sum::default().bytes(bytes).fold(), slow, "{length}");
        }
    }

    #[test]
    fn the_example_of_rfc_1071() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::default().bytes(&bytes).finish(), !0xddf2);
        assert_eq!(Sum::default().bytes(&[0xab]).finish(), !0xab00);
    }
}
