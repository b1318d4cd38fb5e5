//! From one device to another: what holds nothing is left out.

use std::ops::Range;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::join_all;
use futures_util::stream::{FuturesUnordered, StreamExt};
use weft_block::{BlockDevice, BlockQueue, Buffer, IoVec, Request, Result};
use weft_uring::spawner;

use super::Progress;
use super::feed::{Cut, Feed};

/// Bytes that are read and written as one. The page cache takes folios of the size that is written, and those of up to
/// 2 MiB were measured to cost a multiple: memory has to be moved out of their way, or fetched from the hypervisor.
const PIECE: u64 = 256 << 10;

/// Pieces that are written at once.
const IN_FLIGHT: usize = 16;

/// Bytes of zeroes in one request.
const ZEROES: u64 = 128 << 20;

/// Bytes after which what was written is flushed, while more is: so the medium works meanwhile, not only at the end.
pub(super) const FLUSHED: u64 = 256 << 20;

/// Bytes of the disk about which it is asked at once by who reads the next piece and asks again. An answer costs as much as
/// it tells of: to ask about all of the rest for each piece takes the square of the disk's size.
pub(super) const LOOK: u64 = 16 << 20;

/// A copy of one disk to another of at least its size.
pub(super) struct Copy<'a> {
    pub(super) from: &'a Arc<dyn BlockDevice>,
    pub(super) to: &'a dyn BlockDevice,
    /// Bytes, whole sectors.
    pub(super) size: u64,
    /// Bytes: runs of zeroes of this size and alignment are not written as data. Zero to write all as it is.
    pub(super) grain: u64,
    /// Whether the target reads as zeroes already.
    pub(super) onto_zeroes: bool,
    pub(super) progress: Progress<'a>,
}

/// What was done of a copy.
#[derive(Default)]
struct Done {
    /// Bytes of the disk.
    len: u64,
    /// Those of them that were written as data.
    data: u64,
    /// Memory that is not needed any more.
    memory: Option<Buffer>,
}

impl Copy<'_> {
    /// Copies, and answers how many bytes were written as data. Nothing is durable before a flush of the target.
    ///
    /// # Errors
    /// As reading and writing: the first failure ends it.
    pub(super) async fn run(&self) -> Result<u64> {
        let cut = Cut {
            size: self.size,
            piece: PIECE,
            unit: u64::from(self.from.info().logical_block),
        };
        let mut feed = Feed::start(self.from, cut)?;
        let to = self.to.open(&spawner())?;
        let (mut flying, mut flushed) = (FuturesUnordered::new(), 0);
        let mut all = Done::default();
        while let Some(piece) = feed.next().await? {
            let Some(memory) = piece.memory else {
                if !self.onto_zeroes {
                    zeroes(&*to, piece.range.start, piece.range.end).await?;
                }
                let len = piece.range.end - piece.range.start;
                self.tell(
                    &mut all,
                    Done {
                        len,
                        ..Done::default()
                    },
                    &feed,
                );
                continue;
            };
            flying.push(self.begin(&*to, piece.range, memory).boxed_local());
            if all.data - flushed >= FLUSHED {
                flushed = all.data;
                flying.push(flush(&*to).boxed_local());
            }
            // Those that have ended give their memory back while the processor still has it at hand.
            while let Some(ended) = match flying.len() < IN_FLIGHT {
                true => flying.next().now_or_never().flatten(),
                false => flying.next().await,
            } {
                self.tell(&mut all, ended?, &feed);
            }
        }
        while let Some(ended) = flying.next().await {
            self.tell(&mut all, ended?, &feed);
        }
        Ok(all.data)
    }

    fn tell(&self, all: &mut Done, done: Done, feed: &Feed) {
        all.len += done.len;
        all.data += done.data;
        (self.progress)(all.len, self.size);
        if let Some(memory) = done.memory {
            feed.give_back(memory);
        }
    }

    /// Begins to write what `memory` holds to `range`; the future waits for the end.
    fn begin(
        &self,
        to: &dyn BlockQueue,
        range: Range<u64>,
        memory: Buffer,
    ) -> impl Future<Output = Result<Done>> + 'static {
        let len = range.end - range.start;
        let runs = match self.grain {
            0 => vec![(0, len as usize, false)],
            grain => runs(&memory[..len as usize], range.start, grain),
        };
        let memory = IoVec::from(memory);
        let (mut sent, mut data) = (Vec::with_capacity(runs.len()), 0);
        for (offset, len, zero) in runs {
            let place = range.start + offset as u64;
            if !zero {
                sent.push(to.submit(Request::write(place, memory.slice(offset, len))));
                data += len as u64;
            } else if !self.onto_zeroes {
                sent.push(to.submit(Request::write_zeroes(place, len as u64, true)));
            }
        }
        async move {
            let ended = join_all(sent).await;
            ended.into_iter().try_for_each(|ended| ended.result)?;
            Ok(Done {
                len,
                data,
                memory: Some(memory.into_buffer()),
            })
        }
    }
}

/// Sends what was written on its way to the medium.
fn flush(to: &dyn BlockQueue) -> impl Future<Output = Result<Done>> + 'static {
    let sent = to.submit(Request::flush());
    async move { sent.await.result.map(|()| Done::default()) }
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
}
