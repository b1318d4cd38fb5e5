//! What an image has of its own goes into the one below.

use weft_block::{BlockDevice, BlockQueue, IoVec, Request, Result as BlockResult};
use weft_uring::spawner;

use super::copy::{read, zeroes};
use super::map::map;
use super::name::Name;
use super::open::{Chain, How, open};
use super::{Progress, failed};
use crate::api::{Error, ErrorKind, ImageExtent, Result};

/// Bytes that are copied at once.
const PIECE: u64 = 2 << 20;

/// What is to be committed.
#[derive(Debug, Clone)]
pub struct Commit {
    /// The image.
    pub image: Name,
    /// How it is opened.
    pub how: How,
    /// The image below that takes it all; the one that it rests on unless named.
    pub base: Option<Name>,
    /// Whether the image is left as it is.
    pub keep: bool,
}

/// Copies what the image has, and those between, into an image below, which then reads as the image did, and empties the
/// image unless it is to be kept. It is kept as well if there are images between, which hide what is below them.
///
/// # Errors
/// `Invalid` if it does not rest on that, and as opening, reading and writing. The image reads as before then; what it rests
/// on may have changed, as far as the image hides it.
pub async fn commit(request: &Commit, progress: Progress<'_>) -> Result<()> {
    let depth = depth(request).await?;
    let how = How {
        writable: vec![0, depth],
        ..request.how.clone()
    };
    let chain = open(&request.image, &how).await?;
    into(&chain, depth, request.keep, progress).await
}

/// Copies what the images above `depth` have into the one there.
pub(super) async fn into(
    chain: &Chain,
    depth: usize,
    keep: bool,
    progress: Progress<'_>,
) -> Result<()> {
    let path = chain.top().name.to_string();
    let Some(base) = chain.links.get(depth) else {
        let message = format!("{path} rests on no other image: there is nothing to commit to");
        return Err(Error::new(ErrorKind::Invalid, path, message));
    };
    let own = above(chain, depth).await?;
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
    if !keep && depth == 1 {
        let emptied = chain.image()?.make_empty(&spawner()).await;
        emptied.map_err(failed(&path))?;
    }
    chain.close().await
}

/// How deep in the chain the image is that takes all.
async fn depth(request: &Commit) -> Result<usize> {
    let Some(base) = &request.base else {
        return Ok(1);
    };
    let chain = open(&request.image, &request.how).await?;
    let is_meant = |name: &Name| {
        name == base || (name.identity().is_some() && name.identity() == base.identity())
    };
    let below = chain.links.iter().skip(1);
    let found = below.map(|link| &link.name).position(is_meant);
    found.map(|position| position + 1).ok_or_else(|| {
        let path = request.image.to_string();
        let message = format!("{path} does not rest on {base}");
        Error::new(ErrorKind::Invalid, path, message)
    })
}

/// What the images above `depth` have.
async fn above(chain: &Chain, depth: usize) -> Result<Vec<ImageExtent>> {
    let mut own = Vec::new();
    map(chain, 0, u64::MAX, |extent| {
        // What lies beyond the end of the one that takes all reads as zeroes here, and there when it has grown. Beyond the
        // end of one between it reads as zeroes here, and not there.
        if extent.depth < depth && (extent.present || extent.depth + 1 < depth) {
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
