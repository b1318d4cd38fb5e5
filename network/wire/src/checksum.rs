//! The Internet checksum (RFC 1071).

use std::net::Ipv4Addr;

/// The ones' complement sum of 16-bit words, not yet folded.
#[derive(Clone, Copy, Default)]
pub(crate) struct Sum(u64);

impl Sum {
    /// Adds `bytes`, of which an odd last one is padded with zero. Only the last part added may be odd.
    pub(crate) fn bytes(self, bytes: &[u8]) -> Self {
        let mut pairs = bytes.chunks_exact(2);
        let whole: u64 = (&mut pairs)
            .map(|pair| u64::from(u16::from_be_bytes([pair[0], pair[1]])))
            .sum();
        let rest = pairs
            .remainder()
            .first()
            .map_or(0, |&byte| u64::from(byte) << 8);
        Self(self.0 + whole + rest)
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
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_1071() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::default().bytes(&bytes).finish(), !0xddf2);
        assert_eq!(Sum::default().bytes(&[0xab]).finish(), !0xab00);
    }
}
