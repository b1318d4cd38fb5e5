//! A copy that follows the disk.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use weft_block::{
    BlockDevice, BlockQueue, Completion, Error, Extent, ExtentKind, Info, IoVec, LocalBoxFuture,
    Op, Request, Result, Spawner, detached,
};

use crate::kept::{Kept, Queues};
use crate::piece;

/// Bytes that hold no data and are passed over in one step at most: their users wait for that.
const STRIDE: u64 = 64 << 20;

/// A disk whose writes go to a copy of it as well, as far as the copy has come. Clones are the same mirror.
///
/// The disk is what counts, until it is exchanged for the copy: flushes and FUA are its own. A write that fails on
/// either ends the mirroring, since nobody knows whether both hold the same.
#[derive(Clone)]
pub struct Mirror {
    shared: Arc<Shared>,
}

/// What of a disk the target of its copy does not have yet.
pub trait Missing: Send + Sync {
    /// The parts of `range` to be copied, in order, by what they are: data, or zeroes. What is in none of them the target
    /// has.
    fn missing<'a>(
        &'a self,
        range: Range<u64>,
        spawner: &'a Spawner,
    ) -> LocalBoxFuture<'a, Result<Vec<Extent>>>;
}

struct Shared {
    kept: Kept,
    /// Tells what is to be copied if the target is below the disk.
    missing: Option<Arc<dyn Missing>>,
    /// What is written before this byte is written to both.
    reached: AtomicU64,
    /// Bytes that have been copied, from the start.
    copied: AtomicU64,
}

impl Mirror {
    /// Begins a copy of `source` to `target`, which is `blank` if it reads as zeroes already. Nothing is copied before
    /// [`step`](Self::step) is asked for it, and all writes to the disk have to come through here from now on.
    ///
    /// # Errors
    /// `Invalid` if the target is too short, too coarse, or takes no writes.
    pub fn new(
        source: Arc<dyn BlockDevice>,
        target: Arc<dyn BlockDevice>,
        blank: bool,
    ) -> Result<Self> {
        Ok(Self::of(Kept::new(source, target, blank)?, None))
    }

