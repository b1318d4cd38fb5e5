//! An image as a block device.

mod amend;
mod backing;
mod bitmaps;
mod bits;
mod check;
mod core;
mod counts;
mod create;
mod fill;
mod gate;
mod head;
mod keys;
mod lane;
mod map;
mod open;
mod pack;
mod pages;
mod preallocate;
mod publish;
mod queue;
mod read;
mod redo;
mod resize;
mod shadow;
mod snapshot;
mod space;
mod state;
mod table;
mod tables;
mod write;
mod zero;

use std::rc::Rc;
use std::sync::Arc;

use weft_block::{BlockDevice, BlockQueue, Info, Result, Spawner};

pub use self::amend::Amendment;
pub use self::bitmaps::BitmapInfo;
pub use self::check::{CheckReport, Repair};
use self::core::Core;
pub use self::create::{CreateOptions, create};
pub use self::fill::Zeroes;
use self::lane::Lane;
pub use self::map::{Part, Place};
pub use self::open::{DEFAULT_CACHE, OpenOptions, read_encryption, read_header};
pub use self::pack::{Packed, Packer};
pub use self::preallocate::Fill;
use self::queue::Queue;
pub use self::redo::RedoMemory;
pub use self::snapshot::SnapshotName;
use crate::format::{Header, Version, incompatible};

/// An open image. Clones are the same image.
#[derive(Clone)]
pub struct Image {
    core: Arc<Core>,
}

impl Image {
    /// Opens the image in `file`. One that was not closed, so that its refcounts may be wrong, is repaired first, if it is
    /// to be written.
    ///
    /// # Errors
    /// `Invalid` if it is no image, or needs a file that `options` do not give; `Unsupported` for what this crate does not
    /// know; `Corrupt` if it contradicts itself, or must be repaired before it is written; and as reading the file.
    pub async fn open(
        file: Arc<dyn BlockDevice>,
        options: OpenOptions,
        spawner: &Spawner,
    ) -> Result<Self> {
        let (snapshot, for_repair) = (options.snapshot.clone(), options.for_repair);
        let memory = options.redo.clone();
        let core = open::open(file, options, spawner).await?;
        let this = Self {
            core: Arc::new(core),
        };
        match snapshot {
            Some(tag) => this.look_at_snapshot(&tag, spawner).await?,
            // A repair asks nothing of them.
            None if for_repair => {}
            None => Lane::open(&this.core, spawner)?.load_bitmaps().await?,
        }
        if !this.core.read_only && !for_repair {
            this.make_whole(memory, spawner).await?;
        }
        Ok(this)
    }

    /// Applies what a redo log says of an image that was not closed, or repairs it, and begins another log.
    async fn make_whole(&self, memory: Option<RedoMemory>, spawner: &Spawner) -> Result<()> {
        let lane = Lane::open(&self.core, spawner)?;
        if memory.is_some() && self.core.version == Version::V2 {
            self.core.publish_first();
            return Ok(());
        }
        if let Some(memory) = &memory
            && lane.redo(memory).await?
        {
            return Ok(());
        }
        if !self.header().has(incompatible::DIRTY) {
            return Ok(());
        }
        let report = self.check(Repair::All, spawner).await?;
        if !report.repaired {
            let sentence = "the image was not closed, and its tables contradict each other";
            return Err(self::core::corrupt(sentence));
        }
        match &memory {
            Some(memory) => lane.redo(memory).await.map(|_| ()),
            None => Ok(()),
        }
    }

    /// What the header says now.
    pub fn header(&self) -> Header {
        self.core.header()
    }

    /// Makes all that was written durable, writes the bitmaps back, gives back the clusters that are free, and cuts the
    /// file to what is used. An
    /// image that is dropped without it loses no more than room. A redo log ends with it. Requests may still come afterwards.
    ///
    /// # Errors
    /// As a flush.
    pub async fn close(&self, spawner: &Spawner) -> Result<()> {
        if self.core.read_only {
            return Ok(());
        }
        let lane = Lane::open(&self.core, spawner)?;
        let _control = self.core.control.lock().await;
        let _closed = self.core.gate.close().await;
        lane.store_bitmaps().await?;
        lane.settle().await?;
        lane.end_redo().await?;
        lane.trim_file().await
    }
}

impl Lane {
    /// Cuts the file behind the last cluster that is used, if its size is ours. No request is under way.
    async fn trim_file(self: &Rc<Self>) -> Result<()> {
        let bits = self.core.geometry.cluster_bits();
        let mut clusters = self.core.geometry.clusters(self.core.file_size());
        while clusters > 0 && self.step(|state| state.refcount(clusters - 1)).await? == 0 {
            clusters -= 1;
        }
        self.core.shrink_file(clusters << bits)
    }
}

impl BlockDevice for Image {
    fn info(&self) -> Info {
        self.core.info()
    }

    fn open(&self, spawner: &Spawner) -> Result<Box<dyn BlockQueue>> {
        Ok(Box::new(Queue::open(&self.core, spawner)?))
    }
}
