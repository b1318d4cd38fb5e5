//! A write that is under way, from the intent's point of view.

use std::cell::Cell;
use std::ops::Range;
use std::sync::Arc;
use std::task::Poll;

use weft_block::Result;

use super::{Dirt, Lane, Shared};

/// Holds the array from stopping. Dropped when the work is done.
pub(crate) struct InFlight {
    shared: Arc<Shared>,
}

impl InFlight {
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        shared.state().in_flight += 1;
        Self {
            shared: Arc::clone(shared),
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let drained = {
            let mut state = self.shared.state();
            state.in_flight -= 1;
            match state.in_flight {
                0 => std::mem::take(&mut state.drained),
                _ => Vec::new(),
            }
        };
        drained.into_iter().for_each(std::task::Waker::wake);
    }
}

/// A write to a range of member space. If it is dropped before [`done`](Self::done), its executor has ended: nobody
/// knows what was written, and the range awaits a resync.
pub(crate) struct Writing {
    range: Range<u64>,
    done: Cell<bool>,
    missed: Cell<bool>,
    in_flight: InFlight,
}

impl Writing {
    /// Not every slot gets this write.
    pub(crate) fn missed(&self) {
        self.missed.set(true);
    }

    /// All that was to be written has been answered, and the members that failed are out.
    pub(crate) fn done(&self) {
        self.done.set(true);
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        let shared = &self.in_flight.shared;
        let mut state = shared.state();
        // A member that took the write and was failed since has missed it all the same.
        let missed = self.missed.get() || !state.is_whole(&shared.geometry);
        state.writing -= 1;
        state.intent.end(&self.range, missed, !self.done.get());
        if !self.done.get() {
            state.resync_cursor = 0;
            shared.resync_changed(&state);
        }
    }
}

impl Lane {
    /// Begins a write to `range` of member space; when it returns, the write may be sent.
    ///
    /// # Errors
    /// If the array takes no requests, or its metadata cannot be written: then nothing was written.
    pub(crate) async fn begin(&self, range: Range<u64>) -> Result<Writing> {
        let in_flight = InFlight::new(&self.shared);
        let ready = {
            let mut state = self.shared.state();
            if let Some(refusal) = state.refusal(&self.shared.name) {
                return Err(refusal);
            }
            state.written = true;
            state.writing += 1;
            state.intent.begin(&range) & (state.dirt == Dirt::Dirty)
        };
        let writing = Writing {
            range,
            done: Cell::new(false),
            missed: Cell::new(false),
            in_flight,
        };
        if !ready {
            let recorded = self.record(&writing.range).await;
            // Nothing was sent, so nothing is torn.
            if recorded.is_err() {
                writing.done();
            }
            recorded?;
        }
        Ok(writing)
    }

    /// Waits until nothing is in flight on any queue.
    pub(crate) async fn drained(&self) {
        std::future::poll_fn(|context| {
            let mut state = self.shared.state();
            if state.in_flight == 0 {
                return Poll::Ready(());
            }
            state.drained.push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}
