//! The requests of one ring that the device has not answered yet.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;
use weft_block::{Completion, LocalBoxFuture};
use weft_virtio::blk::Reply;

/// A fixed number of places for requests in flight. A request that is answered at once takes none for longer than
/// its first poll; no request takes a task or, beyond what its device makes, an allocation.
pub(super) struct Flights {
    slots: Vec<Slot>,
    free: Vec<usize>,
    ready: Arc<Ready>,
    /// Places to look at, taken from `ready`.
    due: Vec<u64>,
}

struct Slot {
    waker: Waker,
    flight: Option<(LocalBoxFuture<'static, Completion>, Reply)>,
}

/// Which places were woken: one bit each.
#[derive(Debug)]
pub(super) struct Ready {
    words: Vec<AtomicU64>,
    parent: AtomicWaker,
}

impl Ready {
    /// Wakes the task that owns the flights.
    pub(super) fn wake(&self) {
        self.parent.wake();
    }
}

struct SlotWaker {
    index: usize,
    ready: Arc<Ready>,
}

impl Wake for SlotWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Release: what the waker's thread did is seen by the poll that follows.
        let word = &self.ready.words[self.index / 64];
        let before = word.fetch_or(1 << (self.index % 64), Ordering::Release);
        if before == 0 {
            self.ready.parent.wake();
        }
    }
}

impl Flights {
    /// Places for `limit` requests.
    pub(super) fn new(limit: usize) -> Self {
        let words = limit.div_ceil(64);
        let ready = Arc::new(Ready {
            words: std::iter::repeat_with(AtomicU64::default)
                .take(words)
                .collect(),
            parent: AtomicWaker::new(),
        });
        let slots = (0..limit)
            .map(|index| Slot {
                waker: Waker::from(Arc::new(SlotWaker {
                    index,
                    ready: ready.clone(),
                })),
                flight: None,
            })
            .collect();
        Self {
            slots,
            free: (0..limit).rev().collect(),
            ready,
            due: vec![0; words],
        }
    }

    /// Whether no request is in flight.
    pub(super) fn is_empty(&self) -> bool {
        self.free.len() == self.slots.len()
    }

    /// Whether no more can start.
    pub(super) fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    /// To wake the owner from elsewhere.
    pub(super) fn ready(&self) -> Arc<Ready> {
        self.ready.clone()
    }

    /// The task that is to be woken when a request is answered.
    pub(super) fn register(&self, waker: &Waker) {
        self.ready.parent.register(waker);
    }

    /// Waits for `future` from now on; its completion, if it is there already.
    ///
    /// # Panics
    /// If all places are taken.
    pub(super) fn start(
        &mut self,
        mut future: LocalBoxFuture<'static, Completion>,
        reply: Reply,
    ) -> Option<(Completion, Reply)> {
        let index = *self.free.last().expect("the caller asked for a free place");
        let slot = &mut self.slots[index];
        let mut context = Context::from_waker(&slot.waker);
        match future.as_mut().poll(&mut context) {
            Poll::Ready(completion) => Some((completion, reply)),
            Poll::Pending => {
                slot.flight = Some((future, reply));
                self.free.pop();
                None
            }
        }
    }

    /// The next request that was answered.
    pub(super) fn landed(&mut self) -> Option<(Completion, Reply)> {
        for (due, word) in self.due.iter_mut().zip(&self.ready.words) {
            if word.load(Ordering::Relaxed) != 0 {
                *due |= word.swap(0, Ordering::Acquire);
            }
        }
        for word in 0..self.due.len() {
            while self.due[word] != 0 {
                let bit = self.due[word].trailing_zeros() as usize;
                self.due[word] &= self.due[word] - 1;
                if let Some(done) = self.poll(64 * word + bit) {
                    return Some(done);
                }
            }
        }
        None
    }

    fn poll(&mut self, index: usize) -> Option<(Completion, Reply)> {
        let slot = &mut self.slots[index];
        // A place that was emptied since it was woken has nothing to say.
        let (future, _) = slot.flight.as_mut()?;
        let mut context = Context::from_waker(&slot.waker);
        let Poll::Ready(completion) = future.as_mut().poll(&mut context) else {
            return None;
        };
        let (_, reply) = slot.flight.take()?;
        self.free.push(index);
        Some((completion, reply))
    }
}

/// A device's queue, shared by the rings that its thread serves.
pub(super) type SharedQueue = Rc<dyn weft_block::BlockQueue>;
