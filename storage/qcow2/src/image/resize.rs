//! Another size of the disk.

use weft_block::{Error, ErrorKind, Result, Spawner};

use super::Image;
use super::lane::Lane;
use super::table::Table;
use crate::format::MAX_L1_BYTES;

impl Image {
    /// Gives the disk another size, rounded up to whole sectors. What is gained reads as zeroes; what is cut off is gone,
    /// and stays in snapshots. The image is the old or the new one after a cut.
    ///
    /// # Errors
    /// `Invalid` if tables cannot map so much, `Unsupported` where a data file would have to change too, `ReadOnly`,
    /// `NoSpace`, and as writing.
    pub async fn resize(&self, size: u64, spawner: &Spawner) -> Result<()> {
        let size = size.next_multiple_of(512);
        let geometry = self.core.geometry;
        if self.core.read_only {
            return Err(Error::new(
                ErrorKind::ReadOnly,
                "the image was opened read-only",
            ));
        }
        if geometry.l1_entries(size) * 8 > MAX_L1_BYTES {
            let sentence = format!(
                "clusters of {} bytes are too small for a disk of {size} bytes",
                geometry.cluster()
            );
            return Err(Error::new(ErrorKind::Invalid, sentence));
        }
        let lane = Lane::open(&self.core, spawner)?;
        let old = self.core.size();
        if size < old {
            let _pass = self.core.gate.wait().await;
            let end = geometry.round_up(old);
            let _places = self
                .core
                .places
                .exclusive(geometry.round_down(size)..end)
                .await;
            lane.discard(size..end).await?;
        }
        lane.exclusively(async |lane, mut shadow| {
            let active = lane.core.state().l1.clone();
            for clusters in shadow.tree(&active).await? {
                shadow.new.remove(clusters)?;
            }
            let kept = if size < old {
                cut(&active, geometry.l1_entries(size))
            } else {
                active
            };
            shadow.adopt(&kept, size).await?;
            shadow.commit().await
        })
        .await?;
        self.hide_backing(&lane, old, size).await
    }

    /// What is gained reads as zeroes, even where a longer backing file holds something.
    async fn hide_backing(&self, lane: &std::rc::Rc<Lane>, old: u64, size: u64) -> Result<()> {
        let backing = self
            .core
            .backing
            .as_ref()
            .map_or(0, |backing| backing.info().size);
        let end = size.min(backing);
        if old >= end {
            return Ok(());
        }
        let _pass = self.core.gate.wait().await;
        let geometry = self.core.geometry;
        let places = geometry.round_down(old)..geometry.round_up(end);
        let _places = self.core.places.exclusive(places).await;
        lane.zero(old..end, super::zero::Place::Freed).await?;
        lane.publish().await
    }
}

/// The table without the entries from `count` on.
fn cut(l1: &Table, count: u64) -> Table {
    let mut kept = l1.clone();
    for index in count..l1.entries().len() as u64 {
        kept.set(index, 0);
    }
    kept
}
