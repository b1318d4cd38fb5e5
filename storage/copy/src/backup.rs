//! A copy of the disk as it was at one instant.

use std::ops::Range;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use weft_block::{
    BlockDevice, BlockQueue, Completion, Error, ErrorKind, Extent, Info, LocalBoxFuture, Request,
    Result, Spawner, detached,
};

use crate::kept::{Kept, Queues};
use crate::piece;

/// A disk that is copied as it was when this was made: what is about to be overwritten is copied first. Clones are the
/// same backup.
#[derive(Clone)]
pub struct Backup {
    shared: Arc<Shared>,
}

struct Shared {
    kept: Kept,
    /// Bytes that are copied as one.
    grain: u64,
    /// Bytes that there were to copy.
    all: u64,
    waiting: Mutex<Waiting>,
}

/// What has not been copied.
struct Waiting {
    /// A bit for each grain.
    grains: Vec<u64>,
    count: u64,
    /// No grain before this one waits.
    first: u64,
}

impl Waiting {
    fn has(&self, grain: u64) -> bool {
        let word = self.grains.get((grain / 64) as usize);
        word.is_some_and(|word| word >> (grain % 64) & 1 == 1)
    }

    fn add(&mut self, grains: Range<u64>) {
        for grain in grains {
            self.count += u64::from(!self.has(grain));
            if let Some(word) = self.grains.get_mut((grain / 64) as usize) {
                *word |= 1 << (grain % 64);
            }
        }
    }

    fn done(&mut self, grains: Range<u64>) {
        for grain in grains {
            self.count -= u64::from(self.has(grain));
            if let Some(word) = self.grains.get_mut((grain / 64) as usize) {
                *word &= !(1 << (grain % 64));
            }
        }
    }

    /// Bytes that wait, of a disk of `size` bytes: its last grain may be short.
    fn bytes(&self, grain: u64, size: u64) -> u64 {
        let missing = size.next_multiple_of(grain) - size;
        let short = missing > 0 && self.has(size / grain);
        self.count * grain - if short { missing } else { 0 }
    }

    /// The first grains that wait, side by side in `range`.
    fn run(&self, range: Range<u64>) -> Option<Range<u64>> {
        let start = range.clone().find(|&grain| self.has(grain))?;
        let end = (start..range.end).find(|&grain| !self.has(grain));
        Some(start..end.unwrap_or(range.end))
    }
}

