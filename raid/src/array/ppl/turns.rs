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
    /// Somebody leads a batch, or writes headers that name nothing.
    pub(super) busy: bool,
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
    /// In the order in which they came.
    pub(super) waiting: VecDeque<Waiting>,
    /// Whoever waits until no change is under way.
    drained: Option<Waker>,
}

/// Slots of the parities of a unit.
type Slots = SmallVec<[u32; 1]>;

pub(super) struct Waiting {
    pub(super) changes: Changes,
    /// None once it was told to lead.
    pub(super) sender: Option<oneshot::Sender<Turn>>,
}

impl Waiting {
    pub(super) fn slots(&self) -> Slots {
        self.changes
            .iter()
            .map(|logged| logged.entry.slot)
            .collect()
    }
}

impl LogState {
    pub(super) fn new(slots: usize, together: bool) -> Self {
        Self {
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

    /// These changes are under way.
    pub(super) fn begin(&mut self, slots: &[u32]) {
        for &slot in slots {
            self.active[slot as usize] += 1;
        }
    }

    /// The places of those that wait and may be named now, in the order in which they came. A header that names what is
    /// under way is not replaced, and nobody overtakes whom it would keep waiting.
    pub(super) fn ready(&self) -> Vec<usize> {
        let mut held: Vec<bool> = self.active.iter().map(|&active| active > 0).collect();
        if self.together && self.is_active() {
            return Vec::new();
        }
        let mut ready = Vec::new();
        for (place, waiting) in self.waiting.iter().enumerate() {
            let slots = waiting.slots();
            if slots.iter().any(|&slot| held[slot as usize]) {
                slots.iter().for_each(|&slot| held[slot as usize] = true);
            } else {
                ready.push(place);
            }
        }
        ready
    }
}

pub(super) enum Turn {
    /// It is the first of the next batch, and writes the headers.
    Lead(Leading),
    /// The headers are written; none if nothing is logged any more.
    Go(Result<Option<Change>>),
}

/// Whoever leads, until this is dropped. If its own change waits still, it has given up, and the next in line leads.
pub(super) struct Leading {
    shared: Arc<Shared>,
    unheard: bool,
}

/// A logged change that is under way. Dropped before [`done`](Self::done), its executor has ended.
pub(crate) struct Change {
    shared: Arc<Shared>,
    slots: Slots,
    done: Cell<bool>,
}

impl Leading {
    pub(super) fn of(shared: &Arc<Shared>) -> Self {
        Self {
            shared: Arc::clone(shared),
            unheard: false,
        }
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
        let drained = match state.is_active() {
            true => None,
            false => state.drained.take(),
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
        let Some(log) = self.shared.log.as_ref().filter(|_| !self.unheard) else {
            return;
        };
        log.state().end_leading();
        hand_over(&self.shared);
    }
}

impl LogState {
    /// Nobody leads any more; who did and waits still has given up.
    fn end_leading(&mut self) {
        self.busy = false;
        self.waiting.retain(|waiting| waiting.sender.is_some());
    }
}

impl Log {
    /// Waits until no change is under way. Only who leads may.
    pub(super) async fn drained(&self) {
        poll_fn(|context| {
            let mut state = self.state();
            if !state.is_active() {
                return Poll::Ready(());
            }
            state.drained = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// Lets the first in line that can be named lead, unless somebody does.
pub(super) fn hand_over(shared: &Arc<Shared>) {
    let Some(log) = &shared.log else { return };
    loop {
        let sender = {
            let mut state = log.state();
            if state.busy {
                return;
            }
            let Some(&first) = state.ready().first() else {
                return;
            };
            let Some(sender) = state.waiting[first].sender.take() else {
                return;
            };
            state.busy = true;
            sender
        };
        let leading = Leading::of(shared);
        let Err(Turn::Lead(mut unheard)) = sender.send(Turn::Lead(leading)) else {
            return;
        };
        // Nobody waits there any more.
        unheard.unheard = true;
        log.state().end_leading();
    }
}
