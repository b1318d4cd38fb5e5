//! The label sector and the physical volume header in it.

use thiserror::Error;

use super::{ID_LEN, Id, array_at, checksum, u32_at, u64_at};

/// The label is in one of the sectors in these bytes.
pub const LABEL_SCAN_BYTES: usize = 2048;

/// Where the label is written.
pub const LABEL_SECTOR: u64 = 1;

/// Set in a label's flags while the volume belongs to a group.
pub const PV_IN_USE: u32 = 1;

const SECTOR: usize = 512;
const MAGIC: &[u8; 8] = b"LABELONE";
const TYPE: &[u8; 8] = b"LVM2 001";
const SECTOR_AT: usize = 8;
const CRC_AT: usize = 16;
/// The checksum covers everything from here on.
const CRC_FROM: usize = 20;
const CONTENTS_AT: usize = 20;
const TYPE_AT: usize = 24;
const HEADER_LEN: usize = 32;
const EXTENSION_VERSION: u32 = 2;

/// A run of bytes on the disk. A data area of size zero reaches to the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Area {
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
}

/// What a label says of its physical volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PvLabel {
    /// The volume's identifier.
    pub id: Id,
    /// Bytes of the device when the label was written.
    pub device_size: u64,
    /// Where data may be; the first counts.
    pub data_areas: Vec<Area>,
    /// Where metadata is: none, one or two.
    pub metadata_areas: Vec<Area>,
    /// [`PV_IN_USE`] and what later versions may add.
    pub flags: u32,
    /// Space kept for boot loaders.
    pub bootloader_areas: Vec<Area>,
}

/// Why a sector that starts as a label is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum LabelError {
    /// Its checksum is wrong.
    #[error("the label's checksum is wrong")]
    Checksum,
    /// It carries the number of another sector.
    #[error("the label is that of another sector")]
    Moved,
    /// It is of another kind than LVM2's.
    #[error("the label is not of type \"LVM2 001\"")]
    Type,
    /// A list or the identifier in it makes no sense.
    #[error("the physical volume header in the label is malformed")]
    Malformed,
}

/// Finds the label in the first [`LABEL_SCAN_BYTES`] of a disk: its sector and contents. Fewer bytes are fewer sectors.
///
/// # Errors
/// Why the first sector that starts as a label is none, if no later one is whole.
pub fn parse_label(first: &[u8]) -> Result<Option<(u64, PvLabel)>, LabelError> {
    let mut problem = None;
    let sectors = first.chunks_exact(SECTOR).take(LABEL_SCAN_BYTES / SECTOR);
    for (number, sector) in sectors.enumerate() {
        if &sector[..MAGIC.len()] != MAGIC {
            continue;
        }
        match parse_sector(number as u64, sector) {
            Ok(label) => return Ok(Some((number as u64, label))),
            Err(error) => problem = problem.or(Some(error)),
        }
    }
    problem.map_or(Ok(None), Err)
}

fn parse_sector(number: u64, sector: &[u8]) -> Result<PvLabel, LabelError> {
    if u32_at(sector, CRC_AT) != checksum(&sector[CRC_FROM..]) {
        return Err(LabelError::Checksum);
    }
    if u64_at(sector, SECTOR_AT) != number {
        return Err(LabelError::Moved);
    }
    if &sector[TYPE_AT..TYPE_AT + TYPE.len()] != TYPE {
        return Err(LabelError::Type);
    }
    let contents = u32_at(sector, CONTENTS_AT) as usize;
    let header = sector.get(contents..).ok_or(LabelError::Malformed)?;
    parse_header(header).ok_or(LabelError::Malformed)
}

fn parse_header(header: &[u8]) -> Option<PvLabel> {
    if header.len() < ID_LEN + 8 {
        return None;
    }
    let id = Id::from_label(&array_at(header, 0))?;
    let device_size = u64_at(header, ID_LEN);
    let mut rest = &header[ID_LEN + 8..];
    let data_areas = parse_areas(&mut rest)?;
    let metadata_areas = parse_areas(&mut rest)?;
    // Labels of old versions end here; what follows then is zeroes.
    let mut extension = (0, Vec::new());
    if rest.len() >= 8 && u32_at(rest, 0) != 0 {
        let flags = u32_at(rest, 4);
        rest = &rest[8..];
        extension = (flags, parse_areas(&mut rest)?);
    }
    Some(PvLabel {
        id,
        device_size,
        data_areas,
        metadata_areas,
        flags: extension.0,
        bootloader_areas: extension.1,
    })
}

