//! Growing an array, and giving it another shape, level or policy: which way that goes.

use std::rc::Rc;

use weft_block::{Error, ErrorKind, Result, SECTOR, Spawner};

use super::form::Form;
use crate::array::{Array, Duty, Lane, Member};
use crate::create::Consistency;
use crate::level::{Level, ParityLayout};
use crate::superblock::Superblock;

/// What an array is to become; what is not named stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Growth {
    /// The level: 1 becomes 5, 5 becomes 6, 0 becomes 4 or 5, 4 becomes 5, and back.
    pub level: Option<Level>,
    /// Members; the legs of RAID-1.
    pub members: Option<u32>,
    /// Bytes of a chunk.
    pub chunk: Option<u64>,
    /// The layout of RAID-5 or RAID-6.
    pub layout: Option<ParityLayout>,
    /// How much of each member is used.
    pub size: Option<MemberSize>,
    /// What makes the members agree after a crash.
    pub consistency: Option<Consistency>,
}

impl Growth {
    /// Whether it names something else than the size or the policy.
    fn has_shape(&self) -> bool {
        let Self {
            level,
            members,
            chunk,
            layout,
            ..
        } = self;
        level.is_some() || members.is_some() || chunk.is_some() || layout.is_some()
    }
}

/// How much of each member an array uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberSize {
    /// All that the smallest has.
    Max,
    /// So many bytes, in whole chunks.
    Bytes(u64),
}

/// What the superblocks are to say when the data has been moved.
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

/// How an array becomes what it is to be.
struct Way {
    /// At once.
    form: Option<Form>,
    /// By moving its data then.
    target: Option<Target>,
}

impl Array {
    /// Changes what an array is, in use. RAID-4, RAID-5 and RAID-6 get more members, another chunk or another layout: a
    /// [`Syncer`](crate::Syncer) moves the data, the array is larger when that is done, and a crash at any instant costs
    /// nothing but the step that was under way; a partial parity log is out of use until then. RAID-1 gets more legs or
    /// fewer, and the level, the policy and the space that is used of each member change at once; what the members lack
    /// then is rebuilt or made to agree. New members are taken from the spares.
    ///
    /// # Errors
    /// `Invalid` for what cannot be, or too few spares; `Degraded` while a member is away; `Busy` while something is
    /// being made whole; `Unsupported` if the members have no room to move the data aside. Nothing was written then.
    pub async fn grow(&self, growth: &Growth, spawner: &Spawner) -> Result<()> {
        let (array, growth, own) = (self.clone(), growth.clone(), Rc::clone(spawner));
        self.control(spawner, move |mut lane| async move {
            let way = array.way(&lane, &growth, 0)?;
            if let Some(form) = &way.form {
                lane = array.take_form(&lane, form, &own).await?;
            }
            match &way.target {
                Some(target) => array.begin_reshape(&lane, target, &own).await,
                None => lane.enlist_spares().await,
            }
        })
        .await
    }

    /// Whether [`grow`](Self::grow) can do this once `joining` more disks have been added.
    ///
    /// # Errors
    /// As it.
    pub async fn check_growth(
        &self,
        growth: &Growth,
        joining: u32,
        spawner: &Spawner,
    ) -> Result<()> {
        let (array, growth) = (self.clone(), growth.clone());
        self.control(spawner, move |lane| async move {
            array.way(&lane, &growth, joining).map(drop)
        })
        .await
    }

    fn way(&self, lane: &Lane, growth: &Growth, joining: u32) -> Result<Way> {
        self.check_idle(lane)?;
        let Growth {
            level,
            size,
            consistency,
            ..
        } = growth;
        let kinds = [size.is_some(), consistency.is_some(), growth.has_shape()];
        if kinds.into_iter().filter(|asked| *asked).count() > 1 {
            return self.invalid("its size, its policy and its shape change one after the other");
        }
        let now = lane.shared.superblock.level;
        let spares = self.spares() + joining;
        let form = match (size, consistency, level) {
            (Some(size), ..) => self.form_of_size(lane, *size)?,
            (_, Some(wanted), _) => self.form_of_policy(lane, *wanted)?,
            (.., Some(level)) if *level != now => {
                return self.way_by_level(lane, growth, *level, spares);
            }
            _ if now == Level::Raid1 => self.form_of_mirror(lane, growth, spares)?,
            _ => return self.way_by_moving(lane, growth, spares),
        };
        Ok(Way {
            form: Some(form),
            target: None,
        })
    }

    /// Another number of legs, and nothing else.
    fn form_of_mirror(&self, lane: &Lane, growth: &Growth, spares: u32) -> Result<Form> {
        match growth.members {
            Some(legs) if growth.chunk.is_none() && growth.layout.is_none() => {
                self.form_of_legs(lane, legs, spares)
            }
            _ => self.invalid("RAID-1 has neither chunks nor layouts"),
        }
    }

