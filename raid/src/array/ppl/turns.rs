//! Whose turn it is: changes that wait for the log, who leads the next batch, and what is under way.

use std::cell::Cell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, Waker};

use futures_channel::oneshot;
use smallvec::SmallVec;
use weft_block::Result;

use super::{Changes, Log};
use crate::array::Shared;

#[derive(Default)]
pub(super) struct LogState {
    /// Changes are logged.
    pub(super) on: bool,
    /// Somebody leads a batch on the log of each slot, or writes headers that name nothing.
    led: Vec<bool>,
    /// Whoever leads is turning the log off, and nobody else begins to lead.
    closing: bool,
    /// Changes under way that the header of each slot names.
    active: Vec<usize>,
    /// A header is written only when no change is under way at all.
    together: bool,
    /// A change was given up by an executor that ended: what it wrote is not known.
    pub(super) lost: bool,
    pub(super) generation: u64,
    /// Changes that are done, and how many of them are durable.
    pub(super) done: u64,
    pub(super) durable: u64,
    /// Ticks since the header of each slot was written, if it names anything.
    pub(super) used: Vec<Option<u8>>,
    /// In the order in which they came, without those that lead.
    pub(super) waiting: VecDeque<Waiting>,
    /// Whoever waits until nothing is under way but what it leads.
    drained: Option<Waker>,
}

/// Slots of the parities of a unit, or of the logs that somebody leads.
type Slots = SmallVec<[u32; 1]>;

pub(super) struct Waiting {
    pub(super) changes: Changes,
    pub(super) sender: oneshot::Sender<Turn>,
}

/// The slots whose logs name `changes`.
pub(super) fn slots_of(changes: &Changes) -> Slots {
    changes.iter().map(|logged| logged.entry.slot).collect()
}

impl LogState {
    pub(super) fn new(slots: usize, together: bool) -> Self {
        Self {
            led: vec![false; slots],
            active: vec![0; slots],
            used: vec![None; slots],
            together,
            ..Self::default()
        }
    }

    /// Whether changes are under way.
    pub(super) fn is_active(&self) -> bool {
        self.active.iter().any(|&active| active > 0)
    }

    /// Whether somebody leads.
    pub(super) fn is_led(&self) -> bool {
        self.led.iter().any(|&led| led)
    }

    /// These changes are under way.
    pub(super) fn begin(&mut self, slots: &[u32]) {
        for &slot in slots {
            self.active[slot as usize] += 1;
        }
    }

    /// The places of those that wait and may be named now by whoever leads the logs of `own`, in the order in which they
    /// came. A header that names what is under way is not replaced, and nobody overtakes whom it would keep waiting.
    pub(super) fn ready(&self, own: &[u32]) -> Vec<usize> {
        if self.together && self.is_active() {
            return Vec::new();
        }
        let is_held = |slot: usize| self.active[slot] > 0 || self.led[slot];
        let mut held: Vec<bool> = (0..self.active.len()).map(is_held).collect();
        own.iter().for_each(|&slot| held[slot as usize] = false);
        let mut ready = Vec::new();
        for (place, waiting) in self.waiting.iter().enumerate() {
            let slots = slots_of(&waiting.changes);
            if slots.iter().any(|&slot| held[slot as usize]) {
                slots.iter().for_each(|&slot| held[slot as usize] = true);
            } else {
                ready.push(place);
            }
        }
        ready
    }

    /// Takes the first in line that can be named, to lead the logs that it concerns: all of them, if their headers are
    /// written together.
    fn take_leader(&mut self) -> Option<(Waiting, Slots)> {
        if self.closing {
            return None;
        }
        let first = self.ready(&[]).into_iter().next()?;
        let waiting = self.waiting.remove(first)?;
        let slots = match self.together {
            true => self.all(),
            false => slots_of(&waiting.changes),
        };
        self.lead(&slots);
        Some((waiting, slots))
    }

    fn all(&self) -> Slots {
        (0..self.led.len() as u32).collect()
    }

    fn lead(&mut self, slots: &[u32]) {
        slots
            .iter()
            .for_each(|&slot| self.led[slot as usize] = true);
    }

