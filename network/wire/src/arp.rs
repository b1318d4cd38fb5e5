//! ARP for IPv4 over Ethernet (RFC 826).

use std::net::Ipv4Addr;

use crate::ethernet::octets;
use crate::{MacAddress, Malformed};

/// Bytes of a packet for IPv4 over Ethernet.
pub const LENGTH: usize = 28;

/// Asking or telling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Who has the target address?
    Request,
    /// The sender has it.
    Reply,
}

/// Bytes that hold a whole packet.
#[derive(Debug, Clone, Copy)]
pub struct Packet<'a> {
    bytes: &'a [u8],
}

impl<'a> Packet<'a> {
    /// [`Malformed::Truncated`] below 28 bytes; more are padding.
    pub fn new(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let bytes = bytes.get(..LENGTH).ok_or(Malformed::Truncated)?;
        Ok(Self { bytes })
    }

    /// Hardware type, protocol type and their lengths, which are fixed for IPv4 over Ethernet.
    pub fn kind(&self) -> [u8; 6] {
        octets(self.bytes, 0)
    }

    /// 1 for a request, 2 for a reply.
    pub fn operation(&self) -> u16 {
        u16::from_be_bytes(octets(self.bytes, 6))
    }

    /// Who sends.
    pub fn sender_mac(&self) -> MacAddress {
        MacAddress(octets(self.bytes, 8))
    }

    /// Its address; 0.0.0.0 in a probe.
    pub fn sender_ip(&self) -> Ipv4Addr {
        octets::<4>(self.bytes, 14).into()
    }

    /// Who is meant; zero in a request.
    pub fn target_mac(&self) -> MacAddress {
        MacAddress(octets(self.bytes, 18))
    }

    /// The address in question.
    pub fn target_ip(&self) -> Ipv4Addr {
        octets::<4>(self.bytes, 24).into()
    }
}

/// Ethernet (1), IPv4 (0x0800), lengths 6 and 4.
const KIND: [u8; 6] = [0, 1, 8, 0, 6, 4];

/// A valid packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repr {
    /// Asking or telling.
    pub operation: Operation,
    /// Who sends.
    pub sender_mac: MacAddress,
    /// Its address; 0.0.0.0 in a probe (RFC 5227).
    pub sender_ip: Ipv4Addr,
    /// Who is meant; zero in a request.
    pub target_mac: MacAddress,
    /// The address in question.
    pub target_ip: Ipv4Addr,
}

impl Repr {
    /// [`Malformed::Version`] for other protocols and operations than IPv4 over Ethernet, request and reply.
    pub fn parse(packet: &Packet<'_>) -> Result<Self, Malformed> {
        if packet.kind() != KIND {
            return Err(Malformed::Version);
        }
        let operation = match packet.operation() {
            1 => Operation::Request,
            2 => Operation::Reply,
            _ => return Err(Malformed::Version),
        };
        Ok(Self {
            operation,
            sender_mac: packet.sender_mac(),
            sender_ip: packet.sender_ip(),
            target_mac: packet.target_mac(),
            target_ip: packet.target_ip(),
        })
    }

    /// Appends the packet.
    pub fn emit(&self, frame: &mut Vec<u8>) {
        let operation: u16 = match self.operation {
            Operation::Request => 1,
            Operation::Reply => 2,
        };
        frame.extend_from_slice(&KIND);
        frame.extend_from_slice(&operation.to_be_bytes());
        frame.extend_from_slice(&self.sender_mac.octets());
        frame.extend_from_slice(&self.sender_ip.octets());
        frame.extend_from_slice(&self.target_mac.octets());
        frame.extend_from_slice(&self.target_ip.octets());
    }
}
