//! Images in files.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::{DiskUse, RaidSync, Sync};

/// What an image is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageInfo {
    /// Its path or URL, as it was asked for or as the image above names it.
    pub path: String,
    /// `raw` or `qcow2`.
    pub format: String,
    /// Bytes of the disk.
    pub size_bytes: u64,
    /// Bytes that the file takes of its file system; unknown where it is no file.
    pub used_bytes: Option<u64>,
    /// What a qcow2 image tells of itself.
    pub qcow2: Option<Qcow2Info>,
    /// What it rests on.
    pub backing: Option<ImageBacking>,
    /// Its snapshots, in their order.
    pub snapshots: Vec<ImageSnapshot>,
}

/// What the header of a qcow2 image says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Qcow2Info {
    /// The version: 2 or 3.
    pub version: u32,
    /// Bytes of a cluster.
    pub cluster_bytes: u64,
    /// Bits of a refcount.
    pub refcount_bits: u32,
    /// `zlib` or `zstd`.
    pub compression: String,
    /// Whether a cluster has 32 parts with mappings of their own.
    pub extended_l2: bool,
    /// Whether refcounts may be written late.
    pub lazy_refcounts: bool,
    /// Whether it was not closed.
    pub dirty: bool,
    /// Whether it must be repaired before it is written.
    pub corrupt: bool,
    /// How it is encrypted: `aes` or `luks`.
    pub encryption: Option<String>,
    /// What a LUKS header says.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub luks: Option<ImageLuks>,
    /// The file that holds its data.
    pub data_file: Option<String>,
    /// Whether that file reads as the disk does.
    pub data_file_raw: bool,
    /// Its bitmaps.
    pub bitmaps: Vec<ImageBitmap>,
}

/// How an image is encrypted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageLuks {
    /// The cipher, with the bits of its key: `aes-256`.
    pub cipher: String,
    /// Its mode: `xts`.
    pub mode: String,
    /// What makes IVs: `plain64`.
    pub iv: String,
    /// The hash that it uses, if it does.
    pub iv_hash: Option<String>,
    /// The hash that derives keys.
    pub hash: String,
    /// Its UUID.
    pub uuid: String,
    /// Where data would begin if this were a volume and no image.
    pub payload_offset: u64,
    /// PBKDF2 iterations of the master key's digest.
    pub digest_iterations: u32,
    /// The eight slots.
    pub slots: Vec<ImageKeySlot>,
}

/// A slot for a passphrase.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageKeySlot {
    /// Whether a passphrase opens it.
    pub in_use: bool,
    /// PBKDF2 iterations between the passphrase and its key.
    pub iterations: u32,
    /// First byte of its key material in the header.
    pub offset: u64,
    /// Pieces that the key is split into.
    pub stripes: u32,
}

/// The file below an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageBacking {
    /// As the image names it.
    pub name: String,
    /// Where that is.
    pub path: String,
    /// Its format, if the image tells.
    pub format: Option<String>,
}

/// A snapshot inside an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageSnapshot {
    /// Its number, as text.
    pub id: String,
    /// Its name.
    pub name: String,
    /// When it was made, in seconds since 1970.
    pub seconds: u32,
    /// And nanoseconds.
    pub nanoseconds: u32,
    /// Bytes of the disk then; unknown in old images.
    pub size_bytes: Option<u64>,
    /// Bytes of the machine's state.
    pub vm_state_bytes: u64,
    /// How long the machine had run, in nanoseconds.
    pub vm_clock_nanoseconds: u64,
    /// Instructions that the machine had run, if they were counted.
    pub instructions: Option<u64>,
}

/// A persistent bitmap of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageBitmap {
    /// Its name.
    pub name: String,
    /// Bytes that one bit stands for.
    pub granularity_bytes: u64,
    /// Whether writes are noted in it.
    pub auto: bool,
    /// Whether it was not closed, so that it says nothing.
    pub in_use: bool,
    /// Bytes of the disk that it says were written, where its bits were looked at.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub dirty_bytes: Option<u64>,
}

/// A change of a bitmap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImageBitmapChange {
    /// Make it.
    Add {
        /// Bytes that one bit stands for, as many as QEMU takes unless given.
        granularity_bytes: Option<u64>,
    },
    /// Remove it.
    Remove,
    /// Clear all bits.
    Clear,
    /// Record writes from now on.
    Enable,
    /// Record no writes.
    Disable,
    /// Set the bits that another one has.
    Merge {
        /// Its name.
        from: String,
    },
}

/// Change a bitmap of an image that serves as a disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ImageBitmapWanted {
    /// The image's DISK, or the one that holds it.
    pub disk: String,
    /// Its name.
    pub bitmap: String,
    /// What is done to it, in order.
    pub changes: Vec<ImageBitmapChange>,
}

