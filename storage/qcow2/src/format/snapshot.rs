//! The snapshot table.

use weft_block::{Error, ErrorKind, Result};

use super::extension::text;
use super::fields::{pad, part, u16_at, u32_at, u64_at};
use super::{Geometry, MAX_L1_BYTES, MAX_SNAPSHOT_TABLE_BYTES};

/// Bytes of an entry before its extra data.
const FIXED: usize = 40;
/// Bytes of extra data that are taken, as in QEMU.
const MAX_EXTRA: usize = 1024;

/// An internal snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotEntry {
    /// Where its L1 table is.
    pub l1_offset: u64,
    /// Entries of its L1 table.
    pub l1_entries: u32,
    /// Its number, as text; unique.
    pub id: String,
    /// Its name.
    pub name: String,
    /// When it was made: seconds since 1970.
    pub seconds: u32,
    /// And nanoseconds.
    pub nanoseconds: u32,
    /// How long the machine had run, in nanoseconds.
    pub vm_clock: u64,
    /// Bytes of the machine's state; it lies behind the disk, in the snapshot's own tables.
    pub vm_state: u64,
    /// Bytes of the disk then; unknown in old tables.
    pub size: Option<u64>,
    /// Instructions that the machine had run, if they were counted.
    pub instructions: Option<u64>,
    /// Extra data that this crate does not know, kept as it is.
    pub further: Vec<u8>,
}

impl SnapshotEntry {
    /// The `count` entries of the table that starts with `bytes`, and how many bytes they take.
    ///
    /// # Errors
    /// `Corrupt`; `Unsupported` where a bound is passed.
    pub fn parse_table(bytes: &[u8], count: u32, geometry: Geometry) -> Result<(Vec<Self>, usize)> {
        let mut entries = Vec::with_capacity((count as usize).min(bytes.len() / FIXED));
        let mut offset = 0;
        for _ in 0..count {
            let (entry, len) = Self::parse(bytes.get(offset..).unwrap_or_default(), geometry)?;
            entries.push(entry);
            offset += len;
        }
        Ok((entries, offset.min(bytes.len())))
    }

    fn parse(bytes: &[u8], geometry: Geometry) -> Result<(Self, usize)> {
        let fixed = part(bytes, 0, FIXED).ok_or_else(cut_short)?;
        let id_len = usize::from(u16_at(fixed, 12));
        let name_len = usize::from(u16_at(fixed, 14));
        let extra_len = u32_at(fixed, 36) as usize;
        if extra_len > MAX_EXTRA {
            let sentence =
                format!("a snapshot with {extra_len} bytes of extra data is not known here");
            return Err(Error::new(ErrorKind::Unsupported, sentence));
        }
        let extra = part(bytes, FIXED, extra_len).ok_or_else(cut_short)?;
        let id = part(bytes, FIXED + extra_len, id_len).ok_or_else(cut_short)?;
        let name = part(bytes, FIXED + extra_len + id_len, name_len).ok_or_else(cut_short)?;
        let number = |at: usize| (extra_len >= at + 8).then(|| u64_at(extra, at));
        let this = Self {
            l1_offset: u64_at(fixed, 0),
            l1_entries: u32_at(fixed, 8),
            id: text(id, "id of a snapshot")?,
            name: text(name, "name of a snapshot")?,
            seconds: u32_at(fixed, 16),
            nanoseconds: u32_at(fixed, 20),
            vm_clock: u64_at(fixed, 24),
            vm_state: number(0).unwrap_or_else(|| u64::from(u32_at(fixed, 32))),
            size: number(8),
            instructions: number(16).filter(|&count| count != u64::MAX),
            further: extra.get(24..).unwrap_or_default().to_vec(),
        };
        this.check(geometry)?;
        let len = FIXED + extra_len + id_len + name_len;
        Ok((this, len.next_multiple_of(8)))
    }

