//! Whether two disks read the same.

use weft_block::{BlockDevice, BlockQueue, ExtentKind, Result as BlockResult};
use weft_uring::spawner;

use super::Progress;
use super::copy::{LOOK, is_zero, read};
use super::failed;
use super::map::map;
use super::open::Chain;
use crate::api::{ImageComparison, Result};

/// Bytes that are read of each at once.
const PIECE: u64 = 2 << 20;

/// The unit of what is told.
const SECTOR: u64 = 512;

/// Compares the disks of two images. What one has more of must be zeroes. A strict comparison wants equal sizes, and the
/// same parts allocated.
///
/// # Errors
/// As reading.
pub async fn compare(
    one: &Chain,
    other: &Chain,
    strict: bool,
    progress: Progress<'_>,
) -> Result<ImageComparison> {
    let (size, other_size) = (one.device().info().size, other.device().info().size);
    let mut found = ImageComparison {
        identical: false,
        same_size: size == other_size,
        first_difference: None,
        first_other_allocation: None,
    };
    if strict && !found.same_size {
        return Ok(found);
    }
    if strict {
        found.first_other_allocation = other_allocation(one, other).await?;
    }
    let names = format!("{} and {}", one.top().name, other.top().name);
    let end = found.first_other_allocation.unwrap_or(u64::MAX);
    let differs = contents(&**one.device(), &**other.device(), end, progress).await;
    found.first_difference = differs.map_err(failed(&names))?;
    found.identical = found.first_difference.is_none() && found.first_other_allocation.is_none();
    Ok(found)
}

/// The first byte that one has and the other has not, or otherwise.
async fn other_allocation(one: &Chain, other: &Chain) -> Result<Option<u64>> {
    let (ours, theirs) = (kinds(one).await?, kinds(other).await?);
    let (mut ours, mut theirs) = (ours.into_iter(), theirs.into_iter());
    let (mut our, mut their) = (ours.next(), theirs.next());
    let mut at = 0;
    while let (Some((our_end, our_kind)), Some((their_end, their_kind))) = (our, their) {
        if our_kind != their_kind {
            return Ok(Some(at));
        }
        at = our_end.min(their_end);
        if our_end == at {
            our = ours.next();
        }
        if their_end == at {
            their = theirs.next();
        }
    }
    Ok(None)
}

/// Whether a part is present, zero and data, and whether its place can be told.
type Kind = (bool, bool, bool, bool);

/// Where each part ends, and of what kind it is.
async fn kinds(chain: &Chain) -> Result<Vec<(u64, Kind)>> {
    let mut kinds: Vec<(u64, Kind)> = Vec::new();
    map(chain, 0, u64::MAX, |extent| {
        let placed = extent.file_offset.is_some();
        let kind = (extent.present, extent.zero, extent.data, placed);
        let end = extent.offset + extent.len_bytes;
        match kinds.last_mut() {
            Some(last) if last.1 == kind => last.0 = end,
            _ => kinds.push((end, kind)),
        }
        Ok(())
    })
    .await?;
    Ok(kinds)
}

/// The first sector before `end` that differs.
async fn contents(
    one: &dyn BlockDevice,
    other: &dyn BlockDevice,
    end: u64,
    progress: Progress<'_>,
) -> BlockResult<Option<u64>> {
    let one = Side::open(one)?;
    let other = Side::open(other)?;
    let size = one.size.max(other.size);
    let end = end.min(size);
    let mut at = 0;
    while at < end {
        let (zero, len) = one.extent(at, end).await?;
        let (other_zero, other_len) = other.extent(at, at + len).await?;
        let mut len = len.min(other_len);
        if !(zero && other_zero) {
            len = len.min(PIECE - at % PIECE);
            let differs = match (zero, other_zero) {
                (true, _) => first_data(&read(&*other.queue, at, len).await?),
                (_, true) => first_data(&read(&*one.queue, at, len).await?),
                _ => {
                    let both = futures_util::future::join(
                        read(&*one.queue, at, len),
                        read(&*other.queue, at, len),
                    );
                    let (ours, theirs) = both.await;
                    first_difference(&ours?, &theirs?)
                }
            };
            if let Some(sector) = differs {
                return Ok(Some(at + sector));
            }
        }
        at += len;
        progress(at, size);
    }
    Ok(None)
}

