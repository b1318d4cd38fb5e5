//! Where the headers of an IP packet are, and the few fields that differ between segments.

use crate::checksum::Sum;
use crate::ethernet::octets;

const V4_HEADER: usize = 20;
const V6_HEADER: usize = 40;

pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const TCP_HEADER: usize = 20;
pub(super) const UDP_HEADER: usize = 8;
pub(super) const TCP_CHECKSUM: usize = 16;
pub(super) const UDP_CHECKSUM: usize = 6;
/// Where TCP's flags are.
pub(super) const TCP_FLAGS: usize = 13;

/// Where the headers of a packet are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layers {
    pub(super) is_v4: bool,
    pub(super) is_tcp: bool,
    /// Where TCP or UDP begins.
    pub(super) transport: usize,
    /// Where the payload begins.
    pub(super) payload: usize,
}

impl Layers {
    /// Reads a packet whose transport header begins at `transport`; `None` if its headers are not all there.
    pub(super) fn at(packet: &[u8], transport: usize, is_tcp: bool) -> Option<Self> {
        let is_v4 = match packet.first()? >> 4 {
            4 => true,
            6 => false,
            _ => return None,
        };
        let least = if is_v4 { V4_HEADER } else { V6_HEADER };
        let whole = if is_v4 {
            usize::from(packet[0] & 0x0f) * 4 == transport
        } else {
            true
        };
        let fixed = if is_tcp { TCP_HEADER } else { UDP_HEADER };
        if transport < least || !whole || packet.len() < transport + fixed {
            return None;
        }
        let header = match is_tcp {
            true => usize::from(packet[transport + 12] >> 4) * 4,
            false => UDP_HEADER,
        };
        let payload = transport + header;
        (header >= fixed && payload <= packet.len()).then_some(Self {
            is_v4,
            is_tcp,
            transport,
            payload,
        })
    }

    /// Reads a packet of TCP or UDP without IP options or extensions, that is no fragment and says the length that it has.
    pub(super) fn plain(packet: &[u8]) -> Option<Self> {
        let (transport, protocol, length) = match packet.first()? {
            0x45 if packet.len() >= V4_HEADER => {
                let is_fragment = u16::from_be_bytes(octets(packet, 6)) & 0x3fff != 0;
                let length = usize::from(u16::from_be_bytes(octets(packet, 2)));
                (!is_fragment).then_some((V4_HEADER, packet[9], length))?
            }
            first if first >> 4 == 6 && packet.len() >= V6_HEADER => {
                let length = V6_HEADER + usize::from(u16::from_be_bytes(octets(packet, 4)));
                (V6_HEADER, packet[6], length)
            }
            _ => return None,
        };
        let known = protocol == TCP || protocol == UDP;
        (known && length == packet.len())
            .then(|| Self::at(packet, transport, protocol == TCP))
            .flatten()
    }

    pub(super) fn checksum_place(&self) -> usize {
        self.transport
            + if self.is_tcp {
                TCP_CHECKSUM
            } else {
                UDP_CHECKSUM
            }
    }

    /// The sum of the pseudo header for `length` bytes from the transport header on.
    pub(super) fn pseudo_header(&self, packet: &[u8], length: usize) -> Sum {
        let (addresses, protocol) = (
            if self.is_v4 {
                &packet[12..20]
            } else {
                &packet[8..40]
            },
            if self.is_tcp { TCP } else { UDP },
        );
        Sum::default()
            .bytes(addresses)
            .word(u16::from(protocol))
            .word(length as u16)
    }

    /// Writes the lengths and the IP header's checksum of a packet of `length` bytes, which is below 64 KiB.
    pub(super) fn set_length(&self, packet: &mut [u8], length: usize) {
        if self.is_v4 {
            packet[2..4].copy_from_slice(&(length as u16).to_be_bytes());
            packet[10..12].fill(0);
            let checksum = Sum::default().bytes(&packet[..self.transport]).finish();
            packet[10..12].copy_from_slice(&checksum.to_be_bytes());
        } else {
            let length = (length - V6_HEADER) as u16;
            packet[4..6].copy_from_slice(&length.to_be_bytes());
        }
        if !self.is_tcp {
            let length = (length - self.transport) as u16;
            packet[self.transport + 4..self.transport + 6].copy_from_slice(&length.to_be_bytes());
        }
    }

    /// Fills in the checksum of TCP or UDP.
    pub(super) fn set_checksum(&self, packet: &mut [u8]) {
        let place = self.checksum_place();
        packet[place..place + 2].fill(0);
        let checksum = self
            .pseudo_header(packet, packet.len() - self.transport)
            .bytes(&packet[self.transport..])
            .finish();
        let checksum = if checksum == 0 { 0xffff } else { checksum };
        packet[place..place + 2].copy_from_slice(&checksum.to_be_bytes());
    }

    /// Whether all checksums are there and fit.
    pub(super) fn checksums_fit(&self, packet: &[u8]) -> bool {
        let place = self.checksum_place();
        let ip = !self.is_v4 || Sum::default().bytes(&packet[..self.transport]).finish() == 0;
        let there = self.is_tcp || octets(packet, place) != [0, 0];
        let sum = self.pseudo_header(packet, packet.len() - self.transport);
        ip && there && sum.bytes(&packet[self.transport..]).finish() == 0
    }

    pub(super) fn sequence(&self, packet: &[u8]) -> u32 {
        u32::from_be_bytes(octets(packet, self.transport + 4))
    }
}
