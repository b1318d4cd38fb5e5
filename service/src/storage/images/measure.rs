//! How much room an image would take, by QEMU's arithmetic: what scripts make volumes by.

use weft_qcow2::format::Version;
use weft_qcow2::{CreateOptions, luks};

use super::bitmaps::bitmaps;
use super::failed;
use super::map::map;
use super::open::{Chain, Format};
use super::options::{Options, Preallocation};
use crate::api::{ImageMeasure, Result};

/// What is measured: an image that there is, or an empty disk of so many bytes.
pub enum Measured<'a> {
    /// As a copy of it.
    Image(&'a Chain),
    /// As an empty disk.
    Size(u64),
}

/// How much room `measured` takes as an image in `format`, made with `options`.
///
/// # Errors
/// As reading the image.
pub async fn measure(
    measured: Measured<'_>,
    format: Format,
    options: &Options,
) -> Result<ImageMeasure> {
    let size = match measured {
        Measured::Image(chain) => chain.device().info().size,
        Measured::Size(size) => size.next_multiple_of(512),
    };
    if format == Format::Raw {
        return Ok(ImageMeasure {
            required_bytes: size,
            full_bytes: size,
        });
    }
    let cluster = 1_u64 << options.image.cluster_bits;
    let mut data = 0;
    if let Measured::Image(chain) = measured {
        let mut counted = 0;
        map(chain, 0, size, |extent| {
            if extent.data {
                let start = (extent.offset / cluster * cluster).max(counted);
                let end = (extent.offset + extent.len_bytes).next_multiple_of(cluster);
                data += end.saturating_sub(start);
                counted = end.max(counted);
            }
            Ok(())
        })
        .await?;
    }
    let keys = options.encryption.map_or(0, |encryption| {
        luks::area_bytes(encryption.luks.spec).next_multiple_of(cluster)
    });
    if matches!(
        options.preallocation,
        Preallocation::Falloc | Preallocation::Full
    ) {
        data = size.next_multiple_of(cluster);
    }
    let tables = keys + tables(size.next_multiple_of(cluster), &options.image);
    Ok(ImageMeasure {
        required_bytes: tables + data,
        full_bytes: tables + size.next_multiple_of(cluster),
    })
}

/// How much more room the bitmaps of an image take in a copy; nothing where source or copy cannot have any.
///
/// # Errors
/// As reading the image.
pub async fn measure_bitmaps(chain: &Chain, options: &Options) -> Result<Option<u64>> {
    let (link, options) = (chain.top(), &options.image);
    let (Some(header), Version::V3) = (&link.header, options.version) else {
        return Ok(None);
    };
    if header.version == Version::V2 {
        return Ok(None);
    }
    let cluster = 1_u64 << options.cluster_bits;
    let bitmaps = bitmaps(&*link.file, header).await;
    let bitmaps = bitmaps.map_err(failed(&link.name.to_string()))?;
    let (mut bytes, mut directory) = (0, 0_u64);
    for bitmap in bitmaps {
        let bits = link.device.info().size.div_ceil(bitmap.granularity_bytes);
        let clusters = bits.div_ceil(8).div_ceil(cluster);
        bytes += clusters * cluster + (clusters * 8).next_multiple_of(cluster);
        directory += (24 + bitmap.name.len() as u64).next_multiple_of(8);
    }
    Ok(Some(bytes + directory.next_multiple_of(cluster)))
}

/// Bytes of the tables of a disk of `size` bytes that is full.
fn tables(size: u64, options: &CreateOptions) -> u64 {
    let cluster = 1_u64 << options.cluster_bits;
    let l2_entry = if options.extended_l2 { 16 } else { 8 };
    let l2_entries = (size / cluster).next_multiple_of(cluster / l2_entry);
    let l2 = l2_entries * l2_entry;
    let l1 = (l2 / cluster).next_multiple_of(cluster / 8) * 8;
    let tables = cluster + l2 + l1;
    let clusters = (tables + size) / cluster;
    let refcounts = (cluster * 8) >> options.refcount_order;
    let (mut blocks, mut table) = (0, 0);
    loop {
        let next = (clusters + blocks + table).div_ceil(refcounts);
        let next = (next, next.div_ceil(cluster / 8));
        if next == (blocks, table) {
            return tables + (blocks + table) * cluster;
        }
        (blocks, table) = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_of_100_mib_takes_what_qemu_says() {
        let options = CreateOptions::new(100 << 20);
        // `qemu-img measure -O qcow2 --size 100M`: 105185280.
        assert_eq!(tables(100 << 20, &options), 105_185_280 - (100 << 20));
    }
}
