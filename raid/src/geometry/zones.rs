//! RAID-0 over members of unequal size: zones, each striped over the members that reach into it.
//!
//! Source: Linux `drivers/md/raid0.c`. The first zone ends where the smallest member ends, the next where the next
//! larger one does, and so on; within a zone the members keep the order of their slots.

use weft_block::{Error, ErrorKind, Result};

use super::Place;
use crate::level::ZoneLayout;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Zone {
    /// Array offset of the zone.
    start: u64,
    /// Array offset after the zone.
    end: u64,
    /// Member offset of the zone.
    member_start: u64,
    /// Slots of the zone, in order.
    slots: Vec<u32>,
}

/// The zones of a RAID-0 array: one if its members are equal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zones {
    chunk: u64,
    layout: ZoneLayout,
    zones: Vec<Zone>,
}

impl Zones {
    pub(super) fn new(sizes: &[u64], chunk: u64, layout: ZoneLayout) -> Result<Self> {
        let invalid = |why: String| Err(Error::new(ErrorKind::Invalid, why));
        if chunk == 0 {
            return invalid("a RAID-0 array needs a chunk size".into());
        }
        let whole: Vec<u64> = sizes.iter().map(|size| size / chunk * chunk).collect();
        if whole.is_empty() || whole.contains(&0) {
            return invalid(format!("a member has no room for a chunk of {chunk} bytes"));
        }
        let mut ends = whole.clone();
        ends.sort_unstable();
        ends.dedup();
        let mut zones: Vec<Zone> = Vec::new();
        let (mut start, mut member_start) = (0_u64, 0);
        for end in ends {
            let slots: Vec<u32> = (0_u32..)
                .zip(&whole)
                .filter(|(_, size)| **size > member_start)
                .map(|(slot, _)| slot)
                .collect();
            let bytes = (end - member_start).checked_mul(slots.len() as u64);
            let Some(zone_end) = bytes.and_then(|bytes| start.checked_add(bytes)) else {
                return invalid("the array would be too large".into());
            };
            zones.push(Zone {
                start,
                end: zone_end,
                member_start,
                slots,
            });
            (start, member_start) = (zone_end, end);
        }
        Ok(Self {
            chunk,
            layout,
            zones,
        })
    }

    /// Bytes of a chunk.
    pub fn chunk(&self) -> u64 {
        self.chunk
    }

    /// How many zones there are.
    pub fn count(&self) -> usize {
        self.zones.len()
    }

    pub(super) fn size(&self) -> u64 {
        self.zones.last().map_or(0, |zone| zone.end)
    }

    pub(super) fn locate(&self, offset: u64) -> Place {
        let index = self.zones.partition_point(|zone| zone.end <= offset);
        let zone = &self.zones[index.min(self.zones.len() - 1)];
        let width = zone.slots.len() as u64;
        let inside = offset - zone.start;
        let (number, rest) = (inside / self.chunk, inside % self.chunk);
        let turn = match self.layout {
            ZoneLayout::Original => offset / self.chunk,
            ZoneLayout::Alternate => number,
        };
        Place {
            slot: zone.slots[(turn % width) as usize],
            offset: zone.member_start + number / width * self.chunk + rest,
            left: self.chunk - rest,
        }
    }
}
