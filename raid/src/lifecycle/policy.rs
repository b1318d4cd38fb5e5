//! Another consistency policy for an array that runs.

use std::ops::Range;

use weft_block::Result;

use super::form::Form;
use crate::array::{Array, Lane};
use crate::create::Consistency;
use crate::level::Level;
use crate::superblock::{Features, LEAST_PPL, PplPlace, SUPER_SECTOR, Superblock};

/// Sectors that a bitmap needs at least.
const LEAST_BITMAP: u64 = 8;
/// Sectors of a partial parity log, as mdadm makes it.
const MOST_PPL: u64 = 2048;

/// The policy that superblocks tell of.
pub(super) fn policy(superblock: &Superblock) -> Consistency {
    let features = superblock.features;
    match () {
        () if features.has(Features::JOURNAL) => Consistency::Journal,
        () if features.has_ppl() => Consistency::Ppl,
        () if features.has(Features::BITMAP) => Consistency::Bitmap,
        () => Consistency::Resync,
    }
}

impl Array {
    /// The array with another policy.
    pub(super) fn form_of_policy(&self, lane: &Lane, wanted: Consistency) -> Result<Form> {
        self.check_whole(lane)?;
        let mut form = Form::of(lane);
        if policy(&form.superblock) == wanted {
            return self.invalid(&format!(
                "its consistency policy is {} already",
                wanted.name()
            ));
        }
        self.set_policy(&mut form, wanted)?;
        Ok(form)
    }

    /// Gives a form another policy.
    pub(super) fn set_policy(&self, form: &mut Form, policy: Consistency) -> Result<()> {
        let level = form.superblock.level;
        let of_log = Features::PPL.with(Features::MULTIPLE_PPLS);
        let features = form
            .superblock
            .features
            .without(of_log.with(Features::BITMAP));
        let (features, word) = match policy {
            Consistency::Resync => (features, 0),
            Consistency::Bitmap if level == Level::Raid0 => {
                return self.invalid("RAID-0 has nothing that a bitmap could make agree");
            }
            Consistency::Bitmap => (features.with(Features::BITMAP), self.room_for_bitmap()?),
            Consistency::Ppl if level == Level::Raid5 => {
                (features.with(Features::PPL), self.room_for_log()?.word())
            }
            Consistency::Ppl => {
                return self.invalid(&format!(
                    "only RAID-5 has a partial parity log, {level} has not"
                ));
            }
            Consistency::Journal => {
                return self.invalid("an array gets its journal when it is made");
            }
        };
        form.superblock.features = features;
        form.superblock.bitmap_offset = word;
        Ok(())
    }

    /// Gives a form the policy that it had, or the nearest that it can have.
    pub(super) fn keep_policy(&self, form: &mut Form, had: Consistency) -> Result<()> {
        let level = form.superblock.level;
        let wanted = match had {
            _ if level == Level::Raid0 => Consistency::Resync,
            Consistency::Ppl if level != Level::Raid5 => Consistency::Bitmap,
            had => had,
        };
        if policy(&form.superblock) == wanted {
            // It stays where it is.
            return Ok(());
        }
        match self.set_policy(form, wanted) {
            // There may be no room.
            Err(_) => self.set_policy(form, Consistency::Resync),
            set => set,
        }
    }

    /// Where all members have room for a log or a bitmap before their data.
    fn gaps(&self) -> [Range<u64>; 2] {
        let state = self.core.state();
        let live = state.members.iter().filter(|member| member.duty.is_live());
        let common = |one: &Range<u64>, other: &Range<u64>| {
            let start = one.start.max(other.start);
            start..one.end.min(other.end).max(start)
        };
        let gaps = live.map(|member| member.superblock.gaps());
        let gaps = gaps
            .reduce(|[one, two], [first, second]| [common(&one, &first), common(&two, &second)]);
        gaps.unwrap_or_default()
    }

    fn room_for_bitmap(&self) -> Result<i32> {
        let mut gaps = self.gaps().into_iter();
        match gaps.find(|gap| gap.end >= gap.start + LEAST_BITMAP) {
            Some(gap) => Ok((gap.start - SUPER_SECTOR) as i32),
            None => self.invalid("its members have no room for a bitmap before their data"),
        }
    }

    fn room_for_log(&self) -> Result<PplPlace> {
        let sectors = |gap: &Range<u64>| gap.end.saturating_sub(gap.start);
        let widest = self.gaps().into_iter().max_by_key(sectors);
        // Their place is a number of 16 bits.
        let widest = widest.filter(|gap| gap.start - SUPER_SECTOR <= i16::MAX as u64);
        let widest = widest.filter(|gap| sectors(gap) >= 2 * LEAST_PPL);
        match widest {
            // What is left lets the data be moved aside in a change of shape.
            Some(gap) => Ok(PplPlace {
                sector: gap.start,
                sectors: (sectors(&gap) / 16 * 8).min(MOST_PPL),
            }),
            None => {
                self.invalid("its members have no room for a partial parity log before their data")
            }
        }
    }
}
