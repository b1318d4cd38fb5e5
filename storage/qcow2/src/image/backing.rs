//! What an image rests on: another name for it, and an image that has nothing of its own any more.

use std::rc::Rc;

use weft_block::{Error, ErrorKind, Result, Spawner};

use super::Image;
use super::lane::Lane;
use super::table::Table;
use crate::format::{Backing, MAX_NAME};

impl Image {
    /// Writes another name for the backing file into the header, or none. What the image reads from does not change until
    /// it is opened again.
    ///
    /// A cut leaves the old name or the new one, except with clusters under 4 KiB, whose header has no room for both.
    ///
    /// # Errors
    /// `Invalid` if the name has no room in the header, `ReadOnly`, and as writing.
    pub async fn set_backing(&self, backing: Option<Backing>, spawner: &Spawner) -> Result<()> {
        let lane = self.changing(spawner)?;
        if let Some(backing) = &backing
            && backing.path.len() > MAX_NAME
        {
            let sentence = format!("the name of a backing file has at most {MAX_NAME} bytes");
            return Err(Error::new(ErrorKind::Invalid, sentence));
        }
        let _control = self.core.control.lock().await;
        lane.change_header(|header| {
            header.extensions.backing_format =
                backing.as_ref().and_then(|backing| backing.format.clone());
            header.backing_path = backing.map(|backing| backing.path);
        })
        .await
    }

    /// Takes out all that the disk has of its own, so that it reads as its backing file again; snapshots keep theirs. It
    /// happens whole or not at all.
    ///
    /// # Errors
    /// `ReadOnly`, `NoSpace`, and as writing.
    pub async fn make_empty(&self, spawner: &Spawner) -> Result<()> {
        let lane = self.changing(spawner)?;
        lane.exclusively(async |lane, mut shadow| {
            let active = lane.core.state().l1.clone();
            for clusters in shadow.tree(&active).await? {
                shadow.new.remove(clusters)?;
            }
            let size = shadow.header.size;
            shadow.adopt(&Table::parse(0, &[], 512), size).await?;
            shadow.commit().await
        })
        .await
    }

    fn changing(&self, spawner: &Spawner) -> Result<Rc<Lane>> {
        self.core.check_changeable()?;
        Lane::open(&self.core, spawner)
    }
}
