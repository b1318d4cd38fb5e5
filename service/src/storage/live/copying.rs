//! What stands between an image and its users while a copy of it is made.

use std::ops::Range;
use std::sync::Arc;

use weft_block::BlockDevice;
use weft_copy::Mirror;

use super::OpenImage;
use crate::api::{DiskUse, Error, Result};
use crate::storage::State;
use crate::storage::disks::Access;

/// A copy under way.
pub(super) enum Copying {
    /// Of one instant.
    Backup {
        /// The DISK that it goes to.
        target: String,
        /// The bitmap that told what to copy, and what it told: it has begun anew since.
        since: Option<(String, Vec<Range<u64>>)>,
    },
    /// To another DISK that is to take the image's place.
    Mirror {
        target: String,
        mirror: Mirror,
        device: Arc<dyn BlockDevice>,
    },
    /// Of those below it into one further down.
    Below {
        /// How deep that is in the chain.
        depth: usize,
    },
    /// Into an image that it rests on.
    Commit {
        /// How deep that is in the chain.
        depth: usize,
        mirror: Mirror,
        /// What that is called as a disk.
        word: String,
    },
}

impl Copying {
    /// Where the disk is to be when the copy is whole.
    pub(super) fn moves_to(&self) -> Option<String> {
        match self {
            Self::Backup { .. } | Self::Below { .. } => None,
            Self::Mirror { target, .. } => Some(target.clone()),
            Self::Commit { word, .. } => Some(word.clone()),
        }
    }
}

/// The user that a copy of the image `key` is, to the DISK that it goes to.
pub(super) fn user(noun: &str, key: &str) -> DiskUse {
    DiskUse {
        noun: noun.to_owned(),
        name: key.to_owned(),
    }
}

impl OpenImage {
    /// Lets the users go on with the image itself.
    pub(super) async fn leave_copy(&self) -> Result<()> {
        let paused = self.switch.pause().await;
        let replaced = paused.replace(Arc::clone(&self.links[0].device)).await;
        replaced.map_err(|error| Error::from_block(&self.word.key(), &error))
    }
}

impl State {
    /// Lets go of a copy and its target. One that is not `whole` leaves everything as it was without it.
    pub(super) async fn end_copy(&mut self, key: &str, whole: bool) -> Result<()> {
        let Some(open) = self.images.get_mut(key) else {
            return Ok(());
        };
        let Some(copying) = open.copying.take() else {
            return Ok(());
        };
        match copying {
            Copying::Backup { target, since } => {
                let left = open.leave_copy().await;
                let told = match since.filter(|_| !whole) {
                    Some((name, ranges)) => open.tell_again(name, ranges).await,
                    None => Ok(()),
                };
                self.release_below(&target, &user("backup", key)).await;
                left.and(told)
            }
            Copying::Mirror { target, .. } => {
                let left = open.leave_copy().await;
                self.release_below(&target, &user("mirror", key)).await;
                left
            }
            Copying::Commit { depth, .. } | Copying::Below { depth } => {
                let paused = open.switch.pause().await;
                open.close_below(depth, paused).await?;
                let (disk, user) = (&open.links[depth].disk, super::user(&open.word));
                self.claims.change_access(disk, &user, Access::Fixed);
                Ok(())
            }
        }
    }
}
