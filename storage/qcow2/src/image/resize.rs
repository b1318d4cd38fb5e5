//! Another size of the disk.

use std::ops::Range;
use std::rc::Rc;

use weft_block::{Error, ErrorKind, Result, Spawner};

use super::Image;
use super::lane::Lane;
use super::table::Table;
use super::zero::Place;
use crate::format::{MAX_L1_BYTES, Version};

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
        self.core.check_changeable()?;
        if geometry.l1_entries(size) * 8 > MAX_L1_BYTES {
            let sentence = format!(
                "clusters of {} bytes are too small for a disk of {size} bytes",
                geometry.cluster()
            );
            return Err(Error::new(ErrorKind::Invalid, sentence));
        }
        let lane = Lane::open(&self.core, spawner)?;
        let old = self.core.size();
        if size > old {
            // As far as there are tables for it, while nobody sees it yet.
            let reach = geometry.l1_entries(old) * geometry.l2_reach();
            self.clear(&lane, old..size.min(reach)).await?;
        }
        lane.resize_bitmaps(size).await?;
        lane.exclusively(async |lane, mut shadow| {
            let active = lane.core.state().l1.clone();
            for clusters in shadow.tree(&active).await? {
                shadow.new.remove(clusters)?;
            }
            let kept = match size < old {
                true => cut(&active, geometry.l1_entries(size)),
                false => active,
            };
            shadow.adopt(&kept, size).await?;
            shadow.commit().await
        })
        .await?;
        if size < old {
            let _pass = self.core.gate.wait().await;
            let end = geometry
                .round_up(old)
                .min(geometry.l1_entries(size) * geometry.l2_reach());
            let _places = self
                .core
                .places
                .exclusive(geometry.round_down(size)..end)
                .await;
            lane.discard(size..end).await?;
            lane.zero(size..geometry.round_up(size), Place::Freed)
                .await?;
            return lane.publish().await;
        }
        self.clear(&lane, old..size).await
    }

    /// What is gained reads as zeroes, even where a longer backing file or an entry of a longer disk holds something.
    async fn clear(&self, lane: &Rc<Lane>, gained: Range<u64>) -> Result<()> {
        let geometry = self.core.geometry;
        let backing = self.core.backing_size();
        let held = geometry.round_up(gained.start).max(backing);
        let end = match self.core.version {
            // There an entry behind the end of the disk may have stayed.
            Version::V2 => gained.end,
            Version::V3 => gained.end.min(held),
        };
        if gained.start >= end {
            return Ok(());
        }
        let _pass = self.core.gate.wait().await;
        let places = geometry.round_down(gained.start)..geometry.round_up(end);
        let _places = self.core.places.exclusive(places).await;
        lane.zero(gained.start..end, Place::Freed).await?;
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
