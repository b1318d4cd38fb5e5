//! What a copy reads: by a thread of its own, a bounded number of pieces ahead of whoever writes.
//!
//! A copy through the page cache is two copies by the processor, and with two threads they are made at once. Memory goes
//! round: fresh memory costs a page fault for every 4 KiB, as much as the copy itself.

use std::ops::Range;
use std::sync::{Arc, mpsc as spent};

use futures_channel::mpsc;
use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use weft_block::{
    BlockDevice, BlockQueue, Buffer, Error, ErrorKind, Extent, ExtentKind, IoVec, Request, Result,
};
use weft_uring::{Shard, spawner};

/// Pieces that are read at once.
const IN_FLIGHT: usize = 16;

/// Pieces that are read before others were asked for, at most.
const AHEAD: usize = 12;

/// Pieces after which the reader hears that so many were taken. To wake it for each costs a tenth of the copy.
const TAKEN: usize = 4;

/// What is read, and how it is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cut {
    /// Bytes of the disk that are read, from its start.
    pub(super) size: u64,
    /// Bytes of a piece at most, a multiple of `unit`. Pieces end where a multiple of this does.
    pub(super) piece: u64,
    /// Bytes: a part of this size and alignment is empty as a whole, or read as a whole.
    pub(super) unit: u64,
}

/// A part of the disk.
#[derive(Debug)]
pub(super) struct Piece {
    /// Where it is.
    pub(super) range: Range<u64>,
    /// What it holds, at the start of this memory; nothing where the disk itself knows that it reads as zeroes.
    pub(super) memory: Option<Buffer>,
}

impl Piece {
    pub(super) fn len(&self) -> u64 {
        self.range.end - self.range.start
    }
}

/// The disk, piece by piece, in order.
pub(super) struct Feed {
    /// Bounded by `AHEAD`.
    pieces: mpsc::UnboundedReceiver<Result<Piece>>,
    /// Tells the reader how many pieces were taken since it was told last.
    taken: mpsc::UnboundedSender<usize>,
    untold: usize,
    /// Memory for what is read next. Bounded by the pieces that are on their way.
    spent: spent::Sender<Buffer>,
    left: u64,
    /// Ends with this.
    _reader: Shard,
}

impl Feed {
    /// Begins to read.
    ///
    /// # Errors
    /// `Io` when there is no thread for it.
    pub(super) fn start(from: &Arc<dyn BlockDevice>, cut: Cut) -> Result<Self> {
        let shard = Shard::start("weft-read").map_err(|error| {
            let sentence = "no thread can be had to read what is copied";
            Error::new(ErrorKind::Io, sentence).with_source(error)
        })?;
        let (sender, pieces) = mpsc::unbounded();
        let (taken, more) = mpsc::unbounded();
        let (spent, memory) = spent::channel();
        let from = Arc::clone(from);
        // Its end is told by its pieces, or by the lack of them.
        drop(shard.handle().run(move || async move {
            let mut reader = Reader {
                pieces: sender,
                more,
                ahead: AHEAD,
                memory,
                cut,
            };
            if let Err(error) = reader.read(&*from).await {
                let _ = reader.pieces.unbounded_send(Err(error));
            }
        }));
        Ok(Self {
            pieces,
            taken,
            untold: 0,
            spent,
            left: cut.size,
            _reader: shard,
        })
    }

    /// The next piece; nothing at the end of the disk.
    ///
    /// # Errors
    /// As reading.
    pub(super) async fn next(&mut self) -> Result<Option<Piece>> {
        if self.left == 0 {
            return Ok(None);
        }
        let Some(piece) = self.pieces.next().await else {
            let sentence = "the thread that reads what is copied has ended";
            return Err(Error::new(ErrorKind::Offline, sentence));
        };
        let piece = piece?;
        self.left -= piece.len();
        self.untold += 1;
        if self.untold == TAKEN {
            self.untold = 0;
            // A reader that has ended waits for nothing.
            let _ = self.taken.unbounded_send(TAKEN);
        }
        Ok(Some(piece))
    }

    /// Gives back the memory of a piece.
    pub(super) fn give_back(&self, memory: Buffer) {
        // A reader that has ended needs none.
        let _ = self.spent.send(memory);
    }
}

/// The thread's side.
struct Reader {
    pieces: mpsc::UnboundedSender<Result<Piece>>,
    /// How many were taken.
    more: mpsc::UnboundedReceiver<usize>,
    /// Pieces that may be passed on before more are taken.
    ahead: usize,
    memory: spent::Receiver<Buffer>,
    cut: Cut,
}

impl Reader {
    async fn read(&mut self, from: &dyn BlockDevice) -> Result<()> {
        let queue = from.open(&spawner())?;
        let (cut, queue) = (self.cut, &*queue);
        let mut flying = FuturesOrdered::new();
        let (mut at, mut told) = (0, Told::default());
        while at < cut.size {
            let extents = queue.extents(at, cut.size - at).await?;
            at = extents
                .last()
                .map_or(cut.size, |extent| extent.offset + extent.len);
            for (range, empty) in cut.parts(&extents, &mut told) {
                let len = if empty { u64::MAX } else { cut.piece };
                for range in pieces(range, len) {
                    if flying.len() == IN_FLIGHT {
                        self.pass_on(flying.next().await).await?;
                    }
                    let memory = (!empty).then(|| self.memory());
                    flying.push_back(fetch(queue, range, memory));
                }
            }
        }
        while !flying.is_empty() {
            self.pass_on(flying.next().await).await?;
        }
        Ok(())
    }

