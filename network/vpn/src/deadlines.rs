//! One next deadline for all peers.

use std::collections::BTreeSet;
use std::time::Duration;

/// When whose timers are to be looked at: at the latest when one of them is due, and possibly before, for a deadline
/// that moves away (as it does with every packet) is left where it is until it comes.
#[derive(Debug)]
pub(crate) struct Deadlines<T>(BTreeSet<(Duration, T)>);

impl<T: Ord + Copy> Deadlines<T> {
    pub(crate) fn new() -> Self {
        Self(BTreeSet::new())
    }

    pub(crate) fn first(&self) -> Option<Duration> {
        self.0.first().map(|&(at, _)| at)
    }

    /// Lets `who` be looked at by `at`. `scheduled` is what was kept of it before.
    pub(crate) fn at_latest(&mut self, at: Duration, who: T, scheduled: &mut Option<Duration>) {
        if scheduled.is_some_and(|before| before <= at) {
            return;
        }
        self.cancel(who, scheduled);
        self.0.insert((at, who));
        *scheduled = Some(at);
    }

    pub(crate) fn cancel(&mut self, who: T, scheduled: &mut Option<Duration>) {
        if let Some(before) = scheduled.take() {
            self.0.remove(&(before, who));
        }
    }

    /// The next one to be looked at, whose deadline is gone then.
    pub(crate) fn pop(&mut self, now: Duration) -> Option<T> {
        let &(at, who) = self.0.first()?;
        if at > now {
            return None;
        }
        self.0.pop_first();
        Some(who)
    }
}
