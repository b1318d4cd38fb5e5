//! Making an image.

use weft_block::{BlockDevice, BlockQueue, Error, ErrorKind, IoVec, Request, Result, Spawner};

use super::core::invalid;
use crate::format::{
    Area, Backing, CompressionType, Encryption, Extensions, Geometry, Header, MAX_L1_BYTES,
    Version, autoclear, compatible, incompatible, set_refcount,
};
use crate::luks;

/// What an image is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateOptions {
    /// Bytes of the disk; rounded up to whole sectors of 512.
    pub size: u64,
    /// The version.
    pub version: Version,
    /// log2 of the bytes of a cluster: 9 to 21.
    pub cluster_bits: u32,
    /// log2 of the bits of a refcount: 0 to 6.
    pub refcount_order: u32,
    /// Whether a cluster has 32 parts with mappings of their own.
    pub extended_l2: bool,
    /// Whether refcounts may be written late. This crate never does.
    pub lazy_refcounts: bool,
    /// How clusters are compressed.
    pub compression: CompressionType,
    /// The backing file.
    pub backing: Option<Backing>,
    /// The name of the data file.
    pub data_file: Option<String>,
    /// Whether the data file reads as the disk does, so that it can be used without the image.
    pub raw_data_file: bool,
    /// What the data is encrypted with: a new area, whose key then opens the image.
    pub encryption: Option<luks::Area>,
}

impl CreateOptions {
    /// QEMU's defaults for a disk of `size` bytes: version 3, clusters of 64 KiB, refcounts of 16 bits.
    pub fn new(size: u64) -> Self {
        Self {
            size,
            version: Version::V3,
            cluster_bits: 16,
            refcount_order: 4,
            extended_l2: false,
            lazy_refcounts: false,
            compression: CompressionType::Zlib,
            backing: None,
            data_file: None,
            raw_data_file: false,
            encryption: None,
        }
    }

    fn check(&self) -> Result<Geometry> {
        let geometry = Geometry::new(self.cluster_bits, self.refcount_order, self.extended_l2)?;
        let newer = self.extended_l2
            || self.lazy_refcounts
            || self.refcount_order != 4
            || self.compression != CompressionType::Zlib
            || self.data_file.is_some();
        if self.version == Version::V2 && newer {
            return Err(invalid(
                "an image of version 2 (compat=0.10) has refcounts of 16 bits, zlib and no other feature",
            ));
        }
        if self.raw_data_file && (self.data_file.is_none() || self.backing.is_some()) {
            return Err(invalid(
                "a raw data file needs a data file, and goes without a backing file",
            ));
        }
        if geometry.l1_entries(self.size) * 8 > MAX_L1_BYTES {
            let most = (MAX_L1_BYTES / 8).saturating_mul(geometry.l2_reach());
            return Err(invalid(format!(
                "a disk of {} bytes is too large for clusters of {} bytes, with which {most} are the most",
                self.size,
                geometry.cluster()
            )));
        }
        Ok(geometry)
    }

    fn header(&self, geometry: Geometry, layout: &Layout) -> Header {
        let flag = |set: bool, bit: u64| if set { bit } else { 0 };
        let v3 = self.version == Version::V3;
        Header {
            version: self.version,
            geometry,
            size: self.size.next_multiple_of(512),
            encryption: match self.encryption {
                Some(_) => Encryption::Luks,
                None => Encryption::None,
            },
            l1_offset: layout.l1 * geometry.cluster(),
            l1_entries: layout.l1_entries as u32,
            refcount_table_offset: layout.refcount_table * geometry.cluster(),
            refcount_table_clusters: layout.table_clusters as u32,
            snapshots: 0,
            snapshots_offset: 0,
            incompatible: flag(self.data_file.is_some(), incompatible::DATA_FILE)
                | flag(
                    self.compression != CompressionType::Zlib,
                    incompatible::COMPRESSION,
                )
                | flag(self.extended_l2, incompatible::EXTENDED_L2),
            compatible: flag(v3 && self.lazy_refcounts, compatible::LAZY_REFCOUNTS),
            autoclear: flag(self.raw_data_file, autoclear::RAW_DATA_FILE),
            compression: self.compression,
            backing_path: self.backing.as_ref().map(|backing| backing.path.clone()),
            extensions: Extensions {
                backing_format: self
                    .backing
                    .as_ref()
                    .and_then(|backing| backing.format.clone()),
                data_file: self.data_file.clone(),
                encryption: self.encryption.as_ref().map(|area| Area {
                    offset: layout.area * geometry.cluster(),
                    len: area.bytes().len() as u64,
                }),
                ..Extensions::default()
            },
            further: Vec::new(),
        }
    }
}

/// Where the first tables are, in clusters: the header, the refcount table, its blocks, the L1 table, what encryption
/// needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Layout {
    refcount_table: u64,
    table_clusters: u64,
    blocks: u64,
    block_count: u64,
    l1: u64,
    l1_entries: u64,
    area: u64,
    /// All of them.
    clusters: u64,
}