    fn end_leading(&mut self, slots: &[u32]) {
        slots
            .iter()
            .for_each(|&slot| self.led[slot as usize] = false);
    }

    /// Whoever leads the logs of `own` and nobody else is at work.
    fn is_alone(&self, own: &[u32]) -> bool {
        !self.is_active()
            && (0..)
                .zip(&self.led)
                .all(|(slot, &led)| !led || own.contains(&slot))
    }
}

pub(super) enum Turn {
    /// It is the first of the next batch, and writes the headers.
    Lead(Leading, Changes),
    /// The headers are written; none if nothing is logged any more.
    Go(Result<Option<Change>>),
}

/// Whoever leads some logs, until this is dropped.
pub(super) struct Leading {
    shared: Arc<Shared>,
    pub(super) slots: Slots,
    /// It turns the log off.
    closes: bool,
    unheard: bool,
}

/// A logged change that is under way. Dropped before [`done`](Self::done), its executor has ended.
pub(crate) struct Change {
    shared: Arc<Shared>,
    slots: Slots,
    done: Cell<bool>,
}

impl Leading {
    fn of(shared: &Arc<Shared>, slots: Slots) -> Self {
        Self {
            shared: Arc::clone(shared),
            slots,
            closes: false,
            unheard: false,
        }
    }

    /// Leads all logs, of an array whose log is on and at rest.
    pub(super) fn of_all(shared: &Arc<Shared>, log: &Log) -> Option<Self> {
        let mut state = log.state();
        if state.is_led() || state.is_active() || !state.on {
            return None;
        }
        let slots = state.all();
        state.lead(&slots);
        Some(Self::of(shared, slots))
    }

    /// Waits until nobody else leads and no change is under way, and keeps it so. False if somebody else does that.
    pub(super) async fn close(&mut self, log: &Log) -> bool {
        if std::mem::replace(&mut log.state().closing, true) {
            return false;
        }
        self.closes = true;
        poll_fn(|context| {
            let mut state = log.state();
            if state.is_alone(&self.slots) {
                return Poll::Ready(());
            }
            state.drained = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
        true
    }
}

impl Change {
    pub(super) fn of(shared: &Arc<Shared>, slots: Slots) -> Self {
        Self {
            shared: Arc::clone(shared),
            slots,
            done: Cell::new(false),
        }
    }

    /// All that was to be written has been answered, and the members that failed are out.
    pub(crate) fn done(&self) {
        self.done.set(true);
    }
}

impl Drop for Change {
    fn drop(&mut self) {
        let Some(log) = &self.shared.log else { return };
        let mut state = log.state();
        let mut last = false;
        for &slot in &self.slots {
            let active = &mut state.active[slot as usize];
            *active -= 1;
            last |= *active == 0;
        }
        state.done += 1;
        state.lost |= !self.done.get();
        let drained = match last {
            true => state.drained.take(),
            false => None,
        };
        drop(state);
        if let Some(waker) = drained {
            waker.wake();
        }
        if last {
            hand_over(&self.shared);
        }
    }
}

impl Drop for Leading {
    fn drop(&mut self) {
        let Some(log) = &self.shared.log else { return };
        let drained = {
            let mut state = log.state();
            state.end_leading(&self.slots);
            state.closing &= !self.closes;
            state.drained.take()
        };
        if let Some(waker) = drained {
            waker.wake();
        }
        if !self.unheard {
            hand_over(&self.shared);
        }
    }
}

/// Lets those that can be named lead, each the logs that it concerns.
pub(super) fn hand_over(shared: &Arc<Shared>) {
    let Some(log) = &shared.log else { return };
    loop {
        let Some((waiting, slots)) = log.state().take_leader() else {
            return;
        };
        let leading = Leading::of(shared, slots);
        let turn = Turn::Lead(leading, waiting.changes);
        if let Err(Turn::Lead(mut unheard, _)) = waiting.sender.send(turn) {
            // Nobody waits there any more.
            unheard.unheard = true;
        }
    }
}
