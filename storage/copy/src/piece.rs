//! Copying a part of a disk.

use std::ops::Range;

use futures_util::{StreamExt, TryStreamExt, stream};
use weft_block::{BlockQueue, Extent, ExtentKind, IoVec, Request, Result};

/// Bytes that are read and written as one.
pub const PIECE: u64 = 256 << 10;

/// Pieces that are under way at once.
pub const PIECES: usize = 8;

/// How all of `range` is backed.
pub(crate) async fn extents(disk: &dyn BlockQueue, range: Range<u64>) -> Result<Vec<Extent>> {
    let mut found = Vec::new();
    let mut at = range.start;
    while at < range.end {
        for extent in disk.extents(at, range.end - at).await? {
            at = extent.offset + extent.len;
            found.push(extent);
        }
    }
    Ok(found)
}

/// Copies `parts` of the disk; what reads as zeroes is zeroed, unless the target is `blank`.
pub(crate) async fn copy(
    source: &dyn BlockQueue,
    target: &dyn BlockQueue,
    parts: Vec<Extent>,
    blank: bool,
) -> Result<()> {
    let mut work = Vec::new();
    for part in parts {
        let range = part.offset..part.offset + part.len;
        match part.kind {
            ExtentKind::Data => work.extend(pieces(range).map(Part::Data)),
            _ if blank => {}
            _ => work.push(Part::Zeroes(range)),
        }
    }
    stream::iter(work)
        .map(Ok)
        .try_for_each_concurrent(PIECES, |part| part.copy(source, target))
        .await
}

fn pieces(range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let starts = range.clone().step_by(PIECE as usize);
    starts.map(move |start| start..range.end.min(start + PIECE))
}

enum Part {
    Data(Range<u64>),
    Zeroes(Range<u64>),
}

impl Part {
    async fn copy(self, source: &dyn BlockQueue, target: &dyn BlockQueue) -> Result<()> {
        let write = match self {
            Self::Zeroes(range) => {
                Request::write_zeroes(range.start, range.end - range.start, true)
            }
            Self::Data(range) => {
                let buffer = IoVec::zeroed((range.end - range.start) as usize);
                let read = source.submit(Request::read(range.start, buffer)).await;
                read.result?;
                Request::write(range.start, read.buffer)
            }
        };
        target.submit(write).await.result
    }
}
