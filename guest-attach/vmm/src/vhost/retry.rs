//! When to try again to reach a back end.

use std::time::{Duration, Instant};

const FIRST: Duration = Duration::from_millis(10);
/// Never longer between two tries than this.
const LONGEST: Duration = Duration::from_secs(1);

/// The time of the next try: at once, then after waits that double up to a bound.
#[derive(Debug)]
pub(super) struct Retry {
    due: Instant,
    wait: Duration,
}

impl Retry {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            due: now,
            wait: FIRST,
        }
    }

    /// How long until the next try; zero if it is due.
    pub(super) fn remaining(&self, now: Instant) -> Duration {
        self.due.saturating_duration_since(now)
    }

    pub(super) fn failed(&mut self, now: Instant) {
        self.due = now + self.wait;
        self.wait = (self.wait * 2).min(LONGEST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_bound() {
        let start = Instant::now();
        let mut retry = Retry::new(start);
        assert_eq!(retry.remaining(start), Duration::ZERO);
        let mut now = start;
        let waits: Vec<u128> = (0..9)
            .map(|_| {
                retry.failed(now);
                let wait = retry.remaining(now);
                now += wait;
                wait.as_millis()
            })
            .collect();
        assert_eq!(waits, [10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
        assert_eq!(retry.remaining(now), Duration::ZERO);
    }
}
