//! The header of an image.

use weft_block::{Error, ErrorKind, Result};

use super::extension::{Backing, Extensions, text};
use super::feature::{FeatureSet, autoclear, compatible, incompatible, name_bits};
use super::fields::{part, u32_at, u64_at};
use super::{Geometry, MAGIC, MAX_L1_BYTES, MAX_NAME, MAX_REFCOUNT_TABLE_BYTES, MAX_SNAPSHOTS};

/// Bytes of a header of version 2.
const V2_LEN: usize = 72;
/// Bytes of the shortest header of version 3.
const V3_LEN: usize = 104;
/// Bytes of the header that this crate writes: with the compression type.
const OWN_LEN: usize = 112;

/// The version of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// `compat=0.10`: no features, no zero clusters, refcounts of 16 bits.
    V2,
    /// `compat=1.1`.
    V3,
}

/// How clusters are encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encryption {
    /// Not.
    None,
    /// By AES-CBC with the passphrase as key: broken, and refused by everybody.
    Aes,
    /// By LUKS.
    Luks,
}

/// How clusters are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CompressionType {
    /// Raw deflate with a window of 4 KiB.
    #[default]
    Zlib,
    /// Zstandard.
    Zstd,
}

/// All that the first cluster of an image tells. What is in it was checked on its own; whether tables lie inside the
/// file and apart from each other is for who reads them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The version.
    pub version: Version,
    /// Sizes of clusters, entries and refcounts.
    pub geometry: Geometry,
    /// Bytes of the disk.
    pub size: u64,
    /// How clusters are encrypted.
    pub encryption: Encryption,
    /// Where the L1 table is; zero if it has no entries.
    pub l1_offset: u64,
    /// Entries of the L1 table, enough for `size`.
    pub l1_entries: u32,
    /// Where the refcount table is.
    pub refcount_table_offset: u64,
    /// Clusters of the refcount table.
    pub refcount_table_clusters: u32,
    /// How many snapshots there are.
    pub snapshots: u32,
    /// Where the snapshot table is; means nothing without snapshots.
    pub snapshots_offset: u64,
    /// Bits of [`incompatible`]; only those that are known.
    pub incompatible: u64,
    /// Bits of [`compatible`].
    pub compatible: u64,
    /// Bits of [`autoclear`].
    pub autoclear: u64,
    /// How clusters are compressed.
    pub compression: CompressionType,
    /// The backing file's name.
    pub backing_path: Option<String>,
    /// The extensions.
    pub extensions: Extensions,
    /// Fields behind those that this crate knows, kept as they are.
    pub further: Vec<u8>,
}

impl Header {
    /// Bytes that are always enough to tell how large the first cluster is.
    pub const PREFIX: usize = 512;

    /// How many bytes of the file [`parse`](Self::parse) wants to see: those of a cluster.
    ///
    /// # Errors
    /// `Invalid` if this is no image, `Unsupported` for a version or a cluster size that there is not.
    pub fn len(prefix: &[u8]) -> Result<usize> {
        if prefix.len() < V2_LEN || prefix[..4] != MAGIC {
            return Err(Error::new(ErrorKind::Invalid, "this is not a qcow2 image"));
        }
        let version = u32_at(prefix, 4);
        if version != 2 && version != 3 {
            return Err(unsupported(format!(
                "this is a qcow2 image of version {version}"
            )));
        }
        Ok(Geometry::new(u32_at(prefix, 20), 4, false)?.cluster() as usize)
    }

