//! What stays of a running array when its shape changes: its members, what is written about them, and how much is
//! under way.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use super::errors::MOST_READ_ERRORS;
use super::{Meta, Run, State};

/// What all forms of an array share.
pub(crate) struct Core {
    state: Mutex<State>,
    pub(crate) meta: futures_util::lock::Mutex<Meta>,
    /// Held by the one control operation that is under way.
    pub(crate) control: futures_util::lock::Mutex<()>,
    /// Changes whenever the members do.
    pub(crate) generation: AtomicU64,
    /// The array takes no requests; the state says why.
    refusing: AtomicBool,
    /// A member was failed and the others have not been told yet: until they are, nothing is acknowledged.
    pub(crate) unrecorded: AtomicBool,
    /// Pages that a member may have to be mended in within an hour.
    pub(crate) most_read_errors: AtomicU32,
    /// Requests so far.
    pub(crate) requests: AtomicU64,
    /// Some chunk awaits its resync; the state says which.
    pub(crate) resyncing: AtomicBool,
    /// What a resync or a repair has rewritten so far, and how much of that the members were flushed for.
    pub(crate) rewritten: AtomicU64,
    pub(crate) rewritten_durable: AtomicU64,
    /// Requests, and work of several steps, that are under way.
    in_flight: AtomicU64,
    /// Somebody waits until nothing is.
    draining: AtomicBool,
    /// Only for the test that shows what the oracle sees when no resync is made.
    #[cfg(test)]
    pub(crate) skip_resync: AtomicBool,
}

impl Core {
    pub(crate) fn new(state: State, meta: Meta) -> Self {
        Self {
            resyncing: AtomicBool::new(state.intent.resync_count() > 0),
            state: Mutex::new(state),
            meta: futures_util::lock::Mutex::new(meta),
            control: futures_util::lock::Mutex::default(),
            generation: AtomicU64::new(0),
            refusing: AtomicBool::new(false),
            unrecorded: AtomicBool::new(false),
            most_read_errors: AtomicU32::new(MOST_READ_ERRORS),
            requests: AtomicU64::new(0),
            rewritten: AtomicU64::new(0),
            rewritten_durable: AtomicU64::new(0),
            in_flight: AtomicU64::new(0),
            draining: AtomicBool::new(false),
            #[cfg(test)]
            skip_resync: AtomicBool::new(false),
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The members or the run state have changed: queues look again.
    pub(crate) fn changed(&self) {
        let state = self.state();
        self.refusing
            .store(state.run != Run::Running, Ordering::Release);
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// Why a request is refused, if it is.
    pub(crate) fn refusal(&self, name: &str) -> Option<weft_block::Error> {
        if !self.refusing.load(Ordering::Acquire) {
            return None;
        }
        self.state().refusal(name)
    }

    /// Something begins. Who looks at a flag that keeps things from beginning looks after this.
    pub(super) fn enter(&self) {
        self.in_flight.fetch_add(1, Ordering::SeqCst);
    }

    /// It has ended.
    pub(super) fn leave(&self) {
        let last = self.in_flight.fetch_sub(1, Ordering::SeqCst) == 1;
        if last && self.draining.load(Ordering::SeqCst) {
            let waiting = std::mem::take(&mut self.state().drained);
            waiting.into_iter().for_each(std::task::Waker::wake);
        }
    }

    /// Waits until nothing is in flight on any queue. Whoever wants it to stay so has closed the way in before.
    pub(crate) async fn drained(&self) {
        std::future::poll_fn(|context| {
            self.draining.store(true, Ordering::SeqCst);
            let mut state = self.state();
            if self.in_flight.load(Ordering::SeqCst) == 0 {
                self.draining.store(false, Ordering::SeqCst);
                return Poll::Ready(());
            }
            state.drained.push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

impl Core {
    /// Keeps requests waiting that go by [`opened`](Self::opened), until the answer is dropped.
    pub(crate) fn hold(self: &Arc<Self>) -> Held {
        self.state().held = true;
        Held(Arc::clone(self))
    }

    /// Waits until nobody keeps requests waiting.
    pub(crate) async fn opened(&self) {
        std::future::poll_fn(|context| {
            let mut state = self.state();
            if !state.held {
                return Poll::Ready(());
            }
            state.waiting.push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// Keeps requests waiting.
pub(crate) struct Held(Arc<Core>);

impl Drop for Held {
    fn drop(&mut self) {
        let waiting = {
            let mut state = self.0.state();
            state.held = false;
            std::mem::take(&mut state.waiting)
        };
        waiting.into_iter().for_each(std::task::Waker::wake);
    }
}

/// Holds the array from stopping and from changing its shape. Dropped when the work is done.
pub(crate) struct InFlight(Arc<Core>);

impl InFlight {
    pub(crate) fn new(core: &Arc<Core>) -> Self {
        core.enter();
        Self(Arc::clone(core))
    }

    /// None while requests are kept waiting.
    pub(crate) fn unless_held(core: &Arc<Core>) -> Option<Self> {
        // Looked at after it counts: who holds requests waits for those that count.
        let in_flight = Self::new(core);
        let held = core.state().held;
        (!held).then_some(in_flight)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.leave();
    }
}
