//! A copy of an image in use as it is at one instant, made while its users go on.

use std::ops::Range;
use std::sync::Arc;

use weft_block::{BlockDevice, LocalBoxFuture, Spawner};
use weft_copy::Backup;
use weft_uring::spawner;

use super::OpenImage;
use super::job::{Job, JobRecord, Work, paced};
use super::open::on;
use crate::api::{DiskUse, Error, ErrorKind, ImageBackup, ImageDisk, Result, SyncAction};
use crate::storage::disks::Access;
use crate::storage::pace::Pace;
use crate::storage::{State, Storage};

/// Bytes that are copied as one before they are overwritten.
const GRAIN: u64 = 64 << 10;

/// A backup under way.
pub(super) struct Copying {
    /// The DISK that it goes to.
    target: String,
    /// The bitmap that told what to copy, and what it told: it has begun anew since.
    since: Option<(String, Vec<Range<u64>>)>,
}

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

/// The user that a backup is, to the DISK that it goes to.
fn user(key: &str) -> DiskUse {
    DiskUse {
        noun: "backup".to_owned(),
        name: key.to_owned(),
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
        if open.job.is_some() {
            let message = format!(
                "{key} has a job under way: wait for it, or end it with `weft image cancel {key}`"
            );
            return Err(Error::new(ErrorKind::Busy, &key, message));
        }
        let record = JobRecord {
            action: SyncAction::Backup,
            pace: paced(Pace::default(), &key, &wanted.sync)?,
        };
        let target = &wanted.target;
        let taken = state.take(&self.shards, target, user(&key), Access::Exclusive);
        let device = taken.await?.device;
        let open = state.images.get_mut(&key);
        let open = open.ok_or_else(|| Error::not_found("image", &key));
        let begun = match open {
            Ok(open) => open.begin_backup(wanted, device, record, &self.jobs).await,
            Err(error) => Err(error),
        };
        if let Err(error) = begun {
            state.release_below(target, &user(&key)).await;
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
        self.backup = Some(Copying {
            target: wanted.target.clone(),
            since,
        });
        if let Err(error) = replaced {
            self.leave_backup(false).await?;
            return Err(failed(error));
        }
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

    /// Lets the users go on without the backup. One that is not whole gives the bitmap back what it had told.
    pub(super) async fn leave_backup(&mut self, whole: bool) -> Result<Option<String>> {
        let Some(Copying { target, since }) = self.backup.take() else {
            return Ok(None);
        };
        let paused = self.switch.pause().await;
        let replaced = paused.replace(Arc::clone(&self.links[0].device)).await;
        if let Some((name, ranges)) = since.filter(|_| !whole) {
            let image = self.image()?;
            on(&self.home, &self.links[0].disk, move || async move {
                image.merge_bitmap(&name, &ranges, &spawner()).await
            })
            .await?;
        }
        replaced.map_err(|error| Error::from_block(&target, &error))?;
        Ok(Some(target))
    }
}

impl State {
    /// What is to be done when the steps have come to their end.
    pub(super) async fn finish_backup(
        &mut self,
        key: &str,
        outcome: weft_block::Result<()>,
    ) -> Result<()> {
        let ended = self.end_backup(key, outcome.is_ok()).await;
        outcome.map_err(|error| Error::from_block(key, &error))?;
        ended
    }

    /// Lets go of a backup's target, whatever became of it.
    pub(super) async fn end_backup(&mut self, key: &str, whole: bool) -> Result<()> {
        let Some(open) = self.images.get_mut(key) else {
            return Ok(());
        };
        let target = open.backup.as_ref().map(|copying| copying.target.clone());
        let left = open.leave_backup(whole).await;
        if let Some(target) = target {
            self.release_below(&target, &user(key)).await;
        }
        left.map(|_| ())
    }
}
