//! A volume group as its metadata text says it is. Sizes are in extents or, where said, in sectors of 512 bytes.

mod check;
mod name;
mod read;
#[cfg(test)]
mod tests;
mod usage;
mod write;

use std::sync::Arc;

use weft_block::SECTOR;

use crate::format::Id;
use crate::text::Entry;

pub use check::{MAX_SECTORS, check};
pub use name::{check_lv_name, check_vg_name};
pub use read::parse_metadata;
pub use write::metadata_text;

/// A volume group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeGroup {
    /// Its name.
    pub name: String,
    /// Its identifier, which stays when it is renamed.
    pub id: Id,
    /// Counts the commits.
    pub seqno: u64,
    /// `RESIZEABLE`, `READ`, `WRITE`, `EXPORTED`, …
    pub status: Vec<String>,
    /// Flags that old versions of LVM2 may ignore.
    pub flags: Vec<String>,
    /// Tags.
    pub tags: Vec<String>,
    /// Sectors in an extent.
    pub extent_size: u64,
    /// The most logical volumes, or zero.
    pub max_lv: u64,
    /// The most physical volumes, or zero.
    pub max_pv: u64,
    /// How many metadata areas are to be used, or zero for all.
    pub metadata_copies: u64,
    /// Its physical volumes.
    pub physical_volumes: Vec<PhysicalVolume>,
    /// Its logical volumes, hidden ones among them. A clone of the group shares those that are not changed.
    pub logical_volumes: Vec<Arc<LogicalVolume>>,
    /// What else the text says of it, kept as it is.
    pub rest: Vec<Entry>,
    /// Who wrote the text, and why.
    pub origin: Origin,
}

/// The last lines of a text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Origin {
    /// The command that made this version.
    pub description: String,
    /// The host it ran on.
    pub host: String,
    /// Seconds since 1970.
    pub time: u64,
}

/// A physical volume of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PhysicalVolume {
    /// What the text calls it: `pv0`, `pv1`, …
    pub key: String,
    /// Its identifier, as in its label.
    pub id: Id,
    /// The path it had when the text was written. A hint.
    pub device: String,
    /// `ALLOCATABLE` or nothing.
    pub status: Vec<String>,
    /// `MISSING` or nothing.
    pub flags: Vec<String>,
    /// Tags.
    pub tags: Vec<String>,
    /// Sectors of the device.
    pub device_size: u64,
    /// The first sector of extent zero.
    pub extent_start: u64,
    /// Extents.
    pub extent_count: u64,
    /// What else the text says of it, kept as it is.
    pub rest: Vec<Entry>,
}

/// A logical volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogicalVolume {
    /// Its name.
    pub name: String,
    /// Its identifier.
    pub id: Id,
    /// `READ`, `WRITE`, `VISIBLE`, …
    pub status: Vec<String>,
    /// Flags that old versions of LVM2 may ignore.
    pub flags: Vec<String>,
    /// Tags.
    pub tags: Vec<String>,
    /// Seconds since 1970, if the text says.
    pub creation_time: Option<u64>,
    /// The host it was made on, if the text says.
    pub creation_host: Option<String>,
    /// In order, without gaps.
    pub segments: Vec<Segment>,
    /// What else the text says of it, kept as it is.
    pub rest: Vec<Entry>,
}

/// A run of extents of a logical volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// The first extent of the logical volume.
    pub start: u64,
    /// Extents.
    pub count: u64,
    /// Tags.
    pub tags: Vec<String>,
    /// What is behind it.
    pub mapping: Mapping,
    /// What else the text says of it, kept as it is.
    pub rest: Vec<Entry>,
}

/// What is behind a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mapping {
    /// Stripes over physical volumes, each `count / stripes.len()` extents; linear with one.
    Striped {
        /// Sectors in a chunk; zero with one stripe.
        stripe_size: u64,
        /// Where each stripe starts.
        stripes: Vec<Stripe>,
    },
    /// A type that is not activated here; everything the text says of it is in the segment's `rest`.
    Other {
        /// The type's name.
        name: String,
    },
}

/// Where a stripe starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stripe {
    /// Index in the group's physical volumes.
    pub pv: usize,
    /// The first extent there.
    pub start: u64,
}

/// Extents of a physical volume that are in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Run {
    /// The first extent.
    pub start: u64,
    /// Extents.
    pub count: u64,
}

impl VolumeGroup {
    /// Bytes in an extent.
    pub fn extent_bytes(&self) -> u64 {
        self.extent_size * SECTOR
    }

    /// The logical volume of that name.
    pub fn logical_volume(&self, name: &str) -> Option<&LogicalVolume> {
        let mut lvs = self.logical_volumes.iter();
        lvs.find(|lv| lv.name == name).map(|lv| &**lv)
    }

    /// Whether the group was exported, to be imported elsewhere.
    pub fn is_exported(&self) -> bool {
        has(&self.status, "EXPORTED") || has(&self.flags, "EXPORTED")
    }

    /// All extents of all physical volumes.
    pub fn extents(&self) -> u64 {
        self.physical_volumes.iter().map(|pv| pv.extent_count).sum()
    }
}

impl PhysicalVolume {
    /// Whether new extents may be taken from it.
    pub fn is_allocatable(&self) -> bool {
        has(&self.status, "ALLOCATABLE") && !self.is_marked_missing()
    }

    /// Whether the group was changed while this volume was away: what it holds is old.
    pub fn is_marked_missing(&self) -> bool {
        has(&self.flags, "MISSING")
    }
}

impl LogicalVolume {
    /// Extents.
    pub fn extents(&self) -> u64 {
        self.segments.iter().map(|segment| segment.count).sum()
    }

    /// Whether users see it; the parts of mirrors and pools are hidden.
    pub fn is_visible(&self) -> bool {
        has(&self.status, "VISIBLE")
    }

    /// Whether it may be written.
    pub fn is_writable(&self) -> bool {
        has(&self.status, "WRITE")
    }

    /// The first segment type that is not activated here.
    pub fn unknown_type(&self) -> Option<&str> {
        self.segments
            .iter()
            .find_map(|segment| match &segment.mapping {
                Mapping::Other { name } => Some(name.as_str()),
                Mapping::Striped { .. } => None,
            })
    }

    /// The name of its kind: `linear`, `striped`, or the type of a segment that is not known here.
    pub fn kind(&self) -> &str {
        let linear = self.segments.iter().all(Segment::is_linear);
        self.unknown_type()
            .unwrap_or(if linear { "linear" } else { "striped" })
    }
}

impl Segment {
    /// Whether one stripe holds all of it.
    pub fn is_linear(&self) -> bool {
        matches!(&self.mapping, Mapping::Striped { stripes, .. } if stripes.len() == 1)
    }

    /// Its stripes, none for a type that is not known here.
    pub fn stripes(&self) -> &[Stripe] {
        match &self.mapping {
            Mapping::Striped { stripes, .. } => stripes,
            Mapping::Other { .. } => &[],
        }
    }

    /// Extents in each stripe.
    pub fn stripe_extents(&self) -> u64 {
        self.count / self.stripes().len().max(1) as u64
    }
}

fn has(list: &[String], word: &str) -> bool {
    list.iter().any(|entry| entry == word)
}
