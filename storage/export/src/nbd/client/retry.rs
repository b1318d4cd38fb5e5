//! When to try again to reach a server that was lost. Decides and does nothing.

use std::time::{Duration, Instant};

/// The pause after the first attempt that failed; each further one doubles it.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The attempts at one connection, and how long they may go on.
#[derive(Debug)]
pub(super) struct Retry {
    delay: Duration,
    failed: u32,
    /// When whoever waits for the connection has waited long enough; nothing as long as nobody waits.
    deadline: Option<Instant>,
}

impl Retry {
    /// Attempts that go on for `delay` once somebody waits for them.
    pub(super) fn new(delay: Duration) -> Self {
        Self {
            delay,
            failed: 0,
            deadline: None,
        }
    }

    /// Somebody waits for the connection, or nobody does.
    pub(super) fn waited_for(&mut self, waited_for: bool, now: Instant) {
        match waited_for {
            true => self.deadline = self.deadline.or(now.checked_add(self.delay)),
            false => self.deadline = None,
        }
    }

    /// When to give up, if anybody waits.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Whether whoever waits has waited long enough.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| now >= deadline)
    }

    /// How long to wait before the next attempt: none before the first, then longer and longer, between the half and the
    /// whole of it by `chance`, so that clients of one server do not all come at once.
    pub(super) fn pause(&self, chance: u32) -> Duration {
        let Some(doubled) = self.failed.checked_sub(1) else {
            return Duration::ZERO;
        };
        let whole = FIRST_PAUSE
            .saturating_mul(1 << doubled.min(16))
            .min(LONGEST_PAUSE);
        whole.mul_f64(0.5 + 0.5 * f64::from(chance) / f64::from(u32::MAX))
    }

    /// An attempt begins, and counts as failed: one that has not is the last.
    pub(super) fn attempt(&mut self) {
        self.failed = self.failed.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_differ_and_have_a_bound() {
        let mut retry = Retry::new(Duration::from_secs(30));
        assert_eq!(retry.pause(u32::MAX), Duration::ZERO);
        retry.attempt();
        assert_eq!(retry.pause(u32::MAX), FIRST_PAUSE);
        assert_eq!(retry.pause(0), FIRST_PAUSE / 2);
        let mut last = Duration::ZERO;
        for _ in 0..100 {
            retry.attempt();
            assert!(retry.pause(7) >= last && retry.pause(u32::MAX) <= LONGEST_PAUSE);
            last = retry.pause(7);
        }
    }

    #[test]
    fn the_time_runs_only_while_somebody_waits() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut retry = Retry::new(Duration::from_secs(30));
        assert!(!retry.is_over(after(1000)));
        retry.waited_for(true, after(1000));
        retry.waited_for(true, after(1010));
        assert!(!retry.is_over(after(1029)) && retry.is_over(after(1030)));
        retry.waited_for(false, after(1011));
        assert_eq!(retry.deadline(), None);
        retry.waited_for(true, after(1012));
        assert_eq!(retry.deadline(), Some(after(1042)));
    }
}
