//! A write that is under way, from the intent's point of view.

use std::cell::Cell;
use std::ops::Range;
use std::sync::Arc;

use weft_block::Result;

use super::InFlight;
use super::{Dirt, Lane, Shared};

/// A write to a range of member space. If it is dropped before [`done`](Self::done), its executor has ended: nobody
/// knows what was written, and the range awaits a resync.
pub(crate) struct Writing {
    range: Range<u64>,
    done: Cell<bool>,
    missed: Cell<bool>,
    shared: Arc<Shared>,
    _in_flight: InFlight,
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
        let shared = &self.shared;
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
        let in_flight = InFlight::new(&self.shared.core);
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
            shared: Arc::clone(&self.shared),
            _in_flight: in_flight,
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
}
