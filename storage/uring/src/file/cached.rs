//! The page cache, asked first: what it answers at once is cheaper than any ring.
//!
//! A read that must not wait (`RWF_NOWAIT`) costs what `pread` costs and hands over only what would wait for a disk. A write
//! has no such form on ext4 and others: there the ring would hand each to a worker thread of the kernel, at half as
//! much processor time again. It is therefore done at once and timed. One that was slow (dirty pages over the limit, a
//! journal that commits) sends those after it to the ring, a few at first and more each time the next attempt is slow as
//! well, so that a slow disk seldom stalls its shard, and a thread that merely lost its processor costs little.
//! docs/adr/0002-engine-choice.md has the measurements.

use std::cell::Cell;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use weft_block::Request;

use super::open::OpenFile;
use crate::sys;

/// A write that takes longer than this, and [`SLOW_PER_MIB`] for its length, has waited for something.
const SLOW: Duration = Duration::from_micros(500);

/// Far above what copying takes.
const SLOW_PER_MIB: Duration = Duration::from_millis(2);

/// Writes that go to the ring after a first slow one, before the next is tried.
const FIRST_DETOUR: u32 = 4;

/// The same after many slow ones in a row.
const LONGEST_DETOUR: u32 = 512;

/// What one queue has seen of its file's page cache.
#[derive(Debug, Default)]
pub(super) struct Cached {
    /// Writes that still go to the ring because one was slow.
    detour: Cell<u32>,
    /// How many went that way the last time; zero while writes are quick.
    last_detour: Cell<u32>,
}

impl Cached {
    /// Reads what is in the page cache. Gives how many bytes of the request that were; the rest, and every error, is for the
    /// ring to find.
    pub(super) fn read(file: &OpenFile, request: &Request) -> usize {
        let call = |flags| sys::read_at(&file.file, &request.buffer, 0, request.offset, flags);
        without_waiting(&file.refuses.no_wait_read, call).unwrap_or(0)
    }

    /// Writes into the page cache. Gives how many bytes of the request were written; the rest, and every error, is for the
    /// ring to find.
    pub(super) fn write(&self, file: &OpenFile, request: &Request) -> usize {
        let call = |flags| sys::write_at(&file.file, &request.buffer, 0, request.offset, flags);
        if let Some(count) = without_waiting(&file.refuses.no_wait_write, call) {
            return count;
        }
        let left = self.detour.get();
        if left > 0 {
            self.detour.set(left - 1);
            return 0;
        }
        let started = Instant::now();
        let written = call(0).unwrap_or(0);
        let next = next_detour(
            self.last_detour.get(),
            is_slow(started.elapsed(), request.len),
        );
        self.detour.set(next);
        self.last_detour.set(next);
        written
    }
}

/// How many writes go to the ring after one was tried, given how many went there before it.
fn next_detour(last: u32, slow: bool) -> u32 {
    if slow {
        (last * 4).clamp(FIRST_DETOUR, LONGEST_DETOUR)
    } else {
        0
    }
}

/// Makes a call that must not wait. Nothing if the file knows no such calls, which is remembered.
fn without_waiting(refused: &AtomicBool, call: impl Fn(i32) -> io::Result<usize>) -> Option<usize> {
    if refused.load(Ordering::Relaxed) {
        return None;
    }
    match call(libc::RWF_NOWAIT) {
        Ok(count) => Some(count),
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            refused.store(true, Ordering::Relaxed);
            None
        }
        Err(_) => Some(0),
    }
}

fn is_slow(took: Duration, len: u64) -> bool {
    let per_mib = SLOW_PER_MIB.as_nanos() as u64;
    took > SLOW + Duration::from_nanos(len.saturating_mul(per_mib) >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detours_grow_while_attempts_are_slow_and_end_with_a_quick_one() {
        let mut last = 0;
        let mut seen = Vec::new();
        for slow in [false, true, true, true, true, true, true, false, true] {
            last = next_detour(last, slow);
            seen.push(last);
        }
        assert_eq!(seen, [0, 4, 16, 64, 256, 512, 512, 0, 4]);
    }

    #[test]
    fn slow_is_judged_by_length() {
        assert!(!is_slow(Duration::from_micros(400), 4096));
        assert!(is_slow(Duration::from_micros(600), 4096));
        assert!(!is_slow(Duration::from_micros(600), 1 << 20));
        assert!(is_slow(Duration::from_millis(3), 1 << 20));
    }
}
