//! The metadata areas of a physical volume, and what is in them.

use std::sync::Arc;

use weft_block::{ErrorKind, Result, Spawner};

use super::Disk;
use super::bytes::Bytes;
use crate::format::{
    Area, AreaHeader, HEADER_BYTES, LABEL_SCAN_BYTES, Location, PvLabel, Ring, checksum,
    parse_label,
};
use crate::model::{VolumeGroup, parse_metadata};
use crate::text::MAX_TEXT;

/// Areas of a physical volume; LVM2 makes two at most.
const MAX_AREAS: usize = 4;

/// A disk with a label.
pub(super) struct Member {
    pub(super) disk: Disk,
    /// The sector that the label was found in.
    pub(super) label_sector: u64,
    /// Whether a label is in another sector too: an update was cut short.
    pub(super) stray_label: bool,
    pub(super) label: PvLabel,
    pub(super) areas: Vec<MetadataArea>,
}

/// A metadata area that the label names.
pub(super) struct MetadataArea {
    pub(super) place: Area,
    pub(super) header: HeaderState,
    /// The text that counts, if there is one and it is whole.
    pub(super) copy: Option<Copy>,
    /// What is wrong with the area.
    pub(super) problem: Option<String>,
}

/// The header of an area.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeaderState {
    /// Read or written.
    Known(AreaHeader),
    /// Unreadable or damaged; it is to be written anew. The newest whole text may have been found without it.
    Damaged(Location),
    /// The area cannot be used at all: it is not inside the disk.
    Unusable,
}

/// A whole text.
#[derive(Clone)]
pub(super) struct Copy {
    pub(super) model: Arc<VolumeGroup>,
    pub(super) bytes: Arc<[u8]>,
}

/// Texts that were parsed already: groups have many copies of one text.
#[derive(Default)]
pub(super) struct Known {
    copies: Vec<Copy>,
}

impl Known {
    /// The copy that a text is.
    pub(super) fn parse(&mut self, bytes: Vec<u8>) -> Result<Copy> {
        if let Some(copy) = self.copies.iter().find(|copy| *copy.bytes == *bytes) {
            return Ok(copy.clone());
        }
        let copy = Copy {
            model: Arc::new(parse_metadata(&bytes)?),
            bytes: bytes.into(),
        };
        self.copies.push(copy.clone());
        Ok(copy)
    }
}

impl Member {
    /// Whether the label says that the volume belongs to a group.
    pub(super) fn is_marked_used(&self) -> bool {
        self.label.flags & crate::format::PV_IN_USE != 0
    }
}

impl MetadataArea {
    fn unusable(place: Area, problem: &str) -> Self {
        Self {
            place,
            header: HeaderState::Unusable,
            copy: None,
            problem: Some(problem.to_owned()),
        }
    }

    /// Whether commits write it.
    pub(super) fn is_active(&self) -> bool {
        match &self.header {
            HeaderState::Known(header) => !header.is_ignored(),
            HeaderState::Damaged(_) => true,
            HeaderState::Unusable => false,
        }
    }

    /// The text that counts, as far as is known.
    pub(super) fn committed(&self) -> Location {
        match &self.header {
            HeaderState::Known(header) => header.committed,
            HeaderState::Damaged(found) => *found,
            HeaderState::Unusable => Location::default(),
        }
    }
}

/// Reads the label of a disk and all that it points to; `None` if there is no label.
///
/// # Errors
/// What keeps the disk from being read, or `Corrupt` if the label is damaged.
pub(super) async fn examine(
    disk: &Disk,
    known: &mut Known,
    spawner: &Spawner,
) -> Result<Option<Member>> {
    let bytes = Bytes::open(disk, spawner)?;
    let first = read_label_sectors(&bytes).await?;
    let Some((label_sector, label)) = parse_label(&first).map_err(|error| {
        let name = &disk.name;
        weft_block::Error::new(
            ErrorKind::Corrupt,
            format!("the LVM2 label of {name} is damaged"),
        )
        .with_source(error)
    })?
    else {
        return Ok(None);
    };
    let after = (label_sector as usize + 1) * 512;
    let stray_label = first.get(after..).is_some_and(|rest| {
        rest.chunks(512)
            .any(|sector| sector.starts_with(b"LABELONE"))
    });
    let mut areas: Vec<MetadataArea> = Vec::new();
    for &place in label.metadata_areas.iter().take(MAX_AREAS) {
        let overlaps = areas.iter().any(|area| meets(area.place, place));
        areas.push(match overlaps || place.offset < LABEL_SCAN_BYTES as u64 {
            true => MetadataArea::unusable(place, "it overlaps another area or the label"),
            false => read_area(&bytes, place, known).await,
        });
    }
    Ok(Some(Member {
        disk: disk.clone(),
        label_sector,
        stray_label,
        label,
        areas,
    }))
}