/// One of two disks that are compared.
struct Side {
    queue: Box<dyn BlockQueue>,
    size: u64,
}

impl Side {
    fn open(device: &dyn BlockDevice) -> BlockResult<Self> {
        let (queue, size) = (device.open(&spawner())?, device.info().size);
        Ok(Self { queue, size })
    }

    /// Whether it is known to be zeroes at `at`, and for how long, at most to `end`. So it is beyond its end.
    async fn extent(&self, at: u64, end: u64) -> BlockResult<(bool, u64)> {
        if at >= self.size {
            return Ok((true, end - at));
        }
        let len = (end.min(self.size) - at).min(LOOK);
        let extents = self.queue.extents(at, len).await?;
        let is_zero = |kind| kind != ExtentKind::Data;
        let zero = is_zero(extents[0].kind);
        let same = extents
            .iter()
            .take_while(|extent| is_zero(extent.kind) == zero);
        Ok((zero, same.map(|extent| extent.len).sum()))
    }
}

/// The first sector that is not all zeroes.
fn first_data(bytes: &[u8]) -> Option<u64> {
    if is_zero(bytes) {
        return None;
    }
    let mut sectors = bytes.chunks(SECTOR as usize);
    sectors
        .position(|sector| !is_zero(sector))
        .map(|sector| sector as u64 * SECTOR)
}

/// The first sector in which both differ.
fn first_difference(ours: &[u8], theirs: &[u8]) -> Option<u64> {
    if ours == theirs {
        return None;
    }
    let size = SECTOR as usize;
    let mut pairs = ours.chunks(size).zip(theirs.chunks(size));
    pairs
        .position(|(ours, theirs)| ours != theirs)
        .map(|sector| sector as u64 * SECTOR)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use weft_block::{Completion, Extent, IoVec, LocalBoxFuture, Request};
    use weft_sim::MemoryDevice;
    use weft_uring::block_on;

    use super::*;

    /// A queue that counts the bytes that it is asked about.
    struct Asked {
        queue: Box<dyn BlockQueue>,
        bytes: Rc<Cell<u64>>,
    }

    impl BlockQueue for Asked {
        fn submit(&self, request: Request) -> LocalBoxFuture<'static, Completion> {
            self.queue.submit(request)
        }

        fn extents(
            &self,
            offset: u64,
            len: u64,
        ) -> LocalBoxFuture<'static, BlockResult<Vec<Extent>>> {
            self.bytes.set(self.bytes.get() + len);
            self.queue.extents(offset, len)
        }
    }

    /// Each piece asked about all of the rest: a comparison took the square of the size.
    #[test]
    fn a_large_disk_is_not_asked_about_all_of_it_for_each_piece() {
        const SIZE: u64 = 1 << 30;
        let device = MemoryDevice::new(SIZE);
        block_on(async {
            let bytes = Rc::new(Cell::new(0));
            let queue = device.open(&spawner()).expect("it opens");
            queue
                .submit(Request::write(0, IoVec::copy_of(&[1; 4096])))
                .await
                .result
                .expect("it is written");
            let side = Side {
                queue: Box::new(Asked {
                    queue,
                    bytes: Rc::clone(&bytes),
                }),
                size: SIZE,
            };
            let (mut at, mut pieces) = (0, 0);
            while at < SIZE {
                let (_, len) = side.extent(at, SIZE).await.expect("it tells");
                at += len.min(PIECE - at % PIECE);
                pieces += 1;
            }
            assert!(bytes.get() <= pieces * LOOK, "{} bytes", bytes.get());
        });
    }
}
