//! What the upper images of a chain have, and those below them have not.

use std::ops::Range;

use weft_block::{BlockDevice, Extent, ExtentKind, LocalBoxFuture, Result, Spawner};
use weft_copy::Missing;
use weft_qcow2::{Image, Place};

/// The images of a chain above one of them, the topmost first.
pub(super) struct Above(pub(super) Vec<Image>);

impl Missing for Above {
    fn missing<'a>(
        &'a self,
        range: Range<u64>,
        spawner: &'a Spawner,
    ) -> LocalBoxFuture<'a, Result<Vec<Extent>>> {
        own(&self.0, range, spawner)
    }
}

/// The parts of `range` that one of `images` has, in order: data, or zeroes.
pub(super) fn own<'a>(
    images: &'a [Image],
    range: Range<u64>,
    spawner: &'a Spawner,
) -> LocalBoxFuture<'a, Result<Vec<Extent>>> {
    Box::pin(async move {
        let mut found = Vec::new();
        let Some((image, below)) = images.split_first() else {
            return Ok(found);
        };
        let mut add = |range: Range<u64>, kind| {
            let (offset, len) = (range.start, range.end - range.start);
            found.push(Extent { offset, len, kind });
        };
        let end = range.end.min(image.info().size).max(range.start);
        let mut absent = Vec::new();
        for part in image.parts(range.start, end - range.start, spawner).await? {
            let range = part.offset..part.offset + part.len;
            match part.place {
                Place::Data(_) | Place::Compressed => add(range, ExtentKind::Data),
                Place::Zero(_) => add(range, ExtentKind::Zero),
                Place::Absent(_) => absent.push(range),
            }
        }
        if end < range.end {
            // Beyond the end of an image in between the disk reads as zeroes, whatever is below.
            add(end..range.end, ExtentKind::Zero);
        }
        for range in absent {
            found.extend(own(below, range, spawner).await?);
        }
        found.sort_unstable_by_key(|extent| extent.offset);
        Ok(found)
    })
}
