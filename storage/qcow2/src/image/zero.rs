//! Write-zeroes and discard.

use std::ops::Range;

use weft_block::{IoVec, Result};

use super::lane::Lane;
use super::state::{State, Stop};
use super::write::touched;
use crate::format::{Mapping, Version};

/// Clusters that are changed in one step.
const MOST_CLUSTERS: u64 = 512;

/// Bytes of zeroes that are written at once where no entry can say them.
const MOST_BYTES: u64 = 1 << 20;

/// What becomes of the place of clusters that read as zeroes from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// It is given back.
    Freed,
    /// It is kept for what is written later.
    Kept,
}

impl State {
    /// Lets as many clusters of `range`, which is whole grains, read as zeroes as one step can; tells where it ended.
    fn zero(&mut self, range: Range<u64>, place: Place, backing: u64) -> Result<u64, Stop> {
        let geometry = self.geometry();
        // Version 2 has no entry for zeroes; without a backing file none is needed.
        let v3 = self.header.version == Version::V3;
        let (blank, place) = match v3 {
            true => (Mapping::ZERO, place),
            false => (Mapping::UNALLOCATED, Place::Freed),
        };
        let mut guest = range.start;
        let mut changes = Vec::new();
        while guest < range.end && (changes.len() as u64) < MOST_CLUSTERS {
            let start = geometry.round_down(guest);
            let end = range.end.min(start + geometry.cluster());
            // What stops a later cluster does not undo the earlier ones.
            let old = match self.mapping(start) {
                Err(Stop::Page(..)) if !changes.is_empty() => break,
                mapping => mapping?,
            };
            let Some(new) = zeroed(old, touched(geometry, guest..end), place, blank) else {
                break;
            };
            // Without a place, and with nothing behind it, the cluster reads as zeroes as it is.
            if old != new && !(old == Mapping::UNALLOCATED && start >= backing) {
                match self.changeable(start) {
                    Err(_) if !changes.is_empty() => break,
                    place => place?,
                };
                changes.push((start, old, new));
            }
            guest = end;
        }
        self.need_room(2 * changes.len() as u64)?;
        for (start, old, new) in changes {
            self.link(start, new)?;
            if !matches!(new, Mapping::Plain { host: Some(_), .. }) {
                self.unlink_mapping(old);
            }
        }
        Ok(guest)
    }
}

/// What an entry says when `parts` of its cluster read as zeroes, `blank` if all do; nothing where none can say it.
fn zeroed(old: Mapping, parts: u32, place: Place, blank: Mapping) -> Option<Mapping> {
    match old {
        _ if parts == u32::MAX && place == Place::Freed => Some(blank),
        Mapping::Compressed { .. } => (parts == u32::MAX).then_some(blank),
        Mapping::Plain {
            host,
            copied,
            data,
            zero,
        } => {
            let (data, zero) = (data & !parts, zero | parts);
            // A shared place is not worth keeping.
            if data == 0 && zero == u32::MAX && (place == Place::Freed || !copied) {
                return Some(blank);
            }
            Some(Mapping::Plain {
                host,
                copied,
                data,
                zero,
            })
        }
    }
}

impl Lane {
    /// Lets `range` of the disk read as zeroes. Whoever calls holds the clusters' places.
    pub(crate) async fn zero(&self, range: Range<u64>, place: Place) -> Result<()> {
        let grain = self.core.geometry.grain();
        let inner = range.start.next_multiple_of(grain)..range.end / grain * grain;
        if inner.start >= inner.end {
            return self.write_zeroes(range).await;
        }
        self.write_zeroes(range.start..inner.start).await?;
        self.zero_grains(inner.clone(), place).await?;
        self.write_zeroes(inner.end..range.end).await
    }

    /// Frees the whole clusters of `range`, which then read as zeroes; the rest of it stays as it is.
    pub(crate) async fn discard(&self, range: Range<u64>) -> Result<()> {
        let geometry = self.core.geometry;
        let inner = geometry.round_up(range.start)..geometry.round_down(range.end);
        if inner.start >= inner.end {
            return Ok(());
        }
        if self.has_zero_entries() || self.core.backing.is_none() {
            return self.zero_grains(inner, Place::Freed).await;
        }
        Ok(())
    }

    /// Whether an entry can say that its cluster reads as zeroes.
    pub(crate) fn has_zero_entries(&self) -> bool {
        self.core.version == Version::V3
    }

    async fn zero_grains(&self, range: Range<u64>, place: Place) -> Result<()> {
        if !self.has_zero_entries() && self.core.backing.is_some() {
            return self.write_zeroes(range).await;
        }
        let backing = self.core.backing_size();
        let mut at = range.start;
        while at < range.end {
            let end = self
                .step(|state| state.zero(at..range.end, place, backing))
                .await?;
            if end > at {
                at = end;
                continue;
            }
            // No entry can say it of a part of this cluster.
            let geometry = self.core.geometry;
            let end = range.end.min(geometry.round_down(at) + geometry.cluster());
            self.write_zeroes(at..end).await?;
            at = end;
        }
        Ok(())
    }

    /// Writes zeroes where the disk does not read so already.
    async fn write_zeroes(&self, range: Range<u64>) -> Result<()> {
        let mut at = range.start;
        while at < range.end {
            let end = range.end.min(at + MOST_BYTES);
            if !self.reads_as_zeroes(at..end).await? {
                self.write(at, &IoVec::zeroed((end - at) as usize), false)
                    .await?;
            }
            at = end;
        }
        Ok(())
    }
}
