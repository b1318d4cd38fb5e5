//! The write-intent bitmap on disk: a 256-byte head and a bit for every chunk of a member's space, on every member.
//!
//! Source: Linux `drivers/md/md-bitmap.h`. Little-endian, version 4. A set bit says: the members may differ in that
//! chunk, because it was being written or because a member that is away has missed a write there.

use std::ops::Range;

use thiserror::Error;
use weft_block::{ErrorKind, SECTOR};

use crate::fields::{array, le32, le64, put};

const MAGIC: u32 = 0x6d74_6962;
/// Bytes of the head; the first bit follows.
pub const HEAD_BYTES: usize = 256;
const VERSION: u32 = 4;
/// Bits of the state word: the bitmap is out of date; a write to it failed.
const STATE_STALE: u32 = 2;
const STATE_WRITE_ERROR: u32 = 4;
/// Bytes: md's default for an internal bitmap.
const DEFAULT_CHUNK: u64 = 64 << 20;
/// Bytes of bitmap that md gives a chunk size it chooses itself.
const DEFAULT_ROOM: u64 = 128 << 10;
/// Most chunks a bitmap may have: it bounds the memory of an array, some 8 bytes for each.
pub const MOST_CHUNKS: u64 = 1 << 24;

/// Why bytes are not a bitmap that can be used. The array is whole without one, after a full resync.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum BitmapError {
    /// No bitmap is there.
    #[error("there is no bitmap")]
    Absent,
    /// Another array's.
    #[error("the bitmap belongs to another array")]
    Foreign,
    /// A version that is not known (5 belongs to clusters, 6 is lockless).
    #[error("bitmap version {0} is not supported")]
    Version(u32),
    /// A value that cannot be.
    #[error("the bitmap is malformed: {0}")]
    Malformed(String),
}

impl BitmapError {
    /// The kind a caller may act on.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Version(_) => ErrorKind::Unsupported,
            _ => ErrorKind::Corrupt,
        }
    }
}

/// The head of a bitmap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BitmapHead {
    /// Identity of the array.
    pub uuid: [u8; 16],
    /// Events of the superblock it was written with.
    pub events: u64,
    /// Events when bits were last cleared: a member that was away since then has missed only what the bits say.
    pub events_cleared: u64,
    /// Sectors that the bits cover.
    pub sync_size: u64,
    /// Whether the bits cannot be trusted.
    pub stale: bool,
    /// Bytes that a bit covers, a power of two.
    pub chunk: u32,
    /// Seconds after which clean bits are cleared.
    pub daemon_sleep: u32,
    /// Most writes behind on write-mostly members; zero if none.
    pub write_behind: u32,
    /// Sectors reserved for the bitmap, zero if that is not recorded.
    pub sectors_reserved: u32,
}

impl BitmapHead {
    /// A head for an array's `sync_size` sectors in `room` sectors, as md chooses it: bits of 64 MiB, or larger where
    /// 128 KiB or the room is too small for those; or of `chunk` bytes. None if there is no room for it.
    pub fn choose(uuid: [u8; 16], sync_size: u64, room: u64, chunk: Option<u32>) -> Option<Self> {
        let bytes = (room * SECTOR).min(DEFAULT_ROOM);
        let most_bits = bytes
            .checked_sub(HEAD_BYTES as u64)
            .filter(|&left| left > 0)?
            * 8;
        let asked = chunk.map(u64::from);
        let mut chunk = asked.unwrap_or(DEFAULT_CHUNK).max(512);
        while (sync_size * SECTOR).div_ceil(chunk) > most_bits {
            if asked.is_some() {
                return None;
            }
            chunk *= 2;
        }
        Some(Self {
            uuid,
            events: 0,
            events_cleared: 0,
            sync_size,
            stale: false,
            chunk: u32::try_from(chunk).ok()?,
            daemon_sleep: 5,
            write_behind: 0,
            sectors_reserved: 0,
        })
    }

