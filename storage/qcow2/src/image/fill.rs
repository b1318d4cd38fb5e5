//! Taking over what an image has from its backing file, so that it can do without.

use std::ops::Range;

use weft_block::{IoVec, Result, Spawner};

use super::Image;
use super::lane::Lane;
use super::tables::Source;

impl Image {
    /// Copies what the disk has at `range` from its backing file into the image, beside requests of others; what reads as
    /// zeroes there needs no place. What the image has of its own stays. The answer is how many bytes were copied.
    ///
    /// # Errors
    /// `ReadOnly`, `NoSpace`, and as reading the one file and writing the other.
    pub async fn fill(&self, range: Range<u64>, spawner: &Spawner) -> Result<u64> {
        self.core.check_changeable()?;
        let geometry = self.core.geometry;
        let start = geometry.round_down(range.start);
        let end = geometry.round_up(range.end).min(self.core.size());
        let lane = Lane::open(&self.core, spawner)?;
        let _pass = self.core.gate.wait().await;
        self.core.state().check_writable()?;
        let mut copied = 0;
        {
            // Nobody writes there between the look at what is missing and the end of the copy.
            let places = start..geometry.round_up(end);
            let _places = self.core.places.exclusive(places).await;
            let runs = lane.step(|state| state.runs(start..end)).await?;
            let missing = runs.iter().filter(|run| {
                matches!(run.source, Source::Backing) && run.guest < self.core.backing_size()
            });
            for run in missing {
                copied += lane.take_over(run.guest..run.guest + run.len).await?;
            }
        }
        lane.after_change(false).await?;
        Ok(copied)
    }
}

impl Lane {
    /// Writes to the image what it reads as at `range`, whole grains of it.
    async fn take_over(&self, range: Range<u64>) -> Result<u64> {
        let bytes = IoVec::zeroed((range.end - range.start) as usize);
        self.read(range.start, &bytes).await?;
        let bytes = bytes.into_buffer();
        let cluster = self.core.geometry.cluster() as usize;
        let mut copied = 0;
        for (index, part) in bytes.chunks(cluster).enumerate() {
            if part.iter().any(|byte| *byte != 0) {
                let guest = range.start + (index * cluster) as u64;
                self.write(guest, &IoVec::copy_of(part), false).await?;
                copied += part.len() as u64;
            }
        }
        Ok(copied)
    }
}
