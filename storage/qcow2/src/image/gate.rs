//! How requests pass, and how long those that passed before are waited for.
//!
//! What a request has found in the tables stays where it is until the request is done: who takes it away unlinks it,
//! waits until all that were under way then have left, and only then gives the place to others. Who must have nobody
//! under way at all closes the gate first.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};

#[derive(Default)]
pub(crate) struct Gate {
    /// Requests that passed in even and in odd phases and have not left.
    under_way: [AtomicU64; 2],
    phase: AtomicU64,
    closed: AtomicBool,
    /// Somebody waits for those that are under way.
    waited_for: AtomicBool,
    wakers: Mutex<Vec<Waker>>,
    /// One waits at a time.
    turn: futures_util::lock::Mutex<()>,
}

impl Gate {
    /// Lets a request pass, unless the gate is closed.
    pub(crate) fn pass(self: &Arc<Self>) -> Option<Pass> {
        loop {
            let phase = self.phase.load(Ordering::SeqCst);
            let pass = Pass {
                gate: Arc::clone(self),
                phase,
            };
            self.count(phase).fetch_add(1, Ordering::SeqCst);
            // Looked at after it counts: who changes these waits for those that count.
            if self.closed.load(Ordering::SeqCst) {
                return None;
            }
            if self.phase.load(Ordering::SeqCst) == phase {
                return Some(pass);
            }
        }
    }

    /// Waits until the gate is open, and passes.
    pub(crate) async fn wait(self: &Arc<Self>) -> Pass {
        std::future::poll_fn(|context| {
            // Registered before looking: an opening in between wakes.
            self.register(context.waker());
            self.pass().map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    /// Waits until all that have passed so far have left.
    pub(crate) async fn settled(self: &Arc<Self>) {
        let _turn = self.turn.lock().await;
        let before = self.phase.fetch_add(1, Ordering::SeqCst);
        std::future::poll_fn(|context| {
            self.waited_for.store(true, Ordering::SeqCst);
            self.register(context.waker());
            if self.count(before).load(Ordering::SeqCst) > 0 {
                return Poll::Pending;
            }
            self.waited_for.store(false, Ordering::SeqCst);
            Poll::Ready(())
        })
        .await;
    }

    /// Closes the gate and waits until nobody is under way. It opens when the answer is dropped.
    pub(crate) async fn close(self: &Arc<Self>) -> Closed {
        self.closed.store(true, Ordering::SeqCst);
        let closed = Closed(Arc::clone(self));
        self.settled().await;
        closed
    }

    fn count(&self, phase: u64) -> &AtomicU64 {
        &self.under_way[(phase % 2) as usize]
    }

    fn register(&self, waker: &Waker) {
        let mut wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        if !wakers.iter().any(|other| other.will_wake(waker)) {
            wakers.push(waker.clone());
        }
    }

    fn wake(&self) {
        let wakers =
            std::mem::take(&mut *self.wakers.lock().unwrap_or_else(PoisonError::into_inner));
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// A request is under way until this is dropped.
pub(crate) struct Pass {
    gate: Arc<Gate>,
    phase: u64,
}

impl Drop for Pass {
    fn drop(&mut self) {
        let last = self.gate.count(self.phase).fetch_sub(1, Ordering::SeqCst) == 1;
        if last && self.gate.waited_for.load(Ordering::SeqCst) {
            self.gate.wake();
        }
    }
}

/// Nobody passes until this is dropped.
pub(crate) struct Closed(Arc<Gate>);

impl Drop for Closed {
    fn drop(&mut self) {
        self.0.closed.store(false, Ordering::SeqCst);
        self.0.wake();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn those_under_way_are_waited_for_and_later_ones_are_not() {
        let gate = Arc::new(Gate::default());
        let first = gate.pass().expect("open");
        let mut settled = Box::pin(gate.settled());
        assert!((&mut settled).now_or_never().is_none());
        let second = gate.pass().expect("open");
        drop(first);
        assert!(settled.now_or_never().is_some());
        let mut settled = Box::pin(gate.settled());
        assert!((&mut settled).now_or_never().is_none());
        drop(second);
        assert!(settled.now_or_never().is_some());
    }

    #[test]
    fn a_closed_gate_opens_when_it_is_dropped() {
        let gate = Arc::new(Gate::default());
        let mut close = Box::pin(gate.close());
        let closed = (&mut close).now_or_never().expect("nobody is under way");
        assert!(gate.pass().is_none());
        let mut wait = Box::pin(gate.wait());
        assert!((&mut wait).now_or_never().is_none());
        drop(closed);
        assert!(wait.now_or_never().is_some());
    }
}
