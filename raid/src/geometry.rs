//! Where an array's bytes lie on its members. Pure arithmetic.
//!
//! An array's space is cut into chunks. A *row* is the chunks that lie at one place of every member; a row of a parity
//! level holds `data` chunks in logical order and one or two parity chunks: the exclusive or of the data, and with RAID-6
//! the sum of its products (see [`crate::parity`]). Mirrors have no chunks: logical space and member space are one.
//! All offsets are bytes; member offsets count from the start of the member's data.

mod copies;
mod rows;
mod zones;

use smallvec::SmallVec;
use weft_block::{Error, ErrorKind, Result, SECTOR};

pub use copies::Copies;
pub use rows::ParityRows;
pub use zones::Zones;

use crate::level::{CopiesLayout, Level, ParityLayout, ZoneLayout};
use crate::superblock::Superblock;

/// A run of bytes on one member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The member's slot.
    pub slot: u32,
    /// First byte in the member's data.
    pub offset: u64,
    /// Bytes from here to the end of the chunk.
    pub left: u64,
}

/// The shape of an array's rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shape {
    /// RAID-0: zones of equal members.
    Stripes(Zones),
    /// RAID-1: every byte on every member.
    Mirror,
    /// RAID-10: every chunk on some members.
    Copies(Copies),
    /// RAID-4, RAID-5 and RAID-6: rows with parity.
    Parity(ParityRows),
}

/// The geometry of an array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Geometry {
    level: Level,
    members: u32,
    member_size: u64,
    size: u64,
    shape: Shape,
}

impl Geometry {
    /// RAID-0 over members with `sizes` bytes for data. Members of unequal size make zones.
    ///
    /// # Errors
    /// `Invalid` if there is no member, or one smaller than a chunk.
    pub fn stripes(sizes: &[u64], chunk: u64, layout: ZoneLayout) -> Result<Self> {
        let zones = Zones::new(sizes, chunk, layout)?;
        Ok(Self {
            level: Level::Raid0,
            members: sizes.len() as u32,
            member_size: sizes.iter().copied().max().unwrap_or(0) / chunk * chunk,
            size: zones.size(),
            shape: Shape::Stripes(zones),
        })
    }

    /// RAID-1 over `members` with `member_size` bytes each.
    pub fn mirror(members: u32, member_size: u64) -> Self {
        Self {
            level: Level::Raid1,
            members,
            member_size,
            size: member_size,
            shape: Shape::Mirror,
        }
    }

    /// RAID-4, RAID-5 or RAID-6 over `members` with `member_size` bytes each, of which whole chunks are used.
    ///
    /// # Errors
    /// `Invalid` if there are too few members (two, or four) or there is no whole chunk.
    pub fn parity(
        level: Level,
        layout: ParityLayout,
        members: u32,
        chunk: u64,
        member_size: u64,
    ) -> Result<Self> {
        if members < level.least_members() || chunk == 0 || member_size < chunk {
            let why = format!(
                "{level} of {members} members with {member_size} bytes in chunks of {chunk} bytes cannot be"
            );
            return Err(Error::new(ErrorKind::Invalid, why));
        }
        let rows = ParityRows::new(level, layout, members, chunk, member_size / chunk);
        // The field has 255 powers of its generator, one for each.
        if rows.parities() > 1 && rows.data() > 255 {
            let why = format!("{level} has at most 257 members, {members} are too many");
            return Err(Error::new(ErrorKind::Invalid, why));
        }
        let Some(size) = (rows.rows() * chunk).checked_mul(u64::from(rows.data())) else {
            return Err(Error::new(
                ErrorKind::Invalid,
                "the array would be too large",
            ));
        };
        Ok(Self {
            level,
            members,
            member_size: rows.rows() * chunk,
            size,
            shape: Shape::Parity(rows),
        })
    }

    /// RAID-10 over `members` with `member_size` bytes each, of which whole chunks are used.
    ///
    /// # Errors
    /// `Invalid` if a chunk's copies have not a member each, or there is no whole chunk.
    pub fn copies(
        layout: CopiesLayout,
        members: u32,
        chunk: u64,
        member_size: u64,
    ) -> Result<Self> {
        let made = (chunk > 0).then(|| Copies::new(layout, members, chunk, member_size / chunk));
        let Some(copies) = made.flatten() else {
            let why = format!(
                "{} of {members} members with {member_size} bytes in chunks of {chunk} bytes cannot keep {} copies",
                Level::Raid10,
                layout.copies()
            );
            return Err(Error::new(ErrorKind::Invalid, why));
        };
        Ok(Self {
            level: Level::Raid10,
            members,
            member_size: copies.member_size(),
            size: copies.size(),
            shape: Shape::Copies(copies),
        })
    }

