//! Another backing file.

use weft_block::{BlockDevice, BlockQueue, IoVec, Request, Result as BlockResult};
use weft_qcow2::format::Backing;
use weft_qcow2::{Image, Part, Place};
use weft_uring::spawner;

use super::copy::{LOOK, is_zero, read, zeroes};
use super::described::Described;
use super::keys::Keys;
use super::name::Name;
use super::open::{Chain, Format, How, open};
use super::policy::Policy;
use super::{Progress, failed};
use crate::api::Result;

/// Bytes that are compared at once.
const PIECE: u64 = 1 << 20;

/// Bytes of the disk whose parts are asked for at once.
const REACH: u64 = 1 << 30;

/// Another backing file for an image.
#[derive(Debug, Clone)]
pub struct Rebase {
    /// The image.
    pub image: Name,
    /// Its format.
    pub format: Option<Format>,
    /// What it is to rest on, as it is to name that; nothing to rest on nothing.
    pub backing: Option<String>,
    /// The format of that; guessed if not given.
    pub backing_format: Option<Format>,
    /// Only change the name: whoever asks knows that both read the same.
    pub unsafely: bool,
    /// Which files the images may name.
    pub policy: Policy,
    /// What opens those that are encrypted.
    pub keys: Keys,
}

/// Makes an image rest on another file. Unless it is done unsafely the disk stays what it is: where the old and the new
/// one read differently, the image gets a copy of its own first.
///
/// # Errors
/// As opening, reading and writing. The image rests on the old file then, and reads as before.
pub async fn rebase(request: &Rebase, progress: Progress<'_>) -> Result<()> {
    let how = How {
        format: request.format,
        keys: request.keys.clone(),
        ..How::to_read(request.policy.clone()).writing()
    };
    if request.unsafely {
        let how = How {
            chain: false,
            data: false,
            keys: Keys::default(),
            ..how
        };
        let chain = open(&request.image, &how).await?;
        let format = match (&request.backing, request.backing_format) {
            (Some(name), None) => {
                let below = Described::by_image(&request.image, name)?;
                let how = How {
                    format: below.format,
                    ..How::tables()
                };
                Some(open(&below.name, &how).await?.top().format)
            }
            (_, format) => format,
        };
        name_it(request, &chain, format).await?;
        return chain.close().await;
    }
    let chain = open(&request.image, &how).await?;
    let new = match &request.backing {
        None => None,
        Some(name) => {
            let below = Described::by_image(&request.image, name)?;
            let name = below.name;
            let how = How {
                format: request.backing_format.or(below.format),
                below: below.below,
                // Which image is how deep is another matter there.
                keys: request.keys.clone().everywhere(),
                ..How::to_read(request.policy.clone())
            };
            Some(open(&name, &how).await?)
        }
    };
    onto(request, &chain, new.as_ref(), progress).await
}

/// Makes the image of `chain` rest on `new`.
pub(super) async fn onto(
    request: &Rebase,
    chain: &Chain,
    new: Option<&Chain>,
    progress: Progress<'_>,
) -> Result<()> {
    let path = request.image.to_string();
    let image = chain.image()?;
    let device = new.map(|chain| &**chain.device());
    let grain = image.header().geometry.grain();
    keep(image, device, grain, progress)
        .await
        .map_err(failed(&path))?;
    let format = new.map(|chain| chain.top().format);
    name_it(request, chain, format).await?;
    chain.close().await
}

async fn name_it(request: &Rebase, chain: &Chain, format: Option<Format>) -> Result<()> {
    let path = request.image.to_string();
    let backing = request.backing.clone().map(|path| Backing {
        path,
        format: format.map(|format| format.name().to_owned()),
    });
    let renamed = chain.image()?.set_backing(backing, &spawner()).await;
    renamed.map_err(failed(&path))
}

/// Copies into the image what reads differently on `new`, durably.
async fn keep(
    image: &Image,
    new: Option<&dyn BlockDevice>,
    grain: u64,
    progress: Progress<'_>,
) -> BlockResult<()> {
    let size = image.info().size;
    let queue = image.open(&spawner())?;
    let new = match new {
        Some(device) => Some((device.open(&spawner())?, device.info().size)),
        None => None,
    };
    let mut at = 0;
    while at < size {
        let stop = size.min(at + REACH);
        for part in image.parts(at, stop - at, &spawner()).await? {
            let end = part.offset + part.len;
            if matches!(part.place, Place::Absent(_)) {
                keep_part(&*queue, new.as_ref(), part, grain).await?;
            }
            progress(end, size);
        }
        at = stop;
    }
    queue.submit(Request::flush()).await.result
}

type Below = (Box<dyn BlockQueue>, u64);

/// Copies what differs of a part that the image has not.
async fn keep_part(
    queue: &dyn BlockQueue,
    new: Option<&Below>,
    part: Part,
    grain: u64,
) -> BlockResult<()> {
    let end = part.offset + part.len;
    let mut at = part.offset;
    while at < end {
        // What neither has data in needs no look.
        let empty = empty_for(queue, at, end).await?;
        let new_empty = match new {
            Some((new, size)) if at < *size => empty_for(&**new, at, end.min(*size)).await?,
            _ => end - at,
        };
        let both = empty.min(new_empty);
        if both > 0 {
            at += both;
            continue;
        }
        let len = (PIECE - at % PIECE).min(end - at);
        let old = read(queue, at, len).await?;
        let theirs = match new {
            Some((new, size)) => read_padded(&**new, *size, at, len).await?,
            None => vec![0; len as usize],
        };
        let old = IoVec::from(old);
        let bytes = old.to_buffer();
        for (start, len, zero) in differing(&bytes, &theirs, at, grain) {
            let place = at + start as u64;
            if zero {
                zeroes(queue, place, place + len as u64).await?;
            } else {
                let write = Request::write(place, old.slice(start, len));
                queue.submit(write).await.result?;
            }
        }
        at += len;
    }
    Ok(())
}

/// Bytes from `at` on that hold no data, at most to `end`.
async fn empty_for(queue: &dyn BlockQueue, at: u64, end: u64) -> BlockResult<u64> {
    let extents = queue.extents(at, (end - at).min(LOOK)).await?;
    let empty = extents
        .iter()
        .take_while(|extent| extent.kind != weft_block::ExtentKind::Data);
    Ok(empty.map(|extent| extent.len).sum())
}

/// What is beyond the end reads as zeroes.
async fn read_padded(queue: &dyn BlockQueue, size: u64, at: u64, len: u64) -> BlockResult<Vec<u8>> {
    let there = size.saturating_sub(at).min(len);
    let mut bytes = match there {
        0 => Vec::new(),
        there => read(queue, at, there).await?.to_vec(),
    };
    bytes.resize(len as usize, 0);
    Ok(bytes)
}

/// Runs of grains that differ, with whether the old ones are zeroes.
fn differing(old: &[u8], new: &[u8], start: u64, grain: u64) -> Vec<(usize, usize, bool)> {
    let mut runs: Vec<(usize, usize, bool)> = Vec::new();
    let mut at = 0;
    while at < old.len() {
        let left = (grain - (start + at as u64) % grain) as usize;
        let len = left.min(old.len() - at);
        let (ours, theirs) = (&old[at..at + len], &new[at..at + len]);
        if ours != theirs {
            let zero = is_zero(ours);
            match runs.last_mut() {
                Some(last) if last.0 + last.1 == at && last.2 == zero => last.1 += len,
                _ => runs.push((at, len, zero)),
            }
        }
        at += len;
    }
    runs
}
