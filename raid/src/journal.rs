//! The journal of RAID-4, 5 and 6 (md's raid5-cache): what a change of a stripe writes, whole and checked, on a device
//! of its own before the members get any of it.
//!
//! Source: Linux `include/uapi/linux/raid/md_p.h`, `struct r5l_meta_block` and the payloads behind it; what a reader
//! does with them is in `drivers/md/raid5-cache.c`. The log is a ring of blocks of 4 KiB from the start of the device's
//! data on. A meta block names the blocks that follow it, each with its checksum, by a stripe's place: a stripe is the
//! 4 KiB at one place of every member. A meta block that is not where and what the one before it promises, or whose
//! blocks are not what it says, ends the log. All numbers are little-endian, checksums are CRC-32C that go on from the
//! checksum of the array's identity.
//!
//! The bytes are hostile until [`MetaBlock::parse`] has passed, and a payload's place until the geometry has found it.

use smallvec::SmallVec;
use thiserror::Error;
use weft_block::{ErrorKind, SECTOR};

use crate::fields::{le16, le32, le64, put};

/// Bytes of a block of the log, and of a member's part of a stripe.
pub const BLOCK_BYTES: usize = 4096;
/// Sectors of a block.
pub const BLOCK_SECTORS: u64 = BLOCK_BYTES as u64 / SECTOR;
/// How much further the count of meta blocks goes on where a log begins anew, as md does it: what lies behind the new
/// beginning, of a log that was torn there, is never taken for its continuation.
pub const SEQ_GAP: u64 = 10_000;

const MAGIC: u32 = 0x6433_c509;
const VERSION: u8 = 1;
const CHECKSUM_AT: usize = 4;
const PAYLOADS_AT: usize = 32;
const DATA: u16 = 0;
const PARITY: u16 = 1;
const FLUSH: u16 = 2;
/// Bytes of a payload of data or parity before its checksums.
const HEAD_BYTES: usize = 16;
/// Bytes of a flush payload before its places.
const FLUSH_HEAD_BYTES: usize = 8;

/// Why a meta block cannot be used.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum JournalError {
    /// Nothing was ever logged here.
    #[error("there is no meta block of a journal")]
    Absent,
    /// A version other than 1.
    #[error("a journal of version {0} is not supported, only 1 is")]
    Version(u8),
    /// The checksum differs: it was torn or damaged, or belongs to another array.
    #[error(
        "the meta block is damaged or of another array: its checksum is {stored:08x}, its contents make {computed:08x}"
    )]
    Checksum {
        /// What is written in it.
        stored: u32,
        /// What its bytes make.
        computed: u32,
    },
    /// It was written for another place of the log.
    #[error("the meta block was written for sector {0} of the log")]
    Position(u64),
    /// Its payloads take more room than there is.
    #[error("the payloads of the meta block end at byte {0}")]
    Size(u32),
    /// A payload that nobody writes.
    #[error("a payload of type {kind} has the size {size}")]
    Payload {
        /// Its type.
        kind: u16,
        /// Its size, in the unit of its type.
        size: u32,
    },
}

impl JournalError {
    /// The kind a caller may act on.
    pub fn kind(self) -> ErrorKind {
        match self {
            Self::Absent => ErrorKind::Invalid,
            Self::Version(_) => ErrorKind::Unsupported,
            _ => ErrorKind::Corrupt,
        }
    }
}

/// What every checksum of an array's journal goes on from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seed(u32);

impl Seed {
    /// That of the array with this identity.
    pub fn of(set_uuid: &[u8; 16]) -> Self {
        Self(crc32c::crc32c(set_uuid))
    }

    /// The checksum of a block. md leaves the last inversion out, of the identity's and of this one.
    pub fn checksum(self, block: &[u8]) -> u32 {
        !crc32c::crc32c_append(self.0, block)
    }

    /// The checksum of a meta block, its own field taken as zero.
    fn of_meta(self, block: &[u8]) -> u32 {
        let sum = crc32c::crc32c_append(self.0, &block[..CHECKSUM_AT]);
        let sum = crc32c::crc32c_append(sum, &[0; 4]);
        !crc32c::crc32c_append(sum, &block[CHECKSUM_AT + 4..])
    }
}

/// What a meta block says of blocks of the log, or of stripes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// The next block is new data.
    Data {
        /// Its first sector in the array.
        sector: u64,
        /// Of the block.
        checksum: u32,
    },
    /// The next blocks are the parities of a stripe: P, and with RAID-6 Q.
    Parity {
        /// The stripe's first sector on every member.
        sector: u64,
        /// One for each block.
        checksums: SmallVec<[u32; 2]>,
    },
    /// The stripes that begin at these sectors are on the members: what was logged of them before is done with.
    Flush {
        /// First sectors on every member.
        sectors: Vec<u64>,
    },
}

impl Payload {
    /// Blocks of the log that belong to it.
    pub fn blocks(&self) -> u64 {
        match self {
            Self::Data { .. } => 1,
            Self::Parity { checksums, .. } => checksums.len() as u64,
            Self::Flush { .. } => 0,
        }
    }

