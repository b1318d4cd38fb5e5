//! What both kinds of copies keep: the two disks, and what went wrong.

use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use weft_block::{BlockDevice, BlockQueue, Error, ErrorKind, Info, RangeLocks, Result, Spawner};

pub(crate) struct Kept {
    pub(crate) source: Arc<dyn BlockDevice>,
    pub(crate) target: Arc<dyn BlockDevice>,
    /// Bytes that are copied: the disk's when the copy began.
    pub(crate) size: u64,
    /// The target reads as zeroes where nothing was copied to.
    pub(crate) blank: bool,
    /// What is being written, and what is being copied.
    pub(crate) locks: Arc<RangeLocks>,
    /// Requests of the disk's users so far.
    requests: AtomicU64,
    trouble: Mutex<Option<Error>>,
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
            requests: AtomicU64::new(0),
            trouble: Mutex::default(),
        })
    }

    /// A queue to the target; nothing if that is gone, which ends the copy.
    pub(crate) fn open_target(&self, spawner: &Spawner) -> Option<Rc<dyn BlockQueue>> {
        let opened = self.target.open(spawner);
        if let Err(error) = &opened {
            self.fail(error);
        }
        opened.ok().map(Rc::from)
    }

    /// What the disk is; it keeps its size while it is copied.
    pub(crate) fn info(&self) -> Info {
        Info {
            size: self.size,
            ..self.source.info()
        }
    }

    /// A request of the disk's users passes.
    pub(crate) fn count(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Requests of the disk's users so far: who copies beside them can tell whether they are there.
    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
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
