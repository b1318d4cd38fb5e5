//! Snapshots inside images that are in use.

use weft_qcow2::SnapshotName;
use weft_uring::spawner;

use super::open::on;
use super::{ImageWord, OpenImage};
use crate::api::{Error, ErrorKind, ImageSnapshot, Result};
use crate::storage::images::{check_unique, snapshot, snapshot_name};
use crate::storage::{State, Storage};

impl Storage {
    /// The snapshots of an image that is open; `disk` is its word or the DISK that holds it.
    ///
    /// # Errors
    /// `NotFound` if it is not open, and as reading.
    pub async fn image_snapshots(&self, disk: &str) -> Result<Vec<ImageSnapshot>> {
        let state = self.state.lock().await;
        let open = state.open_image_in(disk)?;
        let image = open.image()?;
        let entries = on(&open.home, disk, move || async move {
            image.snapshots(&spawner()).await
        });
        Ok(entries.await?.iter().map(snapshot).collect())
    }

    /// Keeps the disk of an open image as it is now, under its users: what was acknowledged to them is in it.
    ///
    /// # Errors
    /// As above, `Invalid` or `Exists` for a name that would not be unique, and as writing.
    pub async fn create_image_snapshot(&self, disk: &str, tag: &str) -> Result<ImageSnapshot> {
        let state = self.state.lock().await;
        let open = state.open_image_in(disk)?;
        if open.job.is_some() {
            let message = format!(
                "{disk} takes no snapshot while its job runs, after which it would be another; see `weft image wait`"
            );
            return Err(Error::new(ErrorKind::Busy, disk, message));
        }
        let image = open.image()?;
        let there = on(&open.home, disk, move || async move {
            image.snapshots(&spawner()).await
        });
        check_unique(disk, tag, &there.await?)?;
        let (image, name): (_, SnapshotName) = (open.image()?, snapshot_name(tag));
        let entry = on(&open.home, disk, move || async move {
            image.create_snapshot(name, &spawner()).await
        });
        Ok(snapshot(&entry.await?))
    }

    /// Deletes a snapshot of an open image.
    ///
    /// # Errors
    /// As above.
    pub async fn delete_image_snapshot(&self, disk: &str, tag: &str) -> Result<()> {
        let state = self.state.lock().await;
        let open = state.open_image_in(disk)?;
        let (image, tag) = (open.image()?, tag.to_owned());
        on(&open.home, disk, move || async move {
            image.delete_snapshot(&tag, &spawner()).await
        })
        .await
    }

    /// Refuses to go back to a snapshot under those who use the disk.
    ///
    /// # Errors
    /// `NotFound` if the image is not open, otherwise `InUse`.
    pub async fn apply_image_snapshot(&self, disk: &str, tag: &str) -> Result<()> {
        let state = self.state.lock().await;
        let key = state.open_image_in(disk)?.word.key();
        let user = state.claims.users(&key).next();
        let user = user.map_or(String::new(), |user| format!("{} {}", user.noun, user.name));
        let message = format!(
            "{disk} cannot go back to snapshot {tag} while {user} uses it, whose disk would change under it; end that first"
        );
        Err(Error::new(ErrorKind::InUse, disk, message))
    }
}

impl OpenImage {
    pub(super) fn image(&self) -> Result<weft_qcow2::Image> {
        let image = self.links[0].image.clone();
        image.ok_or_else(|| {
            let message = format!("{} is no image", self.word);
            Error::new(ErrorKind::Unsupported, self.word.to_string(), message)
        })
    }
}

impl State {
    /// The open image of that word, or the one that lies in `disk`.
    pub(super) fn open_image_in(&self, disk: &str) -> Result<&OpenImage> {
        match ImageWord::is_meant_by(disk) {
            true => self.open_image_of(disk),
            false => self.open_image_of(&ImageWord::of(disk).key()),
        }
    }
}