    /// Reads the head of the bitmap of array `uuid`, whose members use `sync_size` sectors and have `room` sectors
    /// for it.
    ///
    /// # Errors
    /// Says in one sentence why the bitmap cannot be used.
    pub fn parse(
        bytes: &[u8],
        uuid: &[u8; 16],
        sync_size: u64,
        room: u64,
    ) -> Result<Self, BitmapError> {
        if bytes.len() < HEAD_BYTES || le32(bytes, 0) != MAGIC {
            return Err(BitmapError::Absent);
        }
        let version = le32(bytes, 4);
        if version != VERSION {
            return Err(BitmapError::Version(version));
        }
        let state = le32(bytes, 48);
        let head = Self {
            uuid: array(bytes, 8),
            events: le64(bytes, 24),
            events_cleared: le64(bytes, 32),
            sync_size: le64(bytes, 40),
            stale: state & (STATE_STALE | STATE_WRITE_ERROR) != 0,
            chunk: le32(bytes, 52),
            daemon_sleep: le32(bytes, 56),
            write_behind: le32(bytes, 60),
            sectors_reserved: le32(bytes, 64),
        };
        if head.uuid != *uuid {
            return Err(BitmapError::Foreign);
        }
        head.validate(sync_size, room)?;
        Ok(head)
    }

    fn validate(&self, sync_size: u64, room: u64) -> Result<(), BitmapError> {
        let malformed = |why: String| Err(BitmapError::Malformed(why));
        if self.chunk < 512 || !self.chunk.is_power_of_two() {
            return malformed(format!("bits of {} bytes", self.chunk));
        }
        if self.sync_size != sync_size {
            let covered = self.sync_size;
            return malformed(format!("it covers {covered} sectors of {sync_size}"));
        }
        let bits = self.bits();
        if bits > MOST_CHUNKS || HEAD_BYTES as u64 + bits.div_ceil(8) > room.saturating_mul(SECTOR)
        {
            return malformed(format!("{bits} bits in {room} sectors"));
        }
        Ok(())
    }

    /// The 256 bytes of the head.
    pub fn to_bytes(&self) -> [u8; HEAD_BYTES] {
        let mut out = [0; HEAD_BYTES];
        put(&mut out, 0, &MAGIC.to_le_bytes());
        put(&mut out, 4, &VERSION.to_le_bytes());
        put(&mut out, 8, &self.uuid);
        put(&mut out, 24, &self.events.to_le_bytes());
        put(&mut out, 32, &self.events_cleared.to_le_bytes());
        put(&mut out, 40, &self.sync_size.to_le_bytes());
        let state = if self.stale { STATE_STALE } else { 0 };
        put(&mut out, 48, &state.to_le_bytes());
        put(&mut out, 52, &self.chunk.to_le_bytes());
        put(&mut out, 56, &self.daemon_sleep.to_le_bytes());
        put(&mut out, 60, &self.write_behind.to_le_bytes());
        put(&mut out, 64, &self.sectors_reserved.to_le_bytes());
        out
    }

    /// Bits that the array needs.
    pub fn bits(&self) -> u64 {
        self.sync_size
            .saturating_mul(SECTOR)
            .div_ceil(u64::from(self.chunk).max(1))
    }

    /// Bytes of head and bits, in whole 4 KiB blocks as md writes them.
    pub fn bytes(&self) -> u64 {
        (HEAD_BYTES as u64 + self.bits().div_ceil(8)).next_multiple_of(4096)
    }
}

/// The on-disk image of a bitmap, kept in memory and written in blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BitmapImage {
    head: BitmapHead,
    bytes: Vec<u8>,
}

impl BitmapImage {
    /// An image with all bits set or clear. `room` sectors bound what is written.
    pub fn new(head: BitmapHead, set: bool, room: u64) -> Self {
        let len = head.bytes().min(room.saturating_mul(SECTOR));
        let fill = if set { 0xff } else { 0 };
        let mut image = Self {
            bytes: vec![fill; len as usize],
            head,
        };
        image.sync_head();
        image
    }

    /// An image of what was read behind a parsed `head`: `bytes` starts with the head.
    pub fn of(head: BitmapHead, mut bytes: Vec<u8>, room: u64) -> Self {
        bytes.resize(head.bytes().min(room.saturating_mul(SECTOR)) as usize, 0);
        Self { head, bytes }
    }

    /// The head.
    pub fn head(&self) -> &BitmapHead {
        &self.head
    }

    /// Changes the head.
    pub fn change_head(&mut self, change: impl FnOnce(&mut BitmapHead)) {
        change(&mut self.head);
        self.sync_head();
    }

    fn sync_head(&mut self) {
        let head = self.head.to_bytes();
        self.bytes[..HEAD_BYTES].copy_from_slice(&head);
    }

