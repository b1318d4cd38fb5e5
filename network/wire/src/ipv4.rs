//! IPv4 (RFC 791).

use std::net::Ipv4Addr;

use crate::Malformed;
use crate::checksum::Sum;
use crate::ethernet::octets;

/// Bytes of a header without options.
pub const HEADER: usize = 20;
/// The most payload that one packet carries.
pub const LARGEST_PAYLOAD: usize = 65_535 - HEADER;
/// The hops a packet may take when nobody says otherwise (RFC 1700).
pub const DEFAULT_TTL: u8 = 64;

/// What a packet carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// 1.
    Icmp,
    /// 6.
    Tcp,
    /// 17.
    Udp,
    /// Anything else.
    Other(u8),
}

impl From<u8> for Protocol {
    fn from(value: u8) -> Self {
        match value {
            1 => Self::Icmp,
            6 => Self::Tcp,
            17 => Self::Udp,
            other => Self::Other(other),
        }
    }
}

impl From<Protocol> for u8 {
    fn from(value: Protocol) -> Self {
        match value {
            Protocol::Icmp => 1,
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Other(other) => other,
        }
    }
}

/// Bytes that hold the header and all of the payload that it promises.
#[derive(Debug, Clone, Copy)]
pub struct Packet<'a> {
    bytes: &'a [u8],
    header: usize,
}

impl<'a> Packet<'a> {
    /// [`Malformed::Truncated`] if header or payload is not all there, [`Malformed::Length`] if its length fields
    /// contradict each other. Bytes behind the packet (Ethernet padding) are cut off.
    pub fn new(bytes: &'a [u8]) -> Result<Self, Malformed> {
        if bytes.len() < HEADER {
            return Err(Malformed::Truncated);
        }
        let header = usize::from(bytes[0] & 0x0f) * 4;
        let total = usize::from(u16::from_be_bytes(octets(bytes, 2)));
        if header < HEADER || total < header {
            return Err(Malformed::Length);
        }
        let bytes = bytes.get(..total).ok_or(Malformed::Truncated)?;
        Ok(Self { bytes, header })
    }

    /// 4, if it is IPv4.
    pub fn version(&self) -> u8 {
        self.bytes[0] >> 4
    }

    /// Whether this is a part of a larger packet.
    pub fn is_fragment(&self) -> bool {
        // All but the don't-fragment and the reserved bit.
        u16::from_be_bytes(octets(self.bytes, 6)) & 0x3fff != 0
    }

    /// Hops that remain.
    pub fn ttl(&self) -> u8 {
        self.bytes[8]
    }

    /// What the payload is.
    pub fn protocol(&self) -> Protocol {
        self.bytes[9].into()
    }

    /// From whom.
    pub fn source(&self) -> Ipv4Addr {
        octets::<4>(self.bytes, 12).into()
    }

    /// To whom.
    pub fn destination(&self) -> Ipv4Addr {
        octets::<4>(self.bytes, 16).into()
    }

    /// Whether the header's checksum fits.
    pub fn checksum_fits(&self) -> bool {
        Sum::default().bytes(&self.bytes[..self.header]).finish() == 0
    }

    /// All behind the header.
    pub fn payload(&self) -> &'a [u8] {
        &self.bytes[self.header..]
    }
}

/// A valid, whole packet's header. Options are read over and never written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repr {
    /// From whom.
    pub source: Ipv4Addr,
    /// To whom.
    pub destination: Ipv4Addr,
    /// What the payload is.
    pub protocol: Protocol,
    /// Hops that remain.
    pub ttl: u8,
    /// Bytes of payload, at most [`LARGEST_PAYLOAD`].
    pub payload: usize,
}

impl Repr {
    /// Refuses other versions, wrong checksums and fragments.
    pub fn parse(packet: &Packet<'_>) -> Result<Self, Malformed> {
        if packet.version() != 4 {
            return Err(Malformed::Version);
        }
        if !packet.checksum_fits() {
            return Err(Malformed::Checksum);
        }
        if packet.is_fragment() {
            return Err(Malformed::Fragment);
        }
        Ok(Self {
            source: packet.source(),
            destination: packet.destination(),
            protocol: packet.protocol(),
            ttl: packet.ttl(),
            payload: packet.payload().len(),
        })
    }

    /// Appends the header, which says not to fragment.
    ///
    /// # Panics
    /// If `payload` is more than [`LARGEST_PAYLOAD`].
    pub fn emit(&self, frame: &mut Vec<u8>) {
        assert!(
            self.payload <= LARGEST_PAYLOAD,
            "an IPv4 packet has at most 65,535 bytes"
        );
        let start = frame.len();
        let total = (HEADER + self.payload) as u16;
        frame.extend_from_slice(&[0x45, 0]);
        frame.extend_from_slice(&total.to_be_bytes());
        // Identification 0, for it is never fragmented (RFC 6864), and the don't-fragment bit.
        frame.extend_from_slice(&[0, 0, 0x40, 0, self.ttl, self.protocol.into(), 0, 0]);
        frame.extend_from_slice(&self.source.octets());
        frame.extend_from_slice(&self.destination.octets());
        let checksum = Sum::default().bytes(&frame[start..]).finish();
        frame[start + 10..start + 12].copy_from_slice(&checksum.to_be_bytes());
    }
}
