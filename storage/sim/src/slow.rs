//! Devices that take their time.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use weft_block::{
    BlockDevice, BlockQueue, Completion, Extent, Info, LocalBoxFuture, Op, Request, Result,
    Spawner, detached,
};

use crate::Clock;

/// How long requests take, in virtual time; an empty range is no delay at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delays {
    /// Reads.
    pub read: Range<Duration>,
    /// Writes, discards and write-zeroes.
    pub write: Range<Duration>,
    /// Flushes.
    pub flush: Range<Duration>,
}

impl Delays {
    /// Every request takes between zero and `most`.
    pub fn up_to(most: Duration) -> Self {
        let range = Duration::ZERO..most;
        Self {
            read: range.clone(),
            write: range.clone(),
            flush: range,
        }
    }
}

/// A device whose requests take a random time and therefore complete out of order. Part of the time passes before the
/// device below sees the request, the rest after it answered.
pub struct Slow {
    inner: Arc<dyn BlockDevice>,
    shared: Arc<Shared>,
}

struct Shared {
    clock: Clock,
    state: Mutex<(Delays, ChaCha8Rng)>,
}

impl Slow {
    /// Delays what goes to `inner` by the time of `clock`.
    pub fn new(inner: Arc<dyn BlockDevice>, clock: &Clock, seed: u64, delays: Delays) -> Self {
        let state = Mutex::new((delays, ChaCha8Rng::seed_from_u64(seed)));
        let clock = clock.clone();
        Self {
            inner,
            shared: Arc::new(Shared { clock, state }),
        }
    }

    /// Changes the delays of requests that are submitted from now on.
    pub fn set_delays(&self, delays: Delays) {
        self.shared.lock().0 = delays;
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, (Delays, ChaCha8Rng)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time before and after the work below.
    fn delay(&self, op: Op) -> (Duration, Duration) {
        let (delays, random) = &mut *self.lock();
        let range = match op {
            Op::Read => delays.read.clone(),
            Op::Flush => delays.flush.clone(),
            Op::Write { .. } | Op::Discard | Op::WriteZeroes { .. } => delays.write.clone(),
        };
        if range.is_empty() {
            return (Duration::ZERO, Duration::ZERO);
        }
        let total = random.random_range(range);
        let before = total.mul_f64(random.random_range(0.0..=1.0));
        (before, total.saturating_sub(before))
    }
}

impl BlockDevice for Slow {
    fn info(&self) -> Info {
        self.inner.info()
    }

    fn open(&self, spawner: &Spawner) -> Result<Box<dyn BlockQueue>> {
        Ok(Box::new(Queue {
            inner: self.inner.open(spawner)?.into(),
            shared: Arc::clone(&self.shared),
            spawner: spawner.clone(),
        }))
    }

    fn max_queues(&self) -> usize {
        self.inner.max_queues()
    }

    fn set_len(&self, size: u64) -> Result<()> {
        self.inner.set_len(size)
    }
}

struct Queue {
    inner: std::rc::Rc<dyn BlockQueue>,
    shared: Arc<Shared>,
    spawner: Spawner,
}

impl BlockQueue for Queue {
    fn submit(&self, request: Request) -> LocalBoxFuture<'static, Completion> {
        let (before, after) = self.shared.delay(request.op);
        let (inner, clock) = (std::rc::Rc::clone(&self.inner), self.shared.clock.clone());
        detached(&self.spawner, async move {
            clock.sleep(before).await;
            let completion = inner.submit(request).await;
            clock.sleep(after).await;
            completion
        })
    }

    fn extents(&self, offset: u64, len: u64) -> LocalBoxFuture<'static, Result<Vec<Extent>>> {
        self.inner.extents(offset, len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Executor, MemoryDevice};
    use weft_block::IoVec;

    #[test]
    fn completions_come_out_of_order() {
        let executor = Executor::new(4);
        let memory = Arc::new(MemoryDevice::new(1 << 20));
        let delays = Delays::up_to(Duration::from_millis(10));
        let slow = Slow::new(memory, &executor.clock(), 4, delays);
        let queue = slow.open(&executor.spawner()).expect("opens");
        let order = std::cell::RefCell::new(Vec::new());
        executor.block_on(async {
            let reads = (0..16).map(|number| {
                let read = queue.submit(Request::read(0, IoVec::zeroed(512)));
                let order = &order;
                async move {
                    assert!(read.await.result.is_ok());
                    order.borrow_mut().push(number);
                }
            });
            futures_util::future::join_all(reads).await;
        });
        assert!(!order.borrow().is_sorted());
        assert!(executor.clock().now() > Duration::ZERO);
    }
}
