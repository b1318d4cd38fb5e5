//! Images that serve as disks: `qcow2:DISK`.
//!
//! An image that anybody uses is open once, on one shard, for all who use it: it is an object of the daemon, as an array is,
//! and claims what it lies in for itself alone, so that no other word leads to the same bytes, and what it rests on so that
//! nobody writes there. It is closed when its last user lets it go. Its users have a [`Switch`], not the image: what is
//! behind it can be exchanged while they use it.

mod backup;
mod bitmaps;
mod close;
mod commit;
mod copying;
#[cfg(test)]
mod cuts;
mod job;
mod jobs;
mod mirror;
mod moved;
mod open;
mod overlay;
mod own;
mod redo;
mod secrets;
mod show;
mod snapshots;
mod stream;
mod word;

use std::sync::Arc;

use weft_block::{BlockDevice, Switch};
use weft_qcow2::Image;
use weft_qcow2::luks::MasterKey;
use weft_uring::{FileDevice, ShardHandle};

pub(super) use moved::Moved;
pub use overlay::Renames;
pub(super) use redo::Logs;
pub use word::ImageWord;

use super::State;
use super::disks::{Access, Served};
use super::images::Format;
use crate::api::{DiskUse, Error, ErrorKind, Result};
use crate::shards::Shards;

/// An image that is open.
pub(super) struct OpenImage {
    /// By which word, with what it may name.
    pub(super) word: ImageWord,
    /// What its users have.
    pub(super) switch: Switch,
    /// Where its parts live.
    pub(super) home: ShardHandle,
    /// The image and what it rests on, the topmost first.
    pub(super) links: Vec<Link>,
    /// Whether writes are refused.
    pub(super) read_only: bool,
    /// The DISKs that are claimed for it.
    pub(super) claimed: Vec<String>,
    /// What is done to it in the background.
    job: Option<job::Job>,
    /// The copy that is made of it.
    copying: Option<copying::Copying>,
    /// Why the last job failed.
    trouble: Option<String>,
}

/// One image, or raw disk, of a chain.
#[derive(Clone)]
pub(super) struct Link {
    /// The DISK that holds it.
    pub(super) disk: String,
    pub(super) format: Format,
    /// What holds it.
    pub(super) file: Arc<dyn BlockDevice>,
    /// The same if it is a file, whose lock is ours.
    pub(super) lock: Option<Arc<FileDevice>>,
    /// What holds its data, if not the same.
    pub(super) data_file: Option<(String, Arc<dyn BlockDevice>)>,
    /// What its data is encrypted with.
    pub(super) key: Option<Arc<MasterKey>>,
    /// Where its redo log is while it is written.
    pub(super) logs: Logs,
    /// The image, if it is one.
    pub(super) image: Option<Image>,
    /// What it is as a disk.
    pub(super) device: Arc<dyn BlockDevice>,
}

/// The user that an image is, to what it lies in and rests on.
pub(super) fn user(word: &ImageWord) -> DiskUse {
    DiskUse {
        noun: "image".to_owned(),
        name: word.inner.clone(),
    }
}

impl OpenImage {
    /// Refuses what cannot be done beside a job.
    ///
    /// # Errors
    /// `Busy` while one is under way.
    fn check_idle(&self) -> Result<()> {
        if self.job.is_none() {
            return Ok(());
        }
        let key = self.word.key();
        let message = format!(
            "{key} has a job under way: wait for it, or end it with `weft image cancel {key}`"
        );
        Err(Error::new(ErrorKind::Busy, key, message))
    }

    /// The image as a disk.
    pub(super) fn served(&self) -> Served {
        Served::here(Arc::new(self.switch.clone()), self.home.clone())
    }
}

impl State {
    /// The image that `text` stands for, opened for its first user.
    pub(super) async fn take_image(
        &mut self,
        shards: &Shards,
        text: &str,
        access: Access,
    ) -> Result<Served> {
        let word: ImageWord = text.parse()?;
        let key = word.key();
        if let Some(open) = self.images.get(&key) {
            if open.read_only && access.writes() {
                let message =
                    format!("{key} is open for reading alone; close that use of it first");
                return Err(Error::new(ErrorKind::InUse, text, message));
            }
            return Ok(open.served());
        }
        let open = self.open_image(shards, &word, access).await?;
        let served = open.served();
        self.images.insert(key, open);
        Ok(served)
    }

    /// The image that `text` stands for, for a short look at it.
    pub(super) async fn find_image(&mut self, shards: &Shards, text: &str) -> Result<Served> {
        let word: ImageWord = text.parse()?;
        match self.images.get(&word.key()) {
            Some(open) => Ok(open.served()),
            None => self.look_at_image(shards, &word).await,
        }
    }

    /// The image that is open as `text`.
    pub(super) fn open_image_of(&self, text: &str) -> Result<&OpenImage> {
        let word: ImageWord = text.parse()?;
        let open = self.images.get(&word.key());
        open.ok_or_else(|| {
            let message = format!("{text} is no disk of anything here");
            Error::new(ErrorKind::NotFound, text, message)
        })
    }
}
