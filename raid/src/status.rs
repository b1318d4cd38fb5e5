//! What an array tells about itself.

use weft_block::Bytes;

use crate::array::{Array, Duty, Member, Progress, Run};
use crate::create::Consistency;
use crate::level::{Level, layout_name};

/// The state of an array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArrayState {
    /// Whole and at rest.
    Clean,
    /// Whole, with writes under way or a resync to do.
    Active,
    /// A member is away or not rebuilt.
    Degraded,
    /// Too many members are gone: it takes no requests.
    Failed,
}

impl ArrayState {
    /// The word that the API shows.
    pub fn name(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Active => "active",
            Self::Degraded => "degraded",
            Self::Failed => "failed",
        }
    }
}

/// What a member is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberRole {
    /// Holds a slot's data.
    Active,
    /// Waits for a slot.
    Spare,
    /// Holds the journal.
    Journal,
}

impl MemberRole {
    /// The word that the API shows.
    pub fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Spare => "spare",
            Self::Journal => "journal",
        }
    }
}

/// The state of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberState {
    /// All of its data is there; of a spare, that it is ready.
    InSync,
    /// Its data is being made.
    Rebuilding,
    /// It was failed.
    Faulty,
    /// The slot has no member.
    Missing,
}

impl MemberState {
    /// The word that the API shows.
    pub fn name(self) -> &'static str {
        match self {
            Self::InSync => "in-sync",
            Self::Rebuilding => "rebuilding",
            Self::Faulty => "faulty",
            Self::Missing => "missing",
        }
    }
}

/// One member, or a slot without one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberStatus {
    /// What it was assembled as; none for a slot without a member.
    pub path: Option<String>,
    /// The slot, or of a faulty member the slot that it had; none for a spare.
    pub slot: Option<u32>,
    /// What it is for.
    pub role: MemberRole,
    /// How it is.
    pub state: MemberState,
    /// Why it is faulty.
    pub why: Option<String>,
    /// Whether reads go to it only where no other has the copy.
    pub write_mostly: bool,
}

/// An array's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Name.
    pub name: String,
    /// Identity.
    pub uuid: [u8; 16],
    /// Level.
    pub level: Level,
    /// Layout, by md's name; empty where a level has only one.
    pub layout: String,
    /// Bytes of a chunk; zero for mirrors.
    pub chunk_bytes: u64,
    /// Bytes of the array.
    pub size_bytes: u64,
    /// Bytes of the array when its change of shape is done, if one is under way: level, layout, chunk and members are told as
    /// they will be then.
    pub size_afterwards: Option<u64>,
    /// State.
    pub state: ArrayState,
    /// How a crash is made up for: `journal`, `ppl`, `bitmap`, `resync`, or `none` for RAID-0.
    pub consistency: &'static str,
    /// Members by slot, then those that are to replace one, spares, the journal and faulty ones.
    pub members: Vec<MemberStatus>,
    /// What is being made whole.
    pub sync: Progress,
    /// What somebody should know: why the array failed, what a failed member's reason was.
    pub messages: Vec<String>,
}

impl Array {
    /// The array's state now.
    pub fn status(&self) -> Status {
        let shared = &self.shared();
        let state = shared.state();
        let geometry = &shared.geometry;
        let superblock = &shared.superblock;
        let sync = crate::array::progress(&state, geometry);
        let run = match &state.run {
            Run::Failed(_) => ArrayState::Failed,
            _ if !state.is_whole(geometry) => ArrayState::Degraded,
            _ if shared.has_journal() && state.journal().is_none() => ArrayState::Degraded,
            _ if state.is_dirty() || state.intent.resync_count() > 0 => ArrayState::Active,
            _ => ArrayState::Clean,
        };
        let mut messages = state.notices.clone();
        if let Some(change) = &state.reshaping {
            messages.push(format!(
                "its shape is being changed, from {} members with chunks of {} to {} with {}; {} afterwards",
                change.before.members(),
                Bytes(change.before.chunk()),
                change.after.members(),
                Bytes(change.after.chunk()),
                Bytes(change.after.size())
            ));
        }
        if let Run::Failed(why) = &state.run {
            messages.push(why.clone());
        }
        if shared.has_journal() && state.journal().is_none() {
            messages.push("its journal has failed: it can be read, and takes no writes until it has a new one".into());
        }
        let consistency = match geometry.level() {
            Level::Raid0 => "none",
            _ if shared.has_journal() => Consistency::Journal.name(),
            _ if superblock.features.has_ppl() => Consistency::Ppl.name(),
            _ if state.intent.is_persistent() => Consistency::Bitmap.name(),
            _ => Consistency::Resync.name(),
        };
        let layout = match geometry.level() {
            Level::Raid1 | Level::Raid4 => String::new(),
            level if state.reshaping.is_some() => layout_name(level, superblock.reshape.new_layout),
            level => layout_name(level, superblock.layout),
        };
        Status {
            name: shared.name.clone(),
            uuid: superblock.set_uuid,
            level: geometry.level(),
            layout,
            chunk_bytes: geometry.chunk(),
            size_bytes: shared.info.size,
            size_afterwards: state.reshaping.as_ref().map(|change| change.after.size()),
            state: run,
            consistency,
            members: members(&state, geometry.members()),
            sync,
            messages,
        }
    }
}

fn members(state: &crate::array::State, slots: u32) -> Vec<MemberStatus> {
    let mut found = Vec::new();
    for slot in 0..slots {
        let holder = state.holder(slot);
        let is_rebuilding =
            holder.is_some_and(|member| matches!(member.duty, Duty::Rebuilding { .. }));
        found.push(MemberStatus {
            path: holder.map(|member| member.path.clone()),
            slot: Some(slot),
            role: MemberRole::Active,
            state: match holder {
                Some(_) if is_rebuilding => MemberState::Rebuilding,
                Some(_) => MemberState::InSync,
                None => MemberState::Missing,
            },
            why: None,
            write_mostly: holder.is_some_and(Member::is_write_mostly),
        });
    }
    for member in &state.members {
        let (slot, state, why) = match &member.duty {
            Duty::Replacing { slot, .. } => (Some(*slot), MemberState::Rebuilding, None),
            Duty::Spare | Duty::Journal => (None, MemberState::InSync, None),
            Duty::Faulty { slot, why } => (*slot, MemberState::Faulty, Some(why.clone())),
            _ => continue,
        };
        found.push(MemberStatus {
            path: Some(member.path.clone()),
            slot,
            role: match slot {
                Some(_) => MemberRole::Active,
                None if member.is_journal() => MemberRole::Journal,
                None => MemberRole::Spare,
            },
            state,
            why,
            write_mostly: member.is_write_mostly(),
        });
    }
    found
}
