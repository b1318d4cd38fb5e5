//! A copy of an image in use as it is at one instant, made while its users go on.

use std::ops::Range;
use std::sync::Arc;

use weft_block::{BlockDevice, LocalBoxFuture, Spawner};
use weft_copy::Backup;
use weft_uring::spawner;

use super::OpenImage;
use super::copying::{Copying, user};
use super::job::{Job, JobRecord, Work};
use super::open::on;
use crate::api::{Error, ImageBackup, ImageDisk, Result, SyncAction};
use crate::storage::disks::Access;
use crate::storage::{State, Storage};

/// Bytes that are copied as one before they are overwritten.
const GRAIN: u64 = 64 << 10;

/// The steps of a backup.
struct Steps(Backup);

impl Work for Steps {
    fn step<'a>(
        &'a mut self,
        bytes: u64,
        spawner: &'a Spawner,
    ) -> LocalBoxFuture<'a, weft_block::Result<bool>> {
        Box::pin(async move {
            let all = self.0.step(bytes, spawner).await?;
            if all {
                self.0.settle(spawner).await?;
            }
            Ok(all)
        })
    }

    fn done(&self) -> u64 {
        self.0.progress().0
    }
}

impl Storage {
    /// Begins a copy of the open image as it is now to another DISK: the whole, or what a bitmap says was written. Such a
    /// bitmap begins anew at the same instant.
    ///
    /// # Errors
    /// `NotFound` if the image is not open, `Busy` if it has a job already, `InUse` if somebody has the target, `Invalid` if the
    /// target cannot hold it or there is no such bitmap, and as opening the target. Nothing has changed then.
    pub async fn backup_image(&self, wanted: &ImageBackup) -> Result<ImageDisk> {
        let mut state = self.state.lock().await;
        let open = state.open_image_of(&wanted.disk)?;
        let key = open.word.key();
        open.check_idle()?;
        let record = JobRecord::new(SyncAction::Backup, None, &key, &wanted.sync)?;
        let target = &wanted.target;
        let user = user("backup", &key);
        let taken = state.take(&self.shards, target, user.clone(), Access::Exclusive);
        let device = taken.await?.device;
        let begun = match state.images.get_mut(&key) {
            Some(open) => open.begin_backup(wanted, device, record, &self.jobs).await,
            None => Err(Error::not_found("image", &key)),
        };
        if let Err(error) = begun {
            state.release_below(target, &user).await;
            return Err(error);
        }
        let open = state.open_image_of(&key)?;
        Ok(state.describe_image(&key, open))
    }
}

impl OpenImage {
    async fn begin_backup(
        &mut self,
        wanted: &ImageBackup,
        target: Arc<dyn BlockDevice>,
        record: JobRecord,
        jobs: &Arc<tokio::sync::Notify>,
    ) -> Result<()> {
        let failed = |error: weft_block::Error| Error::from_block(&wanted.target, &error);
        let paused = self.switch.pause().await;
        let since = match &wanted.bitmap {
            Some(name) => Some((name.clone(), self.written(name).await?)),
            None => None,
        };
        let source = Arc::clone(&self.links[0].device);
        let ranges = match &since {
            Some((_, ranges)) => ranges.clone(),
            None => std::iter::once(0..self.switch.info().size).collect(),
        };
        let backup = Backup::new(source, target, false, GRAIN, ranges).map_err(failed)?;
        if let Some((name, _)) = &since {
            self.bitmap_begins(name).await?;
        }
        let replaced = paused.replace(Arc::new(backup.clone())).await;
        if let Err(error) = replaced {
            if let Some((name, ranges)) = since {
                self.tell_again(name, ranges).await?;
            }
            return Err(failed(error));
        }
        self.copying = Some(Copying::Backup {
            target: wanted.target.clone(),
            since,
        });
        let total = backup.progress().1;
        let make = move || Ok(Steps(backup));
        let job = Job::start(record, total, &self.switch, &self.home, jobs, make);
        self.job = Some(job);
        self.trouble = None;
        Ok(())
    }

    /// What a bitmap says was written.
    async fn written(&self, name: &str) -> Result<Vec<Range<u64>>> {
        let (image, disk) = (self.image()?, &self.links[0].disk);
        let dirty = image.dirty(name);
        dirty.map_err(|error| Error::from_block(disk, &error))
    }

    async fn bitmap_begins(&self, name: &str) -> Result<()> {
        let (image, name) = (self.image()?, name.to_owned());
        on(&self.home, &self.links[0].disk, move || async move {
            image.clear_bitmap(&name, &spawner()).await
        })
        .await
    }

    /// Gives a bitmap back what it had told.
    pub(super) async fn tell_again(&self, name: String, ranges: Vec<Range<u64>>) -> Result<()> {
        let image = self.image()?;
        on(&self.home, &self.links[0].disk, move || async move {
            image.merge_bitmap(&name, &ranges, &spawner()).await
        })
        .await
    }
}

impl State {
    /// What is to be done when the steps have come to their end.
    pub(super) async fn finish_backup(
        &mut self,
        key: &str,
        outcome: weft_block::Result<()>,
    ) -> Result<()> {
        let ended = self.end_copy(key, outcome.is_ok()).await;
        outcome.map_err(|error| Error::from_block(key, &error))?;
        ended
    }
}
