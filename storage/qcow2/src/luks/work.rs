//! How much work stands between a passphrase and its key.

use std::time::Duration;

use super::error::{LuksError, Result};
use super::hash::Hash;
use super::header::{DIGEST_BYTES, MAX_ITERATIONS, SALT_BYTES};
use super::spec::Spec;

/// The fewest iterations that are written, as the LUKS specification and QEMU have it.
const FEWEST: u64 = 1000;

/// The digest of the master key gets this part of a passphrase's work, as cryptsetup and QEMU have it: all eight slots
/// are tried in the time of two.
const DIGEST_PART: u64 = 8;

/// What a measurement begins with, how long it must take to count, and where it ends whatever it took.
const FIRST_TRY: u32 = 1 << 14;
const LONG_ENOUGH: Duration = Duration::from_millis(100);
const LAST_TRY: u32 = 1 << 26;

/// PBKDF2 iterations for a new key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Work {
    pub(super) slot: u32,
    pub(super) digest: u32,
}

impl Work {
    /// So many iterations for a passphrase, and an eighth of them for the digest of the master key; 1,000 at least.
    ///
    /// # Errors
    /// `TooManyIterations` beyond [`MAX_ITERATIONS`].
    pub fn iterations(number: u64) -> Result<Self> {
        Self::of(number, number / DIGEST_PART)
    }

    /// As many as fit into `time` on a machine that was measured.
    ///
    /// # Errors
    /// `TooManyIterations` beyond [`MAX_ITERATIONS`].
    pub fn lasting(time: Duration, rate: Rate) -> Result<Self> {
        let within = |each_second: u64| {
            let number = u128::from(each_second) * time.as_millis() / 1000;
            u64::try_from(number).unwrap_or(u64::MAX)
        };
        Self::of(within(rate.slot), within(rate.digest) / DIGEST_PART)
    }

    fn of(slot: u64, digest: u64) -> Result<Self> {
        let bounded = |number: u64| match u32::try_from(number.max(FEWEST)) {
            Ok(number) if number <= MAX_ITERATIONS => Ok(number),
            _ => Err(LuksError::TooManyIterations(number)),
        };
        Ok(Self {
            slot: bounded(slot)?,
            digest: bounded(digest)?,
        })
    }
}

/// PBKDF2 iterations that a machine does in a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// For the key of a slot.
    pub slot: u64,
    /// For the digest of the master key.
    pub digest: u64,
}

impl Rate {
    /// Measures, for a tenth of a second and more. `timed` runs what it is given once and tells how long that took: CPU
    /// time is the right one on a machine that has other work.
    pub fn measure(
        hash: Hash,
        spec: Spec,
        timed: &mut dyn FnMut(&mut dyn FnMut()) -> Duration,
    ) -> Self {
        Self {
            slot: rate_of(hash, spec.key_bytes(), timed),
            digest: rate_of(hash, DIGEST_BYTES, timed),
        }
    }
}

fn rate_of(
    hash: Hash,
    out_bytes: usize,
    timed: &mut dyn FnMut(&mut dyn FnMut()) -> Duration,
) -> u64 {
    let mut out = vec![0; out_bytes];
    let mut iterations = FIRST_TRY;
    loop {
        let took = timed(&mut || hash.pbkdf2(b"measure", &[0; SALT_BYTES], iterations, &mut out));
        if took >= LONG_ENOUGH || iterations >= LAST_TRY {
            let nanos = took.as_nanos().max(1);
            let rate = u128::from(iterations) * 1_000_000_000 / nanos;
            return u64::try_from(rate).unwrap_or(u64::MAX);
        }
        iterations *= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_what_the_rate_allows_and_never_too_little() {
        let rate = Rate {
            slot: 2_000_000,
            digest: 8_000_000,
        };
        let work = Work::lasting(Duration::from_millis(2000), rate).unwrap();
        assert_eq!((work.slot, work.digest), (4_000_000, 2_000_000));
        let little = Work::lasting(Duration::ZERO, rate).unwrap();
        assert_eq!((little.slot, little.digest), (1000, 1000));
        assert_eq!(Work::iterations(80_000).unwrap().digest, 10_000);
        let error = Work::lasting(Duration::from_secs(1000), rate).unwrap_err();
        assert_eq!(error, LuksError::TooManyIterations(2_000_000_000));
        assert!(Work::iterations(u64::MAX).is_err());
    }

    #[test]
    fn a_measurement_asks_for_more_until_it_takes_long_enough() {
        // A clock by which each iteration takes a microsecond, seen from how often it was asked.
        let mut runs = 0;
        let mut next = u64::from(FIRST_TRY);
        let rate = rate_of(Hash::Sha1, 20, &mut |work| {
            work();
            runs += 1;
            let took = Duration::from_micros(next);
            next *= 2;
            took
        });
        assert_eq!((runs, rate), (4, 1_000_000));
    }
}
