//! What is copied: one disk, or several one behind the other, and what of them cannot be read.

use std::ops::Range;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use weft_block::{
    BlockDevice, BlockQueue, Completion, Error, ErrorKind, Extent, ExtentKind, Info, IoVec,
    LocalBoxFuture, Op, Request, Result, Spawner,
};

/// Bytes that are tried again on their own where a read has failed.
const RETRY: u64 = 4096;

/// Disks one behind the other, to be read.
pub(super) struct Source {
    /// Where each begins.
    parts: Vec<(u64, Arc<dyn BlockDevice>)>,
    size: u64,
    /// What could not be read, if that is to read as zeroes.
    lost: Option<Lost>,
}

/// Parts of a disk that could not be read.
pub(super) type Lost = Arc<Mutex<Vec<Range<u64>>>>;

impl Source {
    pub(super) fn new(disks: impl Iterator<Item = Arc<dyn BlockDevice>>, salvage: bool) -> Self {
        let (mut parts, mut size) = (Vec::new(), 0);
        for disk in disks {
            let len = disk.info().size;
            parts.push((size, disk));
            size += len;
        }
        Self {
            parts,
            size,
            lost: salvage.then(Lost::default),
        }
    }

    /// What could not be read and was taken for zeroes, in order.
    pub(super) fn lost(&self) -> Vec<Range<u64>> {
        let Some(lost) = &self.lost else {
            return Vec::new();
        };
        let mut lost = lost.lock().unwrap_or_else(PoisonError::into_inner).clone();
        lost.sort_by_key(|range| range.start);
        lost.dedup_by(|next, last| {
            let joined = next.start <= last.end;
            if joined {
                last.end = last.end.max(next.end);
            }
            joined
        });
        lost
    }
}

impl BlockDevice for Source {
    fn info(&self) -> Info {
        let blocks = self.parts.iter().map(|(_, disk)| disk.info().logical_block);
        Info {
            read_only: true,
            ..Info::new(self.size, blocks.max().unwrap_or(512))
        }
    }

    fn open(&self, spawner: &Spawner) -> Result<Box<dyn BlockQueue>> {
        let mut parts = Vec::with_capacity(self.parts.len());
        for (index, (start, disk)) in self.parts.iter().enumerate() {
            let end = self.parts.get(index + 1).map_or(self.size, |next| next.0);
            parts.push((*start..end, Rc::from(disk.open(spawner)?)));
        }
        Ok(Box::new(Queue {
            parts: parts.into(),
            lost: self.lost.clone(),
        }))
    }
}

type Part = (Range<u64>, Rc<dyn BlockQueue>);

struct Queue {
    parts: Rc<[Part]>,
    lost: Option<Lost>,
}

impl BlockQueue for Queue {
    fn submit(&self, request: Request) -> LocalBoxFuture<'static, Completion> {
        let (parts, lost) = (Rc::clone(&self.parts), self.lost.clone());
        Box::pin(async move {
            let result = match request.op {
                Op::Read => read(&parts, lost.as_ref(), request.offset, &request.buffer).await,
                _ => {
                    let sentence = "what is copied is only read";
                    Err(Error::new(ErrorKind::ReadOnly, sentence))
                }
            };
            Completion {
                result,
                buffer: request.buffer,
            }
        })
    }

    fn extents(&self, offset: u64, len: u64) -> LocalBoxFuture<'static, Result<Vec<Extent>>> {
        let found = self.parts.iter().find(|(range, _)| range.contains(&offset));
        let Some((range, queue)) = found else {
            let sentence = "that is beyond the end of what is copied";
            let error = Error::new(ErrorKind::OutOfRange, sentence);
            return Box::pin(std::future::ready(Err(error)));
        };
        let (start, len) = (range.start, len.min(range.end - offset));
        let asked = queue.extents(offset - start, len);
        let salvage = self.lost.is_some();
        Box::pin(async move {
            let moved = |extent: Extent| Extent {
                offset: extent.offset + start,
                ..extent
            };
            match asked.await {
                Ok(extents) => Ok(extents.into_iter().map(moved).collect()),
                // Then a read will tell what is lost.
                Err(_) if salvage => Ok(vec![Extent {
                    offset,
                    len,
                    kind: ExtentKind::Data,
                }]),
                Err(error) => Err(error),
            }
        })
    }
}

/// Reads into `buffer`, across the borders of disks.
async fn read(parts: &[Part], lost: Option<&Lost>, offset: u64, buffer: &IoVec) -> Result<()> {
    let end = offset + buffer.len() as u64;
    for (range, queue) in parts {
        let (start, stop) = (range.start.max(offset), range.end.min(end));
        if start >= stop {
            continue;
        }
        let part = buffer.slice((start - offset) as usize, (stop - start) as usize);
        let place = start - range.start;
        match (
            queue
                .submit(Request::read(place, part.clone()))
                .await
                .result,
            lost,
        ) {
            (Ok(()), _) => {}
            (Err(error), None) => return Err(error),
            (Err(_), Some(lost)) => salvage(&**queue, place, start, &part, lost).await,
        }
    }
    Ok(())
}

/// Reads piece by piece what could not be read as a whole. What cannot be read at all is zeroes.
async fn salvage(queue: &dyn BlockQueue, place: u64, start: u64, buffer: &IoVec, lost: &Lost) {
    let len = buffer.len() as u64;
    let mut at = 0;
    while at < len {
        let piece = (RETRY - (place + at) % RETRY).min(len - at);
        let mut part = buffer.slice(at as usize, piece as usize);
        if queue
            .submit(Request::read(place + at, part.clone()))
            .await
            .result
            .is_err()
        {
            part.fill(0, piece as usize, 0);
            let mut lost = lost.lock().unwrap_or_else(PoisonError::into_inner);
            lost.push(start + at..start + at + piece);
        }
        at += piece;
    }
}
