//! Counters of a backend: written on its shard, read from anywhere.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A counter with one writer.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Adds `count`. On the writer's thread only: no read-modify-write, which would cost more than all else here.
    pub(crate) fn add(&self, count: u64) {
        let value = self.0.load(Ordering::Relaxed);
        self.0.store(value.wrapping_add(count), Ordering::Relaxed);
    }

    pub(crate) fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a backend counts, over all its rings and front ends.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) connected: AtomicBool,
    pub(crate) connections: Counter,
    pub(crate) broken_rings: Counter,
    pub(crate) kicks: Counter,
    pub(crate) interrupts: Counter,
    pub(crate) reads: Counter,
    pub(crate) read_bytes: Counter,
    pub(crate) writes: Counter,
    pub(crate) written_bytes: Counter,
    pub(crate) flushes: Counter,
    pub(crate) discards: Counter,
    pub(crate) errors: Counter,
    pub(crate) dropped: Counter,
}

/// What a backend did since it was started. Of a disk, reads and writes are requests; of a NIC, reads are frames to
/// the guest and writes frames from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Statistics {
    /// Whether a front end is connected.
    pub connected: bool,
    /// Front ends that have connected so far.
    pub connections: u64,
    /// Rings that ended because their guest broke them.
    pub broken_rings: u64,
    /// Notifications from the guest.
    pub kicks: u64,
    /// Notifications to the guest.
    pub interrupts: u64,
    /// Reads, or frames to the guest.
    pub reads: u64,
    /// Their bytes.
    pub read_bytes: u64,
    /// Writes, or frames from the guest.
    pub writes: u64,
    /// Their bytes.
    pub written_bytes: u64,
    /// Flushes.
    pub flushes: u64,
    /// Discards and write-zeroes.
    pub discards: u64,
    /// Requests that the device failed.
    pub errors: u64,
    /// Frames that were dropped.
    pub dropped: u64,
}

impl Counters {
    pub(crate) fn read(&self) -> Statistics {
        Statistics {
            connected: self.connected.load(Ordering::Relaxed),
            connections: self.connections.value(),
            broken_rings: self.broken_rings.value(),
            kicks: self.kicks.value(),
            interrupts: self.interrupts.value(),
            reads: self.reads.value(),
            read_bytes: self.read_bytes.value(),
            writes: self.writes.value(),
            written_bytes: self.written_bytes.value(),
            flushes: self.flushes.value(),
            discards: self.discards.value(),
            errors: self.errors.value(),
            dropped: self.dropped.value(),
        }
    }
}
