//! The header that says what is left to do.

use crate::Malformed;
use crate::checksum::Sum;
use crate::ethernet::octets;

/// Bytes of the header without the count of merged buffers, which lies behind it if there is one.
pub const VNET_HEADER: usize = 10;

const NEEDS_CHECKSUM: u8 = 1;
const CUT_NONE: u8 = 0;
const CUT_TCP4: u8 = 1;
const CUT_TCP6: u8 = 4;
const CUT_UDP: u8 = 5;
/// Beside a kind: the first segment alone keeps its CWR flag.
const CUT_ECN: u8 = 0x80;

/// What is left to do with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VnetHeader {
    /// The checksum that is missing.
    pub missing: Option<Missing>,
    /// How the packet is to be cut; then a checksum is missing as well.
    pub cut: Option<Cut>,
}

/// A checksum that is not there yet. In its place stands the sum of the pseudo header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Missing {
    /// From where on to the packet's end it is to be taken.
    pub start: u16,
    /// Where it belongs, from there.
    pub offset: u16,
}

/// What the segments of a packet are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CutKind {
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP datagrams, over either.
    Udp,
}

/// How a packet is to be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Into what.
    pub kind: CutKind,
    /// Bytes of headers, which each segment gets. Only a hint when it is read.
    pub headers: u16,
    /// Bytes of payload of each segment but the last.
    pub size: u16,
}

impl VnetHeader {
    /// Reads the header, little-endian. [`Malformed::Version`] if it asks for a cut that is not known.
    pub fn parse(bytes: &[u8; VNET_HEADER]) -> Result<Self, Malformed> {
        let number = |at| u16::from_le_bytes(octets(bytes, at));
        let missing = (bytes[0] & NEEDS_CHECKSUM != 0).then(|| Missing {
            start: number(6),
            offset: number(8),
        });
        let kind = match bytes[1] & !CUT_ECN {
            CUT_NONE => None,
            CUT_TCP4 => Some(CutKind::Tcp4),
            CUT_TCP6 => Some(CutKind::Tcp6),
            CUT_UDP => Some(CutKind::Udp),
            _ => return Err(Malformed::Version),
        };
        let cut = kind.map(|kind| Cut {
            kind,
            headers: number(2),
            size: number(4),
        });
        Ok(Self { missing, cut })
    }

    /// Writes the header.
    pub fn emit(&self) -> [u8; VNET_HEADER] {
        let mut bytes = [0; VNET_HEADER];
        let mut put = |at: usize, value: u16| {
            bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
        };
        if let Some(missing) = self.missing {
            put(6, missing.start);
            put(8, missing.offset);
        }
        if let Some(cut) = self.cut {
            put(2, cut.headers);
            put(4, cut.size);
        }
        bytes[0] = u8::from(self.missing.is_some()) * NEEDS_CHECKSUM;
        bytes[1] = match self.cut.map(|cut| cut.kind) {
            None => CUT_NONE,
            Some(CutKind::Tcp4) => CUT_TCP4,
            Some(CutKind::Tcp6) => CUT_TCP6,
            Some(CutKind::Udp) => CUT_UDP,
        };
        bytes
    }
}

impl Missing {
    /// Fills the checksum in. [`Malformed::Length`] if its place is not in the packet.
    pub fn fill_in(&self, packet: &mut [u8]) -> Result<(), Malformed> {
        let (start, offset) = (usize::from(self.start), usize::from(self.offset));
        let part = packet.get_mut(start..).ok_or(Malformed::Length)?;
        let checksum = Sum::default().bytes(part).finish();
        let place = part.get_mut(offset..offset + 2).ok_or(Malformed::Length)?;
        // Of both zeroes this one means that there is a checksum (RFC 768).
        let checksum = if checksum == 0 { 0xffff } else { checksum };
        place.copy_from_slice(&checksum.to_be_bytes());
        Ok(())
    }
}