    /// Bytes that it takes of its meta block.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Data { .. } => HEAD_BYTES + 4,
            Self::Parity { checksums, .. } => HEAD_BYTES + 4 * checksums.len(),
            Self::Flush { sectors } => FLUSH_HEAD_BYTES + 8 * sectors.len(),
        }
    }

    /// Reads the payload at byte `at` of a block whose payloads end at `end`.
    fn parse(block: &[u8], at: usize, end: usize) -> Result<Self, JournalError> {
        let (kind, size) = (le16(block, at), le32(block, at + 4));
        let refused = Err(JournalError::Payload { kind, size });
        let payload = match (kind, size) {
            (DATA, 8) => Self::Data {
                sector: le64(block, at + 8),
                checksum: le32(block, at + HEAD_BYTES),
            },
            (PARITY, 8 | 16) => Self::Parity {
                sector: le64(block, at + 8),
                checksums: (0..size as usize / 8)
                    .map(|index| le32(block, at + HEAD_BYTES + 4 * index))
                    .collect(),
            },
            (FLUSH, _) if size.is_multiple_of(8) && (size as usize) < BLOCK_BYTES => Self::Flush {
                sectors: (0..size as usize / 8)
                    .map(|index| le64(block, at + FLUSH_HEAD_BYTES + 8 * index))
                    .collect(),
            },
            _ => return refused,
        };
        match at + payload.bytes() <= end {
            true => Ok(payload),
            false => refused,
        }
    }

    fn put(&self, block: &mut [u8], at: usize) {
        let (kind, size) = match self {
            Self::Data { .. } => (DATA, 8),
            Self::Parity { checksums, .. } => (PARITY, 8 * checksums.len()),
            Self::Flush { sectors } => (FLUSH, 8 * sectors.len()),
        };
        put(block, at, &kind.to_le_bytes());
        put(block, at + 4, &(size as u32).to_le_bytes());
        let mut sums = |sector: u64, checksums: &[u32]| {
            put(block, at + 8, &sector.to_le_bytes());
            for (index, checksum) in checksums.iter().enumerate() {
                put(block, at + HEAD_BYTES + 4 * index, &checksum.to_le_bytes());
            }
        };
        match self {
            Self::Data { sector, checksum } => sums(*sector, &[*checksum]),
            Self::Parity { sector, checksums } => sums(*sector, checksums),
            Self::Flush { sectors } => {
                for (index, sector) in sectors.iter().enumerate() {
                    put(
                        block,
                        at + FLUSH_HEAD_BYTES + 8 * index,
                        &sector.to_le_bytes(),
                    );
                }
            }
        }
    }
}

/// A meta block: what the blocks behind it are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MetaBlock {
    /// Counts the meta blocks of the log: each has the next number.
    pub seq: u64,
    /// Where it lies: sectors from the start of the log.
    pub position: u64,
    /// In the order of their blocks.
    pub payloads: Vec<Payload>,
}

impl MetaBlock {
    /// Bytes that the payloads of one meta block may take.
    pub const ROOM: usize = BLOCK_BYTES - PAYLOADS_AT;

    /// Reads the block that was found `position` sectors from the start of the log.
    ///
    /// # Errors
    /// Says why it cannot be used.
    pub fn parse(
        block: &[u8; BLOCK_BYTES],
        position: u64,
        seed: Seed,
    ) -> Result<Self, JournalError> {
        if le32(block, 0) != MAGIC {
            return Err(JournalError::Absent);
        }
        if block[8] != VERSION {
            return Err(JournalError::Version(block[8]));
        }
        let (stored, computed) = (le32(block, CHECKSUM_AT), seed.of_meta(block));
        if stored != computed {
            return Err(JournalError::Checksum { stored, computed });
        }
        let found = le64(block, 24);
        if found != position {
            return Err(JournalError::Position(found));
        }
        let size = le32(block, 12);
        if !(PAYLOADS_AT..=BLOCK_BYTES).contains(&(size as usize)) {
            return Err(JournalError::Size(size));
        }
        let (mut at, end) = (PAYLOADS_AT, size as usize);
        let mut payloads = Vec::new();
        while at < end {
            let payload = Payload::parse(block, at, end)?;
            at += payload.bytes();
            payloads.push(payload);
        }
        Ok(Self {
            seq: le64(block, 16),
            position,
            payloads,
        })
    }

    /// The block as it is written.
    ///
    /// # Panics
    /// If the payloads take more than [`ROOM`](Self::ROOM) bytes.
    pub fn to_bytes(&self, seed: Seed) -> Vec<u8> {
        let mut block = vec![0; BLOCK_BYTES];
        let mut at = PAYLOADS_AT;
        for payload in &self.payloads {
            payload.put(&mut block, at);
            at += payload.bytes();
        }
        put(&mut block, 0, &MAGIC.to_le_bytes());
        put(&mut block, 8, &[VERSION]);
        put(&mut block, 12, &(at as u32).to_le_bytes());
        put(&mut block, 16, &self.seq.to_le_bytes());
        put(&mut block, 24, &self.position.to_le_bytes());
        let sum = seed.of_meta(&block);
        put(&mut block, CHECKSUM_AT, &sum.to_le_bytes());
        block
    }

    /// Blocks of the log that it and what it names take.
    pub fn blocks(&self) -> u64 {
        1 + self.payloads.iter().map(Payload::blocks).sum::<u64>()
    }
}

/// Blocks that the log of an array of `members` has at least: eight changes of one stripe, which share a meta block at
/// worst with none.
pub fn least_blocks(members: u32) -> u64 {
    8 * (u64::from(members) + 2)
}

/// Members that an array with a journal may have: what one stripe says must fit into a meta block.
pub const MOST_MEMBERS: u32 = (MetaBlock::ROOM / (HEAD_BYTES + 4)) as u32;

#[cfg(test)]
mod tests;
