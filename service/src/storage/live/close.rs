//! Closing images.

use weft_uring::spawner;

use super::open::on;
use super::{OpenImage, user};
use crate::api::{DiskUse, Result};
use crate::storage::State;
use crate::storage::disks::{Reference, key};

impl OpenImage {
    /// Ends what is done to it and publishes all that was written: what is there afterwards is the image, whole.
    async fn close(&mut self) -> Result<()> {
        if let Some(job) = self.job.take() {
            job.end().await;
        }
        self.close_top().await
    }

    /// Publishes what was written.
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

    /// Closes an image and gives back what it has claimed.
    pub(in crate::storage) async fn close_image(&mut self, key: &str) {
        let Some(mut open) = self.images.remove(key) else {
            return;
        };
        if let Err(error) = open.close().await {
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