    /// Another level, and then perhaps another shape.
    fn way_by_level(&self, lane: &Lane, growth: &Growth, level: Level, spares: u32) -> Result<Way> {
        // What lacks nothing but its parity can do without it.
        match level {
            Level::Raid0 => self.check_data(lane)?,
            _ => self.check_whole(lane)?,
        }
        let form = self.form_of_level(lane, growth, level, spares)?;
        let after = &form.superblock;
        let target = match level.has_parity() {
            true => self.target(after, growth, spares)?,
            false => Target::of(after),
        };
        let target = (target != Target::of(after)).then_some(target);
        if let Some(target) = &target {
            let geometry = form.geometry()?;
            if geometry.members() > lane.shared.geometry.members() {
                return self.invalid(
                    "its level changes first, and what it lacks then is rebuilt; members, chunk \
                     and layout change when that is done",
                );
            }
            self.plan_reshape(after, &geometry, lane.shared.bitmap_sectors(), target)?;
        }
        Ok(Way {
            form: Some(form),
            target,
        })
    }

    /// Another shape of the same level.
    fn way_by_moving(&self, lane: &Lane, growth: &Growth, spares: u32) -> Result<Way> {
        let (now, geometry) = (&lane.shared.superblock, &lane.shared.geometry);
        if !now.level.has_parity() {
            return self.invalid(&format!(
                "{} cannot be changed like this; RAID-4, RAID-5 and RAID-6 change members, \
                 chunk and layout, RAID-1 its legs",
                now.level
            ));
        }
        self.check_whole(lane)?;
        let target = self.target(now, growth, spares)?;
        if target == Target::of(now) {
            return self.invalid("it has that shape already");
        }
        self.plan_reshape(now, geometry, lane.shared.bitmap_sectors(), &target)?;
        Ok(Way {
            form: None,
            target: Some(target),
        })
    }

    /// What the superblocks are to say of rows with parity.
    fn target(&self, now: &Superblock, growth: &Growth, spares: u32) -> Result<Target> {
        let level = now.level;
        let mut target = Target::of(now);
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
        if target.members < now.raid_disks {
            return self.invalid(&format!(
                "it has {} members and cannot have fewer: its data would not fit",
                now.raid_disks
            ));
        }
        self.check_spares(spares, target.members - now.raid_disks)?;
        Ok(target)
    }

    fn spares(&self) -> u32 {
        let state = self.core.state();
        let spares = |member: &&Member| matches!(member.duty, Duty::Spare);
        state.members.iter().filter(spares).count() as u32
    }

    /// Refuses what needs more spares than there are.
    pub(super) fn check_spares(&self, has: u32, needs: u32) -> Result<()> {
        if has >= needs {
            return Ok(());
        }
        self.invalid(&format!(
            "{needs} more members need as many spares, it has {has}; give it disks"
        ))
    }

    fn refuse<T>(&self, kind: ErrorKind, why: &str) -> Result<T> {
        Err(Error::new(kind, format!("array {}: {why}", self.name())))
    }

    /// Refuses an array that something is being done with.
    fn check_idle(&self, lane: &Lane) -> Result<()> {
        if let Some(refusal) = self.refusal() {
            return Err(refusal);
        }
        let reshaping = self.core.state().reshaping.is_some();
        if reshaping {
            return self.refuse(ErrorKind::Busy, "its shape is being changed already");
        }
        if !self.progress().is_idle() {
            let why = "something is being made whole; wait until that is done";
            return self.refuse(ErrorKind::Busy, why);
        }
        if lane.shared.has_journal() {
            let why = "md changes no array beside a journal; it has to be made without one";
            return self.refuse(ErrorKind::Unsupported, why);
        }
        Ok(())
    }

    /// Refuses an array that lacks a member, or data.
    pub(super) fn check_whole(&self, lane: &Lane) -> Result<()> {
        let whole = self.core.state().is_whole(&lane.shared.geometry);
        match whole {
            true => self.check_data(lane),
            false => self.refuse(
                ErrorKind::Degraded,
                "it lacks a member; make it whole first",
            ),
        }
    }

    /// Refuses an array that lacks data.
    fn check_data(&self, lane: &Lane) -> Result<()> {
        let (lacks, bad) = {
            let state = self.core.state();
            let bad = state.members.iter().any(|member| !member.bad.is_empty());
            (state.lacks_data(&lane.shared.geometry), bad)
        };
        if lacks {
            return self.refuse(
                ErrorKind::Degraded,
                "it lacks a member; make it whole first",
            );
        }
        if bad {
            let why = "blocks are marked as lost; write them, or restore what lies there, first";
            return self.refuse(ErrorKind::Invalid, why);
        }
        Ok(())
    }
}
