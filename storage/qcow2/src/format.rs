//! The bytes of an image: all that QEMU's `docs/interop/qcow2.txt` lays down, parsed once and never trusted.
//!
//! Numbers are big-endian. A parser takes hostile bytes: it allocates no more than the bounds below, and answers what it
//! cannot take with `Corrupt` (the image contradicts the format) or `Unsupported` (it is of a kind that this crate does
//! not know, named as the image names it).

mod bitmap;
mod entry;
mod extension;
mod feature;
mod fields;
mod geometry;
mod header;
mod refcount;
mod snapshot;

pub use bitmap::{BitmapEntry, BitmapTableEntry};
pub use entry::{L1Entry, Mapping};
pub use extension::{Area, Backing, BitmapsExtension, Extensions};
pub use feature::{FeatureName, FeatureSet, autoclear, compatible, incompatible};
pub use geometry::Geometry;
pub use header::{CompressionType, Encryption, Header, Version};
pub use refcount::{refcount, set_refcount};
pub use snapshot::SnapshotEntry;

/// The first four bytes of every image.
pub const MAGIC: [u8; 4] = *b"QFI\xfb";

/// Bytes that the L1 table of an image or a snapshot may have, as in QEMU: 2 EiB of disk with the default cluster.
pub const MAX_L1_BYTES: u64 = 32 << 20;

/// Bytes that the refcount table may have, as in QEMU.
pub const MAX_REFCOUNT_TABLE_BYTES: u64 = 8 << 20;

/// Snapshots that an image may have, as in QEMU.
pub const MAX_SNAPSHOTS: u32 = 65_536;

/// Bytes that the snapshot table may have, as in QEMU.
pub const MAX_SNAPSHOT_TABLE_BYTES: u64 = 64 << 20;

/// Bitmaps that an image may have, as in QEMU.
pub const MAX_BITMAPS: u32 = 65_535;

/// Bytes that the bitmap directory may have, as in QEMU.
pub const MAX_BITMAP_DIRECTORY_BYTES: u64 = MAX_BITMAPS as u64 * 1024;

/// Bytes of the name of a backing file, a data file or a bitmap.
pub const MAX_NAME: usize = 1023;
