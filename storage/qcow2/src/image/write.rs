//! Writes, and where new data goes.

use std::ops::Range;

use weft_block::{IoVec, Request, Result};

use super::core::corrupt;
use super::lane::Lane;
use super::space::Found;
use super::state::{State, Stop};
use super::tables::Source;
use crate::format::{Geometry, Mapping};

/// Clusters that one step takes at most.
const MOST_CLUSTERS: u64 = 256;

/// How the next part of a write is done.
#[derive(Debug)]
enum Way {
    /// Where it is.
    InPlace { host: u64, len: u64 },
    /// In clusters that are taken first, for as many of the disk as `mappings` tell of.
    Fresh { mappings: Vec<Mapping> },
    /// In the cluster's own place, which does not hold this part yet. What it holds already, even in the same cluster, others
    /// may be writing at once.
    Filled {
        host: u64,
        len: u64,
        mapping: Mapping,
    },
}

impl State {
    /// How to begin with `range` of the disk. A step ends with a cluster.
    fn way(&mut self, range: Range<u64>) -> Result<Way, Stop> {
        let geometry = self.geometry();
        let first_end = range
            .end
            .min(geometry.round_down(range.start) + geometry.cluster());
        let run = self.runs(range.start..first_end)?[0];
        if let Source::Data { host, copied: true } = run.source {
            return Ok(Way::InPlace { host, len: run.len });
        }
        let mapping = self.mapping(range.start)?;
        if let Mapping::Plain {
            host: Some(host),
            copied: true,
            ..
        } = mapping
        {
            let len = run.len;
            return Ok(Way::Filled { host, len, mapping });
        }
        let mut mappings = vec![mapping];
        let mut guest = first_end;
        while guest < range.end && (mappings.len() as u64) < MOST_CLUSTERS {
            match self.mapping(guest) {
                Ok(next) if !has_own_place(next) => mappings.push(next),
                Ok(_) | Err(Stop::Page(..)) => break,
                Err(stop) => return Err(stop),
            }
            guest += geometry.cluster();
        }
        Ok(Way::Fresh { mappings })
    }

    /// The clusters from `guest` on have `new` mappings and no longer the `old` ones.
    pub(crate) fn relink(
        &mut self,
        guest: u64,
        old: &[Mapping],
        new: &[Mapping],
    ) -> Result<(), Stop> {
        let cluster = self.geometry().cluster();
        let places = (0..).map(|index| guest + index * cluster);
        for (place, _) in places.clone().zip(new) {
            self.changeable(place)?;
        }
        self.need_room(2 * new.len() as u64)?;
        for (place, (old, new)) in places.zip(old.iter().zip(new)) {
            self.link(place, *new)?;
            if !keeps_place(*old, *new) {
                self.unlink_mapping(*old);
            }
        }
        Ok(())
    }
}

/// Whether the cluster stays where it was.
pub(super) fn keeps_place(old: Mapping, new: Mapping) -> bool {
    matches!((old, new), (
        Mapping::Plain { host: before, .. },
        Mapping::Plain { host: after, .. },
    ) if before == after)
}

/// Whether the cluster can be written in a place that it has.
fn has_own_place(mapping: Mapping) -> bool {
    matches!(
        mapping,
        Mapping::Plain {
            host: Some(_),
            copied: true,
            ..
        }
    )
}

impl Lane {
    /// Writes `data` at `guest` of the disk. Whoever calls holds the clusters' places.
    pub(crate) async fn write(&self, guest: u64, data: &IoVec, fua: bool) -> Result<()> {
        let end = guest + data.len() as u64;
        let mut at = guest;
        while at < end {
            let way = self.step(|state| state.way(at..end)).await?;
            let rest = data.slice((at - guest) as usize, (end - at) as usize);
            at += match way {
                Way::InPlace { host, len } => {
                    let part = rest.slice(0, len as usize);
                    self.write_data(host, part, fua).await?;
                    len
                }
                Way::Filled { host, len, mapping } => {
                    let part = rest.slice(0, len as usize);
                    self.write_filled(at, part, host, mapping).await?;
                    len
                }
                Way::Fresh { mappings } => self.write_fresh(at, &rest, mappings).await?,
            };
        }
        Ok(())
    }

