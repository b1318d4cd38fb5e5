//! Virtual time: it moves only when nothing else can.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// The clock of an [`Executor`](crate::Executor). It starts at zero; clones show the same time. A device may keep one.
#[derive(Debug, Clone, Default)]
pub struct Clock {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    now: Duration,
    next_id: u64,
    /// By deadline, then by order of asking.
    sleepers: BTreeMap<(Duration, u64), Waker>,
}

impl Clock {
    /// Time since the executor was made.
    pub fn now(&self) -> Duration {
        self.lock().now
    }

    /// Waits until `duration` of virtual time has passed; zero is done at once.
    pub fn sleep(&self, duration: Duration) -> Sleep {
        let mut state = self.lock();
        state.next_id += 1;
        Sleep {
            key: (state.now.saturating_add(duration), state.next_id),
            clock: self.clone(),
        }
    }

    /// Moves on to the next deadline and wakes all who wait for that instant; false if nobody waits.
    pub(crate) fn advance(&self) -> bool {
        let mut state = self.lock();
        let Some((&(deadline, _), _)) = state.sleepers.first_key_value() else {
            return false;
        };
        state.now = deadline;
        let later = state.sleepers.split_off(&(deadline, u64::MAX));
        let due = std::mem::replace(&mut state.sleepers, later);
        drop(state);
        due.into_values().for_each(Waker::wake);
        true
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The future of [`Clock::sleep`].
#[derive(Debug)]
#[must_use = "a sleep waits only while it is awaited"]
pub struct Sleep {
    key: (Duration, u64),
    clock: Clock,
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.clock.lock();
        if state.now >= self.key.0 {
            return Poll::Ready(());
        }
        state.sleepers.insert(self.key, context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.clock.lock().sleepers.remove(&self.key);
    }
}
