//! The partial parity log of RAID-5: what a crash can have left half written, and what its parity is made of.
//!
//! Source: Linux `include/uapi/linux/raid/md_p.h`, `struct ppl_header`, and `Documentation/driver-api/md/raid5-ppl.rst`.
//! Each member has a log for the rows whose parity it holds: a header of 4 KiB with up to 148 entries, then the partial
//! parity of each. An entry names a change that is under way; its partial parity is the exclusive or of the data of the
//! row that the change leaves alone, so that parity can be made again whatever a crash has let through. A change of
//! whole rows needs none. All numbers are little-endian, checksums are CRC-32C.
//!
//! The bytes are hostile until [`Header::parse`] has passed, and an entry until [`Entry::change`] has placed it.

use thiserror::Error;
use weft_block::{ErrorKind, SECTOR};

use crate::fields::{le32, le64, put};
use crate::geometry::ParityRows;
use crate::plan::Unit;

/// Bytes of a header.
pub const HEADER_BYTES: usize = 4096;
/// Entries that a header has room for.
pub const MOST_ENTRIES: usize = (HEADER_BYTES - ENTRIES_AT) / ENTRY_BYTES;
/// Marks the generation of a header whose log goes on by itself: what it names may have been under way whatever is in the
/// others. Otherwise the newest header of all members was written when nothing else was under way. md's logs go on by
/// themselves without the mark, but md starts with them and tells no doubt, and so do we.
pub const APART: u64 = 1 << 62;
/// Bytes of the log from which on md keeps several headers in it, one after the other.
const SEVERAL_HEADERS: u64 = 2 * ((128 << 10) + HEADER_BYTES as u64);

const SIGNATURE_AT: usize = 512;
const GENERATION_AT: usize = 520;
const COUNT_AT: usize = 528;
const CHECKSUM_AT: usize = 532;
const ENTRIES_AT: usize = 536;
const ENTRY_BYTES: usize = 24;

/// Why a header cannot be used.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PplError {
    /// It is all zeroes: nothing is logged on this member.
    #[error("there is no partial parity log")]
    Absent,
    /// The checksum differs: it was torn or damaged.
    #[error(
        "the header of the partial parity log is damaged: its checksum is {stored:08x}, its contents make {computed:08x}"
    )]
    Checksum {
        /// What is written in it.
        stored: u32,
        /// What its bytes make.
        computed: u32,
    },
    /// It belongs to another array.
    #[error("the partial parity log has the signature {0:08x} of another array")]
    Signature(u32),
    /// A value that cannot be.
    #[error("the partial parity log claims {0} entries")]
    Entries(u32),
}

impl PplError {
    /// The kind a caller may act on.
    pub fn kind(self) -> ErrorKind {
        match self {
            Self::Absent => ErrorKind::Invalid,
            _ => ErrorKind::Corrupt,
        }
    }
}

/// What names an array in its logs.
pub fn signature(set_uuid: &[u8; 16]) -> u32 {
    crc32c::crc32c(set_uuid)
}

/// A header: what was under way when it was written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Header {
    /// Counts headers: of several in one log the highest is the newest.
    pub generation: u64,
    /// At most [`MOST_ENTRIES`].
    pub entries: Vec<Entry>,
}

/// A change of one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// First sector of the array that is changed.
    pub sector: u64,
    /// Bytes of partial parity; zero for a change of whole rows.
    pub partial: u32,
    /// Bytes of the array that are changed, on all members together.
    pub data: u32,
    /// The slot that holds the parity, and the log.
    pub slot: u32,
    /// Of the partial parity.
    pub checksum: u32,
}

impl Header {
    /// Reads a header of the array with this `signature`.
    ///
    /// # Errors
    /// Says why the bytes cannot be used.
    pub fn parse(bytes: &[u8; HEADER_BYTES], signature: u32) -> Result<Self, PplError> {
        if bytes.iter().all(|&byte| byte == 0) {
            return Err(PplError::Absent);
        }
        let (stored, computed) = (le32(bytes, CHECKSUM_AT), checksum(bytes));
        if stored != computed {
            return Err(PplError::Checksum { stored, computed });
        }
        let found = le32(bytes, SIGNATURE_AT);
        if found != signature {
            return Err(PplError::Signature(found));
        }
        let count = le32(bytes, COUNT_AT);
        if count as usize > MOST_ENTRIES {
            return Err(PplError::Entries(count));
        }
        let entries = bytes[ENTRIES_AT..].chunks_exact(ENTRY_BYTES);
        let entries = entries.take(count as usize).map(|entry| Entry {
            sector: le64(entry, 0),
            partial: le32(entry, 8),
            data: le32(entry, 12),
            slot: le32(entry, 16),
            checksum: le32(entry, 20),
        });
        Ok(Self {
            generation: le64(bytes, GENERATION_AT),
            entries: entries.collect(),
        })
    }

