//! UDP over IPv4 (RFC 768).

use std::net::Ipv4Addr;

use crate::Malformed;
use crate::checksum::Sum;
use crate::ethernet::octets;

/// Bytes before the payload.
pub const HEADER: usize = 8;
/// The most payload that one datagram carries over IPv4.
pub const LARGEST_PAYLOAD: usize = crate::ipv4::LARGEST_PAYLOAD - HEADER;

/// UDP's number among the IP protocols.
const PROTOCOL: u8 = 17;

/// Bytes that hold the header and all of the payload that it promises.
#[derive(Debug, Clone, Copy)]
pub struct Packet<'a> {
    bytes: &'a [u8],
}

impl<'a> Packet<'a> {
    /// [`Malformed::Truncated`] or [`Malformed::Length`]. Bytes behind the datagram are cut off.
    pub fn new(bytes: &'a [u8]) -> Result<Self, Malformed> {
        if bytes.len() < HEADER {
            return Err(Malformed::Truncated);
        }
        let length = usize::from(u16::from_be_bytes(octets(bytes, 4)));
        if length < HEADER {
            return Err(Malformed::Length);
        }
        let bytes = bytes.get(..length).ok_or(Malformed::Truncated)?;
        Ok(Self { bytes })
    }

    /// From which port.
    pub fn source_port(&self) -> u16 {
        u16::from_be_bytes(octets(self.bytes, 0))
    }

    /// To which port.
    pub fn destination_port(&self) -> u16 {
        u16::from_be_bytes(octets(self.bytes, 2))
    }

    /// Whether the checksum fits between these addresses, or is left out (zero).
    pub fn checksum_fits(&self, source: Ipv4Addr, destination: Ipv4Addr) -> bool {
        let left_out = octets(self.bytes, 6) == [0, 0];
        left_out || self.sum(source, destination).finish() == 0
    }

    /// All behind the header.
    pub fn payload(&self) -> &'a [u8] {
        &self.bytes[HEADER..]
    }

    fn sum(&self, source: Ipv4Addr, destination: Ipv4Addr) -> Sum {
        // The length field holds it, so it fits.
        let length = self.bytes.len() as u16;
        Sum::default()
            .pseudo_header(source, destination, PROTOCOL, length)
            .bytes(self.bytes)
    }
}

/// A valid header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repr {
    /// From which port.
    pub source_port: u16,
    /// To which port.
    pub destination_port: u16,
}

impl Repr {
    /// [`Malformed::Checksum`] if it does not fit between these addresses.
    pub fn parse(
        packet: &Packet<'_>,
        source: Ipv4Addr,
        destination: Ipv4Addr,
    ) -> Result<Self, Malformed> {
        if !packet.checksum_fits(source, destination) {
            return Err(Malformed::Checksum);
        }
        Ok(Self {
            source_port: packet.source_port(),
            destination_port: packet.destination_port(),
        })
    }

    /// Appends header and payload, with a checksum.
    ///
    /// # Panics
    /// If the payload is longer than [`LARGEST_PAYLOAD`].
    pub fn emit(
        &self,
        frame: &mut Vec<u8>,
        source: Ipv4Addr,
        destination: Ipv4Addr,
        payload: &[u8],
    ) {
        assert!(
            payload.len() <= LARGEST_PAYLOAD,
            "a datagram has at most 65,507 bytes"
        );
        let start = frame.len();
        let length = (HEADER + payload.len()) as u16;
        frame.extend_from_slice(&self.source_port.to_be_bytes());
        frame.extend_from_slice(&self.destination_port.to_be_bytes());
        frame.extend_from_slice(&length.to_be_bytes());
        frame.extend_from_slice(&[0, 0]);
        frame.extend_from_slice(payload);
        let sum = Packet {
            bytes: &frame[start..],
        }
        .sum(source, destination)
        .finish();
        // A sum of zero is sent as all ones, for zero says that there is none.
        let checksum = if sum == 0 { 0xffff } else { sum };
        frame[start + 6..start + 8].copy_from_slice(&checksum.to_be_bytes());
    }
}
