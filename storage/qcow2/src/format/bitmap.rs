//! The bitmap directory and the tables it points at.

use weft_block::{Error, ErrorKind, Result};

use super::extension::text;
use super::fields::{pad, part, u16_at, u32_at, u64_at};
use super::{Geometry, MAX_NAME};

/// Bytes of an entry before its extra data.
const FIXED: usize = 24;
/// Bytes that the table of one bitmap may have, as in QEMU.
const MAX_TABLE_BYTES: u64 = 256 << 20;

const IN_USE: u32 = 1 << 0;
const AUTO: u32 = 1 << 1;
const EXTRA_DATA_COMPATIBLE: u32 = 1 << 2;
/// The only type there is: a bitmap of what was written.
const DIRTY_TRACKING: u8 = 1;

/// A bitmap of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BitmapEntry {
    /// Its name; unique.
    pub name: String,
    /// Where its table is.
    pub table_offset: u64,
    /// Entries of its table.
    pub table_entries: u32,
    /// Whether somebody had it in memory and did not write it back: what it says is worth nothing.
    pub in_use: bool,
    /// Whether writes are recorded in it from the start.
    pub auto: bool,
    /// log2 of the bytes of the disk that a bit stands for.
    pub granularity_bits: u8,
    /// Extra data that this crate does not know, and that does not matter, kept as it is.
    pub extra: Vec<u8>,
}

impl BitmapEntry {
    /// The `count` entries of a directory.
    ///
    /// # Errors
    /// `Corrupt` if it is not exactly that; `Unsupported` for a type or a flag that is not known.
    pub fn parse_directory(bytes: &[u8], count: u32, geometry: Geometry) -> Result<Vec<Self>> {
        let mut entries: Vec<Self> = Vec::with_capacity((count as usize).min(bytes.len() / FIXED));
        let mut offset = 0;
        for _ in 0..count {
            let rest = bytes.get(offset..).unwrap_or_default();
            let (entry, len) = Self::parse(rest, geometry)?;
            if entries.iter().any(|other| other.name == entry.name) {
                return Err(corrupt(format!("two bitmaps have the name {}", entry.name)));
            }
            entries.push(entry);
            offset += len;
        }
        if offset != bytes.len() {
            return Err(corrupt(format!(
                "the bitmap directory has {} bytes, and its {count} bitmaps take {offset}",
                bytes.len()
            )));
        }
        Ok(entries)
    }

    fn parse(bytes: &[u8], geometry: Geometry) -> Result<(Self, usize)> {
        let cut_short = || corrupt("the bitmap directory ends in the middle of a bitmap".into());
        let fixed = part(bytes, 0, FIXED).ok_or_else(cut_short)?;
        let name_len = usize::from(u16_at(fixed, 18));
        let extra_len = u32_at(fixed, 20) as usize;
        let extra = part(bytes, FIXED, extra_len).ok_or_else(cut_short)?;
        let name = part(bytes, FIXED + extra_len, name_len).ok_or_else(cut_short)?;
        let (flags, kind) = (u32_at(fixed, 12), fixed[16]);
        let this = Self {
            name: text(name, "name of a bitmap")?,
            table_offset: u64_at(fixed, 0),
            table_entries: u32_at(fixed, 8),
            in_use: flags & IN_USE != 0,
            auto: flags & AUTO != 0,
            granularity_bits: fixed[17],
            extra: extra.to_vec(),
        };
        let unknown = flags & !(IN_USE | AUTO | EXTRA_DATA_COMPATIBLE) != 0;
        let matters = extra_len > 0 && flags & EXTRA_DATA_COMPATIBLE == 0;
        if unknown || matters || kind != DIRTY_TRACKING {
            let sentence = format!("bitmap {} is of a kind that is not known here", this.name);
            return Err(Error::new(ErrorKind::Unsupported, sentence));
        }
        let table = u64::from(this.table_entries) * 8;
        let sound = !this.name.is_empty()
            && (9..=31).contains(&this.granularity_bits)
            && geometry.is_aligned(this.table_offset)
            && this.table_offset != 0
            && table <= MAX_TABLE_BYTES
            && this.table_offset.checked_add(table).is_some();
        if !sound {
            return Err(corrupt(format!(
                "bitmap \"{}\" cannot be as its entry says",
                this.name
            )));
        }
        Ok((this, (FIXED + extra_len + name_len).next_multiple_of(8)))
    }