    /// The header as it is written.
    ///
    /// # Panics
    /// With more than [`MOST_ENTRIES`].
    pub fn to_bytes(&self, signature: u32) -> Vec<u8> {
        assert!(self.entries.len() <= MOST_ENTRIES, "the batch is bounded");
        let mut bytes = vec![0; HEADER_BYTES];
        bytes[..SIGNATURE_AT].fill(0xff);
        put(&mut bytes, SIGNATURE_AT, &signature.to_le_bytes());
        put(&mut bytes, GENERATION_AT, &self.generation.to_le_bytes());
        let count = self.entries.len() as u32;
        put(&mut bytes, COUNT_AT, &count.to_le_bytes());
        for (index, entry) in self.entries.iter().enumerate() {
            let at = ENTRIES_AT + index * ENTRY_BYTES;
            put(&mut bytes, at, &entry.sector.to_le_bytes());
            put(&mut bytes, at + 8, &entry.partial.to_le_bytes());
            put(&mut bytes, at + 12, &entry.data.to_le_bytes());
            put(&mut bytes, at + 16, &entry.slot.to_le_bytes());
            put(&mut bytes, at + 20, &entry.checksum.to_le_bytes());
        }
        let sum = checksum(&bytes);
        put(&mut bytes, CHECKSUM_AT, &sum.to_le_bytes());
        bytes
    }

    /// Bytes of the header and the partial parity behind it.
    pub fn len_with_parity(&self) -> u64 {
        let partial = self.entries.iter().map(|entry| u64::from(entry.partial));
        HEADER_BYTES as u64 + partial.sum::<u64>()
    }
}

/// Whether md may have written several headers into a log of `bytes` bytes, one after the other.
pub fn has_several_headers(bytes: u64) -> bool {
    bytes >= SEVERAL_HEADERS
}

/// The checksum of a header, its own field taken as zero.
fn checksum(header: &[u8]) -> u32 {
    let sum = crc32c::crc32c(&header[..CHECKSUM_AT]);
    let sum = crc32c::crc32c_append(sum, &[0; 4]);
    crc32c::crc32c_append(sum, &header[CHECKSUM_AT + 4..])
}

/// The checksum of an entry's partial parity.
pub fn parity_checksum(partial: &[u8]) -> u32 {
    crc32c::crc32c(partial)
}

impl Entry {
    /// The entry of a change of row `row` within `unit`, with its partial parity unless it is whole.
    pub fn of(rows: &ParityRows, unit: &Unit, row: u64, partial: Option<&[u8]>) -> Self {
        Self {
            sector: (rows.logical(row, unit.first) + unit.start) / SECTOR,
            partial: partial.map_or(0, |bytes| bytes.len() as u32),
            data: unit.count * unit.len as u32,
            slot: rows.parity_slot(row),
            checksum: parity_checksum(partial.unwrap_or_default()),
        }
    }

    /// What was changed: chunks of one row. None if the entry is no change that a row of this array can have.
    pub fn change(&self, rows: &ParityRows) -> Option<Unit> {
        let (partial, data) = (u64::from(self.partial), u64::from(self.data));
        let start = self.sector.checked_mul(SECTOR)?;
        let row_bytes = rows.chunk() * u64::from(rows.data());
        let (row, within) = (start / row_bytes, start % row_bytes);
        let len = match partial {
            0 => data / u64::from(rows.data()),
            partial => partial,
        };
        let unit = Unit {
            row,
            rows: 1,
            start: within % rows.chunk(),
            len,
            first: (within / rows.chunk()) as u32,
            count: u32::try_from(data.checked_div(len)?).ok()?,
        };
        let placed = row < rows.rows()
            && len.is_multiple_of(SECTOR)
            && data == len * u64::from(unit.count)
            && unit.start + len <= rows.chunk()
            && unit.count > 0
            && unit.first.checked_add(unit.count)? <= rows.data()
            && (partial > 0 || unit.count == rows.data())
            && self.slot == rows.parity_slot(row);
        placed.then_some(unit)
    }
}

#[cfg(test)]
mod tests;
