//! Taking over what an image has from its backing file, so that it can do without, or over another one.

use std::ops::Range;

use weft_block::{IoVec, Result, Spawner};

use super::Image;
use super::lane::Lane;
use super::tables::Source;
use super::zero::Place;

/// What becomes of zeroes that an image takes over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Zeroes {
    /// They need no place: it is to rest on nothing.
    Absent,
    /// They are the image's own: it is to rest on what may hold something there.
    Own,
}

impl Image {
    /// Copies what the disk has at `range` from its backing file, as far as that reaches, into the image, beside requests of
    /// others. What the image has of its own stays. The answer is how many bytes were copied.
    ///
    /// # Errors
    /// `ReadOnly`, `NoSpace`, and as reading the one file and writing the other.
    pub async fn fill(&self, range: Range<u64>, zeroes: Zeroes, spawner: &Spawner) -> Result<u64> {
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
                let run = run.guest..run.guest + run.len;
                copied += lane.take_over(run, zeroes).await?;
            }
        }
        lane.after_change(false).await?;
        Ok(copied)
    }
}

impl Lane {
    /// Writes to the image what it reads as at `range`, whole grains of it.
    async fn take_over(&self, range: Range<u64>, zeroes: Zeroes) -> Result<u64> {
        let bytes = IoVec::zeroed((range.end - range.start) as usize);
        self.read(range.start, &bytes).await?;
        let bytes = bytes.into_buffer();
        let cluster = self.core.geometry.cluster() as usize;
        let mut copied = 0;
        for (index, part) in bytes.chunks(cluster).enumerate() {
            let guest = range.start + (index * cluster) as u64;
            let data = part.iter().any(|byte| *byte != 0);
            if data || (zeroes == Zeroes::Own && !self.has_zero_entries()) {
                self.write(guest, &IoVec::copy_of(part), false).await?;
                copied += part.len() as u64;
            } else if zeroes == Zeroes::Own {
                // The disk may end within a grain; an entry speaks of whole ones.
                let end = guest + part.len() as u64;
                let end = end.next_multiple_of(self.core.geometry.grain());
                self.zero(guest..end, Place::Freed).await?;
            }
        }
        Ok(copied)
    }
}
