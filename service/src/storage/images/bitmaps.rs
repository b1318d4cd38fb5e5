//! The persistent bitmaps of an image: listed, and changed.

use weft_block::{BlockDevice, Error, ErrorKind, IoVec, Request, Result};
use weft_qcow2::format::{BitmapEntry, Header};
use weft_qcow2::{BitmapInfo, Image};
use weft_uring::spawner;

use super::failed;
use super::name::Name;
use super::open::{Format, How, open};
use crate::api::{ImageBitmap, ImageBitmapChange, Result as ApiResult};

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
        dirty_bytes: None,
    };
    Ok(entries.into_iter().map(describe).collect())
}

/// The bitmaps of an image that is open, and how much each says was written.
pub(in crate::storage) fn open_bitmaps(image: &Image) -> Vec<ImageBitmap> {
    let describe = |bitmap: BitmapInfo| ImageBitmap {
        name: bitmap.name,
        granularity_bytes: bitmap.granularity,
        auto: bitmap.recording,
        in_use: bitmap.inconsistent,
        dirty_bytes: (!bitmap.inconsistent).then_some(bitmap.dirty),
    };
    image.bitmaps().into_iter().map(describe).collect()
}

/// The bitmaps of the image at `name`, and how much each says was written.
///
/// # Errors
/// `Unsupported` for a raw image, and as opening it.
pub async fn list_bitmaps(name: &Name, format: Option<Format>) -> ApiResult<Vec<ImageBitmap>> {
    let how = How {
        format,
        ..How::tables()
    };
    let chain = open(name, &how).await?;
    let all = open_bitmaps(chain.image()?);
    chain.close().await?;
    Ok(all)
}

/// Changes the bitmap `bitmap` of the image at `name`, by one change after the other. What is merged is of the same image,
/// or of `source`. The changes are in the file when all of them could be made.
///
/// # Errors
/// As opening the images, and as the engine says of each change.
pub async fn change_bitmap(
    name: &Name,
    format: Option<Format>,
    bitmap: &str,
    changes: &[ImageBitmapChange],
    source: Option<&(Name, Option<Format>)>,
) -> ApiResult<()> {
    let how = How {
        format,
        ..How::tables().writing()
    };
    let chain = open(name, &how).await?;
    let path = name.to_string();
    let image = chain.image()?;
    let source = match source {
        Some((name, format)) => {
            let how = How {
                format: *format,
                ..How::tables()
            };
            Some(open(name, &how).await?)
        }
        None => None,
    };
    let others = match &source {
        Some(source) => source.image()?,
        None => image,
    };
    for change in changes {
        let changed = apply_bitmap_change(image, bitmap, change, others).await;
        changed.map_err(failed(&path))?;
    }
    chain.close().await
}

/// One change; what is merged is a bitmap of `others`.
pub(in crate::storage) async fn apply_bitmap_change(
    image: &Image,
    bitmap: &str,
    change: &ImageBitmapChange,
    others: &Image,
) -> Result<()> {
    // QEMU takes the cluster, within these bounds.
    const GRANULARITY: (u64, u64) = (4 << 10, 64 << 10);
    let cluster = image.header().geometry.cluster();
    match change {
        ImageBitmapChange::Add { granularity_bytes } => {
            let usual = cluster.clamp(GRANULARITY.0, GRANULARITY.1);
            image.create_bitmap(bitmap, granularity_bytes.unwrap_or(usual), true)
        }
        ImageBitmapChange::Remove => image.remove_bitmap(bitmap),
        ImageBitmapChange::Clear => image.clear_bitmap(bitmap, &spawner()).await,
        ImageBitmapChange::Enable => image.set_recording(bitmap, true, &spawner()).await,
        ImageBitmapChange::Disable => image.set_recording(bitmap, false, &spawner()).await,
        ImageBitmapChange::Merge { from } => {
            let parts = others.dirty(from)?;
            image.merge_bitmap(bitmap, &parts, &spawner()).await
        }
    }
}
