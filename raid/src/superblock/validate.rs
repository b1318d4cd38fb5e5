//! What a superblock may say. Everything that later code relies on is checked here, once.

use std::ops::Range;

use super::places::LEAST_PPL;
use super::{Features, MOST_ROLES, Role, SUPER_SECTOR, Superblock, SuperblockError, malformed};
use crate::journal::MOST_MEMBERS;
use crate::level::Level;

/// Sectors: a larger chunk is nothing that anybody made (128 GiB).
const MOST_CHUNK: u32 = 1 << 28;
/// Sectors: larger devices do not exist, and sums of two such numbers do not overflow.
const MOST_SECTORS: u64 = 1 << 54;
/// Sectors of the bad-block log that md reads (a page).
const MOST_BBLOG: u16 = 8;

impl Superblock {
    /// Whether its values can be, on a device of so many sectors.
    pub(crate) fn validate(&self, device_sectors: u64) -> Result<(), SuperblockError> {
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
        if self.features.has(Features::JOURNAL) || self.features.has_ppl() {
            return malformed("a change of shape beside a journal or a log of parities".into());
        }
        let flagged = self.features.has(Features::RESHAPE_BACKWARDS);
        if flagged && change.delta_disks > 0 {
            return malformed("a change of shape to more members that runs backwards".into());
        }
        // What is moved first must be what makes room for the rest, and md lets nobody say otherwise.
        let (shift, backwards) = (self.shift(), flagged || change.delta_disks < 0);
        if shift != 0 && backwards != (shift > 0) {
            let way = if backwards { "last" } else { "first" };
            return malformed(format!(
                "a change of shape that moves the data by {shift} sectors and begins with the {way} of it"
            ));
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
}
