//! As much of an IP packet as a tunnel must know.

use std::net::IpAddr;

const V4_HEADER: usize = 20;
const V6_HEADER: usize = 40;

/// From whom a packet is, for whom, and how long it says that it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IpPacket {
    /// From whom.
    pub source: IpAddr,
    /// For whom.
    pub destination: IpAddr,
    /// Its bytes, at most as many as there were: what lies behind is padding.
    pub length: usize,
}

impl IpPacket {
    /// `None` if it is neither IPv4 nor IPv6, or not all there.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let packet = match bytes.first()? >> 4 {
            4 if bytes.len() >= V4_HEADER => {
                let length = usize::from(u16::from_be_bytes(part(bytes, 2)?));
                (length >= V4_HEADER).then_some(Self {
                    source: part::<4>(bytes, 12)?.into(),
                    destination: part::<4>(bytes, 16)?.into(),
                    length,
                })
            }
            6 if bytes.len() >= V6_HEADER => Some(Self {
                source: part::<16>(bytes, 8)?.into(),
                destination: part::<16>(bytes, 24)?.into(),
                length: V6_HEADER + usize::from(u16::from_be_bytes(part(bytes, 4)?)),
            }),
            _ => None,
        };
        packet.filter(|packet| packet.length <= bytes.len())
    }
}

fn part<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

/// The length of a packet with its padding: a multiple of 16 bytes, but not beyond the MTU, for then the outer packet
/// would be too large. Of a packet of several segments the last one is padded. An MTU of 0 sets no bound.
pub fn padded_length(length: usize, mtu: usize) -> usize {
    if mtu == 0 {
        return length.next_multiple_of(16);
    }
    let last = if length > mtu { length % mtu } else { length };
    length - last + last.next_multiple_of(16).min(mtu)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_versions_and_refuses_the_rest() {
        let mut v4 = [0; 24];
        v4[0] = 0x45;
        v4[3] = 22;
        v4[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        let packet = IpPacket::parse(&v4).unwrap();
        assert_eq!(packet.source.to_string(), "10.0.0.1");
        assert_eq!(packet.destination.to_string(), "10.0.0.2");
        assert_eq!(packet.length, 22);
        assert_eq!(IpPacket::parse(&v4[..21]), None);
        let mut v6 = [0; 50];
        v6[0] = 0x60;
        v6[5] = 10;
        v6[39] = 1;
        let packet = IpPacket::parse(&v6).unwrap();
        assert_eq!(packet.destination.to_string(), "::1");
        assert_eq!(packet.length, 50);
        for bad in [&v6[..49], &[], &[0x45; 19], &[0x50; 60]] {
            assert_eq!(IpPacket::parse(bad), None);
        }
    }

    #[test]
    fn padding_stays_within_the_mtu() {
        assert_eq!(padded_length(0, 1420), 0);
        assert_eq!(padded_length(1, 1420), 16);
        assert_eq!(padded_length(1408, 1420), 1408);
        assert_eq!(padded_length(1409, 1420), 1420);
        assert_eq!(padded_length(1420, 1420), 1420);
        assert_eq!(padded_length(1421, 1420), 1436);
        assert_eq!(padded_length(1409, 0), 1424);
    }
}
