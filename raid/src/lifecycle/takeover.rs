//! Another level or number of legs, of which the data lies where it lies.
//!
//! A pair is a RAID-5 of two members. A RAID-5 is a RAID-6 that lacks the member with Q. RAID-4 is a RAID-5 whose parity
//! stays on the last member, and RAID-0 one that lacks it. What is missing afterwards is rebuilt on the disks that are
//! there for it.

use weft_block::{Bytes, Result, SECTOR};

use super::form::Form;
use super::grow::Growth;
use super::policy::policy;
use crate::array::{Array, Lane};
use crate::create::Consistency;
use crate::geometry::Shape;
use crate::level::{Level, ParityLayout, ZoneLayout};
use crate::superblock::Features;

/// Sectors of the chunk that a mirror gets as RAID-5 at most, as md does it.
const MOST_MIRROR_CHUNK: u64 = (64 << 10) / SECTOR;

impl Array {
    /// What the array is as `level`.
    pub(super) fn form_of_level(
        &self,
        lane: &Lane,
        growth: &Growth,
        level: Level,
        spares: u32,
    ) -> Result<Form> {
        let mut form = Form::of(lane);
        let had = policy(&form.superblock);
        let from = form.superblock.level;
        form.superblock.level = level;
        let kept = match (from, level) {
            (Level::Raid1, Level::Raid5) => self.mirror_as_rows(&mut form, growth)?,
            (Level::Raid5, Level::Raid1) => self.rows_as_mirror(&mut form)?,
            (Level::Raid4, Level::Raid5) => {
                form.superblock.layout = ParityLayout::ParityLast.number();
                had
            }
            (Level::Raid5, Level::Raid4) => {
                self.check_parity_last(&form, from)?;
                form.superblock.layout = 0;
                had
            }
            (Level::Raid5, Level::Raid6) => {
                self.add_q(&mut form, spares)?;
                had
            }
            (Level::Raid6, Level::Raid5) => {
                self.drop_q(&mut form)?;
                Consistency::default_of(level)
            }
            (Level::Raid0, Level::Raid4 | Level::Raid5) => {
                self.add_parity(lane, &mut form)?;
                Consistency::default_of(level)
            }
            (Level::Raid4 | Level::Raid5, Level::Raid0) => {
                self.drop_parity(&mut form, from)?;
                form.degraded = true;
                Consistency::Resync
            }
            _ if from == level => return self.invalid(&format!("it is {level} already")),
            _ => {
                return self.invalid(&format!(
                    "{from} does not become {level}; the ways are 1 to 5, 5 to 6, 0 to 4 or 5, \
                     4 to 5, and back"
                ));
            }
        };
        self.keep_policy(&mut form, kept)?;
        Ok(form)
    }

    /// What a mirror is with another number of legs.
    pub(super) fn form_of_legs(&self, lane: &Lane, legs: u32, spares: u32) -> Result<Form> {
        let mut form = Form::of(lane);
        let now = form.superblock.raid_disks;
        let in_sync = self.core.state().in_sync();
        if legs == now {
            return self.invalid(&format!("it has {now} legs already"));
        }
        if legs == 0 || (legs < now && in_sync < legs) {
            return self.invalid(&format!(
                "it cannot be a mirror of {legs}: {in_sync} of its {now} legs hold all data"
            ));
        }
        if legs > now {
            self.check_whole(lane)?;
            self.check_spares(spares, legs - now)?;
        }
        form.superblock.raid_disks = legs;
        form.degraded = legs < now;
        Ok(form)
    }

    fn mirror_as_rows(&self, form: &mut Form, growth: &Growth) -> Result<Consistency> {
        let superblock = &mut form.superblock;
        let legs = superblock.raid_disks;
        if legs != 2 {
            return self.invalid(&format!(
                "a mirror of {legs} is no RAID-5, one of two is; change its legs to two first"
            ));
        }
        let chunk = match growth.chunk {
            Some(bytes) => bytes / SECTOR,
            None => MOST_MIRROR_CHUNK.min(1 << superblock.size.trailing_zeros()),
        };
        if chunk < 8 || !superblock.size.is_multiple_of(chunk) {
            return self.invalid(&format!(
                "its {} are no multiple of a chunk of {}",
                Bytes(superblock.size * SECTOR),
                Bytes(chunk.max(8) * SECTOR)
            ));
        }
        superblock.chunk = chunk as u32;
        superblock.layout = ParityLayout::LeftSymmetric.number();
        Ok(policy(superblock))
    }

    fn rows_as_mirror(&self, form: &mut Form) -> Result<Consistency> {
        let superblock = &mut form.superblock;
        let members = superblock.raid_disks;
        if members != 2 {
            return self.invalid(&format!(
                "a RAID-5 of {members} members is no mirror, only one of two is"
            ));
        }
        (superblock.chunk, superblock.layout) = (0, 0);
        Ok(policy(superblock))
    }

    /// Q goes to a member more, behind all others.
    fn add_q(&self, form: &mut Form, spares: u32) -> Result<()> {
        let superblock = &mut form.superblock;
        if superblock.raid_disks < 3 {
            return self
                .invalid("a RAID-6 has four members at least, this has two; add members first");
        }
        let of_five = ParityLayout::from_number(Level::Raid5, superblock.layout);
        let Some(layout) = of_five.and_then(ParityLayout::with_q_last) else {
            return self.invalid("its layout is unknown");
        };
        self.check_spares(spares, 1)?;
        superblock.layout = layout.number();
        superblock.raid_disks += 1;
        Ok(())
    }

    fn drop_q(&self, form: &mut Form) -> Result<()> {
        let superblock = &mut form.superblock;
        let of_six = ParityLayout::from_number(Level::Raid6, superblock.layout);
        let Some(layout) = of_six.and_then(ParityLayout::without_q_last) else {
            return self.invalid(
                "Q moves through its members; give it a layout that ends in -6 first, such as \
                 left-symmetric-6",
            );
        };
        superblock.layout = layout.number();
        superblock.raid_disks -= 1;
        Ok(())
    }

    fn add_parity(&self, lane: &Lane, form: &mut Form) -> Result<()> {
        let geometry = &lane.shared.geometry;
        let one_zone = matches!(geometry.shape(), Shape::Stripes(zones) if zones.count() == 1);
        if !one_zone || geometry.members() < 2 {
            return self.invalid("only two or more members of one size can get a parity");
        }
        let superblock = &mut form.superblock;
        superblock.size = geometry.member_size() / SECTOR;
        superblock.raid_disks += 1;
        superblock.layout = match superblock.level {
            Level::Raid5 => ParityLayout::ParityLast.number(),
            _ => 0,
        };
        superblock.features = superblock.features.without(Features::RAID0_LAYOUT);
        Ok(())
    }

    fn drop_parity(&self, form: &mut Form, from: Level) -> Result<()> {
        self.check_parity_last(form, from)?;
        let superblock = &mut form.superblock;
        superblock.raid_disks -= 1;
        superblock.data_size = superblock.size;
        superblock.size = 0;
        superblock.layout = ZoneLayout::Alternate.number();
        superblock.features = superblock.features.with(Features::RAID0_LAYOUT);
        Ok(())
    }

    fn check_parity_last(&self, form: &Form, from: Level) -> Result<()> {
        let last = ParityLayout::ParityLast.number();
        if from == Level::Raid5 && form.superblock.layout != last {
            return self.invalid(
                "its parity moves through its members; give it the layout parity-last first",
            );
        }
        Ok(())
    }
}
