//! How fast the background work of an array goes: between a floor and a ceiling, and beside foreground I/O at a share of
//! the time. Decides and does nothing.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Bytes of each member a second below which foreground I/O does not push the background work.
const DEFAULT_FLOOR: u64 = 4 << 20;
/// Beside foreground I/O, how many times as long as a step took it rests: it has a quarter of the time.
const RESTS: u32 = 3;
/// Bytes of each member in a step when nobody else has been there for a while: at the end of each the members that are read
/// wait for the one that is written, and what is lost by that is a thirtieth.
const LONG_STEP: u64 = 4 << 20;
/// The same when somebody was there of late and may come again.
const STEP: u64 = 1 << 20;
/// Bytes of each member in a step beside foreground I/O: what a request may have to wait for, several times if it is a
/// write. With twice as many the 99th of 100 requests, one at a time, took 2.3 times as long on disks of 100 MB/s.
const SMALL_STEP: u64 = 32 << 10;
/// How long nobody has been there when nobody is expected.
const QUIET: Duration = Duration::from_secs(1);
/// Bytes of each member a second that a ceiling must allow: a step takes no less.
pub(super) const LEAST_CEILING: u64 = 64 << 10;

/// What an administrator has set for an array.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pace {
    /// Nothing is done until somebody resumes it.
    #[serde(default)]
    pub paused: bool,
    /// Bytes of each member a second at least, as far as the disks can.
    pub floor: u64,
    /// Bytes of each member a second at most; none for as fast as the disks can.
    #[serde(default)]
    pub ceiling: Option<u64>,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            paused: false,
            floor: DEFAULT_FLOOR,
            ceiling: None,
        }
    }
}

impl Pace {
    /// Bytes of the next step, what the ceiling allows in a second at most. `quiet` is how long ago there was foreground
    /// I/O; zero if there was during the last step.
    pub(super) fn step(self, quiet: Duration) -> u64 {
        let bytes = match quiet {
            Duration::ZERO => SMALL_STEP,
            quiet if quiet < QUIET => STEP,
            _ => LONG_STEP,
        };
        bytes.min(self.ceiling.unwrap_or(u64::MAX))
    }

    /// How long to rest after a step of `bytes` that took `taken`.
    pub(super) fn rest(self, bytes: u64, taken: Duration, busy: bool) -> Duration {
        let least = self
            .ceiling
            .map_or(Duration::ZERO, |most| time(bytes, most));
        let wanted = match busy {
            true => (taken * (1 + RESTS)).min(time(bytes, self.floor)),
            false => Duration::ZERO,
        };
        wanted.max(least).saturating_sub(taken)
    }
}

/// How long `bytes` take at `rate` bytes a second; a rate of zero is none at all.
fn time(bytes: u64, rate: u64) -> Duration {
    match rate {
        0 => Duration::MAX,
        rate => Duration::from_secs_f64(bytes as f64 / rate as f64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn millis(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn alone_it_goes_as_fast_as_the_ceiling_lets_it() {
        let pace = Pace::default();
        assert_eq!(pace.rest(MIB, millis(5), false), Duration::ZERO);
        let slow = Pace {
            ceiling: Some(10 * MIB),
            ..pace
        };
        assert_eq!(slow.rest(MIB, millis(40), false), millis(60));
        assert_eq!(slow.rest(MIB, millis(140), false), Duration::ZERO);
    }

    #[test]
    fn beside_others_it_takes_a_quarter_of_the_time_but_not_less_than_the_floor() {
        let pace = Pace::default();
        assert_eq!(pace.rest(MIB, millis(10), true), millis(30));
        // A quarter of the time would be 2.5 MiB/s, below the floor of 4.
        assert_eq!(pace.rest(MIB, millis(100), true), millis(150));
        let floor = Pace { floor: 0, ..pace };
        assert_eq!(floor.rest(MIB, millis(100), true), millis(300));
        // The ceiling holds all the same.
        let ceiling = Pace {
            ceiling: Some(2 * MIB),
            ..pace
        };
        assert_eq!(ceiling.rest(MIB, millis(100), true), millis(400));
        let (now, of_late, long_ago) = (Duration::ZERO, millis(999), millis(1000));
        assert!(pace.step(now) < pace.step(of_late) && pace.step(of_late) < pace.step(long_ago));
        let slow = Pace {
            ceiling: Some(LEAST_CEILING),
            ..pace
        };
        assert_eq!(
            (slow.step(now), slow.step(long_ago)),
            (SMALL_STEP, 64 << 10)
        );
    }
}