/// What a check of an image has found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageCheck {
    /// The image.
    pub path: String,
    /// Contradictions that could lose data, before a repair.
    pub corruptions: u64,
    /// Clusters that are counted and not used, before a repair.
    pub leaks: u64,
    /// Whether all of it was mended.
    pub repaired: bool,
    /// The first problems in words.
    pub problems: Vec<String>,
    /// Clusters of the disk.
    pub total_clusters: u64,
    /// Those that have a place.
    pub allocated_clusters: u64,
    /// Of these, those that do not lie behind the one before them.
    pub fragmented_clusters: u64,
    /// Of these, those that are compressed.
    pub compressed_clusters: u64,
    /// The end of the last cluster that is used.
    pub end_bytes: u64,
}

/// A part of an image's disk, and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageExtent {
    /// Its first byte on the disk.
    pub offset: u64,
    /// Bytes.
    pub len_bytes: u64,
    /// How far down the chain it comes from; zero is the image itself.
    pub depth: usize,
    /// Whether any image of the chain has it.
    pub present: bool,
    /// Whether it reads as zeroes.
    pub zero: bool,
    /// Whether it is read from a file.
    pub data: bool,
    /// Whether it is compressed.
    pub compressed: bool,
    /// Where in `file` it is.
    pub file_offset: Option<u64>,
    /// The file that has it.
    pub file: Option<String>,
}

/// What a comparison has found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageComparison {
    /// Whether both disks read the same; a longer one may end with zeroes unless the comparison is strict.
    pub identical: bool,
    /// Whether both have the same size.
    pub same_size: bool,
    /// The first sector that differs.
    pub first_difference: Option<u64>,
    /// In a strict comparison, the first byte that one has and the other has not.
    pub first_other_allocation: Option<u64>,
}

/// How much room an image would take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageMeasure {
    /// Bytes with what is allocated now.
    pub required_bytes: u64,
    /// Bytes when all of the disk has been written.
    pub full_bytes: u64,
}

/// What was copied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageCopy {
    /// Where to.
    pub path: String,
    /// Bytes of the disk.
    pub size_bytes: u64,
    /// Bytes of it that hold data.
    pub data_bytes: u64,
    /// What could not be read and was copied as zeroes.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub lost: Vec<Range<u64>>,
}

/// An image that serves as a disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ImageDisk {
    /// The DISK, without what it may name.
    pub disk: String,
    /// Bytes.
    pub size_bytes: u64,
    /// Whether it is open for reading alone.
    pub read_only: bool,
    /// The image and what it rests on, the topmost first.
    pub chain: Vec<ImageLink>,
    /// Who uses it.
    pub used_by: Vec<DiskUse>,
    /// What is done to it in the background.
    pub job: Option<Sync>,
    /// The DISK that its users have when that is done, if it is another one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub moves_to: Option<String>,
    /// Why the last of that failed.
    pub trouble: Option<String>,
}

/// One image of a chain, or the raw disk below it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageLink {
    /// The DISK that holds it.
    pub disk: String,
    /// `raw` or `qcow2`.
    pub format: String,
}

/// Which image that serves as a disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ImageWanted {
    /// The DISK.
    pub disk: String,
}

/// A snapshot in an image that serves as a disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ImageSnapshotWanted {
    /// The image's DISK, or the one that holds it.
    pub disk: String,
    /// Its name, or its number.
    pub tag: String,
}

/// Make a new image the top of one that is in use.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ImageOverlay {
    /// The DISK.
    pub disk: String,
    /// The new image's file.
    pub path: String,
    /// Options by QEMU's names and values.
    #[serde(default)]
    pub options: Vec<(String, String)>,
}

/// A copy of an image in use, as it is when this is asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ImageBackup {
    /// The image's DISK.
    pub disk: String,
    /// The DISK that it is copied to.
    pub target: String,
    /// Copy only what this bitmap of the image says was written, and let it begin anew.
    #[serde(default)]
    pub bitmap: Option<String>,
    /// How it is to go.
    #[serde(default)]
    pub sync: RaidSync,
}

/// A copy of an image in use that takes its place.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ImageMirror {
    /// The image's DISK.
    pub disk: String,
    /// The DISK that it is copied to.
    pub target: String,
    /// Overwrite what that holds.
    #[serde(default)]
    pub force: bool,
    /// How it is to go.
    #[serde(default)]
    pub sync: RaidSync,
}

/// Several images of a chain become one: what the upper ones have goes up to the top, or down to the lowest of them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ImageJoin {
    /// The image's DISK.
    pub disk: String,
    /// The DISK of the image where that ends: a stream above it, a commit in it. Nothing for the whole chain, and for the
    /// image right below.
    #[serde(default)]
    pub base: Option<String>,
    /// In a commit: the disk's own image stays on top, and those below it are committed.
    #[serde(default)]
    pub below: bool,
    /// How it is to go.
    #[serde(default)]
    pub sync: RaidSync,
}

/// How the job of an image is to go on.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ImageSync {
    /// The image's DISK.
    pub disk: String,
    /// What is not said stays as it is.
    pub sync: RaidSync,
}