    /// The geometry that a superblock describes; `sizes` are the bytes for data of every slot, which RAID-0 needs.
    ///
    /// # Errors
    /// `Unsupported` for a level or layout that cannot be run, `Invalid` for numbers that make no array.
    pub fn of(superblock: &Superblock, sizes: &[u64]) -> Result<Self> {
        let (level, layout) = (superblock.level, superblock.layout);
        let chunk = u64::from(superblock.chunk) * SECTOR;
        let size = superblock.size * SECTOR;
        let members = superblock.raid_disks;
        let unsupported = || {
            let why = format!("layout {layout} of {level} is not supported");
            Error::new(ErrorKind::Unsupported, why)
        };
        match level {
            Level::Raid0 => {
                let equal = sizes
                    .windows(2)
                    .all(|pair| pair[0] / chunk == pair[1] / chunk);
                let zones = match ZoneLayout::from_number(layout) {
                    Some(zones) => zones,
                    // Without the feature bit the layout of unequal members is unknown.
                    None if layout == 0 && equal => ZoneLayout::Original,
                    None => return Err(unsupported()),
                };
                Self::stripes(sizes, chunk, zones)
            }
            Level::Raid1 => Ok(Self::mirror(members, size)),
            Level::Raid4 => Self::parity(level, ParityLayout::ParityLast, members, chunk, size),
            Level::Raid5 | Level::Raid6 => {
                let layout = ParityLayout::from_number(level, layout).ok_or_else(unsupported)?;
                Self::parity(level, layout, members, chunk, size)
            }
            Level::Raid10 => {
                let layout = CopiesLayout::from_number(layout).ok_or_else(unsupported)?;
                Self::copies(layout, members, chunk, size)
            }
        }
    }

    /// The level.
    pub fn level(&self) -> Level {
        self.level
    }

    /// Whether a slot holds data, not parity alone.
    pub fn holds_data(&self, slot: u32) -> bool {
        match &self.shape {
            Shape::Parity(rows) => rows.holds_data(slot),
            _ => true,
        }
    }

    /// Slots.
    pub fn members(&self) -> u32 {
        self.members
    }

    /// Bytes of the array.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes used of each member (of the largest, with unequal ones).
    pub fn member_size(&self) -> u64 {
        self.member_size
    }

    /// How the bytes lie.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Bytes of a chunk; zero for mirrors.
    pub fn chunk(&self) -> u64 {
        match &self.shape {
            Shape::Stripes(zones) => zones.chunk(),
            Shape::Mirror => 0,
            Shape::Copies(copies) => copies.chunk(),
            Shape::Parity(rows) => rows.chunk(),
        }
    }

    /// Bytes of data in a row, the write that needs no read; zero for mirrors.
    pub fn row_bytes(&self) -> u64 {
        match &self.shape {
            Shape::Stripes(zones) => zones.chunk() * u64::from(self.members),
            Shape::Mirror => 0,
            Shape::Copies(copies) => {
                copies.chunk() * u64::from(self.members) / u64::from(copies.copies())
            }
            Shape::Parity(rows) => rows.chunk() * u64::from(rows.data()),
        }
    }

    /// How many members can be away without losing data, whichever they are.
    pub fn tolerates(&self) -> u32 {
        match &self.shape {
            Shape::Stripes(_) => 0,
            Shape::Mirror => self.members - 1,
            Shape::Copies(copies) => copies.copies() - 1,
            Shape::Parity(rows) => rows.parities(),
        }
    }

    /// Whether all data is still there without the slots that are lost.
    pub fn survives(&self, is_lost: impl Fn(u32) -> bool) -> bool {
        match &self.shape {
            Shape::Copies(copies) => copies.survives(is_lost),
            _ => {
                let lost = (0..self.members).filter(|&slot| is_lost(slot)).count();
                lost <= self.tolerates() as usize
            }
        }
    }

    /// Bytes of the space in which writes are locked, remembered and resynced: the array's own where its members hold
    /// copies, the members' otherwise.
    pub fn sync_size(&self) -> u64 {
        match &self.shape {
            Shape::Copies(_) => self.size,
            _ => self.member_size,
        }
    }

    /// Every place of array byte `offset`: one, or of mirrors and copies each of them.
    pub fn places(&self, offset: u64) -> SmallVec<[Place; 4]> {
        match &self.shape {
            Shape::Mirror => (0..self.members)
                .map(|slot| Place {
                    slot,
                    offset,
                    left: self.size - offset,
                })
                .collect(),
            Shape::Copies(copies) => copies.places(offset),
            _ => SmallVec::from_slice(&[self.locate(offset)]),
        }
    }

    /// Where array byte `offset` lies. For mirrors, on slot 0 and at the same place of every other.
    ///
    /// `offset` must be below [`size`](Self::size).
    pub fn locate(&self, offset: u64) -> Place {
        debug_assert!(offset < self.size);
        match &self.shape {
            Shape::Stripes(zones) => zones.locate(offset),
            Shape::Mirror => Place {
                slot: 0,
                offset,
                left: self.size - offset,
            },
            Shape::Copies(copies) => copies.places(offset)[0],
            Shape::Parity(rows) => {
                let chunk = rows.chunk();
                let (number, inside) = (offset / chunk, offset % chunk);
                let row = number / u64::from(rows.data());
                // Below the number of data chunks, so it fits.
                let index = (number % u64::from(rows.data())) as u32;
                Place {
                    slot: rows.data_slot(row, index),
                    offset: row * chunk + inside,
                    left: chunk - inside,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
