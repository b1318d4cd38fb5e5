//! The md superblock of version 1.2: 4 KiB into each member, 256 bytes and a table of roles.
//!
//! Source: Linux `include/uapi/linux/raid/md_p.h`, `struct mdp_superblock_1`. All numbers are little-endian, sizes and
//! offsets are 512-byte sectors unless said otherwise.
//!
//! The bytes are hostile until [`Superblock::parse`] has passed: afterwards every place that the superblock names lies
//! inside the member and no two of them overlap.

mod features;
mod places;
mod validate;

use thiserror::Error;
use weft_block::{ErrorKind, SECTOR};

pub use features::Features;
pub(crate) use places::LEAST_PPL;
pub use places::PplPlace;

use crate::fields::{array, le16, le32, le64, put};
use crate::level::Level;

/// Sector of the superblock on a member.
pub const SUPER_SECTOR: u64 = 8;
/// Byte of the superblock on a member.
pub const SUPER_BYTE: u64 = SUPER_SECTOR * SECTOR;
/// Bytes to read at [`SUPER_BYTE`]: the most that a superblock takes.
pub const SUPER_BYTES: usize = 4096;
/// A resync offset or recovery offset of an array or a member that is whole.
pub const CLEAN: u64 = u64::MAX;

const MAGIC: u32 = 0xa92b_4efc;
const HEAD: usize = 256;
/// Roles that fit into the 4 KiB.
pub const MOST_ROLES: u32 = ((SUPER_BYTES - HEAD) / 2) as u32;
const CHECKSUM_AT: usize = 216;

/// Device flag: reads go elsewhere as long as they can.
pub(crate) const WRITE_MOSTLY: u8 = 1;

const ROLE_SPARE: u16 = 0xffff;
const ROLE_FAULTY: u16 = 0xfffe;
const ROLE_JOURNAL: u16 = 0xfffd;

/// Why bytes are not a superblock that can be used.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum SuperblockError {
    /// No md 1.2 superblock is there.
    #[error("there is no md 1.2 superblock")]
    Absent,
    /// The checksum differs: it was torn or damaged.
    #[error(
        "the superblock is damaged: its checksum is {stored:08x}, its contents make {computed:08x}"
    )]
    Checksum {
        /// What is written in it.
        stored: u32,
        /// What its bytes make.
        computed: u32,
    },
    /// A metadata version other than 1.
    #[error("md metadata version {0} is not supported, only 1.2 is")]
    Version(u32),
    /// Incompatible features that are not known.
    #[error(
        "the superblock uses unknown features {0:#x}; a newer version of this program may know them"
    )]
    UnknownFeatures(u32),
    /// A value that cannot be.
    #[error("the superblock is malformed: {0}")]
    Malformed(String),
}

impl SuperblockError {
    /// The kind a caller may act on.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Absent => ErrorKind::Invalid,
            Self::Checksum { .. } | Self::Malformed(_) => ErrorKind::Corrupt,
            Self::Version(_) | Self::UnknownFeatures(_) => ErrorKind::Unsupported,
        }
    }
}

/// What a device of the array does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Holds the data of this slot.
    Active(u16),
    /// Waits for a slot.
    Spare,
    /// Was failed.
    Faulty,
    /// Holds the journal.
    Journal,
}

impl Role {
    fn from_number(number: u16) -> Self {
        match number {
            ROLE_SPARE => Self::Spare,
            ROLE_FAULTY => Self::Faulty,
            ROLE_JOURNAL => Self::Journal,
            slot => Self::Active(slot),
        }
    }

    fn number(self) -> u16 {
        match self {
            Self::Active(slot) => slot,
            Self::Spare => ROLE_SPARE,
            Self::Faulty => ROLE_FAULTY,
            Self::Journal => ROLE_JOURNAL,
        }
    }
}

/// A time as md keeps it: 40 bits of seconds since 1970 and 24 bits of microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The first of January 1970.
    pub const EPOCH: Self = Self(0);

    /// A time of `seconds` since 1970 and `micros` (below 1,000,000).
    pub fn new(seconds: u64, micros: u32) -> Self {
        Self((seconds & 0xff_ffff_ffff) | (u64::from(micros & 0xff_ffff) << 40))
    }

    /// Seconds since 1970.
    pub fn seconds(self) -> u64 {
        self.0 & 0xff_ffff_ffff
    }
}

/// The fields of a change of shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reshape {
    /// Level after it.
    pub new_level: i32,
    /// Array sector that it has reached.
    pub position: u64,
    /// Members more (or fewer).
    pub delta_disks: i32,
    /// Layout after it.
    pub new_layout: u32,
    /// Chunk after it.
    pub new_chunk: u32,
    /// How far the data of this member moves.
    pub new_offset: i32,
}

