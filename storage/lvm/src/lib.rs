//! LVM2 volume groups in userspace.
//!
//! What this crate writes, LVM2 reads, and the reverse, with no conversion: labels, metadata areas with their ring of
//! texts, the metadata text itself. It knows linear and striped volumes; segments of other types are kept word for word,
//! shown, and not activated. It does no I/O but through `weft_block` devices, reads no clock and draws no random
//! numbers: a [`Host`] gives it those.
//!
//! # What it promises
//!
//! - **A change is all or nothing.** A power cut at any write of any change, torn sectors included, leaves the old or the
//!   new state; a change that fails leaves the old one. (A torn sector is one of the device's logical blocks; where that
//!   is larger than 512 bytes, the label shares its block with nothing that could stand in for it.)
//! - **Nothing is lost in a rewrite.** Keys, flags and segment types that it does not know come back out as they were.
//! - **Disks are hostile.** Sizes, counts, references and overlaps are checked once, where text becomes a
//!   [`model::VolumeGroup`]; deeper code relies on it. Parsing is bounded in depth, size and time.
//!
//! # The walk
//!
//! [`scan`] reads labels and metadata of a set of [`Disk`]s; [`Group::open`] takes one of the groups into use and mends
//! stale copies; its methods change it; [`Group::volume`] gives a [`Volume`], a `BlockDevice` over the physical volumes.
//! `format` is bytes, `text` the grammar, `model` the meaning, `plan` the pure changes, `group` the disks.

pub mod format;
mod group;
pub mod model;
pub mod plan;
pub mod text;
mod volume;

pub use format::Id;
pub use group::{
    Disk, Found, Group, GroupOptions, Host, PhysicalVolumeReport, Scan, SegmentReport,
    UnusedVolume, Version, VolumeReport, VolumeState, scan, wipe,
};
pub use plan::{Amount, NewVolume};
pub use volume::Volume;