    /// Memory for a piece, what was used before if there is any.
    fn memory(&self) -> Buffer {
        let spent = self.memory.try_recv();
        spent.unwrap_or_else(|_| Buffer::zeroed(self.cut.piece as usize))
    }

    async fn pass_on(&mut self, piece: Option<Result<Piece>>) -> Result<()> {
        let Some(piece) = piece else {
            return Ok(());
        };
        let gone = || Error::new(ErrorKind::Offline, "nobody waits for what is read");
        if self.ahead == 0 {
            self.ahead = self.more.next().await.ok_or_else(gone)?;
        }
        self.ahead -= 1;
        let sent = self.pieces.unbounded_send(Ok(piece?));
        sent.map_err(|_| gone())
    }
}

async fn fetch(queue: &dyn BlockQueue, range: Range<u64>, memory: Option<Buffer>) -> Result<Piece> {
    let Some(memory) = memory else {
        return Ok(Piece { range, memory });
    };
    let memory = IoVec::from(memory);
    let part = memory.slice(0, (range.end - range.start) as usize);
    queue
        .submit(Request::read(range.start, part))
        .await
        .result?;
    let memory = Some(memory.into_buffer());
    Ok(Piece { range, memory })
}

// The reader always hears of what was taken before it may go on no further.
const _: () = assert!(AHEAD.is_multiple_of(TAKEN));

/// How much of the disk was told.
#[derive(Debug, Default)]
struct Told {
    at: u64,
    /// Whether what was known last is empty, so that what comes next may go on with that.
    empty: bool,
}

impl Cut {
    /// What is known of the disk by `extents`, from where `told` is, which moves on: parts, and whether they are empty. The
    /// end of what is known waits for more where it lies within a unit.
    fn parts(&self, extents: &[Extent], told: &mut Told) -> Vec<(Range<u64>, bool)> {
        let (size, unit) = (self.size, self.unit);
        let whole = |end: u64| if end >= size { size } else { end - end % unit };
        let mut parts = Vec::new();
        let mut tell = |at: &mut u64, end: u64, empty| {
            if *at < end {
                parts.push((*at..end, empty));
                *at = end;
            }
        };
        for extent in extents {
            let end = extent.offset + extent.len;
            let empty = extent.kind != ExtentKind::Data;
            if empty && !told.empty {
                let data = extent.offset.next_multiple_of(unit).min(size);
                tell(&mut told.at, data, false);
            }
            told.empty = empty;
            tell(&mut told.at, whole(end), empty);
        }
        parts
    }
}

/// The range in parts that end where a multiple of `len` does.
fn pieces(range: Range<u64>, len: u64) -> impl Iterator<Item = Range<u64>> {
    let mut at = range.start;
    std::iter::from_fn(move || {
        let from = at;
        at = range
            .end
            .min((at / len).saturating_add(1).saturating_mul(len));
        (from < range.end).then_some(from..at)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_end_where_pieces_of_the_disk_end() {
        let all: Vec<_> = pieces(512..8704, 4096).collect();
        assert_eq!(all, [512..4096, 4096..8192, 8192..8704]);
        assert_eq!(pieces(512..8704, u64::MAX).count(), 1);
        assert_eq!(pieces(512..512, 4096).count(), 0);
    }

    fn extents(kinds: &[(u64, ExtentKind)]) -> Vec<Extent> {
        let mut offset = 0;
        let extent = |&(len, kind): &(u64, ExtentKind)| {
            let extent = Extent { offset, len, kind };
            offset += len;
            extent
        };
        kinds.iter().map(extent).collect()
    }

    #[test]
    fn what_is_partly_empty_is_read_as_a_whole() {
        use ExtentKind::{Data, Hole, Zero};
        let cut = Cut {
            size: 100,
            piece: 16,
            unit: 8,
        };
        let known = extents(&[
            (5, Data),
            (2, Hole),
            (3, Data),
            (10, Hole),
            (4, Zero),
            (20, Data),
            (56, Hole),
        ]);
        let expected = [
            (0..16, false),
            (16..24, true),
            (24..48, false),
            (48..100, true),
        ];
        // However the answer is cut, all of the disk is told once and in order.
        for at in 0..known.len() {
            let mut told = Told::default();
            let mut parts = cut.parts(&known[..at], &mut told);
            parts.extend(cut.parts(&known[at..], &mut told));
            parts.dedup_by(|next, last| {
                let joined = next.0.start == last.0.end && next.1 == last.1;
                if joined {
                    last.0.end = next.0.end;
                }
                joined
            });
            assert_eq!(parts, expected);
            assert_eq!(told.at, 100);
        }
    }
}