/// A superblock: what one member knows about its array and itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superblock {
    /// What else is used.
    pub features: Features,
    /// Identity of the array.
    pub set_uuid: [u8; 16],
    /// Its name, mostly `host:name`, NUL-padded.
    pub set_name: [u8; 32],
    /// When it was made.
    pub ctime: Timestamp,
    /// Its level.
    pub level: Level,
    /// Its layout; the meaning depends on the level.
    pub layout: u32,
    /// Sectors of each member that are used; zero for RAID-0, whose members use what they have.
    pub size: u64,
    /// Sectors of a chunk; zero for RAID-1.
    pub chunk: u32,
    /// Slots.
    pub raid_disks: u32,
    /// Sectors from the superblock to the bitmap, if the features name one; otherwise the place of a PPL.
    pub bitmap_offset: i32,
    /// A change of shape.
    pub reshape: Reshape,
    /// Sector where the member's data starts.
    pub data_offset: u64,
    /// Sectors of data that the member has room for.
    pub data_size: u64,
    /// Sectors of this member that are in sync, if the features say that it is being recovered; of a journal, the sector
    /// of its data at which the log begins.
    pub recovery_offset: u64,
    /// Index into the roles.
    pub dev_number: u32,
    /// Read errors mended so far.
    pub corrected_reads: u32,
    /// Identity of the member.
    pub device_uuid: [u8; 16],
    /// Write-mostly (1) and fail-fast (2).
    pub devflags: u8,
    /// Log2 of the unit of the bad-block log, in sectors.
    pub bblog_shift: u8,
    /// Sectors of the bad-block log; zero if there is none.
    pub bblog_size: u16,
    /// Sectors from the superblock to the bad-block log.
    pub bblog_offset: i32,
    /// When it was last written.
    pub utime: Timestamp,
    /// Counts changes of state: the highest is the freshest.
    pub events: u64,
    /// Sectors of each member known to be in sync; [`CLEAN`] if all are.
    pub resync_offset: u64,
    /// The role of every device by its number.
    pub roles: Vec<Role>,
}

impl Superblock {
    /// Reads a superblock from the bytes at [`SUPER_BYTE`] of a device with `device_sectors` sectors.
    ///
    /// # Errors
    /// Says in one sentence why the bytes cannot be used.
    pub fn parse(bytes: &[u8], device_sectors: u64) -> Result<Self, SuperblockError> {
        if bytes.len() < HEAD || le32(bytes, 0) != MAGIC {
            return Err(SuperblockError::Absent);
        }
        let version = le32(bytes, 4);
        if version != 1 {
            return Err(SuperblockError::Version(version));
        }
        let max_dev = le32(bytes, 220);
        let length = HEAD + 2 * max_dev.min(MOST_ROLES + 1) as usize;
        if max_dev > MOST_ROLES || bytes.len() < length {
            return malformed(format!("it claims {max_dev} roles"));
        }
        let (stored, computed) = (le32(bytes, CHECKSUM_AT), checksum(&bytes[..length]));
        if stored != computed {
            return Err(SuperblockError::Checksum { stored, computed });
        }
        if le64(bytes, 144) != SUPER_SECTOR {
            return Err(SuperblockError::Absent);
        }
        let superblock = Self::fields(bytes, max_dev)?;
        superblock.validate(device_sectors)?;
        Ok(superblock)
    }

    fn fields(bytes: &[u8], max_dev: u32) -> Result<Self, SuperblockError> {
        let features = Features::from_bits(le32(bytes, 8));
        if features.unknown() != 0 {
            return Err(SuperblockError::UnknownFeatures(features.unknown()));
        }
        let level = le32(bytes, 72) as i32;
        let Some(level) = Level::from_number(level) else {
            return malformed(format!("level {level} is not one of 0, 1, 4, 5, 6 and 10"));
        };
        let roles = (0..max_dev as usize)
            .map(|index| Role::from_number(le16(bytes, HEAD + 2 * index)))
            .collect();
        Ok(Self {
            features,
            set_uuid: array(bytes, 16),
            set_name: array(bytes, 32),
            ctime: Timestamp(le64(bytes, 64)),
            level,
            layout: le32(bytes, 76),
            size: le64(bytes, 80),
            chunk: le32(bytes, 88),
            raid_disks: le32(bytes, 92),
            bitmap_offset: le32(bytes, 96) as i32,
            reshape: Reshape {
                new_level: le32(bytes, 100) as i32,
                position: le64(bytes, 104),
                delta_disks: le32(bytes, 112) as i32,
                new_layout: le32(bytes, 116),
                new_chunk: le32(bytes, 120),
                new_offset: le32(bytes, 124) as i32,
            },
            data_offset: le64(bytes, 128),
            data_size: le64(bytes, 136),
            recovery_offset: le64(bytes, 152),
            dev_number: le32(bytes, 160),
            corrected_reads: le32(bytes, 164),
            device_uuid: array(bytes, 168),
            devflags: bytes[184],
            bblog_shift: bytes[185],
            bblog_size: le16(bytes, 186),
            bblog_offset: le32(bytes, 188) as i32,
            utime: Timestamp(le64(bytes, 192)),
            events: le64(bytes, 200),
            resync_offset: le64(bytes, 208),
            roles,
        })
    }