    /// The directory of `entries`.
    ///
    /// # Panics
    /// If a name is longer than [`MAX_NAME`].
    pub fn write_directory(entries: &[Self]) -> Vec<u8> {
        let mut bytes = Vec::new();
        entries.iter().for_each(|entry| entry.write(&mut bytes));
        bytes
    }

    fn write(&self, bytes: &mut Vec<u8>) {
        assert!(self.name.len() <= MAX_NAME, "the name was checked");
        let flag = |set: bool, bit: u32| if set { bit } else { 0 };
        let flags = flag(self.in_use, IN_USE)
            | flag(self.auto, AUTO)
            | flag(!self.extra.is_empty(), EXTRA_DATA_COMPATIBLE);
        bytes.extend_from_slice(&self.table_offset.to_be_bytes());
        bytes.extend_from_slice(&self.table_entries.to_be_bytes());
        bytes.extend_from_slice(&flags.to_be_bytes());
        bytes.extend_from_slice(&[DIRTY_TRACKING, self.granularity_bits]);
        bytes.extend_from_slice(&(self.name.len() as u16).to_be_bytes());
        bytes.extend_from_slice(&(self.extra.len() as u32).to_be_bytes());
        bytes.extend_from_slice(&self.extra);
        bytes.extend_from_slice(self.name.as_bytes());
        pad(bytes);
    }

    /// Bytes of the disk that a bit stands for.
    pub fn granularity(&self) -> u64 {
        1 << self.granularity_bits
    }

    /// Entries that the table of a bitmap over `size` bytes needs.
    pub fn entries_for(&self, size: u64, geometry: Geometry) -> u64 {
        let bits = size.div_ceil(self.granularity());
        geometry.clusters(bits.div_ceil(8))
    }
}

/// What an entry of a bitmap's table says of a cluster's worth of bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BitmapTableEntry {
    /// None is set.
    Zeroes,
    /// All are set.
    Ones,
    /// They are in the cluster at this byte.
    At(u64),
}

impl BitmapTableEntry {
    /// What the entry `raw` says.
    ///
    /// # Errors
    /// `Corrupt` if a reserved bit is set or no cluster starts there.
    pub fn decode(raw: u64, geometry: Geometry) -> Result<Self> {
        match raw {
            0 => Ok(Self::Zeroes),
            1 => Ok(Self::Ones),
            offset if offset & 0xff00_0000_0000_0000 == 0 && geometry.is_aligned(offset) => {
                Ok(Self::At(offset))
            }
            _ => Err(corrupt(format!(
                "the entry {raw:#018x} of a bitmap's table cannot be"
            ))),
        }
    }

    /// The entry's bits.
    pub fn encode(self) -> u64 {
        match self {
            Self::Zeroes => 0,
            Self::Ones => 1,
            Self::At(offset) => offset,
        }
    }
}

fn corrupt(sentence: String) -> Error {
    Error::new(ErrorKind::Corrupt, sentence)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str) -> BitmapEntry {
        BitmapEntry {
            name: name.into(),
            table_offset: 5 << 16,
            table_entries: 2,
            in_use: true,
            auto: false,
            granularity_bits: 16,
            extra: vec![9; 5],
        }
    }

    #[test]
    fn a_directory_is_read_as_it_was_written() {
        let geometry = Geometry::new(16, 4, false).unwrap();
        let entries = vec![entry("monday"), entry("b")];
        let bytes = BitmapEntry::write_directory(&entries);
        assert_eq!(
            BitmapEntry::parse_directory(&bytes, 2, geometry).unwrap(),
            entries
        );
        for cut in 0..bytes.len() {
            assert!(
                BitmapEntry::parse_directory(&bytes[..cut], 2, geometry).is_err(),
                "{cut}"
            );
        }
        assert!(BitmapEntry::parse_directory(&bytes, 1, geometry).is_err());
    }

    #[test]
    fn names_are_unique() {
        let geometry = Geometry::new(16, 4, false).unwrap();
        let bytes = BitmapEntry::write_directory(&[entry("a"), entry("a")]);
        assert!(BitmapEntry::parse_directory(&bytes, 2, geometry).is_err());
    }

    #[test]
    fn a_bitmap_of_a_tebibyte() {
        let geometry = Geometry::new(16, 4, false).unwrap();
        // 2^24 bits of 64 KiB are 2 MiB, which are 32 clusters.
        assert_eq!(entry("a").entries_for(1 << 40, geometry), 32);
    }
}
