//! Timers.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::OnceLock;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::Core;

/// A moment, and a number that keeps equal moments apart.
type Key = (Instant, u64);

#[derive(Default)]
pub(super) struct Timers {
    waiting: BTreeMap<Key, Waker>,
    serial: u64,
}

impl Timers {
    fn insert(&mut self, deadline: Instant, waker: Waker) -> Key {
        self.serial += 1;
        let key = (deadline, self.serial);
        self.waiting.insert(key, waker);
        key
    }

    /// The moment of the first.
    pub(super) fn next(&self) -> Option<Instant> {
        self.waiting.keys().next().map(|(deadline, _)| *deadline)
    }

    /// Takes out those whose moment has come.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Waker> {
        let later = self.waiting.split_off(&(now, u64::MAX));
        std::mem::replace(&mut self.waiting, later)
            .into_values()
            .collect()
    }
}

/// How long ago this was called first in the process.
pub(super) fn since_start() -> Duration {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}

/// Ends at a moment. Made by [`sleep`] and [`sleep_until`].
#[derive(Debug)]
#[must_use = "a sleep does nothing until it is awaited"]
pub struct Sleep {
    deadline: Instant,
    key: Option<Key>,
}

/// Waits for at least `duration`.
pub fn sleep(duration: Duration) -> Sleep {
    sleep_until(Instant::now() + duration)
}

/// Waits until `deadline` has passed.
pub fn sleep_until(deadline: Instant) -> Sleep {
    Sleep {
        deadline,
        key: None,
    }
}

impl Sleep {
    fn forget(&mut self) {
        if let (Some(key), Some(core)) = (self.key.take(), Core::try_current()) {
            core.timers.borrow_mut().waiting.remove(&key);
        }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if Instant::now() >= self.deadline {
            self.forget();
            return Poll::Ready(());
        }
        let core = Core::current();
        let mut timers = core.timers.borrow_mut();
        let waiting = self.key.and_then(|key| timers.waiting.get_mut(&key));
        match waiting {
            Some(waker) => waker.clone_from(context.waker()),
            None => self.key = Some(timers.insert(self.deadline, context.waker().clone())),
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.forget();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_come_due_in_order_and_once() {
        let start = Instant::now();
        let mut timers = Timers::default();
        assert_eq!(timers.next(), None);
        for milliseconds in [30, 10, 20, 10] {
            timers.insert(
                start + Duration::from_millis(milliseconds),
                Waker::noop().clone(),
            );
        }
        assert_eq!(timers.next(), Some(start + Duration::from_millis(10)));
        assert_eq!(timers.due(start).len(), 0);
        assert_eq!(timers.due(start + Duration::from_millis(20)).len(), 3);
        assert_eq!(timers.due(start + Duration::from_millis(20)).len(), 0);
        assert_eq!(timers.next(), Some(start + Duration::from_millis(30)));
    }
}