    /// The bytes for [`SUPER_BYTE`], with their checksum, zero-padded to a multiple of `block` bytes.
    pub fn to_bytes(&self, block: usize) -> Vec<u8> {
        let length = HEAD + 2 * self.roles.len();
        let mut bytes = vec![0; length.next_multiple_of(block.max(1))];
        let out = &mut bytes[..];
        put(out, 0, &MAGIC.to_le_bytes());
        put(out, 4, &1_u32.to_le_bytes());
        put(out, 8, &self.features.bits().to_le_bytes());
        put(out, 16, &self.set_uuid);
        put(out, 32, &self.set_name);
        put(out, 64, &self.ctime.0.to_le_bytes());
        put(out, 72, &self.level.number().to_le_bytes());
        put(out, 76, &self.layout.to_le_bytes());
        put(out, 80, &self.size.to_le_bytes());
        put(out, 88, &self.chunk.to_le_bytes());
        put(out, 92, &self.raid_disks.to_le_bytes());
        put(out, 96, &self.bitmap_offset.to_le_bytes());
        put(out, 100, &self.reshape.new_level.to_le_bytes());
        put(out, 104, &self.reshape.position.to_le_bytes());
        put(out, 112, &self.reshape.delta_disks.to_le_bytes());
        put(out, 116, &self.reshape.new_layout.to_le_bytes());
        put(out, 120, &self.reshape.new_chunk.to_le_bytes());
        put(out, 124, &self.reshape.new_offset.to_le_bytes());
        put(out, 128, &self.data_offset.to_le_bytes());
        put(out, 136, &self.data_size.to_le_bytes());
        put(out, 144, &SUPER_SECTOR.to_le_bytes());
        put(out, 152, &self.recovery_offset.to_le_bytes());
        put(out, 160, &self.dev_number.to_le_bytes());
        put(out, 164, &self.corrected_reads.to_le_bytes());
        put(out, 168, &self.device_uuid);
        put(out, 184, &[self.devflags, self.bblog_shift]);
        put(out, 186, &self.bblog_size.to_le_bytes());
        put(out, 188, &self.bblog_offset.to_le_bytes());
        put(out, 192, &self.utime.0.to_le_bytes());
        put(out, 200, &self.events.to_le_bytes());
        put(out, 208, &self.resync_offset.to_le_bytes());
        put(out, 220, &(self.roles.len() as u32).to_le_bytes());
        for (index, role) in self.roles.iter().enumerate() {
            put(out, HEAD + 2 * index, &role.number().to_le_bytes());
        }
        let sum = checksum(&out[..length]);
        put(out, CHECKSUM_AT, &sum.to_le_bytes());
        bytes
    }

    /// The role of the member that carries this superblock, by its own word.
    pub fn role(&self) -> Role {
        self.role_of(self.dev_number)
    }

    /// The role of device `number`, by this superblock's word.
    pub fn role_of(&self, number: u32) -> Role {
        let index = usize::try_from(number).unwrap_or(usize::MAX);
        self.roles.get(index).copied().unwrap_or(Role::Spare)
    }

    /// Sectors of this member that hold array data.
    pub fn used(&self) -> u64 {
        match self.level {
            Level::Raid0 => {
                let chunk = u64::from(self.chunk).max(1);
                self.data_size / chunk * chunk
            }
            _ => self.size,
        }
    }

    /// Sectors that the member's data moves in a change of shape, backwards if negative.
    pub(crate) fn shift(&self) -> i64 {
        let moves = self
            .features
            .has(Features::RESHAPE.with(Features::NEW_OFFSET));
        if moves {
            i64::from(self.reshape.new_offset)
        } else {
            0
        }
    }

    /// The array's name without the NULs, as written: mostly `host:name`.
    pub fn name(&self) -> String {
        let end = self.set_name.iter().position(|&byte| byte == 0);
        String::from_utf8_lossy(&self.set_name[..end.unwrap_or(self.set_name.len())]).into_owned()
    }
}

/// md's checksum: the sum of the little-endian words, the checksum's own taken as zero, folded once.
fn checksum(bytes: &[u8]) -> u32 {
    let words = bytes.chunks_exact(4);
    let half = match words.remainder() {
        [low, high] => u64::from(u16::from_le_bytes([*low, *high])),
        _ => 0,
    };
    let sum: u64 = words
        .enumerate()
        .filter(|(index, _)| index * 4 != CHECKSUM_AT)
        .map(|(_, word)| u64::from(le32(word, 0)))
        .sum::<u64>()
        + half;
    (sum as u32).wrapping_add((sum >> 32) as u32)
}

fn malformed<T>(why: String) -> Result<T, SuperblockError> {
    Err(SuperblockError::Malformed(why))
}

#[cfg(test)]
pub(crate) mod tests;