impl Backup {
    /// Begins a copy of `source` as it is now to `target`, which is `blank` if it reads as zeroes already. All writes to
    /// the disk have to come through here from now on. Only `ranges` of the disk are copied, rounded to `grain` bytes,
    /// which is a power of two; for the whole disk that is one range.
    ///
    /// # Errors
    /// `Invalid` if the target is too short, too coarse, or takes no writes, or if `grain` is no such number.
    pub fn new(
        source: Arc<dyn BlockDevice>,
        target: Arc<dyn BlockDevice>,
        blank: bool,
        grain: u64,
        ranges: impl IntoIterator<Item = Range<u64>>,
    ) -> Result<Self> {
        let kept = Kept::new(source, target, blank)?;
        if !grain.is_power_of_two() || grain < u64::from(kept.info().logical_block) {
            let sentence = format!("a copy cannot be made in pieces of {grain} bytes");
            return Err(Error::new(ErrorKind::Invalid, sentence));
        }
        let words = kept.size.div_ceil(grain).div_ceil(64);
        let mut waiting = Waiting {
            grains: vec![0; words as usize],
            count: 0,
            first: 0,
        };
        for range in ranges {
            let (start, end) = (range.start.min(kept.size), range.end.min(kept.size));
            waiting.add(start / grain..end.div_ceil(grain));
        }
        let shared = Shared {
            all: waiting.bytes(grain, kept.size),
            kept,
            grain,
            waiting: Mutex::new(waiting),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Copies some more, up to `bytes` of it; tells whether all is copied.
    ///
    /// # Errors
    /// What ended the copy.
    pub async fn step(&self, bytes: u64, spawner: &Spawner) -> Result<bool> {
        let shared = &self.shared;
        shared.kept.check()?;
        let most = (bytes / shared.grain).max(1);
        let next = {
            let mut waiting = shared.waiting();
            let end = waiting.grains.len() as u64 * 64;
            let found = waiting.run(waiting.first..end);
            waiting.first = found.as_ref().map_or(end, |run| run.start);
            found
        };
        if let Some(run) = next {
            let run = run.start..run.end.min(run.start + most);
            let source = shared.kept.source.open(spawner)?;
            let target = shared.kept.target.open(spawner)?;
            let _guard = shared.kept.locks.exclusive(shared.bytes(&run)).await;
            shared.save(&*source, &*target, run).await;
        }
        shared.kept.check()?;
        Ok(shared.waiting().count == 0)
    }

    /// Makes the copy durable: it is whole then.
    ///
    /// # Errors
    /// What ended the copy; `Invalid` if not all is copied.
    pub async fn settle(&self, spawner: &Spawner) -> Result<()> {
        self.shared.kept.settle(self.progress(), spawner).await
    }

    /// Bytes that have been copied, and all that there were to copy.
    pub fn progress(&self) -> (u64, u64) {
        let shared = &self.shared;
        let waits = shared.waiting().bytes(shared.grain, shared.kept.size);
        (shared.all - waits, shared.all)
    }

    /// What ended the copy.
    pub fn trouble(&self) -> Option<Error> {
        self.shared.kept.trouble()
    }
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bytes of grains.
    fn bytes(&self, grains: &Range<u64>) -> Range<u64> {
        grains.start * self.grain..(grains.end * self.grain).min(self.kept.size)
    }

    fn grains(&self, bytes: Range<u64>) -> Range<u64> {
        bytes.start / self.grain..bytes.end.div_ceil(self.grain)
    }
}

impl BlockDevice for Backup {
    fn info(&self) -> Info {
        self.shared.kept.info()
    }

    fn open(&self, spawner: &Spawner) -> Result<Box<dyn BlockQueue>> {
        Ok(Box::new(Queue {
            queues: self.shared.kept.open(spawner)?,
            shared: Arc::clone(&self.shared),
        }))
    }

    fn max_queues(&self) -> usize {
        self.shared.kept.max_queues()
    }
}

impl Shared {
    /// Copies what waits among `grains`, which the caller holds. What fails ends the copy.
    async fn save(&self, source: &dyn BlockQueue, target: &dyn BlockQueue, grains: Range<u64>) {
        let mut rest = grains;
        while self.kept.is_well() {
            let Some(run) = self.waiting().run(rest.clone()) else {
                return;
            };
            rest.start = run.end;
            let bytes = self.bytes(&run);
            let copied = async {
                let parts = piece::extents(source, bytes).await?;
                piece::copy(source, target, parts, self.kept.blank).await
            };
            match copied.await {
                Ok(()) => self.waiting().done(run),
                Err(error) => self.kept.fail(&error),
            }
        }
    }
}

struct Queue {
    queues: Queues,
    shared: Arc<Shared>,
}

impl BlockQueue for Queue {
    fn submit(&self, request: Request) -> LocalBoxFuture<'static, Completion> {
        let kept = &self.shared.kept;
        let request = match kept.admit(request) {
            Ok(request) => request,
            Err(answer) => return answer,
        };
        let grains = self.shared.grains(request.offset..request.end());
        let saved = !request.op.is_write() || self.shared.waiting().run(grains.clone()).is_none();
        let queues = &self.queues;
        let Some(target) = queues.target.clone().filter(|_| !saved && kept.is_well()) else {
            return queues.source.submit(request);
        };
        let (source, shared) = (Rc::clone(&queues.source), Arc::clone(&self.shared));
        detached(&queues.spawner, async move {
            let guard = shared.kept.locks.exclusive(shared.bytes(&grains)).await;
            shared.save(&*source, &*target, grains).await;
            // What was copied may be overwritten by anybody.
            drop(guard);
            source.submit(request).await
        })
    }

    fn extents(&self, offset: u64, len: u64) -> LocalBoxFuture<'static, Result<Vec<Extent>>> {
        self.queues.source.extents(offset, len)
    }
}
