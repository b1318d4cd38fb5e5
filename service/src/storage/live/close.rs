//! Closing images.

use weft_uring::spawner;

use super::open::on;
use super::{OpenImage, user};
use crate::api::{DiskUse, Result};
use crate::storage::State;
use crate::storage::disks::{Reference, key};

impl OpenImage {
    /// Publishes all that was written: what is there afterwards is the image, whole.
    pub(super) async fn close_top(&self) -> Result<()> {
        let top = &self.links[0];
        let Some(image) = top.image.clone().filter(|_| !self.read_only) else {
            return Ok(());
        };
        on(&self.home, &top.disk, move || async move {
            image.close(&spawner()).await
        })
        .await?;
        top.logs.forget(&top.disk);
        Ok(())
    }
}

impl State {
    /// Notes that `user` has let `disk` go. What nobody uses any more is closed before this returns.
    pub(in crate::storage) async fn release(&mut self, disk: &str, user: &DiskUse) {
        let free = self.claims.release(disk, user);
        if free && matches!(Reference::of(disk), Reference::Image(_)) {
            self.close_image(&key(disk)).await;
        }
    }

    /// Ends what is done to an image, closes it and gives back what it has claimed.
    pub(in crate::storage) async fn close_image(&mut self, key: &str) {
        let job = self.images.get_mut(key).and_then(|open| open.job.take());
        if let Some(job) = job {
            job.end().await;
        }
        if let Err(error) = self.end_copy(key, false).await {
            tracing::error!(image = key, error = error.message, "its copy stays");
        }
        let Some(open) = self.images.remove(key) else {
            return;
        };
        if let Err(error) = open.close_top().await {
            // What was not flushed was promised to nobody; the next opening finds the image as it was then.
            tracing::error!(image = key, error = error.message, "closed uncleanly");
        }
        let (claimed, user) = (open.claimed.clone(), user(&open.word));
        drop(open);
        for disk in claimed {
            self.release_below(&disk, &user).await;
        }
    }
}
