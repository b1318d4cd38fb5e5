//! The persistent bitmaps that an image lists.

use weft_block::{BlockDevice, Error, ErrorKind, IoVec, Request, Result};
use weft_qcow2::format::{BitmapEntry, Header};
use weft_uring::spawner;

use crate::api::ImageBitmap;

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
