//! Whose turn it is: changes that wait for the log, who leads the next batch, and what is under way.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::Arc;

use futures_channel::oneshot;
use weft_block::Result;

use super::Changes;
use crate::array::Shared;

#[derive(Default)]
pub(super) struct LogState {
    /// Changes are logged.
    pub(super) on: bool,
    /// Somebody leads a batch, or its changes are under way.
    pub(super) busy: bool,
    /// Changes of the batch that are under way.
    pub(super) active: usize,
    /// A change was given up by an executor that ended: what it wrote is not known.
    pub(super) lost: bool,
    pub(super) generation: u64,
    /// Changes that are done, and how many of them are durable.
    pub(super) done: u64,
    pub(super) durable: u64,
    /// Ticks since the header of each slot was written, if it names anything.
    pub(super) used: Vec<Option<u8>>,
    pub(super) waiting: VecDeque<Waiting>,
}

pub(super) struct Waiting {
    pub(super) changes: Changes,
    /// None once it was told to lead.
    pub(super) sender: Option<oneshot::Sender<Turn>>,
}

pub(super) enum Turn {
    /// It is the first of the next batch, and writes the headers.
    Lead(Leading),
    /// The headers are written; none if nothing is logged any more.
    Go(Result<Option<Change>>),
}

/// Whoever leads. Dropped before its batch is on its way, the next in line leads.
pub(super) struct Leading {
    shared: Arc<Shared>,
    over: bool,
}

/// A logged change that is under way. Dropped before [`done`](Self::done), its executor has ended.
pub(crate) struct Change {
    shared: Arc<Shared>,
    done: Cell<bool>,
}

impl Leading {
    pub(super) fn of(shared: &Arc<Shared>) -> Self {
        Self {
            shared: Arc::clone(shared),
            over: false,
        }
    }

    /// The batch is on its way.
    pub(super) fn over(&mut self) {
        self.over = true;
    }
}

impl Change {
    pub(super) fn of(shared: &Arc<Shared>) -> Self {
        Self {
            shared: Arc::clone(shared),
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
        state.active -= 1;
        state.done += 1;
        state.lost |= !self.done.get();
        let last = state.active == 0;
        drop(state);
        if last {
            hand_over(&self.shared);
        }
    }
}

impl Drop for Leading {
    fn drop(&mut self) {
        let Some(log) = self.shared.log.as_ref().filter(|_| !self.over) else {
            return;
        };
        let mut state = log.state();
        let first = state.waiting.front();
        if first.is_some_and(|first| first.sender.is_none()) {
            state.waiting.pop_front();
        }
        drop(state);
        hand_over(&self.shared);
    }
}

/// Lets the first in line lead; if there is nobody, nobody is busy any more.
pub(super) fn hand_over(shared: &Arc<Shared>) {
    let Some(log) = &shared.log else { return };
    loop {
        let sender = {
            let mut state = log.state();
            let first = state.waiting.front_mut();
            match first.and_then(|first| first.sender.take()) {
                Some(sender) => sender,
                None => {
                    state.busy = false;
                    return;
                }
            }
        };
        let leading = Leading::of(shared);
        let Err(Turn::Lead(mut unheard)) = sender.send(Turn::Lead(leading)) else {
            return;
        };
        // Nobody waits there any more.
        unheard.over();
        log.state().waiting.pop_front();
    }
}
