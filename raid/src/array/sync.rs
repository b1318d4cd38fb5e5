//! Resync after an unclean stop, rebuild of members, check and repair, in slices.
//!
//! A step holds its range of member space alone, so foreground requests elsewhere go on beside it, and those in the
//! range wait no longer than the slice takes. Who drives the steps decides the rate; the crate has no clock.

mod recover;
mod resync;
mod scrub;

use std::cell::RefCell;
use std::ops::{Range, RangeInclusive};
use std::rc::Rc;
use std::sync::Arc;

use weft_block::{Result, Spawner};

pub(crate) use scrub::Scrubbing;
pub use scrub::{Mismatch, Scrub, ScrubReport};

use super::InFlight;
use super::{Array, Lane, State, done_bytes};
use crate::geometry::{Geometry, Shape};

/// Bytes of each member that are read and written at once, by how long the step is: the members that are read wait while
/// its last window is written, and a disk wants as many bytes at once as it can get.
const WINDOWS: RangeInclusive<u64> = 64 << 10..=256 << 10;
/// Windows of a step, as far as that lets them.
const WINDOWS_OF_STEP: u64 = 32;
/// Bytes of each member that a step takes at most, whatever it is allowed: all its windows are in flight together.
const STEP: u64 = 4 << 20;
/// And at least.
const LEAST_STEP: u64 = 32 << 10;

/// What is being made whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncAction {
    /// Nothing.
    Idle,
    /// Parity or mirrors, after an unclean stop or at the beginning.
    Resync,
    /// A member.
    Recover,
    /// Nothing: the members are compared.
    Check,
    /// What the members disagree on.
    Repair,
    /// Everything: it is moved to where another shape has it.
    Reshape,
}

impl SyncAction {
    /// The word that md uses for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Resync => "resync",
            Self::Recover => "recover",
            Self::Check => "check",
            Self::Repair => "repair",
            Self::Reshape => "reshape",
        }
    }
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub action: SyncAction,
    /// Bytes of member space that are done; of the array's space in a change of shape.
    pub done: u64,
    /// Bytes of it that are to be done.
    pub total: u64,
}

impl Progress {
    pub(crate) const IDLE: Self = Self {
        action: SyncAction::Idle,
        done: 0,
        total: 0,
    };

    /// Whether nothing is left to do.
    pub fn is_idle(&self) -> bool {
        self.action == SyncAction::Idle
    }
}

/// What the state has to do next.
pub(crate) fn progress(state: &State, geometry: &Geometry) -> Progress {
    if state.intent.next_resyncable(0).is_some() {
        let total = state.resync_total.max(state.intent.resync_bytes());
        let left = state.intent.resync_bytes();
        return Progress {
            action: SyncAction::Resync,
            done: total - left,
            total,
        };
    }
    if let Some(change) = &state.reshaping {
        return Progress {
            action: SyncAction::Reshape,
            done: change.moves.done(change.position),
            total: change.moves.new_size(),
        };
    }
    match state.rebuilding() {
        Some(rebuild) => Progress {
            action: SyncAction::Recover,
            done: done_bytes(&rebuild.done),
            total: geometry.member_size(),
        },
        None => scrub_progress(state, geometry).unwrap_or(Progress::IDLE),
    }
}

fn scrub_progress(state: &State, geometry: &Geometry) -> Option<Progress> {
    let scrubbing = state.scrubbing.as_ref()?;
    Some(Progress {
        action: match scrubbing.report.scrub {
            Scrub::Check => SyncAction::Check,
            Scrub::Repair | Scrub::RepairFromData => SyncAction::Repair,
        },
        done: scrubbing.cursor?,
        total: geometry.sync_size(),
    })
}

/// Drives resync and rebuild of one array from one thread.
pub struct Syncer {
    array: Array,
    lane: RefCell<Rc<Lane>>,
    spawner: Spawner,
}

