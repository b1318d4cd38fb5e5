//! A copy of an image in use that takes its place when it has caught up.

use std::sync::Arc;

use weft_block::{BlockDevice, LocalBoxFuture, Spawner};
use weft_copy::Mirror;
use weft_uring::spawner;

use super::OpenImage;
use super::copying::{Copying, user};
use super::job::{Job, JobRecord, Work};
use super::open::on;
use super::overlay::Renames;
use crate::api::{Error, ImageDisk, ImageMirror, Result, SyncAction};
use crate::storage::disks::{self, Access, key};
use crate::storage::{State, Storage};

/// The steps of a mirror, until it has caught up.
pub(super) struct Steps(pub(super) Mirror);

impl Work for Steps {
    fn step<'a>(
        &'a mut self,
        bytes: u64,
        spawner: &'a Spawner,
    ) -> LocalBoxFuture<'a, weft_block::Result<bool>> {
        Box::pin(self.0.step(bytes, spawner))
    }

    fn done(&self) -> u64 {
        self.0.progress().0
    }
}

impl Storage {
    /// Begins a copy of the open image to another DISK that takes its place once it has caught up: its users go on there,
    /// and the image is closed. A daemon that is killed before that begins it anew.
    ///
    /// # Errors
    /// `NotFound` if the image is not open, `InUse` if its users cannot be moved or somebody has the target, `Busy` if it
    /// has a job already, `Foreign` if the target holds something and that is not forced, `Invalid` if the target cannot
    /// hold it, and as opening the target. Nothing has changed then.
    pub async fn mirror_image(&self, wanted: &ImageMirror) -> Result<ImageDisk> {
        let mut state = self.state.lock().await;
        let key = state.changeable_image(&wanted.disk)?.word.key();
        let target = Some(wanted.target.as_str());
        let record = JobRecord::new(SyncAction::Mirror, target, &key, &wanted.sync)?;
        self.begin_mirror(&mut state, &key, record, wanted.force)
            .await?;
        let open = state.open_image_of(&key)?;
        Ok(state.describe_image(&key, open))
    }

    pub(super) async fn begin_mirror(
        &self,
        state: &mut State,
        key: &str,
        record: JobRecord,
        force: bool,
    ) -> Result<()> {
        let target = record.to.clone().unwrap_or_default();
        let user = user("mirror", key);
        let taken = state.take(&self.shards, &target, user.clone(), Access::Exclusive);
        let served = taken.await?;
        let begun = async {
            disks::refuse_used(&target, &served, force).await?;
            let Some(open) = state.images.get_mut(key) else {
                return Err(Error::not_found("image", key));
            };
            self.remember_job(key, Some(&record))?;
            open.begin_mirror(&target, served.device, record, &self.jobs)
                .await
        };
        let begun = begun.await;
        if begun.is_err() {
            state.release_below(&target, &user).await;
            self.forget_job(key);
        }
        begun
    }
}

impl OpenImage {
    async fn begin_mirror(
        &mut self,
        target: &str,
        device: Arc<dyn BlockDevice>,
        record: JobRecord,
        jobs: &Arc<tokio::sync::Notify>,
    ) -> Result<()> {
        let failed = |error: weft_block::Error| Error::from_block(target, &error);
        let source = Arc::clone(&self.links[0].device);
        let mirror = Mirror::new(source, Arc::clone(&device), false).map_err(failed)?;
        let paused = self.switch.pause().await;
        paused.accepts(&device.info()).map_err(failed)?;
        let replaced = paused.replace(Arc::new(mirror.clone())).await;
        replaced.map_err(failed)?;
        self.copying = Some(Copying::Mirror {
            target: target.to_owned(),
            mirror: mirror.clone(),
            device,
        });
        let total = mirror.progress().1;
        let make = move || Ok(Steps(mirror));
        let job = Job::start(record, total, &self.switch, &self.home, jobs, make);
        self.job = Some(job);
        self.trouble = None;
        Ok(())
    }

    /// Lets the users go on in `device`, which a mirror has made the same as the image and all know as `word` from then on.
    pub(super) async fn turn(
        &self,
        mirror: Mirror,
        device: Arc<dyn BlockDevice>,
        word: &str,
        renames: &dyn Renames,
    ) -> Result<()> {
        let failed = |error: weft_block::Error| Error::from_block(word, &error);
        let paused = self.switch.pause().await;
        on(&self.home, word, move || async move {
            mirror.settle(&spawner()).await
        })
        .await?;
        paused.accepts(&device.info()).map_err(failed)?;
        // Nothing is acknowledged by the copy alone before all who know the image's name know the copy's.
        if let Err(error) = renames.rename(&self.word.key(), word).await {
            let back = renames.rename(&key(word), &self.word.to_string()).await;
            if let Err(error) = back {
                tracing::error!(image = %self.word, error = error.message, "known by two names");
            }
            return Err(error);
        }
        paused.replace(device).await.map_err(failed)
    }
}

impl State {
    /// Puts the copy in the image's place and closes the image; if that fails its users go on with the image.
    pub(super) async fn finish_mirror(
        &mut self,
        key: &str,
        outcome: weft_block::Result<()>,
        renames: &dyn Renames,
    ) -> Result<()> {
        let turned = match outcome {
            Ok(()) => self.turn_to_copy(key, renames).await,
            Err(error) => Err(Error::from_block(key, &error)),
        };
        if turned.is_err()
            && let Err(error) = self.end_copy(key, false).await
        {
            tracing::error!(image = key, error = error.message, "its copy stays");
        }
        turned
    }

    async fn turn_to_copy(&mut self, image: &str, renames: &dyn Renames) -> Result<()> {
        let Some(open) = self.images.get(image) else {
            return Ok(());
        };
        let Some(Copying::Mirror {
            target,
            mirror,
            device,
        }) = &open.copying
        else {
            return Ok(());
        };
        let target = target.clone();
        let other = self.images.get(&*key(&target));
        let device = other.map_or(device, |other| &other.links[0].device);
        open.turn(mirror.clone(), Arc::clone(device), &target, renames)
            .await?;
        // What is done to the other image from now on is done under these users.
        let switch = open.switch.clone();
        if let Some(other) = self.images.get_mut(&*key(&target)) {
            other.switch = switch;
        }
        if let Some(open) = self.images.get_mut(image) {
            open.copying = None;
        }
        self.claims.move_users(image, &target);
        self.release_below(&target, &user("mirror", image)).await;
        self.close_image(image).await;
        Ok(())
    }
}
