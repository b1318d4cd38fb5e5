//! Ethernet II frames (IEEE 802.3 clause 3, without the check sequence).

use crate::{MacAddress, Malformed};

/// Bytes before the payload.
pub const HEADER: usize = 14;

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EtherType {
    /// 0x0800.
    Ipv4,
    /// 0x0806.
    Arp,
    /// 0x8100: a VLAN tag follows.
    Vlan,
    /// 0x86dd.
    Ipv6,
    /// Anything else, lengths of 802.3 frames included.
    Other(u16),
}

impl From<u16> for EtherType {
    fn from(value: u16) -> Self {
        match value {
            0x0800 => Self::Ipv4,
            0x0806 => Self::Arp,
            0x8100 => Self::Vlan,
            0x86dd => Self::Ipv6,
            other => Self::Other(other),
        }
    }
}

impl From<EtherType> for u16 {
    fn from(value: EtherType) -> Self {
        match value {
            EtherType::Ipv4 => 0x0800,
            EtherType::Arp => 0x0806,
            EtherType::Vlan => 0x8100,
            EtherType::Ipv6 => 0x86dd,
            EtherType::Other(other) => other,
        }
    }
}

/// Bytes that hold at least a header.
#[derive(Debug, Clone, Copy)]
pub struct Packet<'a> {
    bytes: &'a [u8],
}

impl<'a> Packet<'a> {
    /// [`Malformed::Truncated`] below 14 bytes.
    pub fn new(bytes: &'a [u8]) -> Result<Self, Malformed> {
        if bytes.len() < HEADER {
            return Err(Malformed::Truncated);
        }
        Ok(Self { bytes })
    }

    /// To whom.
    pub fn destination(&self) -> MacAddress {
        MacAddress(octets(self.bytes, 0))
    }

    /// From whom.
    pub fn source(&self) -> MacAddress {
        MacAddress(octets(self.bytes, 6))
    }

    /// What the payload is.
    pub fn ether_type(&self) -> EtherType {
        u16::from_be_bytes(octets(self.bytes, 12)).into()
    }

    /// All behind the header, padding included.
    pub fn payload(&self) -> &'a [u8] {
        &self.bytes[HEADER..]
    }
}

/// A valid header: the source is one station.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repr {
    /// To whom.
    pub destination: MacAddress,
    /// From whom.
    pub source: MacAddress,
    /// What the payload is.
    pub ether_type: EtherType,
}

impl Repr {
    /// [`Malformed::Version`] if the source is a group.
    pub fn parse(packet: &Packet<'_>) -> Result<Self, Malformed> {
        if packet.source().is_multicast() {
            return Err(Malformed::Version);
        }
        Ok(Self {
            destination: packet.destination(),
            source: packet.source(),
            ether_type: packet.ether_type(),
        })
    }

    /// Appends the header.
    pub fn emit(&self, frame: &mut Vec<u8>) {
        frame.extend_from_slice(&self.destination.octets());
        frame.extend_from_slice(&self.source.octets());
        frame.extend_from_slice(&u16::from(self.ether_type).to_be_bytes());
    }
}

/// `N` bytes at `offset`, which the caller has checked to lie inside.
pub(crate) fn octets<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    let mut octets = [0; N];
    octets.copy_from_slice(&bytes[offset..offset + N]);
    octets
}
