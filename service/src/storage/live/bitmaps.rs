//! Bitmaps of images that are in use: they tell what their users write from now on.

use super::open::on;
use crate::api::{Error, ErrorKind, ImageBitmap, ImageBitmapWanted, Result};
use crate::storage::Storage;
use crate::storage::images::{apply_bitmap_change, open_bitmaps};

impl Storage {
    /// The bitmaps of an image that is open; `disk` is its word or the DISK that holds it.
    ///
    /// # Errors
    /// `NotFound` if it is not open, `Unsupported` if it is no image.
    pub async fn image_bitmaps(&self, disk: &str) -> Result<Vec<ImageBitmap>> {
        let state = self.state.lock().await;
        Ok(open_bitmaps(&state.open_image_in(disk)?.image()?))
    }

    /// Changes a bitmap of an open image under its users, by one change after the other, and tells its bitmaps. What
    /// bitmaps say is in the file when the image is closed.
    ///
    /// # Errors
    /// As above, `Busy` while a job runs, which may need them, and as the engine says of each change; those before it
    /// are made then.
    pub async fn change_image_bitmap(
        &self,
        wanted: &ImageBitmapWanted,
    ) -> Result<Vec<ImageBitmap>> {
        let ImageBitmapWanted {
            disk,
            bitmap,
            changes,
        } = wanted.clone();
        let state = self.state.lock().await;
        let open = state.open_image_in(&disk)?;
        if open.job.is_some() {
            let message = format!(
                "{disk} keeps its bitmaps as they are while its job runs; see `weft image wait`"
            );
            return Err(Error::new(ErrorKind::Busy, disk, message));
        }
        let image = open.image()?;
        on(&open.home, &wanted.disk, move || async move {
            for change in &changes {
                apply_bitmap_change(&image, &bitmap, change, &image).await?;
            }
            Ok(open_bitmaps(&image))
        })
        .await
    }
}
