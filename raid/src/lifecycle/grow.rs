//! Growing an array and changing its shape.

use std::rc::Rc;

use weft_block::{ErrorKind, Result, SECTOR, Spawner};

use crate::array::{Array, Duty, Lane};
use crate::level::{Level, ParityLayout};
use crate::superblock::Superblock;

/// What an array is to become; what is not named stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Growth {
    /// Members.
    pub members: Option<u32>,
    /// Bytes of a chunk.
    pub chunk: Option<u64>,
    /// The layout of RAID-5 or RAID-6.
    pub layout: Option<ParityLayout>,
}

/// What the superblocks are to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) members: u32,
    /// Sectors.
    pub(super) chunk: u32,
    pub(super) layout: u32,
}

impl Target {
    fn of(superblock: &Superblock) -> Self {
        Self {
            members: superblock.raid_disks,
            chunk: superblock.chunk,
            layout: superblock.layout,
        }
    }
}

impl Array {
    /// Changes the number of members, the chunk or the layout of RAID-4, RAID-5 or RAID-6. New members are taken from the
    /// spares. The array stays in use; a [`Syncer`](crate::Syncer) moves the data, the array is larger when that is
    /// done, and a crash at any instant costs nothing but the step that was under way. A partial parity log is out of use
    /// until then.
    ///
    /// # Errors
    /// `Invalid` for a shape that cannot be, or too few spares; `Degraded` while a member is away; `Busy` while something
    /// is being made whole; `Unsupported` if the members have no room to move the data aside. Nothing was written then.
    pub async fn grow(&self, growth: &Growth, spawner: &Spawner) -> Result<()> {
        let (array, growth, own) = (self.clone(), growth.clone(), Rc::clone(spawner));
        self.control(spawner, move |lane| async move {
            let target = array.target(&lane, &growth)?;
            array.begin_reshape(&lane, &target, &own).await
        })
        .await
    }

    /// What the superblocks are to say, if the array can be changed at all.
    fn target(&self, lane: &Lane, growth: &Growth) -> Result<Target> {
        let superblock = &lane.shared.superblock;
        let level = superblock.level;
        if !level.has_parity() {
            return self.invalid("only RAID-4, RAID-5 and RAID-6 change their rows");
        }
        self.check_at_rest(lane)?;
        let now = Target::of(superblock);
        let mut target = now.clone();
        if let Some(chunk) = growth.chunk {
            if !(chunk.is_power_of_two() && (4096..=1 << 30).contains(&chunk)) {
                return self.invalid(&format!(
                    "a chunk of {chunk} bytes is not a power of two from 4 KiB to 1 GiB"
                ));
            }
            target.chunk = (chunk / SECTOR) as u32;
        }
        if let Some(layout) = growth.layout {
            if level == Level::Raid4 || ParityLayout::from_number(level, layout.number()).is_none()
            {
                return self.invalid(&format!("{level} has no layout {}", layout.name()));
            }
            target.layout = layout.number();
        }
        if let Some(members) = growth.members {
            target.members = members;
        }
        if target == now {
            return self.invalid("it has that shape already");
        }
        if target.members < now.members {
            return self.invalid(&format!(
                "it has {} members and cannot have fewer: its data would not fit",
                now.members
            ));
        }
        let spares = {
            let state = self.core.state();
            let spares = |member: &&crate::array::Member| matches!(member.duty, Duty::Spare);
            state.members.iter().filter(spares).count()
        };
        let more = target.members - now.members;
        if (spares as u32) < more {
            return self.invalid(&format!(
                "{more} more members need as many spares, it has {spares}; add disks first"
            ));
        }
        Ok(target)
    }

    /// Refuses an array that is not whole, or that something is being done with.
    fn check_at_rest(&self, lane: &Lane) -> Result<()> {
        let refuse = |kind, why: &str| {
            let why = format!("array {}: {why}", self.name());
            Err(weft_block::Error::new(kind, why))
        };
        if let Some(refusal) = self.refusal() {
            return Err(refusal);
        }
        let (whole, bad, reshaping) = {
            let state = self.core.state();
            let bad = state.members.iter().any(|member| !member.bad.is_empty());
            let whole = state.is_whole(&lane.shared.geometry);
            (whole, bad, state.reshaping.is_some())
        };
        if reshaping {
            return refuse(ErrorKind::Busy, "its shape is being changed already");
        }
        if !whole {
            return refuse(
                ErrorKind::Degraded,
                "it lacks a member; make it whole first",
            );
        }
        if !self.progress().is_idle() {
            return refuse(
                ErrorKind::Busy,
                "something is being made whole; wait until that is done",
            );
        }
        if lane.shared.has_journal() {
            return refuse(
                ErrorKind::Unsupported,
                "md changes no shape beside a journal; remove the journal first",
            );
        }
        if bad {
            return refuse(
                ErrorKind::Invalid,
                "blocks are marked as lost; write them, or restore what lies there, first",
            );
        }
        Ok(())
    }
}
