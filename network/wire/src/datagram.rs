//! A UDP datagram with all the headers around it.

use std::net::SocketAddrV4;

use crate::ethernet::EtherType;
use crate::ipv4::Protocol;
use crate::{MacAddress, Malformed, ethernet, ipv4, udp};

/// Who sends a datagram to whom, on the link and above it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UdpFrame {
    /// The station that sends.
    pub source_mac: MacAddress,
    /// The station or stations that are to take it.
    pub destination_mac: MacAddress,
    /// Address and port that send.
    pub source: SocketAddrV4,
    /// Address and port that are to take it.
    pub destination: SocketAddrV4,
}

impl UdpFrame {
    /// The headers and the payload of a frame with a whole, valid UDP datagram in it.
    pub fn parse(frame: &[u8]) -> Result<(Self, &[u8]), Malformed> {
        let packet = ethernet::Packet::new(frame)?;
        let link = ethernet::Repr::parse(&packet)?;
        if link.ether_type != EtherType::Ipv4 {
            return Err(Malformed::Version);
        }
        let packet = ipv4::Packet::new(packet.payload())?;
        let ip = ipv4::Repr::parse(&packet)?;
        if ip.protocol != Protocol::Udp {
            return Err(Malformed::Version);
        }
        let packet = udp::Packet::new(packet.payload())?;
        let ports = udp::Repr::parse(&packet, ip.source, ip.destination)?;
        let parsed = Self {
            source_mac: link.source,
            destination_mac: link.destination,
            source: SocketAddrV4::new(ip.source, ports.source_port),
            destination: SocketAddrV4::new(ip.destination, ports.destination_port),
        };
        Ok((parsed, packet.payload()))
    }

    /// The whole frame, with both checksums.
    ///
    /// # Panics
    /// If the payload is longer than [`udp::LARGEST_PAYLOAD`].
    pub fn emit(&self, payload: &[u8]) -> Vec<u8> {
        let (from, to) = (*self.source.ip(), *self.destination.ip());
        let headers = ethernet::HEADER + ipv4::HEADER + udp::HEADER;
        let mut frame = Vec::with_capacity(headers + payload.len());
        ethernet::Repr {
            destination: self.destination_mac,
            source: self.source_mac,
            ether_type: EtherType::Ipv4,
        }
        .emit(&mut frame);
        ipv4::Repr {
            source: from,
            destination: to,
            protocol: Protocol::Udp,
            ttl: ipv4::DEFAULT_TTL,
            payload: udp::HEADER + payload.len(),
        }
        .emit(&mut frame);
        udp::Repr {
            source_port: self.source.port(),
            destination_port: self.destination.port(),
        }
        .emit(&mut frame, from, to, payload);
        frame
    }
}
