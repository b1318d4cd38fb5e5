//! What an image has of its own goes into the one below.

use weft_block::{BlockDevice, BlockQueue, IoVec, Request, Result as BlockResult};
use weft_uring::spawner;

use super::copy::{read, zeroes};
use super::map::map;
use super::name::Name;
use super::open::{Chain, Format, How, open};
use super::policy::Policy;
use super::{Progress, failed};
use crate::api::{Error, ErrorKind, ImageExtent, Result};

/// Bytes that are copied at once.
const PIECE: u64 = 2 << 20;

/// Copies what the image at `name` has into its backing file, which then reads as the image did, and empties the image
/// unless it is to be kept.
///
/// # Errors
/// `Invalid` if it rests on nothing, and as opening, reading and writing. The image reads as before then; what it rests
/// on may have changed, as far as the image hides it.
pub async fn commit(
    name: &Name,
    format: Option<Format>,
    policy: Policy,
    keep: bool,
    progress: Progress<'_>,
) -> Result<()> {
    let how = How {
        format,
        writable: vec![0, 1],
        ..How::to_read(policy)
    };
    let chain = open(name, &how).await?;
    let path = name.to_string();
    let Some(base) = chain.links.get(1) else {
        let message = format!("{path} rests on no other image: there is nothing to commit to");
        return Err(Error::new(ErrorKind::Invalid, path, message));
    };
    let own = own(&chain).await?;
    let size = chain.device().info().size;
    let base_name = base.name.to_string();
    let failed_below = failed(&base_name);
    if base.device.info().size < size {
        match &base.image {
            Some(image) => image.resize(size, &spawner()).await,
            None => base.device.set_len(size),
        }
        .map_err(&failed_below)?;
    }
    copy(&**chain.device(), &*base.device, own, progress)
        .await
        .map_err(failed_below)?;
    if !keep {
        let emptied = chain.image()?.make_empty(&spawner()).await;
        emptied.map_err(failed(&path))?;
    }
    chain.close().await
}

/// What the image has of its own.
async fn own(chain: &Chain) -> Result<Vec<ImageExtent>> {
    let mut own = Vec::new();
    map(chain, 0, u64::MAX, |extent| {
        // What lies beyond the end of the one below reads as zeroes here, and there when it has grown.
        if extent.depth == 0 && extent.present {
            own.push(extent);
        }
        Ok(())
    })
    .await?;
    Ok(own)
}

/// Copies the parts, durably.
async fn copy(
    from: &dyn BlockDevice,
    to: &dyn BlockDevice,
    parts: Vec<ImageExtent>,
    progress: Progress<'_>,
) -> BlockResult<()> {
    let (from, to) = (from.open(&spawner())?, to.open(&spawner())?);
    let total = parts.iter().map(|part| part.len_bytes).sum();
    let mut done = 0;
    for part in parts {
        let end = part.offset + part.len_bytes;
        if part.zero {
            zeroes(&*to, part.offset, end).await?;
        } else {
            copy_part(&*from, &*to, part.offset, end).await?;
        }
        done += part.len_bytes;
        progress(done, total);
    }
    to.submit(Request::flush()).await.result
}

async fn copy_part(
    from: &dyn BlockQueue,
    to: &dyn BlockQueue,
    start: u64,
    end: u64,
) -> BlockResult<()> {
    let mut at = start;
    while at < end {
        let len = PIECE.min(end - at);
        let bytes = read(from, at, len).await?;
        let write = Request::write(at, IoVec::from(bytes));
        to.submit(write).await.result?;
        at += len;
    }
    Ok(())
}
