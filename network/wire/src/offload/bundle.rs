//! Taking together.

use std::ops::Range;

use super::header::{Cut, CutKind, Missing, VnetHeader};
use super::layers::{Layers, TCP_CHECKSUM, TCP_FLAGS, UDP_CHECKSUM};

const ACK: u8 = 0x10;
const PSH: u8 = 0x08;
/// The most segments that a packet of UDP may have (`UDP_MAX_SEGMENTS` of Linux before 6.13).
const MOST_UDP: usize = 64;
/// The longest packet there is.
const LONGEST: usize = 65_535;

/// Packets of one buffer that follow each other in one flow, and go on as one packet.
///
/// The order of packets is kept: whatever does not continue the bundle ends it. A packet whose checksum is wrong or
/// missing stays alone, as it is, so that whoever gets it can see that.
#[derive(Debug, Default)]
pub struct Bundle {
    parts: Vec<Range<usize>>,
    flow: Option<Flow>,
}

#[derive(Debug, Clone, Copy)]
struct Flow {
    layers: Layers,
    /// Bytes of payload of each part but the last.
    size: usize,
    /// Bytes of payload of all.
    payload: usize,
    next_sequence: u32,
    /// Nothing may follow any more.
    closed: bool,
}

impl Bundle {
    /// No packets.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether it has no packets.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Takes the packet that lies at `range` in `buffer`, if it is the first or continues the others; tells whether it
    /// did.
    pub fn offer(&mut self, buffer: &[u8], range: Range<usize>) -> bool {
        let packet = &buffer[range.clone()];
        let Some(first) = self.parts.first() else {
            self.flow = begin(packet);
            self.parts.push(range);
            return true;
        };
        let Some(flow) = &mut self.flow else {
            return false;
        };
        let many = !flow.layers.is_tcp && self.parts.len() >= MOST_UDP;
        if many || !flow.follow(&buffer[first.clone()], packet) {
            return false;
        }
        self.parts.push(range);
        true
    }

    /// Ends the bundle: changes the first packet's headers so that they stand for all, and tells what is left to do.
    /// What is to be written then are [`Bundle::parts`]; afterwards call [`Bundle::clear`].
    pub fn finish(&mut self, buffer: &mut [u8]) -> VnetHeader {
        let (Some(flow), [first, .., last]) = (&self.flow, &self.parts[..]) else {
            return VnetHeader::default();
        };
        let layers = flow.layers;
        let pushed = layers.is_tcp && buffer[last.start + layers.transport + TCP_FLAGS] & PSH != 0;
        let packet = &mut buffer[first.clone()];
        let length = layers.payload + flow.payload;
        layers.set_length(packet, length);
        if pushed {
            packet[layers.transport + TCP_FLAGS] |= PSH;
        }
        let sum = layers
            .pseudo_header(packet, length - layers.transport)
            .fold();
        let place = layers.checksum_place();
        packet[place..place + 2].copy_from_slice(&sum.to_be_bytes());
        VnetHeader {
            missing: Some(Missing {
                start: layers.transport as u16,
                offset: match layers.is_tcp {
                    true => TCP_CHECKSUM as u16,
                    false => UDP_CHECKSUM as u16,
                },
            }),
            cut: Some(Cut {
                kind: match (layers.is_tcp, layers.is_v4) {
                    (false, _) => CutKind::Udp,
                    (true, true) => CutKind::Tcp4,
                    (true, false) => CutKind::Tcp6,
                },
                headers: layers.payload as u16,
                size: flow.size as u16,
            }),
        }
    }

    /// Where the bytes of the packet lie that all have become, one part behind the other.
    pub fn parts(&self) -> impl Iterator<Item = Range<usize>> {
        let skip = self.flow.map_or(0, |flow| flow.layers.payload);
        self.parts.iter().enumerate().map(move |(number, part)| {
            let skip = if number == 0 { 0 } else { skip };
            part.start + skip..part.end
        })
    }

    /// Begins anew.
    pub fn clear(&mut self) {
        self.parts.clear();
        self.flow = None;
    }
}

/// The flow that a packet begins, if others may follow it.
fn begin(packet: &[u8]) -> Option<Flow> {
    let layers = Layers::plain(packet)?;
    let payload = packet.len() - layers.payload;
    if payload == 0 || !may_join(&layers, packet) {
        return None;
    }
    Some(Flow {
        layers,
        size: payload,
        payload,
        next_sequence: layers.sequence(packet).wrapping_add(payload as u32),
        closed: layers.is_tcp && packet[layers.transport + TCP_FLAGS] & PSH != 0,
    })
}

/// Whether a packet is like any other of its flow, and right.
fn may_join(layers: &Layers, packet: &[u8]) -> bool {
    let usual = !layers.is_tcp || packet[layers.transport + TCP_FLAGS] & !PSH == ACK;
    usual && layers.checksums_fit(packet)
}

impl Flow {
    /// Whether `packet` comes next in the flow that `first` has begun; then it counts.
    fn follow(&mut self, first: &[u8], packet: &[u8]) -> bool {
        if self.closed || Layers::plain(packet) != Some(self.layers) {
            return false;
        }
        let layers = self.layers;
        let payload = packet.len() - layers.payload;
        let fits = payload > 0
            && payload <= self.size
            && layers.payload + self.payload + payload <= LONGEST;
        let next = !layers.is_tcp || layers.sequence(packet) == self.next_sequence;
        if !fits || !next || !same_headers(&layers, first, packet) || !may_join(&layers, packet) {
            return false;
        }
        self.payload += payload;
        self.next_sequence = self.next_sequence.wrapping_add(payload as u32);
        let pushed = layers.is_tcp && packet[layers.transport + TCP_FLAGS] & PSH != 0;
        self.closed = pushed || payload < self.size;
        true
    }
}

/// Whether two packets differ only where the segments of one packet may.
fn same_headers(layers: &Layers, one: &[u8], other: &[u8]) -> bool {
    let at = layers.transport;
    let same = |range: Range<usize>| one[range.clone()] == other[range];
    // Not compared: lengths, IPv4's identification and checksum.
    let ip = if layers.is_v4 {
        same(0..2) && same(6..10) && same(12..20)
    } else {
        same(0..4) && same(6..40)
    };
    let ports = same(at..at + 4);
    // Not compared: TCP's sequence number, flags (of which PSH may differ) and checksum.
    let tcp = !layers.is_tcp
        || (same(at + 8..at + TCP_FLAGS)
            && same(at + TCP_FLAGS + 1..at + TCP_CHECKSUM)
            && same(at + TCP_CHECKSUM + 2..layers.payload));
    ip && ports && tcp
}
