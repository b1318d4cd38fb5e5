//! The in-flight region of a split ring: which chains were popped and not yet used, in memory that outlives us.
//!
//! The front end keeps the region while a backend dies and another takes its place. What a killed process had stored
//! in program order is there, so the order of stores below is the protocol: each is a *release* store, which keeps
//! the compiler (and the processor, for a reader on another one) from moving it before the stores above it.
//!
//! Popping marks a chain (`inflight = 1`); using one links it into a batch, moves the used index, unmarks the batch
//! and notes the index (`used_idx`). A death between the last three steps shows as `used_idx` lagging behind the
//! ring's, and the batch list says which marks are stale.
//!
//! Source: vhost-user protocol, "Inflight I/O tracking", `QueueRegionSplit` and `DescStateSplit`.

use std::collections::VecDeque;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU64, Ordering};

use vm_memory::MmapRegion;

use super::QueueError;

/// `struct QueueRegionSplit` without its array: features (8), version (2), desc_num (2), last_batch_head (2),
/// used_idx (2).
const HEADER: usize = 16;
/// `struct DescStateSplit`: inflight (1), padding (5), next (2), counter (8).
const ENTRY: usize = 16;
/// The layout's version; zero in fresh memory.
const VERSION: u16 = 1;
/// Each queue's part starts at a multiple of this.
const ALIGNMENT: usize = 64;

/// Bytes of the region from one queue's part to the next, for queues of `queue_size` descriptors.
pub fn in_flight_stride(queue_size: u16) -> usize {
    (HEADER + ENTRY * usize::from(queue_size)).next_multiple_of(ALIGNMENT)
}

/// One queue's part of the in-flight region. All it holds is hostile: the front end can write it too.
#[derive(Debug)]
pub struct InFlightRegion {
    start: NonNull<u8>,
    /// Entries, at most what the memory holds.
    capacity: u16,
    _mapping: Arc<MmapRegion>,
    /// The order of the next pop.
    counter: u64,
    /// Pushed and not published: linked into the batch list, oldest first.
    batch: Vec<u16>,
    was_used: bool,
}

impl InFlightRegion {
    /// The part at `offset` of `mapping`, for a queue of up to `queue_size` descriptors.
    ///
    /// # Errors
    /// If it does not lie there, aligned to 8.
    pub fn new(
        mapping: Arc<MmapRegion>,
        offset: usize,
        queue_size: u16,
    ) -> Result<Self, QueueError> {
        let end = offset.checked_add(in_flight_stride(queue_size));
        if end.is_none_or(|end| end > mapping.size()) || !offset.is_multiple_of(8) {
            return Err(QueueError::BadInFlight("it is shorter than its queues"));
        }
        // SAFETY: the offset lies in the mapping.
        let start = NonNull::new(unsafe { mapping.as_ptr().add(offset) });
        Ok(Self {
            start: start.ok_or(QueueError::BadInFlight("it is not mapped"))?,
            capacity: queue_size,
            _mapping: mapping,
            counter: 0,
            batch: Vec::new(),
            was_used: false,
        })
    }

    /// Whether a predecessor had used the region, so that it knows more than the front end does.
    pub(super) fn was_used(&self) -> bool {
        self.was_used
    }