impl Layout {
    fn new(geometry: Geometry, size: u64, area_bytes: u64) -> Self {
        let l1_entries = geometry.l1_entries(size.next_multiple_of(512));
        let l1_clusters = geometry.clusters(l1_entries * 8);
        let area_clusters = geometry.clusters(area_bytes);
        let (mut table_clusters, mut block_count) = (1, 1);
        loop {
            let clusters = 1 + table_clusters + block_count + l1_clusters + area_clusters;
            let blocks = clusters.div_ceil(geometry.refcounts_per_block());
            let table = geometry.clusters(blocks * 8);
            if blocks <= block_count && table <= table_clusters {
                return Self {
                    refcount_table: 1,
                    table_clusters,
                    blocks: 1 + table_clusters,
                    block_count,
                    l1: 1 + table_clusters + block_count,
                    l1_entries,
                    area: clusters - area_clusters,
                    clusters,
                };
            }
            (table_clusters, block_count) = (table.max(table_clusters), blocks.max(block_count));
        }
    }
}

/// Makes an image in `file`, whatever it held before. It is durable when this returns; if it is cut short there is no
/// image, for the header comes last.
///
/// # Errors
/// `Invalid` or `Unsupported` if `options` contradict each other or the format, `NoSpace` if the file is too small, and as
/// writing the file.
pub async fn create(
    file: &dyn BlockDevice,
    options: &CreateOptions,
    spawner: &Spawner,
) -> Result<()> {
    let geometry = options.check()?;
    let area = options
        .encryption
        .as_ref()
        .map_or(&[][..], luks::Area::bytes);
    let layout = Layout::new(geometry, options.size, area.len() as u64);
    let header = options.header(geometry, &layout).to_bytes()?;
    let size = layout.clusters * geometry.cluster();
    let queue = file.open(spawner)?;
    let block = file.info().logical_block as usize;
    if file.info().size >= block as u64 {
        // The header of an image that was there must not outlive its tables.
        done(&*queue, Request::write(0, IoVec::zeroed(block))).await?;
        done(&*queue, Request::flush()).await?;
    }
    if file.set_len(size).is_err() && file.info().size < size {
        let sentence = format!(
            "the tables of the image alone take {size} bytes, and there are {}",
            file.info().size
        );
        return Err(Error::new(ErrorKind::NoSpace, sentence));
    }
    done(&*queue, Request::write_zeroes(0, size, false)).await?;
    let mut table = vec![0; (layout.table_clusters * geometry.cluster()) as usize];
    for block in 0..layout.block_count {
        let offset = (layout.blocks + block) * geometry.cluster();
        table[block as usize * 8..][..8].copy_from_slice(&offset.to_be_bytes());
        let mut bytes = vec![0; geometry.cluster() as usize];
        let per_block = geometry.refcounts_per_block();
        let used = (layout.clusters - block * per_block).min(per_block);
        (0..used as usize).for_each(|index| set_refcount(geometry, &mut bytes, index, 1));
        done(&*queue, Request::write(offset, IoVec::copy_of(&bytes))).await?;
    }
    let offset = layout.refcount_table * geometry.cluster();
    done(&*queue, Request::write(offset, IoVec::copy_of(&table))).await?;
    if !area.is_empty() {
        let mut bytes = area.to_vec();
        bytes.resize(bytes.len().next_multiple_of(block), 0);
        let offset = layout.area * geometry.cluster();
        done(&*queue, Request::write(offset, IoVec::copy_of(&bytes))).await?;
    }
    done(&*queue, Request::flush()).await?;
    let mut head = header;
    head.resize(head.len().next_multiple_of(block), 0);
    // The magic with the first block, after all that follows it.
    if head.len() > block {
        let rest = IoVec::copy_of(&head[block..]);
        done(&*queue, Request::write(block as u64, rest)).await?;
        done(&*queue, Request::flush()).await?;
    }
    let first = IoVec::copy_of(&head[..block]);
    done(&*queue, Request::write(0, first)).await?;
    done(&*queue, Request::flush()).await
}

async fn done(queue: &dyn BlockQueue, request: Request) -> Result<()> {
    queue.submit(request).await.result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_layout_is_qemus() {
        let geometry = Geometry::new(16, 4, false).unwrap();
        let layout = Layout::new(geometry, 1 << 30, 0);
        assert_eq!((layout.refcount_table, layout.blocks, layout.l1), (1, 2, 3));
        assert_eq!((layout.l1_entries, layout.clusters), (2, 4));
    }

    #[test]
    fn small_clusters_take_many_blocks() {
        let geometry = Geometry::new(9, 4, false).unwrap();
        let layout = Layout::new(geometry, 1 << 30, 0);
        assert!(layout.block_count * geometry.refcounts_per_block() >= layout.clusters);
        assert!(layout.table_clusters * 64 >= layout.block_count);
    }

    #[test]
    fn options_that_contradict_each_other_are_refused() {
        let mut options = CreateOptions::new(1 << 30);
        options.version = Version::V2;
        options.lazy_refcounts = true;
        assert_eq!(options.check().unwrap_err().kind(), ErrorKind::Invalid);
        let mut options = CreateOptions::new(1 << 60);
        assert_eq!(options.check().unwrap_err().kind(), ErrorKind::Invalid);
        options = CreateOptions::new(1 << 30);
        options.raw_data_file = true;
        assert_eq!(options.check().unwrap_err().kind(), ErrorKind::Invalid);
    }
}
