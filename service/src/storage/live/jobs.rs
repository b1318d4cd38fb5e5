//! Jobs of images by name: how they go, how they end, and what the next daemon knows of them.

use super::job::JobRecord;
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
        state.end_backup(&key, false).await?;
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
            if !state.images.contains_key(&key)
                && let Err(error) = self.remember_job(&key, None)
            {
                tracing::warn!(
                    image = key,
                    error = error.message,
                    "its job is not forgotten"
                );
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
            }
        }
    }

    async fn begin_job(&self, state: &mut State, key: &str, record: JobRecord) -> Result<()> {
        match record.action {
            SyncAction::Stream => self.begin_stream(state, key, record).await,
            _ => Ok(()),
        }
    }

    /// Ends what has come to its end, for as long as the daemon lives.
    pub async fn finish_image_jobs(&self) {
        loop {
            self.jobs.notified().await;
            let mut state = self.state.lock().await;
            let ended = state.images.iter().filter_map(|(key, open)| {
                let job = open.job.as_ref()?;
                Some((key.clone(), job.action, job.outcome()?))
            });
            for (key, action, outcome) in ended.collect::<Vec<_>>() {
                let done = match (action, outcome) {
                    (SyncAction::Backup, outcome) => state.finish_backup(&key, outcome).await,
                    (_, Ok(())) => state.finish_stream(&key).await,
                    (_, Err(error)) => Err(Error::from_block(&key, &error)),
                };
                if let Some(open) = state.images.get_mut(&key) {
                    if let Some(job) = open.job.take() {
                        job.end().await;
                    }
                    open.trouble = done.err().map(|error| error.message);
                    if let Some(trouble) = &open.trouble {
                        tracing::error!(image = key, trouble, "its job has failed");
                    }
                }
                if let Err(error) = self.remember_job(&key, None) {
                    tracing::warn!(
                        image = key,
                        error = error.message,
                        "its job is not forgotten"
                    );
                }
            }
        }
    }
}

fn no_job(disk: &str) -> Error {
    let message = format!("{disk} has no job under way");
    Error::new(ErrorKind::NotFound, disk, message)
}
