//! Jobs of images by name: how they go, how they end, and what the next daemon knows of them.

use super::copying::Copying;
use super::job::JobRecord;
use super::overlay::Renames;
use crate::api::{Error, ErrorKind, ImageDisk, RaidSync, Result, SyncAction};
use crate::storage::{State, Storage};
use crate::store::Kind;

impl Storage {
    /// Says how the job of an image is to go on.
    ///
    /// # Errors
    /// `NotFound` if there is none, `Invalid`.
    pub async fn pace_image_job(&self, disk: &str, wanted: &RaidSync) -> Result<ImageDisk> {
        let mut state = self.state.lock().await;
        let key = state.open_image_of(disk)?.word.key();
        let open = state.images.get_mut(&key);
        let job = open.and_then(|open| open.job.as_mut());
        let Some(job) = job else {
            return Err(no_job(disk));
        };
        job.set_pace(disk, wanted)?;
        let record = job.record();
        self.remember_job(&key, Some(&record))?;
        let open = state.open_image_of(&key)?;
        Ok(state.describe_image(&key, open))
    }

    /// Ends the job of an image; the image is as good as before.
    ///
    /// # Errors
    /// `NotFound` if there is none.
    pub async fn cancel_image_job(&self, disk: &str) -> Result<ImageDisk> {
        let mut state = self.state.lock().await;
        let key = state.open_image_of(disk)?.word.key();
        let open = state.images.get_mut(&key);
        let Some(job) = open.and_then(|open| open.job.take()) else {
            return Err(no_job(disk));
        };
        job.end().await;
        state.end_copy(&key, false).await?;
        self.remember_job(&key, None)?;
        let open = state.open_image_of(&key)?;
        Ok(state.describe_image(&key, open))
    }

    pub(super) fn remember_job(&self, key: &str, record: Option<&JobRecord>) -> Result<()> {
        match record {
            Some(record) => self.store.put(Kind::ImageJob, key, record),
            None => self.store.remove(Kind::ImageJob, key),
        }
    }

    /// Forgets the jobs of images that nobody has open any more.
    pub(in crate::storage) fn forget_jobs(&self, state: &State) {
        let records = self.store.read::<JobRecord>(Kind::ImageJob);
        for (key, _) in records.unwrap_or_default() {
            if !state.images.contains_key(&key) {
                self.forget_job(&key);
            }
        }
    }

    /// Lets the jobs go on that ran when the last daemon ended. Whoever uses the images has them by now.
    pub async fn restore_image_jobs(&self) {
        let records = self.store.read::<JobRecord>(Kind::ImageJob);
        let mut state = self.state.lock().await;
        for (key, record) in records.unwrap_or_default() {
            if let Err(error) = self.begin_job(&mut state, &key, record).await {
                tracing::warn!(image = key, error = error.message, "its job does not go on");
                if let Some(open) = state.images.get_mut(&key) {
                    open.trouble = Some(error.message);
                }
                self.forget_job(&key);
            }
        }
    }

    async fn begin_job(&self, state: &mut State, key: &str, record: JobRecord) -> Result<()> {
        match record.action {
            SyncAction::Stream => self.begin_stream(state, key, record).await,
            // What is there of it is our own.
            SyncAction::Mirror => self.begin_mirror(state, key, record, true).await,
            SyncAction::Commit => self.begin_commit(state, key, record).await,
            _ => Ok(()),
        }
    }

    /// Waits until a job may have come to its end.
    pub async fn image_job_ended(&self) {
        self.jobs.notified().await;
    }

    /// Ends what has come to its end, and tells which DISKs have users now that had others before. No word of a disk may be
    /// on its way to be written down meanwhile.
    pub async fn finish_image_jobs(&self, renames: &dyn Renames) -> Vec<String> {
        let mut state = self.state.lock().await;
        let ended = state.images.iter().filter_map(|(key, open)| {
            let job = open.job.as_ref()?;
            let moves_to = open.copying.as_ref().and_then(Copying::moves_to);
            Some((key.clone(), job.action, moves_to, job.outcome()?))
        });
        let mut moved = Vec::new();
        for (key, action, moves_to, outcome) in ended.collect::<Vec<_>>() {
            let done = match (action, outcome) {
                (SyncAction::Backup, outcome) => state.finish_backup(&key, outcome).await,
                (SyncAction::Mirror, outcome) => state.finish_mirror(&key, outcome, renames).await,
                (SyncAction::Commit, outcome) => state.finish_commit(&key, outcome, renames).await,
                (_, Ok(())) => state.finish_stream(&key).await,
                (_, Err(error)) => Err(Error::from_block(&key, &error)),
            };
            if let Some(place) = moves_to.filter(|_| done.is_ok()) {
                state.moved.note(&key, &place);
                moved.push(place);
            }
            // What has moved is no longer open by this name.
            if let Some(open) = state.images.get_mut(&key) {
                if let Some(job) = open.job.take() {
                    job.end().await;
                }
                open.trouble = done.err().map(|error| error.message);
                if let Some(trouble) = &open.trouble {
                    tracing::error!(image = key, trouble, "its job has failed");
                }
            }
            self.forget_job(&key);
        }
        moved
    }

    pub(super) fn forget_job(&self, key: &str) {
        if let Err(error) = self.remember_job(key, None) {
            let error = error.message;
            tracing::warn!(image = key, error, "its job is not forgotten");
        }
    }
}

fn no_job(disk: &str) -> Error {
    let message = format!("{disk} has no job under way");
    Error::new(ErrorKind::NotFound, disk, message)
}
