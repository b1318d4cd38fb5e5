//! A copy of the disk as it was at one instant.

use std::ops::Range;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use weft_block::{
    BlockDevice, BlockQueue, Completion, Error, ErrorKind, Extent, Info, LocalBoxFuture, Request,
    Result, Spawner, detached,
};

use crate::kept::Kept;
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
            all: waiting.count.saturating_mul(grain).min(kept.size),
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
        let (done, all) = self.progress();
        if self.shared.waiting().count > 0 {
            let sentence = format!("{done} of {all} bytes have been copied");
            return Err(Error::new(ErrorKind::Invalid, sentence));
        }
        let kept = &self.shared.kept;
        let target = kept.target.open(spawner)?;
        if let Err(error) = target.submit(Request::flush()).await.result {
            kept.fail(&error);
        }
        kept.check()
    }

    /// Bytes that have been copied, and all that there were to copy.
    pub fn progress(&self) -> (u64, u64) {
        let waits = self.shared.waiting().count * self.shared.grain;
        (self.shared.all.saturating_sub(waits), self.shared.all)
    }

    /// Requests of the disk's users so far.
    pub fn requests(&self) -> u64 {
        self.shared.kept.requests()
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
            source: self.shared.kept.source.open(spawner)?.into(),
            target: self.shared.kept.open_target(spawner),
            shared: Arc::clone(&self.shared),
            spawner: Rc::clone(spawner),
        }))
    }

    fn max_queues(&self) -> usize {
        let kept = &self.shared.kept;
        // One for who copies.
        let target = kept.target.max_queues().saturating_sub(1);
        kept.source.max_queues().saturating_sub(1).min(target)
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
            let copied = piece::copy(source, target, self.bytes(&run), self.kept.blank);
            match copied.await {
                Ok(()) => self.waiting().done(run),
                Err(error) => self.kept.fail(&error),
            }
        }
    }
}

struct Queue {
    source: Rc<dyn BlockQueue>,
    target: Option<Rc<dyn BlockQueue>>,
    shared: Arc<Shared>,
    spawner: Spawner,
}

impl BlockQueue for Queue {
    fn submit(&self, request: Request) -> LocalBoxFuture<'static, Completion> {
        let kept = &self.shared.kept;
        if let Err(error) = request.check(&kept.info()) {
            return Box::pin(std::future::ready(request.failed(error)));
        }
        kept.count();
        let grains = self.shared.grains(request.offset..request.end());
        let saved = !request.op.is_write() || self.shared.waiting().run(grains.clone()).is_none();
        let Some(target) = self.target.clone().filter(|_| !saved && kept.is_well()) else {
            return self.source.submit(request);
        };
        let (source, shared) = (Rc::clone(&self.source), Arc::clone(&self.shared));
        detached(&self.spawner, async move {
            let guard = shared.kept.locks.exclusive(shared.bytes(&grains)).await;
            shared.save(&*source, &*target, grains).await;
            // What was copied may be overwritten by anybody.
            drop(guard);
            source.submit(request).await
        })
    }

    fn extents(&self, offset: u64, len: u64) -> LocalBoxFuture<'static, Result<Vec<Extent>>> {
        self.source.extents(offset, len)
    }
}