    /// Parses the first cluster of an image; shorter if the file is.
    ///
    /// # Errors
    /// `Invalid`, `Unsupported` (unknown features by their names) or `Corrupt`.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        Self::len(bytes)?;
        let version = if u32_at(bytes, 4) == 2 {
            Version::V2
        } else {
            Version::V3
        };
        let fields = match version {
            Version::V2 => Later::of_version_2(),
            Version::V3 => Later::parse(bytes)?,
        };
        let cluster_bits = u32_at(bytes, 20);
        let extended = fields.incompatible & incompatible::EXTENDED_L2 != 0;
        // Features first: an unknown one may have changed everything else.
        let plain = Geometry::new(cluster_bits, 4, false)?;
        let tail = bytes.get(fields.len..).unwrap_or_default();
        let extensions =
            Extensions::parse(&tail[..tail.len().min(plain.cluster() as usize)], plain)?;
        refuse_unknown(&fields, &extensions)?;
        let geometry = Geometry::new(cluster_bits, fields.refcount_order, extended)?;
        let this = Self {
            version,
            geometry,
            size: u64_at(bytes, 24),
            encryption: encryption(u32_at(bytes, 32))?,
            l1_entries: u32_at(bytes, 36),
            l1_offset: u64_at(bytes, 40),
            refcount_table_offset: u64_at(bytes, 48),
            refcount_table_clusters: u32_at(bytes, 56),
            snapshots: u32_at(bytes, 60),
            snapshots_offset: u64_at(bytes, 64),
            incompatible: fields.incompatible,
            compatible: fields.compatible,
            autoclear: fields.autoclear,
            compression: fields.compression,
            backing_path: backing_path(bytes)?,
            extensions,
            further: fields.further,
        };
        this.check()?;
        Ok(this)
    }

    /// The backing file, with the format that the image tells.
    pub fn backing(&self) -> Option<Backing> {
        Some(Backing {
            path: self.backing_path.clone()?,
            format: self.extensions.backing_format.clone(),
        })
    }

    /// Whether the incompatible feature `bit` is set.
    pub fn has(&self, bit: u64) -> bool {
        self.incompatible & bit != 0
    }

    /// Whether refcounts are written late.
    pub fn lazy_refcounts(&self) -> bool {
        self.compatible & compatible::LAZY_REFCOUNTS != 0
    }

    /// Whether the data file reads as the disk does.
    pub fn raw_data_file(&self) -> bool {
        self.autoclear & autoclear::RAW_DATA_FILE != 0
    }

    /// Changes, in the bytes that an image begins with, the fields that are numbers of the first
    /// [`PREFIX`](Self::PREFIX) bytes: sizes, places, the width of refcounts and feature bits. All else stays as it was.
    ///
    /// # Panics
    /// If `bytes` has not even a header.
    pub fn patch(&self, bytes: &mut [u8]) {
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(24, &self.size.to_be_bytes());
        put(36, &self.l1_entries.to_be_bytes());
        put(40, &self.l1_offset.to_be_bytes());
        put(48, &self.refcount_table_offset.to_be_bytes());
        put(56, &self.refcount_table_clusters.to_be_bytes());
        put(60, &self.snapshots.to_be_bytes());
        put(64, &self.snapshots_offset.to_be_bytes());
        if self.version == Version::V3 {
            put(72, &self.incompatible.to_be_bytes());
            put(80, &self.compatible.to_be_bytes());
            put(88, &self.autoclear.to_be_bytes());
            put(96, &self.geometry.refcount_order().to_be_bytes());
        }
    }

    /// The first cluster, or as much of it as is used.
    ///
    /// # Errors
    /// `Invalid` if a name or the extensions do not fit a cluster.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        self.to_bytes_from(0)
    }

    /// Whether all behind the first `block` bytes can be elsewhere too. Extensions have one place in version 2.
    pub(crate) fn names_move(&self, block: usize) -> bool {
        let v3 = self.version == Version::V3;
        v3 || V2_LEN + self.extensions.write(false).len() <= block
    }

    /// The same header with its names from byte `start` on, and its extensions too if it is one of version 3: a way to keep
    /// those of another header beside them.
    ///
    /// # Errors
    /// As [`to_bytes`](Self::to_bytes).
    pub fn to_bytes_from(&self, start: usize) -> Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(1024);
        bytes.extend_from_slice(&MAGIC);
        let v3 = self.version == Version::V3;
        bytes.extend_from_slice(&(if v3 { 3u32 } else { 2 }).to_be_bytes());
        bytes.resize(V2_LEN, 0);
        if v3 {
            bytes.resize(OWN_LEN, 0);
            bytes.extend_from_slice(&self.further);
            bytes.resize(start.max(bytes.len()), 0);
            let len = bytes.len() as u32;
            bytes[100..104].copy_from_slice(&len.to_be_bytes());
            bytes[104] = self.compression as u8;
        }
        bytes[20..24].copy_from_slice(&self.geometry.cluster_bits().to_be_bytes());
        bytes[32..36].copy_from_slice(&(self.encryption as u32).to_be_bytes());
        self.patch(&mut bytes);
        // The names of features are for readers that do not know them; a small cluster has no room for them.
        let path = self.backing_path.as_ref().map_or(0, |path| path.len());
        let named = self.extensions.write(v3);
        let room = (self.geometry.cluster() as usize).saturating_sub(bytes.len() + path);
        let extensions = match named.len() <= room {
            true => named,
            false => self.extensions.write(false),
        };
        bytes.extend_from_slice(&extensions);
        if !v3 {
            bytes.resize(start.max(bytes.len()), 0);
        }
        if let Some(path) = &self.backing_path {
            let offset = bytes.len() as u64;
            bytes[8..16].copy_from_slice(&offset.to_be_bytes());
            bytes[16..20].copy_from_slice(&(path.len() as u32).to_be_bytes());
            bytes.extend_from_slice(path.as_bytes());
        }
        let cluster = self.geometry.cluster();
        if bytes.len() as u64 > cluster {
            let sentence = format!(
                "the header with its names takes {} bytes, and a cluster has {cluster}",
                bytes.len()
            );
            return Err(Error::new(ErrorKind::Invalid, sentence));
        }
        Ok(bytes)
    }

    /// What the fields say of each other.
    fn check(&self) -> Result<()> {
        let geometry = self.geometry;
        let l1_bytes = u64::from(self.l1_entries) * 8;
        check_table("L1 table", self.l1_offset, l1_bytes, MAX_L1_BYTES, geometry)?;
        let wanted = geometry.l1_entries(self.size);
        if wanted > u64::from(self.l1_entries) {
            return Err(corrupt(format!(
                "a disk of {} bytes needs an L1 table of {wanted} entries, and it has {}",
                self.size, self.l1_entries
            )));
        }
        let table = u64::from(self.refcount_table_clusters) << geometry.cluster_bits();
        let offset = self.refcount_table_offset;
        check_table(
            "refcount table",
            offset,
            table,
            MAX_REFCOUNT_TABLE_BYTES,
            geometry,
        )?;
        if table == 0 || offset == 0 {
            return Err(corrupt("the image has no refcount table".into()));
        }
        if self.snapshots > MAX_SNAPSHOTS {
            let count = self.snapshots;
            return Err(corrupt(format!(
                "{count} snapshots are more than {MAX_SNAPSHOTS}"
            )));
        }
        if self.snapshots > 0 && !geometry.is_aligned(self.snapshots_offset) {
            let offset = self.snapshots_offset;
            return Err(corrupt(format!(
                "the snapshot table at {offset} starts inside a cluster"
            )));
        }
        let encrypted = self.encryption == Encryption::Luks;
        if encrypted && self.extensions.encryption.is_none() {
            return Err(corrupt(
                "the image is encrypted, but does not tell where its keys are".into(),
            ));
        }
        Ok(())
    }
}