impl Array {
    /// What is being made whole, and how far it is.
    pub fn progress(&self) -> Progress {
        progress(&self.core.state(), &self.shared().geometry)
    }

    /// A driver for resync and rebuild on the calling thread. One array needs one; several do each other's work.
    ///
    /// # Errors
    /// As opening a queue.
    pub fn syncer(&self, spawner: &Spawner) -> Result<Syncer> {
        Ok(Syncer {
            array: self.clone(),
            lane: RefCell::new(Lane::open(&self.shared(), spawner)?),
            spawner: Rc::clone(spawner),
        })
    }
}

impl Syncer {
    /// Does at most `most` bytes of each member (32 KiB at least, 4 MiB at most) of what is to be done next: resync
    /// before a change of shape before rebuild before a scrub; a spare takes a free slot first. The answer says what is left afterwards; idle means nothing.
    /// The step runs to its end even if the future is dropped.
    ///
    /// # Errors
    /// If the array takes no requests, or a member that is needed cannot be read: the place and the member are named,
    /// and what was done before stays done.
    pub async fn step(&self, most: u64) -> Result<Progress> {
        if self.array.is_moved() {
            self.array.finish_reshape(&self.spawner).await?;
        }
        let (in_flight, lane) = self.begin().await?;
        let most = most.clamp(LEAST_STEP, STEP) / 4096 * 4096;
        Lane::to_the_end(&self.spawner, async move {
            let _in_flight = in_flight;
            if let Some(refusal) = lane.shared.refusal() {
                return Err(refusal);
            }
            #[cfg(test)]
            if lane
                .shared
                .core
                .skip_resync
                .load(std::sync::atomic::Ordering::Relaxed)
            {
                let mut state = lane.shared.state();
                state.intent.resynced(&(0..u64::MAX));
                lane.shared.resync_changed(&state);
            }
            lane.enlist_spares().await?;
            lane.turn_log_on().await?;
            let next = {
                let state = lane.shared.state();
                progress(&state, &lane.shared.geometry).action
            };
            match next {
                SyncAction::Idle => return Ok(Progress::IDLE),
                SyncAction::Resync => lane.resync_step(most).await?,
                SyncAction::Recover => lane.recover_step(most).await?,
                SyncAction::Check | SyncAction::Repair => lane.scrub_step(most).await?,
                SyncAction::Reshape => lane.reshape_step(most).await?,
            }
            lane.turn_log_on().await?;
            Ok(progress(&lane.shared.state(), &lane.shared.geometry))
        })
        .await
    }

    /// A lane of the shape that the array has now, which it keeps until the answer is dropped.
    async fn begin(&self) -> Result<(InFlight, Rc<Lane>)> {
        loop {
            self.array.core.opened().await;
            let shared = self.array.shared();
            let Some(in_flight) = InFlight::unless_held(&shared.core) else {
                continue;
            };
            if shared.is_closed() && shared.moving.is_none() {
                continue;
            }
            let lane = Rc::clone(&self.lane.borrow());
            if Arc::ptr_eq(&lane.shared, &shared) {
                return Ok((in_flight, lane));
            }
            let lane = Lane::open(&shared, &self.spawner)?;
            *self.lane.borrow_mut() = Rc::clone(&lane);
            return Ok((in_flight, lane));
        }
    }
}

/// Cuts a range into windows.
fn windows(range: &Range<u64>) -> impl Iterator<Item = Range<u64>> + use<> {
    let end = range.end;
    let len = (end - range.start) / WINDOWS_OF_STEP / 4096 * 4096;
    let len = len.clamp(*WINDOWS.start(), *WINDOWS.end());
    let starts = (range.start..end).step_by(len as usize);
    starts.map(move |start| start..end.min(start + len))
}

/// Whether every row's parity is made of its data, rather than each byte being on every member.
fn has_parity(geometry: &Geometry) -> bool {
    matches!(geometry.shape(), Shape::Parity(_))
}
