//! What an array knows about itself while it runs. Changed in short synchronous sections, never across a wait.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Waker;

use weft_block::{BlockDevice, ErrorKind, SECTOR};

use super::intent::Intent;
use super::{ReadErrors, Scrubbing};
use crate::geometry::Geometry;
use crate::reshape::Change;
use crate::superblock::{Role, Superblock, Timestamp, WRITE_MOSTLY};

/// Messages that the status keeps.
const MOST_NOTICES: usize = 64;

/// Names a member for the life of an array; never used twice.
pub(crate) type MemberId = u32;

/// What a member does now.
#[derive(Debug, Clone)]
pub(crate) enum Duty {
    /// Its slot's data is all there.
    InSync(u32),
    /// Its slot's data is there up to a byte of member space.
    Rebuilding {
        slot: u32,
        /// Bytes of member space that are done; queues read it without the lock.
        done: Arc<AtomicU64>,
        /// Bytes of it that are durable, and that its superblock may speak of.
        recorded: u64,
        /// Only what the bitmap says is missing.
        by_bitmap: bool,
    },
    /// Becomes what the member of a slot is, beside it: it takes every change of it, and answers nothing.
    Replacing {
        slot: u32,
        /// Bytes of member space that are done.
        done: Arc<AtomicU64>,
        /// Bytes of it that are durable, and that its superblock may speak of.
        recorded: u64,
    },
    /// Waits for a slot.
    Spare,
    /// Holds the journal, which begins where its superblock says.
    Journal,
    /// Failed, with the reason; it keeps its device until it is removed.
    Faulty { slot: Option<u32>, why: String },
}

impl Duty {
    /// The slot whose data it holds, in whole or in part.
    pub(crate) fn slot(&self) -> Option<u32> {
        match self {
            Self::InSync(slot) | Self::Rebuilding { slot, .. } | Self::Replacing { slot, .. } => {
                Some(*slot)
            }
            Self::Spare | Self::Journal | Self::Faulty { .. } => None,
        }
    }

    /// Whether it is to take the place of the slot's member.
    pub(crate) fn is_replacing(&self) -> bool {
        matches!(self, Self::Replacing { .. })
    }

    /// Whether it holds the journal.
    pub(crate) fn is_journal(&self) -> bool {
        matches!(self, Self::Journal)
    }

    /// How far its data is durable, if it is being made.
    pub(crate) fn recorded(&mut self) -> Option<&mut u64> {
        match self {
            Self::Rebuilding { recorded, .. } | Self::Replacing { recorded, .. } => Some(recorded),
            _ => None,
        }
    }

    /// Whether it is written to at all.
    pub(crate) fn is_live(&self) -> bool {
        !matches!(self, Self::Faulty { .. })
    }
}

/// What is to be made of a member's data.
pub(crate) struct Rebuild {
    pub(crate) id: MemberId,
    pub(crate) slot: u32,
    pub(crate) done: Arc<AtomicU64>,
    /// Only what the bitmap says is missing.
    pub(crate) by_bitmap: bool,
    /// Beside the slot's member.
    pub(crate) replaces: bool,
}

/// A member: its device and what its superblock says that is its own.
pub(crate) struct Member {
    pub(crate) id: MemberId,
    pub(crate) path: String,
    pub(crate) device: Arc<dyn BlockDevice>,
    /// Its own fields are kept here; the array's are filled in when it is written.
    pub(crate) superblock: Superblock,
    /// Bytes of member space that its bad-block log names.
    pub(crate) bad: Arc<[Range<u64>]>,
    /// Those that were mended of late.
    pub(crate) read_errors: ReadErrors,
    pub(crate) duty: Duty,
}

impl Member {
    /// Whether reads go elsewhere as long as they can.
    pub(crate) fn is_write_mostly(&self) -> bool {
        self.superblock.devflags & WRITE_MOSTLY != 0
    }

    /// Whether it holds the journal, or did until it failed.
    pub(crate) fn is_journal(&self) -> bool {
        self.superblock.role() == Role::Journal
    }

    /// First byte of data on the device.
    pub(crate) fn base(&self) -> u64 {
        self.superblock.data_offset * SECTOR
    }

    /// Bytes that the data of the coming shape starts behind it, where md may have chosen otherwise for others.
    pub(crate) fn shift(&self) -> i64 {
        self.superblock.shift() * SECTOR as i64
    }
}

/// Whether the array takes requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Run {
    /// It does.
    Running,
    /// It is being stopped or has been.
    Stopped,
    /// Too many members are gone.
    Failed(String),
}