    fn check(&self, geometry: Geometry) -> Result<()> {
        let bytes = u64::from(self.l1_entries) * 8;
        let sound = geometry.is_aligned(self.l1_offset)
            && bytes <= MAX_L1_BYTES
            && self
                .l1_offset
                .checked_add(bytes)
                .is_some_and(|end| end <= 1 << 63);
        if sound {
            return Ok(());
        }
        let sentence = format!(
            "the L1 table of snapshot {} cannot have {} entries at {}",
            self.name, self.l1_entries, self.l1_offset
        );
        Err(Error::new(ErrorKind::Corrupt, sentence))
    }

    /// The table of `entries`.
    ///
    /// # Errors
    /// `Invalid` if it is larger than readers take.
    pub fn write_table(entries: &[Self]) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        entries.iter().for_each(|entry| entry.write(&mut bytes));
        if bytes.len() as u64 > MAX_SNAPSHOT_TABLE_BYTES {
            let sentence = format!(
                "{} snapshots need a table of {} bytes, and {MAX_SNAPSHOT_TABLE_BYTES} are the most",
                entries.len(),
                bytes.len()
            );
            return Err(Error::new(ErrorKind::Invalid, sentence));
        }
        Ok(bytes)
    }

    fn write(&self, bytes: &mut Vec<u8>) {
        // Sizes of both are in the extra data; readers of version 3 want them there.
        let mut extra = self.vm_state.to_be_bytes().to_vec();
        if let Some(size) = self.size {
            extra.extend_from_slice(&size.to_be_bytes());
            extra.extend_from_slice(&self.instructions.unwrap_or(u64::MAX).to_be_bytes());
            extra.extend_from_slice(&self.further);
        }
        bytes.extend_from_slice(&self.l1_offset.to_be_bytes());
        bytes.extend_from_slice(&self.l1_entries.to_be_bytes());
        bytes.extend_from_slice(&(self.id.len() as u16).to_be_bytes());
        bytes.extend_from_slice(&(self.name.len() as u16).to_be_bytes());
        bytes.extend_from_slice(&self.seconds.to_be_bytes());
        bytes.extend_from_slice(&self.nanoseconds.to_be_bytes());
        bytes.extend_from_slice(&self.vm_clock.to_be_bytes());
        let short = u32::try_from(self.vm_state).unwrap_or(0);
        bytes.extend_from_slice(&short.to_be_bytes());
        bytes.extend_from_slice(&(extra.len() as u32).to_be_bytes());
        bytes.extend_from_slice(&extra);
        bytes.extend_from_slice(self.id.as_bytes());
        bytes.extend_from_slice(self.name.as_bytes());
        pad(bytes);
    }
}

fn cut_short() -> Error {
    Error::new(
        ErrorKind::Corrupt,
        "the snapshot table ends in the middle of a snapshot",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str) -> SnapshotEntry {
        SnapshotEntry {
            l1_offset: 3 << 16,
            l1_entries: 7,
            id: "12".into(),
            name: name.into(),
            seconds: 1_700_000_000,
            nanoseconds: 5,
            vm_clock: 99,
            vm_state: 5 << 32,
            size: Some(1 << 40),
            instructions: Some(17),
            further: vec![1, 2, 3],
        }
    }

    #[test]
    fn a_table_is_read_as_it_was_written() {
        let geometry = Geometry::new(16, 4, false).unwrap();
        let entries = vec![entry("before the upgrade"), entry(""), entry("ü")];
        let bytes = SnapshotEntry::write_table(&entries).unwrap();
        let (read, len) = SnapshotEntry::parse_table(&bytes, 3, geometry).unwrap();
        assert_eq!((read, len), (entries, bytes.len()));
        for cut in 0..bytes.len() - 8 {
            let error = SnapshotEntry::parse_table(&bytes[..cut], 3, geometry).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "cut at {cut}");
        }
    }

    #[test]
    fn a_hostile_count_allocates_nothing_much() {
        let geometry = Geometry::new(16, 4, false).unwrap();
        assert!(SnapshotEntry::parse_table(&[0; 64], u32::MAX, geometry).is_err());
    }
}