    /// Begins a copy of what the disk `source` has of its own into the `target` below it, which it reads as wherever
    /// `missing` tells nothing.
    ///
    /// The disk hides what is below all that it has. So a write goes there only when the disk has taken it, and whatever
    /// becomes of the copy, a power cut in the middle of it too, the disk over the target reads as the disk.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn below(
        source: Arc<dyn BlockDevice>,
        target: Arc<dyn BlockDevice>,
        missing: Arc<dyn Missing>,
    ) -> Result<Self> {
        Ok(Self::of(Kept::new(source, target, false)?, Some(missing)))
    }

    fn of(kept: Kept, missing: Option<Arc<dyn Missing>>) -> Self {
        let shared = Shared {
            kept,
            missing,
            reached: AtomicU64::new(0),
            copied: AtomicU64::new(0),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Copies the next `bytes`, a whole number of blocks, or what comes before the next data if that is more; tells whether
    /// the copy has caught up with the disk. One step at a time.
    ///
    /// # Errors
    /// What ended the mirroring.
    pub async fn step(&self, bytes: u64, spawner: &Spawner) -> Result<bool> {
        let (shared, kept) = (&self.shared, &self.shared.kept);
        kept.check()?;
        let start = shared.copied.load(Ordering::Acquire);
        let mut end = kept.size.min(start.saturating_add(bytes));
        if start < end {
            let (source, target) = (kept.source.open(spawner)?, kept.target.open(spawner)?);
            // It may be data by the time that nobody writes there any more, and is looked at again then.
            end = end.max(shared.next_data(&*source, start, spawner).await?);
            // What is under way there ends, what comes waits, and then goes to both.
            let _guard = kept.locks.exclusive(start..end).await;
            shared.reached.store(end, Ordering::Release);
            let copied = async {
                let parts = shared.parts(&*source, start..end, spawner).await?;
                piece::copy(&*source, &*target, parts, kept.blank).await
            };
            if let Err(error) = copied.await {
                kept.fail(&error);
                return Err(error);
            }
            shared.copied.store(end, Ordering::Release);
        }
        kept.check()?;
        Ok(end == kept.size)
    }

    /// Makes the copy durable, so that it can take the disk's place. Nobody may be writing.
    ///
    /// # Errors
    /// What ended the mirroring; `Invalid` if the copy has not caught up.
    pub async fn settle(&self, spawner: &Spawner) -> Result<()> {
        self.shared.kept.settle(self.progress(), spawner).await
    }

    /// Bytes that have been copied, and all.
    pub fn progress(&self) -> (u64, u64) {
        let copied = self.shared.copied.load(Ordering::Acquire);
        (copied, self.shared.kept.size)
    }

    /// What ended the mirroring.
    pub fn trouble(&self) -> Option<Error> {
        self.shared.kept.trouble()
    }
}

impl Shared {
    /// What is to be copied of `range`.
    async fn parts(
        &self,
        source: &dyn BlockQueue,
        range: Range<u64>,
        spawner: &Spawner,
    ) -> Result<Vec<Extent>> {
        match &self.missing {
            Some(missing) => missing.missing(range, spawner).await,
            None => piece::extents(source, range).await,
        }
    }

    /// Where data is to be copied from `start` on, or how far there is none as far as it was looked.
    async fn next_data(
        &self,
        source: &dyn BlockQueue,
        start: u64,
        spawner: &Spawner,
    ) -> Result<u64> {
        let end = self.kept.size.min(start.saturating_add(STRIDE));
        let parts = self.parts(source, start..end, spawner).await?;
        let mut data = parts.iter().filter(|part| part.kind == ExtentKind::Data);
        Ok(data.next().map_or(end, |part| part.offset))
    }
}

impl BlockDevice for Mirror {
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

#[derive(Clone)]
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
        if !request.op.is_write() || !kept.is_well() {
            return self.queues.source.submit(request);
        }
        detached(&self.queues.spawner, self.clone().write(request))
    }

    fn extents(&self, offset: u64, len: u64) -> LocalBoxFuture<'static, Result<Vec<Extent>>> {
        self.queues.source.extents(offset, len)
    }
}

impl Queue {
    async fn write(self, mut request: Request) -> Completion {
        let kept = &self.shared.kept;
        let range = request.offset..request.end();
        let _guard = kept.locks.exclusive(range.clone()).await;
        let source = &self.queues.source;
        let target = self.queues.target.as_ref().filter(|_| kept.is_well());
        let Some(target) =
            target.filter(|_| range.start < self.shared.reached.load(Ordering::Acquire))
        else {
            return source.submit(request).await;
        };
        if request.op == Op::Discard {
            // A disk may do as it likes with a discard; two of them must do the same.
            request.op = Op::WriteZeroes {
                unmap: true,
                fua: false,
            };
        }
        let original = request.buffer.clone();
        if !original.is_empty() {
            // A guest may change its pages meanwhile, and both must get the same.
            request.buffer = IoVec::from(original.to_buffer());
        }
        let same = Request {
            buffer: request.buffer.clone(),
            ..request
        };
        let (result, copied) = match self.shared.missing {
            None => {
                let both = futures_util::join!(source.submit(request), target.submit(same));
                (both.0.result, both.1.result)
            }
            // While the disk has not taken it, it may look at what is below to tell what there is to do.
            Some(_) => match source.submit(request).await.result {
                Ok(()) => (Ok(()), target.submit(same).await.result),
                failed => (failed, Ok(())),
            },
        };
        if let Some(Err(error)) = [&result, &copied].into_iter().find(|one| one.is_err()) {
            kept.fail(error);
        }
        Completion {
            result,
            buffer: original,
        }
    }
}