/// Whether the superblocks say that writes may be under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dirt {
    /// They say that all is at rest.
    Clean,
    /// They say that writes may be under way.
    Dirty,
}

/// The state behind the array's mutex.
pub(crate) struct State {
    pub(crate) members: Vec<Member>,
    pub(crate) next_id: MemberId,
    pub(crate) run: Run,
    pub(crate) dirt: Dirt,
    pub(crate) intent: Intent,
    /// Member space that the running resync has done, in the chunk it is in.
    pub(crate) resync_cursor: u64,
    /// Some block of the chunk that the resync is in could not be read.
    pub(crate) resync_unreadable: bool,
    /// Bytes that this resync had to do when it began.
    pub(crate) resync_total: u64,
    /// The scrub that runs, or the last one.
    pub(crate) scrubbing: Option<Scrubbing>,
    /// The superblocks do not know yet that a resync is done.
    pub(crate) unsettled: bool,
    /// Writes that are under way.
    pub(crate) writing: u64,
    /// Writes since the last tick.
    pub(crate) written: bool,
    /// Wait until nothing is in flight.
    pub(crate) drained: Vec<Waker>,
    /// Requests wait until the shape has changed.
    pub(crate) held: bool,
    /// Wait for that.
    pub(crate) waiting: Vec<Waker>,
    /// The time for superblocks: what the last control operation said.
    pub(crate) now: Timestamp,
    /// The change of shape that is under way, with the position that the superblocks know.
    pub(crate) reshaping: Option<Change>,
    /// What was found out when it was assembled, in sentences.
    pub(crate) notices: Vec<String>,
    /// The roles of the freshest superblock, for numbers whose device is not here.
    pub(crate) roles: Vec<Role>,
}

impl State {
    /// The state of an array that starts, with nothing under way.
    pub(crate) fn at_rest(members: Vec<Member>, intent: Intent, now: Timestamp) -> Self {
        Self {
            next_id: members.len() as MemberId,
            members,
            run: Run::Running,
            dirt: Dirt::Clean,
            intent,
            resync_cursor: 0,
            resync_unreadable: false,
            resync_total: 0,
            scrubbing: None,
            unsettled: false,
            writing: 0,
            written: false,
            drained: Vec::new(),
            held: false,
            waiting: Vec::new(),
            now,
            reshaping: None,
            notices: Vec::new(),
            roles: Vec::new(),
        }
    }

    pub(crate) fn member(&self, id: MemberId) -> Option<&Member> {
        self.members.iter().find(|member| member.id == id)
    }

    pub(crate) fn member_mut(&mut self, id: MemberId) -> Option<&mut Member> {
        self.members.iter_mut().find(|member| member.id == id)
    }

    /// The member that holds `slot`, in whole or in part.
    pub(crate) fn holder(&self, slot: u32) -> Option<&Member> {
        let holds =
            |member: &&Member| member.duty.slot() == Some(slot) && !member.duty.is_replacing();
        self.members.iter().find(holds)
    }

    /// The member that is to replace the one of `slot`.
    pub(crate) fn replacement(&self, slot: u32) -> Option<&Member> {
        let takes =
            |member: &&Member| member.duty.slot() == Some(slot) && member.duty.is_replacing();
        self.members.iter().find(takes)
    }

    /// The member that holds the journal.
    pub(crate) fn journal(&self) -> Option<&Member> {
        self.members.iter().find(|member| member.duty.is_journal())
    }

    /// Slots whose data is wholly there.
    pub(crate) fn in_sync(&self) -> u32 {
        let whole = |member: &&Member| matches!(member.duty, Duty::InSync(_));
        self.members.iter().filter(whole).count() as u32
    }

    /// Whether every slot's data is wholly there.
    pub(crate) fn is_whole(&self, geometry: &Geometry) -> bool {
        let slots = geometry.members();
        let whole = |member: &&Member| matches!(member.duty, Duty::InSync(slot) if slot < slots);
        self.members.iter().filter(whole).count() as u32 == slots
    }

    /// Whether some slot's data is not all there: what lacks is more than parity.
    pub(crate) fn lacks_data(&self, geometry: &Geometry) -> bool {
        let is_there = |slot: u32| {
            let whole = |member: &Member| matches!(member.duty, Duty::InSync(own) if own == slot);
            self.members.iter().any(whole)
        };
        !self.is_whole(geometry)
            && (0..geometry.members()).any(|slot| geometry.holds_data(slot) && !is_there(slot))
    }

