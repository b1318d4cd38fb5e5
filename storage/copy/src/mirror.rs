//! A copy that follows the disk.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use weft_block::{
    BlockDevice, BlockQueue, Completion, Error, ErrorKind, Extent, Info, IoVec, LocalBoxFuture, Op,
    Request, Result, Spawner, detached,
};

use crate::kept::Kept;
use crate::piece;

/// A disk whose writes go to a copy of it as well, as far as the copy has come. Clones are the same mirror.
///
/// The disk is what counts, until it is exchanged for the copy: flushes and FUA are its own. A write that fails on
/// either ends the mirroring, since nobody knows whether both hold the same.
#[derive(Clone)]
pub struct Mirror {
    shared: Arc<Shared>,
}

struct Shared {
    kept: Kept,
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
        let shared = Shared {
            kept: Kept::new(source, target, blank)?,
            reached: AtomicU64::new(0),
            copied: AtomicU64::new(0),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Copies the next `bytes`, a whole number of blocks; tells whether the copy has caught up with the disk. One step at
    /// a time.
    ///
    /// # Errors
    /// What ended the mirroring.
    pub async fn step(&self, bytes: u64, spawner: &Spawner) -> Result<bool> {
        let (shared, kept) = (&self.shared, &self.shared.kept);
        kept.check()?;
        let start = shared.copied.load(Ordering::Acquire);
        let end = kept.size.min(start.saturating_add(bytes));
        if start < end {
            let (source, target) = (kept.source.open(spawner)?, kept.target.open(spawner)?);
            // What is under way there ends, what comes waits, and then goes to both.
            let _guard = kept.locks.exclusive(start..end).await;
            shared.reached.store(end, Ordering::Release);
            let copied = piece::copy(&*source, &*target, start..end, kept.blank).await;
            if let Err(error) = copied {
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
        let (done, all) = self.progress();
        if done < all {
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

    /// Bytes that have been copied, and all.
    pub fn progress(&self) -> (u64, u64) {
        let copied = self.shared.copied.load(Ordering::Acquire);
        (copied, self.shared.kept.size)
    }

    /// Requests of the disk's users so far.
    pub fn requests(&self) -> u64 {
        self.shared.kept.requests()
    }

    /// What ended the mirroring.
    pub fn trouble(&self) -> Option<Error> {
        self.shared.kept.trouble()
    }
}

impl BlockDevice for Mirror {
    fn info(&self) -> Info {
        self.shared.kept.info()
    }

    fn open(&self, spawner: &Spawner) -> Result<Box<dyn BlockQueue>> {
        let kept = &self.shared.kept;
        Ok(Box::new(Queue {
            source: kept.source.open(spawner)?.into(),
            target: kept.open_target(spawner),
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

#[derive(Clone)]
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
        if !request.op.is_write() || !kept.is_well() {
            return self.source.submit(request);
        }
        detached(&self.spawner, self.clone().write(request))
    }

    fn extents(&self, offset: u64, len: u64) -> LocalBoxFuture<'static, Result<Vec<Extent>>> {
        self.source.extents(offset, len)
    }
}

impl Queue {
    async fn write(self, mut request: Request) -> Completion {
        let kept = &self.shared.kept;
        let range = request.offset..request.end();
        let _guard = kept.locks.exclusive(range.clone()).await;
        let target = self.target.as_ref().filter(|_| kept.is_well());
        let Some(target) =
            target.filter(|_| range.start < self.shared.reached.load(Ordering::Acquire))
        else {
            return self.source.submit(request).await;
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
        let (source, target) =
            futures_util::join!(self.source.submit(request), target.submit(same));
        let results = [&source.result, &target.result];
        if let Some(Err(error)) = results.into_iter().find(|result| result.is_err()) {
            kept.fail(error);
        }
        Completion {
            result: source.result,
            buffer: original,
        }
    }
}
