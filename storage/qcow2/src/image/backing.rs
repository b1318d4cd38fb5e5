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
    /// The header is one sector where it fits, and then it changes at once; a longer one is written from its end, so that
    /// a cut leaves the old name, the new one, or features without their names.
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
        let _closed = self.core.gate.close().await;
        lane.settle().await?;
        let (header, block) = {
            let state = self.core.state();
            let mut header = state.header.clone();
            header.extensions.backing_format =
                backing.as_ref().and_then(|backing| backing.format.clone());
            header.backing_path = backing.map(|backing| backing.path);
            (header, state.head.len())
        };
        let mut bytes = header.to_bytes()?;
        bytes.resize(bytes.len().next_multiple_of(block), 0);
        if bytes.len() > block {
            lane.write_file(block as u64, &bytes[block..]).await?;
            lane.flush_or_fail().await?;
        }
        if let Err(error) = lane.write_file(0, &bytes[..block]).await {
            let reason = format!("its header could not be written: {}", error.sentence());
            self.core.state().fail(reason);
            return Err(error);
        }
        lane.flush_or_fail().await?;
        let mut state = self.core.state();
        bytes.truncate(block);
        state.head = bytes;
        state.header = header;
        Ok(())
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
        if self.core.read_only {
            let sentence = "the image was opened read-only";
            return Err(Error::new(ErrorKind::ReadOnly, sentence));
        }
        Lane::open(&self.core, spawner)
    }
}