fn check_table(what: &str, offset: u64, bytes: u64, most: u64, geometry: Geometry) -> Result<()> {
    if bytes > most {
        return Err(unsupported(format!(
            "the {what} of {bytes} bytes is larger than {most}"
        )));
    }
    if !geometry.is_aligned(offset) || offset.checked_add(bytes).is_none_or(|end| end > 1 << 63) {
        return Err(corrupt(format!(
            "the {what} of {bytes} bytes cannot be at {offset}"
        )));
    }
    Ok(())
}

/// The fields that version 3 added.
struct Later {
    incompatible: u64,
    compatible: u64,
    autoclear: u64,
    refcount_order: u32,
    compression: CompressionType,
    /// Bytes of the header.
    len: usize,
    further: Vec<u8>,
}

impl Later {
    fn of_version_2() -> Self {
        Self {
            incompatible: 0,
            compatible: 0,
            autoclear: 0,
            refcount_order: 4,
            compression: CompressionType::Zlib,
            len: V2_LEN,
            further: Vec::new(),
        }
    }

    fn parse(bytes: &[u8]) -> Result<Self> {
        let len = bytes
            .get(100..V3_LEN)
            .map_or(0, |field| u32_at(field, 0) as usize);
        if len < V3_LEN || !len.is_multiple_of(8) || len > bytes.len() {
            return Err(corrupt(format!("a header of {len} bytes cannot be")));
        }
        let mut this = Self {
            incompatible: u64_at(bytes, 72),
            compatible: u64_at(bytes, 80),
            autoclear: u64_at(bytes, 88),
            refcount_order: u32_at(bytes, 96),
            compression: CompressionType::Zlib,
            len,
            further: further(&bytes[OWN_LEN.min(len)..len]),
        };
        let kind = if len > V3_LEN { bytes[V3_LEN] } else { 0 };
        this.compression = match kind {
            0 => CompressionType::Zlib,
            1 => CompressionType::Zstd,
            _ => {
                return Err(unsupported(format!(
                    "compression of type {kind} is not known"
                )));
            }
        };
        // A type that is not the default must be guarded by its feature bit, and the reverse.
        if (kind != 0) != (this.incompatible & incompatible::COMPRESSION != 0) {
            return Err(corrupt(
                "the header names a way of compression that its features contradict".into(),
            ));
        }
        Ok(this)
    }
}

