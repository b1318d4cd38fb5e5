//! Cutting.

use super::header::{CutKind, VnetHeader};
use super::layers::{Layers, TCP_CHECKSUM, TCP_FLAGS, UDP_CHECKSUM};
use crate::Malformed;
use crate::ethernet::octets;

const FIN_AND_PSH: u8 = 0x09;
const CWR: u8 = 0x80;

/// The segments of a large packet, each of which can be written on its own.
#[derive(Debug, Clone, Copy)]
pub struct Segments<'a> {
    packet: &'a [u8],
    layers: Layers,
    size: usize,
}

impl<'a> Segments<'a> {
    /// The segments that the header asks for, at least one. [`Malformed::Length`] if header and packet contradict
    /// each other, or the header asks for no cut.
    pub fn new(packet: &'a [u8], header: &VnetHeader) -> Result<Self, Malformed> {
        let (Some(cut), Some(missing)) = (header.cut, header.missing) else {
            return Err(Malformed::Length);
        };
        let is_tcp = cut.kind != CutKind::Udp;
        let place = if is_tcp { TCP_CHECKSUM } else { UDP_CHECKSUM };
        let layers = Layers::at(packet, usize::from(missing.start), is_tcp)
            .filter(|_| cut.size > 0 && usize::from(missing.offset) == place)
            .filter(|layers| match cut.kind {
                CutKind::Tcp4 => layers.is_v4,
                CutKind::Tcp6 => !layers.is_v4,
                CutKind::Udp => true,
            })
            .ok_or(Malformed::Length)?;
        // A segment must be able to say its length.
        let longest = layers.payload + usize::from(cut.size);
        if longest.min(packet.len()) > usize::from(u16::MAX) {
            return Err(Malformed::Length);
        }
        Ok(Self {
            packet,
            layers,
            size: cut.size.into(),
        })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        (self.packet.len() - self.layers.payload)
            .div_ceil(self.size)
            .max(1)
    }

    /// The length of all but the last, which is no longer.
    pub fn longest(&self) -> usize {
        self.packet.len().min(self.layers.payload + self.size)
    }

    /// The bytes of the segment `number`, counted from 0.
    pub fn length(&self, number: usize) -> usize {
        self.layers.payload + self.part(number).len()
    }

    fn part(&self, number: usize) -> &'a [u8] {
        let start = self.layers.payload + number * self.size;
        let end = self.packet.len().min(start + self.size);
        &self.packet[start.min(end)..end]
    }

    /// Writes the segment `number` into `to`, which is [`Segments::length`] bytes long, with all its checksums.
    pub fn write(&self, number: usize, to: &mut [u8]) {
        let layers = &self.layers;
        let (headers, payload) = to.split_at_mut(layers.payload);
        headers.copy_from_slice(&self.packet[..layers.payload]);
        payload.copy_from_slice(self.part(number));
        if layers.is_v4 {
            // Each gets an identification of its own, in case somebody behind us takes them together.
            let id = u16::from_be_bytes(octets(to, 4)).wrapping_add(number as u16);
            to[4..6].copy_from_slice(&id.to_be_bytes());
        }
        let length = to.len();
        layers.set_length(to, length);
        if layers.is_tcp {
            let sequence = layers
                .sequence(to)
                .wrapping_add((number * self.size) as u32);
            let at = layers.transport;
            to[at + 4..at + 8].copy_from_slice(&sequence.to_be_bytes());
            if number + 1 < self.count() {
                to[at + TCP_FLAGS] &= !FIN_AND_PSH;
            }
            if number > 0 {
                to[at + TCP_FLAGS] &= !CWR;
            }
        }
        layers.set_checksum(to);
    }
}