    /// Writes to the data file.
    pub(crate) async fn write_data(&self, host: u64, data: IoVec, fua: bool) -> Result<()> {
        self.core.check_unlocked()?;
        let end = host + data.len() as u64;
        match &self.core.data_file {
            // The last cluster may end beyond the file. What is taken anew lies in it already.
            None if end > self.core.geometry.round_up(self.core.file_size()) => {
                let sentence = format!("an L2 entry says that data is at {host}, beyond the file");
                return Err(corrupt(sentence));
            }
            None => self.core.grow_file(end)?,
            Some(file) if end > file.info().size => file.set_len(end)?,
            Some(_) => {}
        }
        let data = match &self.core.cipher {
            Some(cipher) => {
                let mut bytes = data.to_buffer();
                cipher.encrypt(host / 512, &mut bytes);
                IoVec::from(bytes)
            }
            None => data,
        };
        let mut write = Request::write(host, data);
        write.op = weft_block::Op::Write { fua };
        self.data().submit(write).await.result
    }

    /// Writes a part of a cluster in its own place, which holds nothing of it yet, and makes the grains it touches whole.
    async fn write_filled(
        &self,
        guest: u64,
        data: IoVec,
        host: u64,
        mapping: Mapping,
    ) -> Result<()> {
        let geometry = self.core.geometry;
        let start = geometry.round_down(guest);
        let end = guest + data.len() as u64;
        let new = filled(mapping, host, touched(geometry, guest..end));
        let grains = grains(geometry, guest..end);
        let head = self.bytes_of(grains.start..guest).await?;
        let tail = self.bytes_of(end..grains.end).await?;
        let whole = IoVec::join([head, data, tail]);
        self.write_data(host + (grains.start - start), whole, false)
            .await?;
        self.step(|state| state.relink(start, &[mapping], &[new]))
            .await
    }

    /// Writes to clusters that are new, and takes along what the old ones hold beside it.
    async fn write_fresh(&self, guest: u64, data: &IoVec, old: Vec<Mapping>) -> Result<u64> {
        let geometry = self.core.geometry;
        let start = geometry.round_down(guest);
        let found = self.take_clusters(start, old.len() as u64).await?;
        let old = &old[..found.count as usize];
        let end = (guest + data.len() as u64).min(start + found.count * geometry.cluster());
        let data = data.slice(0, (end - guest) as usize);
        let written = self.fill_fresh(guest..end, data, found, old).await;
        let linked = match written {
            Ok(new) => self.step(|state| state.relink(start, old, &new)).await,
            Err(error) => Err(error),
        };
        if let Err(error) = linked {
            if self.core.data_file.is_none() {
                self.give_back(found).await?;
            }
            return Err(error);
        }
        Ok(end - guest)
    }

    /// Up to `count` clusters for those of the disk from `guest` on.
    pub(crate) async fn take_clusters(&self, guest: u64, count: u64) -> Result<Found> {
        if self.core.data_file.is_some() {
            // There each cluster has the place that it has on the disk.
            let host = guest;
            return Ok(Found {
                host,
                count,
                virgin: false,
            });
        }
        self.allocate(|state| state.allocate(count)).await
    }

    /// Writes `data`, which is `range` of the disk, and what belongs beside it, to new clusters; tells their mappings.
    async fn fill_fresh(
        &self,
        range: Range<u64>,
        data: IoVec,
        found: Found,
        old: &[Mapping],
    ) -> Result<Vec<Mapping>> {
        let geometry = self.core.geometry;
        let start = geometry.round_down(range.start);
        let new = (0..found.count).map(|index| {
            let place = start + index * geometry.cluster();
            let part = range.start.max(place)..range.end.min(place + geometry.cluster());
            let host = found.host + index * geometry.cluster();
            filled(copied(old[index as usize]), host, touched(geometry, part))
        });
        let new: Vec<Mapping> = new.collect();
        let grains = grains(geometry, range.clone());
        let head = self
            .bytes_beside(grains.start..range.start, found.virgin)
            .await?;
        let tail = self
            .bytes_beside(range.end..grains.end, found.virgin)
            .await?;
        let first = range.start - head.as_ref().map_or(0, |head| head.len() as u64);
        let parts = [head, Some(data), tail].into_iter().flatten();
        self.write_data(found.host + (first - start), IoVec::join(parts), false)
            .await?;
        for (index, mapping) in old.iter().enumerate() {
            let place = start + index as u64 * geometry.cluster();
            let host = found.host + index as u64 * geometry.cluster();
            self.copy_parts(place, *mapping, &grains, host).await?;
        }
        Ok(new)
    }

