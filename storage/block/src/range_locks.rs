//! Locks on ranges of a device, across queues and threads.

use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// Locks on ranges of what belongs together: the rows of an array, the clusters of an image.
///
/// Whoever changes a range holds it; whoever derives something from it holds it shared. Ranges are granted in the order
/// of asking where they overlap, so nobody starves. A holder never asks for a second range.
#[derive(Default)]
pub struct RangeLocks {
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    next: u64,
    /// In the order of asking. Few: a request in flight holds one.
    entries: Vec<Entry>,
}

struct Entry {
    ticket: u64,
    range: Range<u64>,
    shared: bool,
    granted: bool,
    waker: Option<Waker>,
}

impl Entry {
    fn excludes(&self, other: &Self) -> bool {
        let overlap = self.range.start < other.range.end && other.range.start < self.range.end;
        overlap && !(self.shared && other.shared)
    }
}

impl RangeLocks {
    /// Waits until nobody else changes `range`, nor derives from it.
    pub fn exclusive(self: &Arc<Self>, range: Range<u64>) -> Acquire {
        self.ask(range, false)
    }

    /// Waits until nobody changes `range`.
    pub fn shared(self: &Arc<Self>, range: Range<u64>) -> Acquire {
        self.ask(range, true)
    }

    fn ask(self: &Arc<Self>, range: Range<u64>, shared: bool) -> Acquire {
        let mut table = self.lock();
        let ticket = table.next;
        table.next += 1;
        let mut entry = Entry {
            ticket,
            range,
            shared,
            granted: false,
            waker: None,
        };
        entry.granted = !table.entries.iter().any(|earlier| earlier.excludes(&entry));
        table.entries.push(entry);
        drop(table);
        Acquire {
            guard: Some(RangeGuard {
                locks: Arc::clone(self),
                ticket,
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn release(&self, ticket: u64) {
        let mut woken = Vec::new();
        let mut table = self.lock();
        let entries = &mut table.entries;
        entries.retain(|entry| entry.ticket != ticket);
        for index in 0..entries.len() {
            let (earlier, rest) = entries.split_at_mut(index);
            let entry = &mut rest[0];
            if !entry.granted && !earlier.iter().any(|other| other.excludes(entry)) {
                entry.granted = true;
                woken.extend(entry.waker.take());
            }
        }
        drop(table);
        woken.into_iter().for_each(Waker::wake);
    }
}

/// Waits for a range; dropped before that, it stops asking.
pub struct Acquire {
    guard: Option<RangeGuard>,
}

impl Future for Acquire {
    type Output = RangeGuard;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<RangeGuard> {
        let Some(guard) = self.guard.take() else {
            return Poll::Pending;
        };
        let mut table = guard.locks.lock();
        let entry = table
            .entries
            .iter_mut()
            .find(|entry| entry.ticket == guard.ticket);
        let waits = entry.is_some_and(|entry| {
            entry.waker = Some(context.waker().clone());
            !entry.granted
        });
        drop(table);
        if waits {
            self.guard = Some(guard);
            return Poll::Pending;
        }
        Poll::Ready(guard)
    }
}

/// Holds a range until it is dropped.
pub struct RangeGuard {
    locks: Arc<RangeLocks>,
    ticket: u64,
}

impl Drop for RangeGuard {
    fn drop(&mut self) {
        self.locks.release(self.ticket);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[test]
    fn overlapping_ranges_wait_in_order() {
        let locks = Arc::new(RangeLocks::default());
        let first = locks.exclusive(0..10).now_or_never().expect("free");
        let mut second = locks.exclusive(5..15);
        let mut third = locks.exclusive(12..20);
        assert!((&mut second).now_or_never().is_none());
        // It does not overlap the first, but the second was there before it.
        assert!((&mut third).now_or_never().is_none());
        let apart = locks.exclusive(20..30).now_or_never().expect("free");
        drop(first);
        let second = second.now_or_never().expect("its turn");
        assert!((&mut third).now_or_never().is_none());
        drop(second);
        drop(third.now_or_never().expect("its turn"));
        drop(apart);
        assert!(locks.lock().entries.is_empty());
    }

    #[test]
    fn sharers_share_and_a_dropped_wait_frees_its_place() {
        let locks = Arc::new(RangeLocks::default());
        let one = locks.shared(0..10).now_or_never().expect("free");
        let two = locks.shared(0..10).now_or_never().expect("shared");
        let mut writer = locks.exclusive(0..1);
        assert!((&mut writer).now_or_never().is_none());
        let mut reader = locks.shared(0..1);
        assert!(
            (&mut reader).now_or_never().is_none(),
            "the writer asked first"
        );
        drop(writer);
        drop(reader.now_or_never().expect("nobody before it writes"));
        drop((one, two));
    }
}