/// Fields that this crate does not know; zeroes are room that somebody left.
fn further(bytes: &[u8]) -> Vec<u8> {
    let used = bytes.iter().rposition(|&byte| byte != 0);
    used.map_or(Vec::new(), |last| {
        bytes[..(last + 1).next_multiple_of(8)].to_vec()
    })
}

fn refuse_unknown(fields: &Later, extensions: &Extensions) -> Result<()> {
    let unknown = fields.incompatible & !incompatible::KNOWN;
    if unknown == 0 {
        return Ok(());
    }
    let names = name_bits(FeatureSet::Incompatible, unknown, &extensions.feature_names);
    Err(unsupported(format!(
        "the image has features that are not known here: {names}"
    )))
}

fn encryption(method: u32) -> Result<Encryption> {
    match method {
        0 => Ok(Encryption::None),
        1 => Ok(Encryption::Aes),
        2 => Ok(Encryption::Luks),
        _ => Err(unsupported(format!(
            "encryption of method {method} is not known"
        ))),
    }
}

fn backing_path(bytes: &[u8]) -> Result<Option<String>> {
    let (offset, len) = (u64_at(bytes, 8), u32_at(bytes, 16) as usize);
    if offset == 0 {
        return Ok(None);
    }
    let name = usize::try_from(offset)
        .ok()
        .filter(|_| len <= MAX_NAME)
        .and_then(|offset| part(bytes, offset, len))
        .ok_or_else(|| {
            corrupt(format!(
                "the backing file's name of {len} bytes at {offset} leaves the header"
            ))
        })?;
    text(name, "name of the backing file").map(Some)
}

fn corrupt(sentence: String) -> Error {
    Error::new(ErrorKind::Corrupt, sentence)
}

fn unsupported(sentence: String) -> Error {
    Error::new(ErrorKind::Unsupported, sentence)
}
