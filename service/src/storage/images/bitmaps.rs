//! The persistent bitmaps of an image: listed, and changed.

use weft_block::{BlockDevice, Error, ErrorKind, IoVec, Request, Result};
use weft_qcow2::Image;
use weft_qcow2::format::{BitmapEntry, Header};
use weft_uring::spawner;

use super::failed;
use super::name::Name;
use super::open::{Format, How, open};
use crate::api::{ImageBitmap, Result as ApiResult};

/// The bitmaps of the image in `file`.
///
/// # Errors
/// `Corrupt`, and as reading the file.
pub(super) async fn bitmaps(file: &dyn BlockDevice, header: &Header) -> Result<Vec<ImageBitmap>> {
    let Some(extension) = header.extensions.bitmaps else {
        return Ok(Vec::new());
    };
    let info = file.info();
    let area = extension.directory;
    let block = u64::from(info.logical_block);
    let len = area.len.next_multiple_of(block);
    // The header bounds the length, and the file bounds what there is to read.
    if area
        .offset
        .checked_add(len)
        .is_none_or(|end| end > info.size)
    {
        let sentence = "the bitmap directory lies beyond the end of the file";
        return Err(Error::new(ErrorKind::Corrupt, sentence));
    }
    let queue = file.open(&spawner())?;
    let read = Request::read(area.offset, IoVec::zeroed(len as usize));
    let answer = queue.submit(read).await;
    answer.result?;
    let bytes = answer.buffer.into_buffer();
    let directory = &bytes[..area.len as usize];
    let entries = BitmapEntry::parse_directory(directory, extension.count, header.geometry)?;
    let describe = |entry: BitmapEntry| ImageBitmap {
        name: entry.name,
        granularity_bytes: 1 << entry.granularity_bits,
        auto: entry.auto,
        in_use: entry.in_use,
    };
    Ok(entries.into_iter().map(describe).collect())
}

/// A change of a bitmap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BitmapChange {
    /// Make it; a bit stands for so many bytes, as many as QEMU takes unless given.
    Add(Option<u64>),
    /// Remove it.
    Remove,
    /// Clear all bits.
    Clear,
    /// Record writes from now on.
    Enable,
    /// Record no writes.
    Disable,
    /// Set the bits of another one of the same image, or of the image that is given.
    Merge(String, Option<(Name, Option<Format>)>),
}

/// Changes the bitmap `bitmap` of the image at `name`, by one change after the other. They are in the file when all of
/// them could be made.
///
/// # Errors
/// As opening the images, and as the engine says of each change.
pub async fn change_bitmap(
    name: &Name,
    format: Option<Format>,
    bitmap: &str,
    changes: &[BitmapChange],
) -> ApiResult<()> {
    let how = How {
        format,
        ..How::tables().writing()
    };
    let chain = open(name, &how).await?;
    let path = name.to_string();
    let image = chain.image()?;
    for change in changes {
        let parts = match change {
            BitmapChange::Merge(other, Some((name, format))) => {
                let how = How {
                    format: *format,
                    ..How::tables()
                };
                let chain = open(name, &how).await?;
                chain.image()?.dirty(other)
            }
            BitmapChange::Merge(other, None) => image.dirty(other),
            _ => Ok(Vec::new()),
        };
        let parts = parts.map_err(failed(&path))?;
        let changed = apply(image, bitmap, change, &parts).await;
        changed.map_err(failed(&path))?;
    }
    chain.close().await
}

async fn apply(
    image: &Image,
    bitmap: &str,
    change: &BitmapChange,
    parts: &[std::ops::Range<u64>],
) -> Result<()> {
    // QEMU takes the cluster, within these bounds.
    const GRANULARITY: (u64, u64) = (4 << 10, 64 << 10);
    let cluster = image.header().geometry.cluster();
    match change {
        BitmapChange::Add(granularity) => {
            let usual = cluster.clamp(GRANULARITY.0, GRANULARITY.1);
            image.create_bitmap(bitmap, granularity.unwrap_or(usual), true)
        }
        BitmapChange::Remove => image.remove_bitmap(bitmap),
        BitmapChange::Clear => image.clear_bitmap(bitmap, &spawner()).await,
        BitmapChange::Enable => image.set_recording(bitmap, true, &spawner()).await,
        BitmapChange::Disable => image.set_recording(bitmap, false, &spawner()).await,
        BitmapChange::Merge(..) => image.merge_bitmap(bitmap, parts, &spawner()).await,
    }
}
