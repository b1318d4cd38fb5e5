//! Where things lie on a member: its superblock's copy, the bitmap, the logs and the data. Numbers are sectors.

use std::ops::Range;

use weft_block::SECTOR;

use super::{Features, SUPER_BYTES, SUPER_SECTOR, Superblock};
use crate::level::Level;

/// Of a superblock's copy, and its alignment.
const COPY_SECTORS: u64 = 8;
/// Of a partial parity log at least: its header and a block of parity.
pub(crate) const LEAST_PPL: u64 = 16;
/// Behind the superblock's block: the first that anything else may take.
const FIRST: u64 = SUPER_SECTOR + SUPER_BYTES as u64 / SECTOR;

/// The place of a partial parity log on a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PplPlace {
    /// First sector.
    pub sector: u64,
    /// Sectors.
    pub sectors: u64,
}

impl PplPlace {
    /// Its bytes on the device.
    pub fn bytes(self) -> std::ops::Range<u64> {
        self.sector * SECTOR..(self.sector + self.sectors) * SECTOR
    }

    /// The word of the superblock that says it, which is the bitmap's offset in other arrays.
    pub(crate) fn word(self) -> i32 {
        let offset = self.sector as i64 - SUPER_SECTOR as i64;
        (u32::from(offset as i16 as u16) | (self.sectors as u32) << 16) as i32
    }
}

impl Superblock {
    /// Sectors that the superblock itself takes.
    pub(super) fn sectors(&self) -> u64 {
        (super::HEAD as u64 + 2 * self.roles.len() as u64).div_ceil(weft_block::SECTOR)
    }

    /// Sector of the bitmap on the member, if there is one.
    pub fn bitmap_sector(&self) -> Option<u64> {
        self.features
            .has(Features::BITMAP)
            .then(|| SUPER_SECTOR.saturating_add_signed(i64::from(self.bitmap_offset)))
    }

    /// Where the member's partial parity log lies, if the array has one.
    pub fn ppl(&self) -> Option<PplPlace> {
        self.features.has_ppl().then(|| self.log_word())
    }

    fn log_word(&self) -> PplPlace {
        let word = self.bitmap_offset as u32;
        PplPlace {
            sector: SUPER_SECTOR.saturating_add_signed(i64::from(word as u16 as i16)),
            sectors: u64::from(word >> 16),
        }
    }

    /// Where a partial parity log lies, or lay before it was put out of use: md leaves the word alone as long as there is
    /// no bitmap.
    pub(crate) fn log_place(&self) -> Option<PplPlace> {
        let log = self.log_word();
        let end = log.sector + log.sectors;
        let is_log = !self.features.has(Features::BITMAP)
            && self.level == Level::Raid5
            && log.sectors >= LEAST_PPL
            && log.sector >= FIRST
            && end <= self.data_start();
        is_log.then_some(log)
    }

    /// Sectors from the bitmap to whatever comes next on the member.
    pub fn bitmap_room(&self) -> u64 {
        let Some(at) = self.bitmap_sector() else {
            return 0;
        };
        let next = [self.bblog_sector(), Some(self.data_start())];
        let next = next.into_iter().flatten().filter(|&place| place > at).min();
        next.map_or(0, |place| place - at)
    }

    /// Sector of the bad-block log on the member, if there is one.
    pub fn bblog_sector(&self) -> Option<u64> {
        (self.bblog_size != 0)
            .then(|| SUPER_SECTOR.saturating_add_signed(i64::from(self.bblog_offset)))
    }

    /// First sector of data, where it is and where it goes.
    pub(crate) fn data_start(&self) -> u64 {
        let goes = self.data_offset.saturating_add_signed(self.shift());
        goes.min(self.data_offset)
    }

    /// Sectors before the data that nothing lies in, with a bitmap of `bitmap_sectors` and with room for the copy of
    /// the superblock: what the data can be moved towards the start. A partial parity log counts, also one that is out
    /// of use while the shape changes.
    pub(crate) fn headroom(&self, bitmap_sectors: u64) -> u64 {
        let log = self.log_place().map(|log| log.sector + log.sectors);
        let taken = [
            Some(FIRST),
            self.bitmap_sector().map(|at| at + bitmap_sectors),
            self.bblog_sector()
                .map(|at| at + u64::from(self.bblog_size)),
            log,
        ];
        let end = taken
            .into_iter()
            .flatten()
            .filter(|&end| end <= self.data_offset);
        let end = end.max().unwrap_or(0) + COPY_SECTORS;
        self.data_offset.saturating_sub(end)
    }

    /// Sectors behind the data that is used: what it can be moved towards the end.
    pub(crate) fn room_behind(&self) -> u64 {
        self.data_size.saturating_sub(self.size)
    }

    /// Sector for a copy of the superblock: the last 4 KiB before the data, if nothing else of the `bitmap_sectors`
    /// and the logs lies there. md leaves that space unused as headroom for a change of shape.
    pub(crate) fn copy_sector(&self, bitmap_sectors: u64) -> Option<u64> {
        let start = self.data_start();
        let place = start.checked_sub(COPY_SECTORS)?;
        let taken = [
            Some(SUPER_SECTOR + self.sectors()),
            self.bitmap_sector().map(|at| at + bitmap_sectors),
            self.bblog_sector()
                .map(|at| at + u64::from(self.bblog_size)),
            self.ppl().map(|log| log.sector + log.sectors),
        ];
        let before = |end: &u64| *end <= place || *end > start;
        let free = taken.iter().flatten().all(before);
        (free && place.is_multiple_of(COPY_SECTORS)).then_some(place)
    }

    /// What is free before the data whatever the policy: before the bad-block log, and behind it up to the superblock's
    /// copy. A range that ends before it starts is none.
    pub(crate) fn gaps(&self) -> [Range<u64>; 2] {
        let end = self.data_start().saturating_sub(COPY_SECTORS);
        match self.bblog_sector() {
            Some(log) if log < end => [FIRST..log, log + u64::from(self.bblog_size).max(8)..end],
            _ => [FIRST..end, end..end],
        }
    }
}
