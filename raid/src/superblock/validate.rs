//! What a superblock may say. Everything that later code relies on is checked here, once.

use std::ops::Range;

use weft_block::SECTOR;

use super::{
    Features, MOST_ROLES, Role, SUPER_BYTES, SUPER_SECTOR, Superblock, SuperblockError, malformed,
};
use crate::journal::MOST_MEMBERS;
use crate::level::Level;

/// Sectors: a larger chunk is nothing that anybody made (128 GiB).
const MOST_CHUNK: u32 = 1 << 28;
/// Sectors: larger devices do not exist, and sums of two such numbers do not overflow.
const MOST_SECTORS: u64 = 1 << 54;
/// Sectors of a superblock's copy, and its alignment.
const COPY_SECTORS: u64 = 8;
/// Sectors of a partial parity log at least: its header and a block of parity.
const LEAST_PPL: u64 = 16;
/// Sectors of the bad-block log that md reads (a page).
const MOST_BBLOG: u16 = 8;

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
    pub(super) fn validate(&self, device_sectors: u64) -> Result<(), SuperblockError> {
        self.validate_shape()?;
        self.validate_roles()?;
        self.validate_reshape()?;
        self.validate_places(device_sectors.min(MOST_SECTORS))
    }

    fn validate_shape(&self) -> Result<(), SuperblockError> {
        let (level, disks) = (self.level, self.raid_disks);
        if disks < level.least_members() || disks > MOST_ROLES {
            return malformed(format!("{level} of {disks} members"));
        }
        // md takes chunks of whole pages; RAID-0 also of other sizes.
        let pages = match level {
            Level::Raid1 => true,
            Level::Raid0 => self.chunk != 0,
            _ => self.chunk >= 8 && self.chunk.is_power_of_two(),
        };
        if !pages || self.chunk > MOST_CHUNK {
            return malformed(format!("a chunk of {} sectors", self.chunk));
        }
        if self.features.has(Features::RAID0_LAYOUT) && level != Level::Raid0 {
            return malformed(format!("a RAID-0 layout on {level}"));
        }
        if self.features.has(Features::JOURNAL) {
            if !matches!(level, Level::Raid4 | Level::Raid5 | Level::Raid6) {
                return malformed(format!("a journal of {level}"));
            }
            if disks > MOST_MEMBERS || self.features.has(Features::BITMAP) {
                return malformed("a journal beside a bitmap, or for too many members".into());
            }
        }
        if self.features.has_ppl() {
            if level != Level::Raid5 {
                return malformed(format!("a partial parity log on {level}"));
            }
            if self.features.has(Features::BITMAP) || self.features.has(Features::JOURNAL) {
                return malformed("a partial parity log beside a bitmap or a journal".into());
            }
        }
        Ok(())
    }

    fn validate_reshape(&self) -> Result<(), SuperblockError> {
        let change = self.reshape;
        if !self.features.has(Features::RESHAPE) {
            return Ok(());
        }
        let before = i64::from(self.raid_disks) - i64::from(change.delta_disks);
        if !(1..=i64::from(MOST_ROLES)).contains(&before) {
            return malformed(format!("a change of shape from {before} members"));
        }
        let pages = change.new_chunk >= 8 && change.new_chunk.is_power_of_two();
        let has_chunk = self.level != Level::Raid1;
        if has_chunk && (!pages || change.new_chunk > MOST_CHUNK) {
            let chunk = change.new_chunk;
            return malformed(format!("a change of shape to a chunk of {chunk} sectors"));
        }
        Ok(())
    }

    fn validate_roles(&self) -> Result<(), SuperblockError> {
        let mut taken = vec![0_u8; self.raid_disks as usize];
        for role in &self.roles {
            let Role::Active(slot) = *role else { continue };
            match taken.get_mut(usize::from(slot)) {
                // Twice while a member is being replaced.
                Some(count) if *count < 2 => *count += 1,
                Some(_) => return malformed(format!("slot {slot} is taken several times")),
                None => {
                    return malformed(format!("slot {slot} of {} slots", self.raid_disks));
                }
            }
        }
        Ok(())
    }

    fn validate_places(&self, device_sectors: u64) -> Result<(), SuperblockError> {
        let (start, room) = (self.data_offset, self.data_size);
        let Some(end) = start.checked_add(room).filter(|&end| end <= device_sectors) else {
            return malformed(format!(
                "its data takes {room} sectors from sector {start} on, the device has {device_sectors}"
            ));
        };
        // A journal holds no data of the array.
        let fits = self.size <= room || self.role() == Role::Journal;
        if self.level != Level::Raid0 && (self.size == 0 || !fits) {
            let size = self.size;
            return malformed(format!("{size} sectors of {room} are used"));
        }
        // Nothing lies before the superblock either: boot loaders live there.
        let block = 0..SUPER_SECTOR + self.sectors();
        if start < block.end {
            return malformed(format!("its data starts at sector {start}"));
        }
        let data = self.moving_data(start..end, block.end..device_sectors)?;
        let outside = |what: &str, at: u64, sectors: u64| {
            let clear =
                |taken: &std::ops::Range<u64>| at + sectors <= taken.start || at >= taken.end;
            if at + sectors <= device_sectors && clear(&block) && clear(&data) {
                return Ok(());
            }
            malformed(format!("its {what} lies at sector {at}"))
        };
        let place = |offset: i32| SUPER_SECTOR.saturating_add_signed(i64::from(offset));
        if self.features.has(Features::BITMAP) {
            outside("bitmap", place(self.bitmap_offset), 1)?;
        }
        if let Some(log) = self.ppl() {
            if log.sectors < LEAST_PPL {
                return malformed(format!("a partial parity log of {} sectors", log.sectors));
            }
            outside("partial parity log", log.sector, log.sectors)?;
            let bad_blocks = self.bblog_sector().filter(|_| self.bblog_size != 0);
            let overlaps = bad_blocks.is_some_and(|at| {
                at < log.sector + log.sectors && log.sector < at + u64::from(self.bblog_size)
            });
            if overlaps {
                return malformed("its partial parity log lies on the bad-block log".into());
            }
        }
        if self.features.has(Features::BAD_BLOCKS) || self.bblog_size != 0 {
            if self.bblog_size == 0 || self.bblog_size > MOST_BBLOG || self.bblog_shift > 20 {
                let size = self.bblog_size;
                return malformed(format!("a bad-block log of {size} sectors"));
            }
            outside(
                "bad-block log",
                place(self.bblog_offset),
                u64::from(self.bblog_size),
            )?;
        }
        Ok(())
    }

    /// Sectors that the superblock itself takes.
    fn sectors(&self) -> u64 {
        (super::HEAD as u64 + 2 * self.roles.len() as u64).div_ceil(weft_block::SECTOR)
    }

    /// Sector of the bitmap on the member, if there is one.
    pub fn bitmap_sector(&self) -> Option<u64> {
        self.features
            .has(Features::BITMAP)
            .then(|| SUPER_SECTOR.saturating_add_signed(i64::from(self.bitmap_offset)))
    }

    /// Where its data is and, while that moves, where it goes: it lies there in part.
    fn moving_data(
        &self,
        data: Range<u64>,
        allowed: Range<u64>,
    ) -> Result<Range<u64>, SuperblockError> {
        if self.shift() == 0 {
            return Ok(data);
        }
        let start = data.start.checked_add_signed(self.shift());
        let goes = start.and_then(|start| Some(start..start.checked_add(self.used())?));
        match goes {
            Some(goes) if goes.start >= allowed.start && goes.end <= allowed.end => {
                Ok(data.start.min(goes.start)..data.end.max(goes.end))
            }
            _ => malformed(format!(
                "its data goes {} sectors from sector {}",
                self.shift(),
                data.start
            )),
        }
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
            && log.sector >= SUPER_SECTOR + SUPER_BYTES as u64 / SECTOR
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
            Some(SUPER_SECTOR + SUPER_BYTES as u64 / SECTOR),
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
}