/// Whether two runs of bytes share some.
pub(super) fn meets(one: Area, other: Area) -> bool {
    let end = |area: Area| area.offset.saturating_add(area.size);
    one.offset < end(other) && other.offset < end(one)
}

/// The first sectors; one that cannot be read (torn by a power cut) counts as empty.
async fn read_label_sectors(bytes: &Bytes) -> Result<Vec<u8>> {
    match bytes.read(0, LABEL_SCAN_BYTES as u64).await {
        Err(error) if error.kind() == ErrorKind::Io => {}
        other => return other,
    }
    let mut first = vec![0; LABEL_SCAN_BYTES];
    for (number, sector) in first.chunks_mut(512).enumerate() {
        match bytes.read(number as u64 * 512, 512).await {
            Ok(read) => sector[..read.len()].copy_from_slice(&read),
            Err(error) if error.kind() == ErrorKind::Io => {}
            Err(error) => return Err(error),
        }
    }
    Ok(first)
}

async fn read_area(bytes: &Bytes, place: Area, known: &mut Known) -> MetadataArea {
    let end = place.offset.checked_add(place.size);
    let inside = end.is_some_and(|end| end <= bytes.size());
    let whole = place.offset.is_multiple_of(512) && place.size.is_multiple_of(512);
    if !inside || !whole || place.size < 2 * HEADER_BYTES {
        return MetadataArea::unusable(place, "it is not inside the disk");
    }
    let mut area = MetadataArea::unusable(place, "");
    let header = match bytes.read(place.offset, HEADER_BYTES).await {
        Ok(header) => {
            AreaHeader::parse(&header, place.offset, place.size).map_err(|error| error.to_string())
        }
        Err(error) => Err(error.sentence()),
    };
    match header {
        Ok(header) => {
            area.header = HeaderState::Known(header);
            area.problem = None;
            if !header.is_ignored() && !header.committed.is_empty() {
                match read_copy(bytes, place, &header.committed, known).await {
                    Ok(copy) => area.copy = Some(copy),
                    Err(problem) => area.problem = Some(problem),
                }
            }
        }
        Err(problem) => {
            let found = super::history::newest(bytes, place, known).await;
            let location = found.as_ref().map(|(_, location)| *location);
            area.header = HeaderState::Damaged(location.unwrap_or_default());
            area.problem = Some(problem);
            area.copy = found.map(|(copy, _)| copy);
        }
    }
    area
}

/// Reads the text at a location and checks it.
async fn read_copy(
    bytes: &Bytes,
    place: Area,
    location: &Location,
    known: &mut Known,
) -> Result<Copy, String> {
    let text = read_text(bytes, place, location).await?;
    if checksum(&text) != location.checksum {
        return Err("the checksum of its metadata is wrong".into());
    }
    known.parse(text).map_err(|error| error.sentence())
}

/// Reads the bytes at a location, around the end of the ring if need be.
async fn read_text(bytes: &Bytes, place: Area, location: &Location) -> Result<Vec<u8>, String> {
    if location.size > MAX_TEXT as u64 {
        return Err(format!(
            "its metadata of {} bytes is larger than can be",
            location.size
        ));
    }
    let ring = Ring::new(place.size, bytes.block());
    let mut text = Vec::new();
    for part in ring.parts(location.offset, location.size) {
        let read = bytes.read(place.offset + part.start, part.end - part.start);
        text.extend(read.await.map_err(|error| error.sentence())?);
    }
    Ok(text)
}