/// A list that an entry of zeroes ends. It is bounded by the sector.
fn parse_areas(rest: &mut &[u8]) -> Option<Vec<Area>> {
    let mut areas = Vec::new();
    loop {
        if rest.len() < 16 {
            return None;
        }
        let (offset, size) = (u64_at(rest, 0), u64_at(rest, 8));
        *rest = &rest[16..];
        if offset == 0 {
            return Some(areas);
        }
        areas.push(Area { offset, size });
    }
}

/// The bytes of a label for the sector `number`.
///
/// # Panics
/// If the areas do not fit into a sector; there are a handful of them at most.
pub fn label_sector(number: u64, label: &PvLabel) -> [u8; SECTOR] {
    let mut bytes = Vec::with_capacity(SECTOR);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&number.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&(HEADER_LEN as u32).to_le_bytes());
    bytes.extend_from_slice(TYPE);
    bytes.extend_from_slice(label.id.as_bytes());
    bytes.extend_from_slice(&label.device_size.to_le_bytes());
    put_areas(&mut bytes, &label.data_areas);
    put_areas(&mut bytes, &label.metadata_areas);
    bytes.extend_from_slice(&EXTENSION_VERSION.to_le_bytes());
    bytes.extend_from_slice(&label.flags.to_le_bytes());
    put_areas(&mut bytes, &label.bootloader_areas);
    let mut sector = [0; SECTOR];
    sector[..bytes.len()].copy_from_slice(&bytes);
    let crc = checksum(&sector[CRC_FROM..]);
    sector[CRC_AT..CRC_FROM].copy_from_slice(&crc.to_le_bytes());
    sector
}

fn put_areas(bytes: &mut Vec<u8>, areas: &[Area]) {
    let end = Area { offset: 0, size: 0 };
    for area in areas.iter().chain([&end]) {
        bytes.extend_from_slice(&area.offset.to_le_bytes());
        bytes.extend_from_slice(&area.size.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label() -> PvLabel {
        PvLabel {
            id: Id::from_random([9; ID_LEN]),
            device_size: 64 << 20,
            data_areas: vec![Area {
                offset: 1 << 20,
                size: 0,
            }],
            metadata_areas: vec![Area {
                offset: 4096,
                size: 1_044_480,
            }],
            flags: PV_IN_USE,
            bootloader_areas: Vec::new(),
        }
    }

    fn disk(number: u64) -> Vec<u8> {
        let mut disk = vec![0; LABEL_SCAN_BYTES];
        let at = number as usize * SECTOR;
        disk[at..at + SECTOR].copy_from_slice(&label_sector(number, &label()));
        disk
    }

    #[test]
    fn a_label_is_found_in_any_of_four_sectors() {
        for number in 0..4 {
            assert_eq!(parse_label(&disk(number)), Ok(Some((number, label()))));
        }
        assert_eq!(parse_label(&[0; LABEL_SCAN_BYTES]), Ok(None));
        assert_eq!(parse_label(&[]), Ok(None));
    }

    #[test]
    fn a_damaged_or_moved_label_is_none() {
        let mut damaged = disk(1);
        damaged[600] ^= 1;
        assert_eq!(parse_label(&damaged), Err(LabelError::Checksum));
        let moved = &disk(1)[SECTOR..];
        assert_eq!(parse_label(moved), Err(LabelError::Moved));
    }

    #[test]
    fn a_whole_label_behind_a_damaged_one_counts() {
        let mut both = disk(2);
        both[SECTOR..SECTOR + 8].copy_from_slice(MAGIC);
        assert_eq!(parse_label(&both), Ok(Some((2, label()))));
    }

    #[test]
    fn a_list_without_an_end_is_malformed() {
        let mut sector = label_sector(1, &label());
        sector[HEADER_LEN + ID_LEN + 8..].fill(1);
        let crc = checksum(&sector[CRC_FROM..]);
        sector[CRC_AT..CRC_FROM].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(parse_sector(1, &sector), Err(LabelError::Malformed));
    }
}