    /// Prepares the region for a queue of `size` descriptors whose used index is `used`; the heads that a predecessor
    /// left unfinished, in the order in which they were popped.
    pub(super) fn recover(&mut self, size: u16, used: u16) -> Result<VecDeque<u16>, QueueError> {
        if size > self.capacity {
            return Err(QueueError::BadInFlight(
                "it has fewer entries than the queue",
            ));
        }
        let last_batch = used.wrapping_sub(self.used_idx().load(Ordering::Acquire));
        let fresh = self.version().load(Ordering::Acquire) != VERSION
            || self.desc_num().load(Ordering::Acquire) != size
            // No death explains more than one batch of difference: the ring was reset meanwhile.
            || last_batch > size;
        if fresh {
            self.initialise(size, used);
            return Ok(VecDeque::new());
        }
        self.was_used = true;
        let mut head = self.last_batch_head().load(Ordering::Acquire);
        for _ in 0..last_batch {
            if head >= size {
                return Err(QueueError::BadInFlight("its batch list leaves the queue"));
            }
            self.inflight(head).store(0, Ordering::Release);
            head = self.next(head).load(Ordering::Acquire);
        }
        self.used_idx().store(used, Ordering::Release);
        let mut unfinished: Vec<(u64, u16)> = (0..size)
            .filter(|&head| self.inflight(head).load(Ordering::Acquire) != 0)
            .map(|head| (self.order(head).load(Ordering::Acquire), head))
            .collect();
        unfinished.sort_unstable();
        self.counter = unfinished
            .last()
            .map_or(0, |&(order, _)| order.wrapping_add(1));
        Ok(unfinished.into_iter().map(|(_, head)| head).collect())
    }

    fn initialise(&mut self, size: u16, used: u16) {
        // The version last: a region that has one is whole.
        self.version().store(0, Ordering::Release);
        for head in 0..size {
            self.inflight(head).store(0, Ordering::Release);
        }
        self.last_batch_head().store(0, Ordering::Release);
        self.used_idx().store(used, Ordering::Release);
        self.desc_num().store(size, Ordering::Release);
        self.version().store(VERSION, Ordering::Release);
    }

    /// The chain at `head` was popped.
    pub(super) fn begin(&mut self, head: u16) {
        self.order(head).store(self.counter, Ordering::Release);
        self.counter = self.counter.wrapping_add(1);
        self.inflight(head).store(1, Ordering::Release);
    }

    /// The chain at `head` was pushed, not yet published.
    pub(super) fn batch(&mut self, head: u16) {
        let last = self.last_batch_head().load(Ordering::Relaxed);
        self.next(head).store(last, Ordering::Release);
        self.last_batch_head().store(head, Ordering::Release);
        self.batch.push(head);
    }

    /// What was pushed is published: the ring's used index is now `used`.
    pub(super) fn published(&mut self, used: u16) {
        let mut batch = std::mem::take(&mut self.batch);
        for &head in &batch {
            self.inflight(head).store(0, Ordering::Release);
        }
        batch.clear();
        self.batch = batch;
        self.used_idx().store(used, Ordering::Release);
    }

    fn version(&self) -> &AtomicU16 {
        self.field(8)
    }

    fn desc_num(&self) -> &AtomicU16 {
        self.field(10)
    }

    fn last_batch_head(&self) -> &AtomicU16 {
        self.field(12)
    }

    fn used_idx(&self) -> &AtomicU16 {
        self.field(14)
    }

    fn next(&self, head: u16) -> &AtomicU16 {
        self.field(self.entry(head) + 6)
    }

    fn inflight(&self, head: u16) -> &AtomicU8 {
        // SAFETY: the entry lies in the region, see `entry`.
        unsafe { AtomicU8::from_ptr(self.start.as_ptr().add(self.entry(head))) }
    }

    fn order(&self, head: u16) -> &AtomicU64 {
        // SAFETY: the entry lies in the region, and its counter is aligned to 8 as `start` is.
        unsafe { AtomicU64::from_ptr(self.start.as_ptr().add(self.entry(head) + 8).cast()) }
    }

    fn field(&self, offset: usize) -> &AtomicU16 {
        // SAFETY: callers give aligned offsets of 16-bit fields inside the region.
        unsafe { AtomicU16::from_ptr(self.start.as_ptr().add(offset).cast()) }
    }

    /// Offset of an entry, inside the region.
    fn entry(&self, head: u16) -> usize {
        assert!(head < self.capacity, "heads are checked by the queue");
        HEADER + ENTRY * usize::from(head)
    }
}