    /// Whether bit `index` is set.
    pub fn is_set(&self, index: u64) -> bool {
        let (byte, bit) = Self::place(index);
        self.bytes
            .get(byte)
            .is_some_and(|value| value & (1 << bit) != 0)
    }

    /// Sets or clears bit `index`, which the head covers.
    pub fn put(&mut self, index: u64, set: bool) {
        let (byte, bit) = Self::place(index);
        if let Some(value) = self.bytes.get_mut(byte) {
            *value = (*value & !(1 << bit)) | (u8::from(set) << bit);
        }
    }

    /// How many of the bits that the head covers are set.
    pub fn count(&self) -> u64 {
        (0..self.head.bits())
            .filter(|&index| self.is_set(index))
            .count() as u64
    }

    fn place(index: u64) -> (usize, u32) {
        (HEAD_BYTES + (index / 8) as usize, (index % 8) as u32)
    }

    /// The bytes of the image that hold the bits `indexes`, widened to whole blocks of `block` bytes.
    pub fn span(&self, indexes: Range<u64>, block: usize) -> Range<usize> {
        let first = Self::place(indexes.start).0 / block * block;
        let last = Self::place(indexes.end.max(indexes.start + 1) - 1).0;
        first..(last + 1).next_multiple_of(block).min(self.bytes.len())
    }

    /// The whole image.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GIB: u64 = (1 << 30) / SECTOR;

    fn head() -> BitmapHead {
        BitmapHead::choose([3; 16], GIB, 8, None).expect("it fits")
    }

    #[test]
    fn md_defaults_are_chosen() {
        assert_eq!(
            (head().chunk, head().bits(), head().bytes()),
            (64 << 20, 16, 4096)
        );
        // 30,720 bits fit into 4 KiB: 1.875 TiB of 64 MiB bits.
        let large = BitmapHead::choose([3; 16], 4096 * GIB, 8, None).expect("it fits");
        assert_eq!(large.chunk, 256 << 20);
        assert_eq!(BitmapHead::choose([3; 16], GIB, 0, None), None);
    }

    #[test]
    fn what_was_written_is_read() {
        let mut head = head();
        head.events = 5;
        head.events_cleared = 4;
        assert_eq!(
            BitmapHead::parse(&head.to_bytes(), &[3; 16], GIB, 8),
            Ok(head)
        );
    }

    #[test]
    fn hostile_heads_are_refused() {
        let refused = |change: &dyn Fn(&mut BitmapHead)| {
            let mut head = head();
            change(&mut head);
            BitmapHead::parse(&head.to_bytes(), &[3; 16], GIB, 8).expect_err("it was refused")
        };
        assert_eq!(refused(&|head| head.uuid[3] = 0), BitmapError::Foreign);
        for error in [
            refused(&|head| head.chunk = 0),
            refused(&|head| head.chunk = 3 << 20),
            refused(&|head| head.chunk = 512),
            refused(&|head| head.sync_size = u64::MAX),
        ] {
            assert!(matches!(error, BitmapError::Malformed(_)), "{error}");
        }
        assert_eq!(
            BitmapHead::parse(&[0; 256], &[3; 16], GIB, 8),
            Err(BitmapError::Absent)
        );
    }

    #[test]
    fn bits_are_kept_in_mds_order() {
        let mut image = BitmapImage::new(head(), false, 8);
        image.put(9, true);
        assert_eq!(image.bytes()[HEAD_BYTES + 1], 2);
        assert!(image.is_set(9) && !image.is_set(8));
        assert_eq!(image.count(), 1);
        assert_eq!(image.span(9..10, 512), 0..512);
        image.put(9, false);
        assert_eq!(image.count(), 0);
    }

    proptest! {
        #[test]
        fn any_head_is_answered(bytes in proptest::collection::vec(any::<u8>(), 0..300), size in any::<u64>(), room in any::<u64>()) {
            let mut bytes = bytes;
            if bytes.len() >= 8 {
                bytes[..8].copy_from_slice(b"bitm\x04\0\0\0");
            }
            let uuid = array(&bytes, 8);
            if let Ok(head) = BitmapHead::parse(&bytes, &uuid, size, room) {
                prop_assert!(BitmapImage::new(head, true, room).bytes().len() <= 4 << 20);
            }
        }
    }
}
