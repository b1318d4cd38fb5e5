//! Where the clusters of an image are, read by the format alone.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::Result;
use weft_qcow2::format::{Header, L1Entry, Mapping};

pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const CLUSTER: u64 = 65536;

/// A cluster of an image.
pub(crate) struct Cluster {
    /// Its first byte on the disk.
    pub(crate) guest: u64,
    /// Where its entry is in the file.
    pub(crate) entry: u64,
    pub(crate) mapping: Mapping,
}

pub(crate) fn read(path: &Path, offset: u64, len: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    File::open(path)?.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}

/// The header and the clusters that have L2 entries, which are not extended.
pub(crate) fn layout_of(path: &Path) -> Result<(Header, Vec<Cluster>)> {
    let number_at = |offset| -> Result<u64> {
        let bytes = read(path, offset, 8)?;
        Ok(u64::from_be_bytes(bytes.try_into().unwrap()))
    };
    let header = Header::parse(&read(path, 0, CLUSTER as usize)?)?;
    let geometry = header.geometry;
    let mut clusters = Vec::new();
    for guest in (0..header.size).step_by(geometry.cluster() as usize) {
        let at = header.l1_offset + geometry.l1_index(guest) * 8;
        let Some(L1Entry { table, .. }) = L1Entry::decode(number_at(at)?, geometry)? else {
            continue;
        };
        let entry = table + geometry.l2_index(guest) * 8;
        clusters.push(Cluster {
            guest,
            entry,
            mapping: Mapping::decode(number_at(entry)?, 0, header.version, geometry)?,
        });
    }
    Ok((header, clusters))
}
