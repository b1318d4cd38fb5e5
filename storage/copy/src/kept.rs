//! What both kinds of copies keep: the two disks, and what went wrong.

use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use weft_block::{
    BlockDevice, BlockQueue, Completion, Error, ErrorKind, Info, LocalBoxFuture, RangeLocks,
    Request, Result, Spawner,
};

pub(crate) struct Kept {
    pub(crate) source: Arc<dyn BlockDevice>,
    pub(crate) target: Arc<dyn BlockDevice>,
    /// Bytes that are copied: the disk's when the copy began.
    pub(crate) size: u64,
    /// The target reads as zeroes where nothing was copied to.
    pub(crate) blank: bool,
    /// What is being written, and what is being copied.
    pub(crate) locks: Arc<RangeLocks>,
    trouble: Mutex<Option<Error>>,
}

/// Queues to both disks, and who runs what goes on.
#[derive(Clone)]
pub(crate) struct Queues {
    pub(crate) source: Rc<dyn BlockQueue>,
    /// Nothing if the target is gone.
    pub(crate) target: Option<Rc<dyn BlockQueue>>,
    pub(crate) spawner: Spawner,
}

impl Kept {
    /// # Errors
    /// `Invalid` if the target is too short, too coarse, or takes no writes.
    pub(crate) fn new(
        source: Arc<dyn BlockDevice>,
        target: Arc<dyn BlockDevice>,
        blank: bool,
    ) -> Result<Self> {
        let (from, to) = (source.info(), target.info());
        let refused = |sentence: String| Err(Error::new(ErrorKind::Invalid, sentence));
        if to.read_only {
            return refused("the target takes no writes".into());
        }
        if to.size < from.size {
            return refused(format!(
                "the target has {} bytes, and the disk has {}",
                to.size, from.size
            ));
        }
        if to.logical_block > from.logical_block {
            return refused(format!(
                "the target is written in blocks of {} bytes, and the disk in blocks of {}",
                to.logical_block, from.logical_block
            ));
        }
        Ok(Self {
            size: from.size,
            source,
            target,
            blank,
            locks: Arc::default(),
            trouble: Mutex::default(),
        })
    }

    /// Opens both disks for their users; a target that cannot be opened ends the copy.
    ///
    /// # Errors
    /// As opening the disk.
    pub(crate) fn open(&self, spawner: &Spawner) -> Result<Queues> {
        let source = self.source.open(spawner)?.into();
        let opened = self.target.open(spawner);
        if let Err(error) = &opened {
            self.fail(error);
        }
        Ok(Queues {
            source,
            target: opened.ok().map(Rc::from),
            spawner: Rc::clone(spawner),
        })
    }

    /// Queues that the disk's users may have: one of each disk is for who copies.
    pub(crate) fn max_queues(&self) -> usize {
        let target = self.target.max_queues().saturating_sub(1);
        self.source.max_queues().saturating_sub(1).min(target)
    }

    /// The request, if it fits the disk; otherwise its answer.
    pub(crate) fn admit(
        &self,
        request: Request,
    ) -> Result<Request, LocalBoxFuture<'static, Completion>> {
        match request.check(&self.info()) {
            Ok(()) => Ok(request),
            Err(error) => Err(Box::pin(std::future::ready(request.failed(error)))),
        }
    }

    /// Makes the copy durable, of which so many bytes are `done` of `all`.
    ///
    /// # Errors
    /// Why the copy cannot become whole; `Invalid` if it is not.
    pub(crate) async fn settle(&self, (done, all): (u64, u64), spawner: &Spawner) -> Result<()> {
        if done < all {
            let sentence = format!("{done} of {all} bytes have been copied");
            return Err(Error::new(ErrorKind::Invalid, sentence));
        }
        let target = self.target.open(spawner)?;
        if let Err(error) = target.submit(Request::flush()).await.result {
            self.fail(&error);
        }
        self.check()
    }

    /// What the disk is; it keeps its size while it is copied.
    pub(crate) fn info(&self) -> Info {
        Info {
            size: self.size,
            ..self.source.info()
        }
    }

    /// The copy cannot become whole any more.
    pub(crate) fn fail(&self, error: &Error) {
        self.lock().get_or_insert_with(|| same(error));
    }

    pub(crate) fn trouble(&self) -> Option<Error> {
        self.lock().as_ref().map(same)
    }

    pub(crate) fn is_well(&self) -> bool {
        self.lock().is_none()
    }

    /// # Errors
    /// Why the copy cannot become whole.
    pub(crate) fn check(&self) -> Result<()> {
        self.trouble().map_or(Ok(()), Err)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Error>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn same(error: &Error) -> Error {
    Error::new(error.kind(), error.sentence())
}
