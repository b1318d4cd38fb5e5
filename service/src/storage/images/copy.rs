//! From one device to another: what holds nothing is left out.

use std::cell::Cell;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use weft_block::{BlockDevice, BlockQueue, ExtentKind, IoVec, Request, Result};
use weft_uring::spawner;

use super::Progress;

/// Bytes that are read and written as one. Larger ones gain nothing, and a slow medium shows progress.
const PIECE: u64 = 2 << 20;

/// Pieces under way at once.
const IN_FLIGHT: usize = 8;

/// Bytes of zeroes in one request.
const ZEROES: u64 = 128 << 20;

/// A copy of one disk to another of at least its size.
pub(super) struct Copy<'a> {
    pub(super) from: &'a dyn BlockDevice,
    pub(super) to: &'a dyn BlockDevice,
    /// Bytes, whole sectors.
    pub(super) size: u64,
    /// Bytes: runs of zeroes of this size and alignment are not written as data. Zero to write all as it is.
    pub(super) grain: u64,
    /// Whether the target reads as zeroes already.
    pub(super) onto_zeroes: bool,
    pub(super) progress: Progress<'a>,
}

impl Copy<'_> {
    /// Copies, and answers how many bytes were written as data. Nothing is durable before a flush of the target.
    ///
    /// # Errors
    /// As reading and writing: the first failure ends it.
    pub(super) async fn run(&self) -> Result<u64> {
        let from = self.from.open(&spawner())?;
        let to = self.to.open(&spawner())?;
        let (done, written) = (Cell::new(0), Cell::new(0));
        let mut flying = FuturesUnordered::new();
        let mut at = 0;
        while at < self.size {
            for extent in from.extents(at, self.size - at).await? {
                let (start, end) = (extent.offset, extent.offset + extent.len);
                at = end;
                if extent.kind != ExtentKind::Data {
                    if !self.onto_zeroes {
                        zeroes(&*to, start, end).await?;
                    }
                    self.tell(&done, end - start);
                    continue;
                }
                for (start, end) in pieces(start, end) {
                    if flying.len() == IN_FLIGHT
                        && let Some(ended) = flying.next().await
                    {
                        let ended: Result<()> = ended;
                        ended?;
                    }
                    let (from, to, done, written) = (&*from, &*to, &done, &written);
                    flying.push(async move {
                        let data = self.piece(from, to, start, end).await?;
                        written.set(written.get() + data);
                        self.tell(done, end - start);
                        Ok(())
                    });
                }
            }
        }
        while let Some(ended) = flying.next().await {
            ended?;
        }
        drop(flying);
        Ok(written.get())
    }

    fn tell(&self, done: &Cell<u64>, bytes: u64) {
        done.set(done.get() + bytes);
        (self.progress)(done.get(), self.size);
    }

    /// Copies one piece, and answers how much of it is data.
    async fn piece(
        &self,
        from: &dyn BlockQueue,
        to: &dyn BlockQueue,
        start: u64,
        end: u64,
    ) -> Result<u64> {
        let bytes = read(from, start, end - start).await?;
        let runs = match self.grain {
            0 => vec![(0, bytes.len(), false)],
            grain => runs(&bytes, start, grain),
        };
        let memory = IoVec::from(bytes);
        let mut written = 0;
        for (offset, len, zero) in runs {
            let place = start + offset as u64;
            if !zero {
                let write = Request::write(place, memory.slice(offset, len));
                to.submit(write).await.result?;
                written += len as u64;
            } else if !self.onto_zeroes {
                zeroes(to, place, place + len as u64).await?;
            }
        }
        Ok(written)
    }
}

/// The range in parts that end where a piece does.
fn pieces(start: u64, end: u64) -> impl Iterator<Item = (u64, u64)> {
    let mut at = start;
    std::iter::from_fn(move || {
        let from = at;
        at = end.min((at / PIECE + 1) * PIECE);
        (from < end).then_some((from, at))
    })
}

/// Runs of zeroes and of data in `bytes`, which lie at `start` of the disk: places in `bytes`, lengths, and whether they
/// are zeroes. They end where a multiple of `grain` does.
fn runs(bytes: &[u8], start: u64, grain: u64) -> Vec<(usize, usize, bool)> {
    let mut runs: Vec<(usize, usize, bool)> = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let left = (grain - (start + at as u64) % grain) as usize;
        let len = left.min(bytes.len() - at);
        let zero = is_zero(&bytes[at..at + len]);
        match runs.last_mut() {
            Some(last) if last.2 == zero => last.1 += len,
            _ => runs.push((at, len, zero)),
        }
        at += len;
    }
    runs
}

/// Whether all bytes are zero.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    // In blocks that the compiler makes vectors of, so that data ends the search early.
    let mut blocks = bytes.chunks(256);
    blocks.all(|block| block.iter().fold(0, |all, byte| all | byte) == 0)
}

pub(super) async fn read(
    queue: &dyn BlockQueue,
    start: u64,
    len: u64,
) -> Result<weft_block::Buffer> {
    let read = Request::read(start, IoVec::zeroed(len as usize));
    let answer = queue.submit(read).await;
    answer.result?;
    Ok(answer.buffer.into_buffer())
}

/// Makes the range read as zeroes, without room of its own where that can be.
pub(super) async fn zeroes(queue: &dyn BlockQueue, start: u64, end: u64) -> Result<()> {
    let mut at = start;
    while at < end {
        let len = ZEROES.min(end - at);
        let zero = Request::write_zeroes(at, len, true);
        queue.submit(zero).await.result?;
        at += len;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeroes_are_found_in_whole_grains() {
        let mut bytes = vec![0; 16 << 10];
        bytes[5000] = 1;
        assert_eq!(
            runs(&bytes, 0, 4096),
            [(0, 4096, true), (4096, 4096, false), (8192, 8192, true)]
        );
        assert_eq!(runs(&bytes, 0, 64 << 10), [(0, 16 << 10, false)]);
        // The grain is the disk's, not the buffer's.
        assert_eq!(
            runs(&bytes, 2048, 4096),
            [(0, 2048, true), (2048, 4096, false), (6144, 10240, true)]
        );
    }

    #[test]
    fn pieces_end_where_pieces_of_the_disk_end() {
        let all: Vec<_> = pieces(512, 2 * PIECE + 512).collect();
        assert_eq!(
            all,
            [
                (512, PIECE),
                (PIECE, 2 * PIECE),
                (2 * PIECE, 2 * PIECE + 512)
            ]
        );
    }
}
