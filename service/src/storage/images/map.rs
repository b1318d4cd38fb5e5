//! Where each part of a disk comes from: which image of the chain, and where in its file.

use std::ops::Range;

use weft_block::{ExtentKind, LocalBoxFuture, Result as BlockResult};
use weft_qcow2::Place;
use weft_qcow2::format::Encryption;
use weft_uring::spawner;

use super::failed;
use super::open::{Chain, Link};
use crate::api::{ImageExtent, Result};

/// Bytes of a disk that are asked for at once.
const REACH: u64 = 1 << 30;

/// Calls `each` with the parts of the disk from `start` to `end`, in order and without gaps, neighbours of a kind as one.
///
/// # Errors
/// As reading the images, and as `each`.
pub async fn map(
    chain: &Chain,
    start: u64,
    end: u64,
    mut each: impl FnMut(ImageExtent) -> Result<()>,
) -> Result<()> {
    let mut waiting: Option<ImageExtent> = None;
    let end = end.min(chain.device().info().size);
    let mut at = start;
    while at < end {
        let stop = end.min(at.saturating_add(REACH));
        let mut found = Vec::new();
        range(chain, 0, at, stop, &mut found).await?;
        for extent in found {
            match &mut waiting {
                Some(last) if goes_on(last, &extent) => last.len_bytes += extent.len_bytes,
                _ => {
                    if let Some(last) = waiting.replace(extent) {
                        each(last)?;
                    }
                }
            }
        }
        at = stop;
    }
    waiting.map_or(Ok(()), each)
}

/// Whether `next` is more of what `last` is.
fn goes_on(last: &ImageExtent, next: &ImageExtent) -> bool {
    let place = last.file_offset.map(|offset| offset + last.len_bytes);
    place == next.file_offset
        && (last.depth, last.present, last.zero, last.data)
            == (next.depth, next.present, next.zero, next.data)
        && (last.compressed, &last.file) == (next.compressed, &next.file)
}

/// Adds the parts between `start` and `end`, each from the image at `depth` or below that has it.
fn range<'a>(
    chain: &'a Chain,
    depth: usize,
    start: u64,
    end: u64,
    found: &'a mut Vec<ImageExtent>,
) -> LocalBoxFuture<'a, Result<()>> {
    Box::pin(async move {
        let link = &chain.links[depth];
        let name = link.name.to_string();
        for own in own(link, start, end).await.map_err(failed(&name))? {
            let (start, end, host) = match own {
                Own::Has(extent) => {
                    found.push(ImageExtent { depth, ..extent });
                    continue;
                }
                Own::Absent(start, end, host) => (start, end, host),
            };
            // Below, as far as that reaches; the rest reads as zeroes.
            let below = chain.links.get(depth + 1);
            let reach = below.map_or(0, |below| below.device.info().size);
            let middle = end.min(reach.max(start));
            if start < middle {
                range(chain, depth + 1, start, middle, found).await?;
            }
            if middle < end {
                let host = host.map(|host| host + (middle - start));
                found.push(nothing(link, depth, middle..end, host));
            }
        }
        Ok(())
    })
}

/// A part that no image has.
fn nothing(link: &Link, depth: usize, range: Range<u64>, host: Option<u64>) -> ImageExtent {
    ImageExtent {
        offset: range.start,
        len_bytes: range.end - range.start,
        depth,
        present: false,
        zero: true,
        data: false,
        compressed: false,
        file_offset: host,
        file: host.map(|_| data_name(link)),
    }
}

/// The file that has the data of an image.
fn data_name(link: &Link) -> String {
    link.data_file.as_ref().unwrap_or(&link.name).to_string()
}

/// What an image itself says.
enum Own {
    Has(ImageExtent),
    /// Nothing between these bytes, though it may have room in its file.
    Absent(u64, u64, Option<u64>),
}

async fn own(link: &Link, start: u64, end: u64) -> BlockResult<Vec<Own>> {
    let Some(image) = &link.image else {
        return own_raw(link, start, end).await;
    };
    let file = data_name(link);
    // What is at the place of an encrypted part is not what the disk holds.
    let encrypted = link
        .header
        .as_ref()
        .is_some_and(|header| header.encryption != Encryption::None);
    let parts = image.parts(start, end - start, &spawner()).await?;
    let describe = |part: weft_qcow2::Part| {
        let mut extent = ImageExtent {
            offset: part.offset,
            len_bytes: part.len,
            depth: 0,
            present: true,
            zero: false,
            data: true,
            compressed: false,
            file_offset: None,
            file: None,
        };
        match part.place {
            Place::Absent(host) => {
                return Own::Absent(part.offset, part.offset + part.len, host);
            }
            Place::Data(host) => extent.file_offset = Some(host),
            Place::Compressed => extent.compressed = true,
            Place::Zero(host) => {
                (extent.zero, extent.data) = (true, false);
                extent.file_offset = host;
            }
        }
        if encrypted {
            extent.file_offset = None;
        }
        extent.file = extent.file_offset.map(|_| file.clone());
        Own::Has(extent)
    };
    Ok(parts.into_iter().map(describe).collect())
}

async fn own_raw(link: &Link, start: u64, end: u64) -> BlockResult<Vec<Own>> {
    let queue = link.device.open(&spawner())?;
    let mut own = Vec::new();
    let mut at = start;
    while at < end {
        for extent in queue.extents(at, end - at).await? {
            let zero = extent.kind != ExtentKind::Data;
            own.push(Own::Has(ImageExtent {
                offset: extent.offset,
                len_bytes: extent.len,
                depth: 0,
                present: true,
                zero,
                data: !zero,
                compressed: false,
                file_offset: Some(extent.offset),
                file: Some(link.name.to_string()),
            }));
            at = extent.offset + extent.len;
        }
    }
    Ok(own)
}
