//! What is told of open images.

use weft_block::BlockDevice;

use super::OpenImage;
use super::copying::Copying;
use crate::api::{ImageDisk, ImageLink, Result};
use crate::storage::{State, Storage};

impl Storage {
    /// The images that are open.
    pub async fn images(&self) -> Vec<ImageDisk> {
        let state = self.state.lock().await;
        let open = state.images.iter();
        open.map(|(key, open)| state.describe_image(key, open))
            .collect()
    }

    /// One of them.
    ///
    /// # Errors
    /// `Invalid` if `disk` is no image's word, `NotFound` if it is not open.
    pub async fn image(&self, disk: &str) -> Result<ImageDisk> {
        let state = self.state.lock().await;
        let open = state.open_image_of(disk)?;
        Ok(state.describe_image(&open.word.key(), open))
    }
}

impl State {
    pub(super) fn describe_image(&self, key: &str, open: &OpenImage) -> ImageDisk {
        let link = |link: &super::Link| ImageLink {
            disk: link.disk.clone(),
            format: link.format.name().to_owned(),
        };
        ImageDisk {
            disk: key.to_owned(),
            size_bytes: open.switch.info().size,
            read_only: open.read_only,
            chain: open.links.iter().map(link).collect(),
            used_by: self.claims.users(key).cloned().collect(),
            moves_to: open.copying.as_ref().and_then(Copying::moves_to),
            job: open.job.as_ref().map(super::job::Job::describe),
            trouble: open.trouble.clone(),
        }
    }

    /// Bytes of `disk`, as far as it is open; zero if not.
    pub(in crate::storage) fn size_of(&self, disk: &str) -> u64 {
        if let Some(served) = self.claims.file(disk) {
            return served.device.info().size;
        }
        if let Some(open) = self.images.get(disk) {
            return open.switch.info().size;
        }
        let links = self.images.values().flat_map(|open| &open.links);
        let mut found = links.filter(|link| link.disk == disk);
        found.next().map_or(0, |link| link.file.info().size)
    }
}
