//! Room that is taken before anything is written.

use std::ops::Range;
use std::rc::Rc;

use weft_block::{Error, ErrorKind, IoVec, Request, Result, Spawner};

use super::Image;
use super::lane::Lane;
use super::space::Found;
use super::state::{State, Stop};
use crate::format::{Mapping, Version};

/// Clusters that are taken in one step.
const MOST_CLUSTERS: usize = 1024;

/// Bytes of zeroes that are written at once.
const ZEROES: u64 = 1 << 20;

/// What is done with room that is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fill {
    /// It stays a hole of the file, where it is one.
    Nothing,
    /// The file's own file system takes room for it.
    Room,
    /// Zeroes are written there.
    Zeroes,
}

/// Clusters side by side that have no place yet, from byte `guest` of the disk on.
struct Unplaced {
    guest: u64,
    old: Vec<Mapping>,
}

impl State {
    /// The next clusters of `range` without a place.
    fn unplaced(&mut self, range: Range<u64>) -> Result<Unplaced, Stop> {
        let cluster = self.geometry().cluster();
        let mut found = Unplaced {
            guest: range.end,
            old: Vec::new(),
        };
        let mut at = range.start;
        while at < range.end && found.old.len() < MOST_CLUSTERS {
            let mapping = match self.mapping(at) {
                // What was found is enough for a step.
                Err(Stop::Page(..)) if !found.old.is_empty() => break,
                mapping => mapping?,
            };
            match (mapping, found.old.is_empty()) {
                (Mapping::Plain { host: None, .. }, true) => {
                    found.guest = at;
                    found.old.push(mapping);
                }
                (Mapping::Plain { host: None, .. }, false) => found.old.push(mapping),
                (_, true) => {}
                (_, false) => break,
            }
            at += cluster;
        }
        Ok(found)
    }
}

impl Image {
    /// Gives each cluster of `range` of the disk a place in the file, so that no write takes one later. What the disk
    /// reads as stays what it is. Clusters that are compressed keep their place.
    ///
    /// # Errors
    /// `Unsupported` where entries cannot say it: over a backing file without parts of clusters (extended L2), and for an
    /// encrypted image of version 2; `ReadOnly`, `NoSpace`, and as writing. What was taken until then stays taken.
    pub async fn preallocate(
        &self,
        range: Range<u64>,
        fill: Fill,
        spawner: &Spawner,
    ) -> Result<()> {
        self.core.check_changeable()?;
        let lane = Lane::open(&self.core, spawner)?;
        let geometry = self.core.geometry;
        let end = geometry.round_up(range.end.min(self.core.size()));
        let start = geometry.round_down(range.start).min(end);
        let unsupported = |sentence: &str| Err(Error::new(ErrorKind::Unsupported, sentence));
        if !geometry.extended_l2() && self.core.backing_size() > start {
            return unsupported(
                "room in an image over a backing file is only taken in advance with extended_l2=on",
            );
        }
        if !self.core.is_plain() && self.core.version == Version::V2 {
            return unsupported(
                "an encrypted image of version 2 (compat=0.10) cannot say that room reads as zeroes",
            );
        }
        let _pass = self.core.gate.wait().await;
        let _places = self.core.places.exclusive(start..end).await;
        self.core.state().check_writable()?;
        let mut at = start;
        while at < end {
            let next = lane.step(|state| state.unplaced(at..end)).await?;
            at = next.guest;
            if !next.old.is_empty() {
                at += lane.place(next, fill).await?;
                lane.after_change(false).await?;
            }
        }
        lane.publish().await
    }
}

impl Lane {
    /// Gives the first of these clusters a place; tells how many bytes of the disk have one now.
    async fn place(self: &Rc<Self>, clusters: Unplaced, fill: Fill) -> Result<u64> {
        let geometry = self.core.geometry;
        let Unplaced { guest, old } = clusters;
        let found = self.take_clusters(guest, old.len() as u64).await?;
        let len = found.count * geometry.cluster();
        let placed = match self.fill(found, len, fill).await {
            Ok(()) => {
                let hosts = (found.host..).step_by(geometry.cluster() as usize);
                let old = &old[..found.count as usize];
                let new: Vec<Mapping> = old
                    .iter()
                    .zip(hosts)
                    .map(|(old, host)| self.placed(*old, host))
                    .collect();
                self.step(|state| state.relink(guest, old, &new)).await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = placed {
            if self.core.data_file.is_none() {
                self.give_back(found).await?;
            }
            return Err(error);
        }
        Ok(len)
    }

    /// Sees to it that clusters without a place until now read as zeroes where they are.
    async fn fill(&self, found: Found, len: u64, fill: Fill) -> Result<()> {
        let data = self.data();
        if let Some(file) = &self.core.data_file
            && file.info().size < found.host + len
        {
            // The last cluster may end behind the disk, whose size the file has.
            file.set_len(found.host + len)?;
        }
        // What a raw data file holds is the disk.
        let raw = self.core.data_file.is_some() && self.core.header().raw_data_file();
        let clean = found.virgin || raw;
        if (!clean && fill == Fill::Nothing) || (fill == Fill::Room && !raw) {
            let zeroes = Request::write_zeroes(found.host, len, fill == Fill::Nothing);
            return data.submit(zeroes).await.result;
        }
        if fill == Fill::Zeroes && !raw {
            let zeroes = IoVec::zeroed(ZEROES.min(len) as usize);
            for start in (0..len).step_by(ZEROES as usize) {
                let part = zeroes.slice(0, ZEROES.min(len - start) as usize);
                let write = Request::write(found.host + start, part);
                data.submit(write).await.result?;
            }
        }
        Ok(())
    }

    /// What an entry without a place says with one, so that its cluster reads as before.
    fn placed(&self, old: Mapping, host: u64) -> Mapping {
        let zero = match old {
            Mapping::Plain { zero, .. } => zero,
            Mapping::Compressed { .. } => 0,
        };
        let whole = !self.core.geometry.extended_l2();
        // The file's zeroes are the disk's, unless they would be decrypted.
        let (data, zero) = match (whole, zero) {
            (true, 0) if self.core.is_plain() => (u32::MAX, 0),
            (true, _) => (0, u32::MAX),
            (false, zero) => (0, zero),
        };
        Mapping::Plain {
            host: Some(host),
            copied: true,
            data,
            zero,
        }
    }
}