    /// Copies the parts of an old cluster that hold data and are not written now.
    async fn copy_parts(
        &self,
        place: u64,
        old: Mapping,
        written: &Range<u64>,
        host: u64,
    ) -> Result<()> {
        let geometry = self.core.geometry;
        if !geometry.extended_l2() {
            return Ok(());
        }
        let Mapping::Plain { data, .. } = copied(old) else {
            return Ok(());
        };
        let grain = geometry.grain();
        for index in (0..Geometry::SUBCLUSTERS).filter(|index| data >> index & 1 == 1) {
            let at = place + u64::from(index) * grain;
            if !written.contains(&at) {
                let bytes = self.bytes_of(at..at + grain).await?;
                self.write_data(host + (at - place), bytes, false).await?;
            }
        }
        Ok(())
    }

    /// What the disk holds beside a write; nothing if the new place reads so already.
    async fn bytes_beside(&self, range: Range<u64>, virgin: bool) -> Result<Option<IoVec>> {
        if range.is_empty() {
            return Ok(None);
        }
        if virgin && self.core.cipher.is_none() && self.reads_as_zeroes(range.clone()).await? {
            return Ok(None);
        }
        self.bytes_of(range).await.map(Some)
    }

    /// Whether the tables say that a part of the disk reads as zeroes.
    pub(crate) async fn reads_as_zeroes(&self, range: Range<u64>) -> Result<bool> {
        let runs = self.step(|state| state.runs(range.clone())).await?;
        let backing = self.core.backing_size();
        Ok(runs.iter().all(|run| match run.source {
            Source::Zero => true,
            Source::Backing => run.guest >= backing,
            Source::Data { .. } | Source::Compressed { .. } => false,
        }))
    }

    async fn bytes_of(&self, range: Range<u64>) -> Result<IoVec> {
        if range.is_empty() {
            return Ok(IoVec::empty());
        }
        let bytes = IoVec::zeroed((range.end - range.start) as usize);
        self.read(range.start, &bytes).await?;
        Ok(bytes)
    }
}

/// The smallest range with mappings of its own that holds `range`.
fn grains(geometry: Geometry, range: Range<u64>) -> Range<u64> {
    let grain = geometry.grain();
    range.start / grain * grain..range.end.next_multiple_of(grain)
}

/// The parts of its cluster that `range` touches.
pub(crate) fn touched(geometry: Geometry, range: Range<u64>) -> u32 {
    if !geometry.extended_l2() {
        return u32::MAX;
    }
    let grain = geometry.grain();
    let first = geometry.within(range.start) / grain;
    let last = geometry.within(range.end - 1) / grain;
    (u32::MAX >> (31 - (last - first) as u32)) << first
}

/// A mapping whose `parts` hold data, at `host`.
fn filled(mapping: Mapping, host: u64, parts: u32) -> Mapping {
    let (data, zero) = match mapping {
        Mapping::Plain { data, zero, .. } => (data, zero),
        Mapping::Compressed { .. } => (u32::MAX, 0),
    };
    Mapping::Plain {
        host: Some(host),
        copied: true,
        data: data | parts,
        zero: zero & !parts,
    }
}

/// What a copy of the cluster holds as data: all of what was compressed.
fn copied(mapping: Mapping) -> Mapping {
    match mapping {
        Mapping::Compressed { .. } => Mapping::Plain {
            host: None,
            copied: false,
            data: u32::MAX,
            zero: 0,
        },
        plain => plain,
    }
}