    /// The member whose data is made next: of a slot without one before a replacement, the lowest slot first.
    pub(crate) fn rebuilding(&self) -> Option<Rebuild> {
        let rebuilds = self.members.iter().filter_map(|member| {
            let (slot, done, by_bitmap) = match &member.duty {
                Duty::Rebuilding {
                    slot,
                    done,
                    by_bitmap,
                    ..
                } => (*slot, done, *by_bitmap),
                Duty::Replacing { slot, done, .. } => (*slot, done, false),
                _ => return None,
            };
            Some(Rebuild {
                id: member.id,
                slot,
                done: Arc::clone(done),
                by_bitmap,
                replaces: member.duty.is_replacing(),
            })
        });
        rebuilds.min_by_key(|rebuild| (rebuild.replaces, rebuild.slot))
    }

    /// Takes a member out of service. Whether anything changed; the superblocks still have to be told.
    ///
    /// A member without which the data is lost is not taken out: a mirror keeps its last leg, another array fails as a
    /// whole, its members as they are, so that nothing looks newer than it is.
    pub(crate) fn fail(
        &mut self,
        geometry: &Geometry,
        name: &str,
        id: MemberId,
        why: &str,
    ) -> bool {
        let (whole, needed) = (self.in_sync(), self.is_needed(geometry, id));
        let Some(member) = self.member_mut(id) else {
            return false;
        };
        match member.duty {
            Duty::Faulty { .. } => return false,
            Duty::InSync(slot) if needed => {
                let redundant = geometry.tolerates() > 0;
                if redundant && whole > 1 && self.run == Run::Running {
                    self.run = Run::Failed(format!(
                        "array {name} has failed: member {} of slot {slot} is gone ({why}) and {whole} of {} members \
                         were left; stop it, bring a member back and assemble it again",
                        self.member(id).map_or("", |member| member.path.as_str()),
                        geometry.members(),
                    ));
                }
                return false;
            }
            _ => {}
        }
        let slot = member.duty.slot();
        let replaces = member.duty.is_replacing();
        member.duty = Duty::Faulty {
            slot,
            why: why.to_owned(),
        };
        if let Some(slot) = slot.filter(|_| !replaces) {
            self.promote(slot);
        }
        true
    }

    /// The slot has lost its member: what was to replace it holds it as far as it has come.
    fn promote(&mut self, slot: u32) {
        let members = self.members.iter_mut();
        for duty in members.map(|member| &mut member.duty) {
            if let Duty::Replacing {
                slot: replaced,
                done,
                recorded,
            } = duty
                && *replaced == slot
            {
                *duty = Duty::Rebuilding {
                    slot,
                    done: Arc::clone(done),
                    recorded: *recorded,
                    by_bitmap: false,
                };
            }
        }
    }

    /// Whether data would be lost without the member.
    pub(crate) fn is_needed(&self, geometry: &Geometry, id: MemberId) -> bool {
        let is_whole = |member: &Member| matches!(member.duty, Duty::InSync(_));
        let others = self
            .members
            .iter()
            .filter(|member| member.id != id && is_whole(member));
        let slots: Vec<u32> = others.filter_map(|member| member.duty.slot()).collect();
        let whole = self.member(id).is_some_and(is_whole);
        let survives = |geometry: &Geometry| geometry.survives(|slot| !slots.contains(&slot));
        let change = self.reshaping.as_ref();
        let both = change.is_none_or(|change| survives(&change.before) && survives(&change.after));
        whole && !(survives(geometry) && both)
    }

    /// Keeps a message for the status; the oldest give way to new ones.
    pub(crate) fn note(&mut self, message: String) {
        if self.notices.len() >= MOST_NOTICES {
            self.notices.remove(0);
        }
        self.notices.push(message);
    }

    /// Whether the superblocks say that writes may be under way.
    pub(crate) fn is_dirty(&self) -> bool {
        self.dirt == Dirt::Dirty
    }

    /// The error of an array that takes no requests, if it does not.
    pub(crate) fn refusal(&self, name: &str) -> Option<weft_block::Error> {
        let why = match &self.run {
            Run::Running => return None,
            Run::Stopped => format!("array {name} is stopped"),
            Run::Failed(why) => why.clone(),
        };
        Some(weft_block::Error::new(ErrorKind::Offline, why))
    }
}

/// What `done` counts up to.
pub(crate) fn done_bytes(done: &AtomicU64) -> u64 {
    done.load(Ordering::Acquire)
}
