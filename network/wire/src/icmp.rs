//! ICMP echo (RFC 792): what ping sends and gets.

use crate::Malformed;
use crate::checksum::Sum;
use crate::ethernet::octets;

/// Bytes before an echo's data.
pub const HEADER: usize = 8;

/// Bytes that hold at least a header.
#[derive(Debug, Clone, Copy)]
pub struct Packet<'a> {
    bytes: &'a [u8],
}

impl<'a> Packet<'a> {
    /// [`Malformed::Truncated`] below 8 bytes.
    pub fn new(bytes: &'a [u8]) -> Result<Self, Malformed> {
        if bytes.len() < HEADER {
            return Err(Malformed::Truncated);
        }
        Ok(Self { bytes })
    }

    /// Type and code.
    pub fn kind(&self) -> (u8, u8) {
        (self.bytes[0], self.bytes[1])
    }

    /// Whether the checksum fits.
    pub fn checksum_fits(&self) -> bool {
        Sum::default().bytes(self.bytes).finish() == 0
    }

    /// The data of an echo.
    pub fn data(&self) -> &'a [u8] {
        &self.bytes[HEADER..]
    }
}

/// Asking or answering.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Echo {
    /// Type 8.
    Request,
    /// Type 0.
    Reply,
}

/// A valid echo.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repr {
    /// Asking or answering.
    pub echo: Echo,
    /// Which ping.
    pub identifier: u16,
    /// Which of its packets.
    pub sequence: u16,
}

impl Repr {
    /// [`Malformed::Version`] for anything but an echo, [`Malformed::Checksum`] for a wrong one.
    pub fn parse(packet: &Packet<'_>) -> Result<Self, Malformed> {
        let echo = match packet.kind() {
            (8, 0) => Echo::Request,
            (0, 0) => Echo::Reply,
            _ => return Err(Malformed::Version),
        };
        if !packet.checksum_fits() {
            return Err(Malformed::Checksum);
        }
        Ok(Self {
            echo,
            identifier: u16::from_be_bytes(octets(packet.bytes, 4)),
            sequence: u16::from_be_bytes(octets(packet.bytes, 6)),
        })
    }

    /// Appends header and data.
    pub fn emit(&self, frame: &mut Vec<u8>, data: &[u8]) {
        let start = frame.len();
        let kind = match self.echo {
            Echo::Request => 8,
            Echo::Reply => 0,
        };
        frame.extend_from_slice(&[kind, 0, 0, 0]);
        frame.extend_from_slice(&self.identifier.to_be_bytes());
        frame.extend_from_slice(&self.sequence.to_be_bytes());
        frame.extend_from_slice(data);
        let checksum = Sum::default().bytes(&frame[start..]).finish();
        frame[start + 2..start + 4].copy_from_slice(&checksum.to_be_bytes());
    }
}
