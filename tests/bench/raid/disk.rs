//! A disk of a given speed.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use weft_block::{
    BlockDevice, BlockQueue, Completion, Info, IoVec, LocalBoxFuture, Op, Request, Result, Spawner,
};
use weft_tests::data::Sequence;

/// How long the smallest request keeps the medium, and how much later it is answered.
const LEAST: Duration = Duration::from_micros(50);
const LATENCY: Duration = Duration::from_micros(80);

/// How fast a disk is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Speed {
    /// Bytes a second that the medium moves.
    rate: u64,
    /// How long the smallest request keeps the medium.
    least: Duration,
    /// How much later than the medium is done it is answered.
    latency: Duration,
    /// How long a flush keeps the medium.
    flush: Duration,
    /// FUA is a write and a flush, as for a file.
    fua_flushes: bool,
    /// One answer in so many comes as much later.
    late: Option<(u64, Duration)>,
}

impl Speed {
    /// A disk of 2 GB/s that takes so many microseconds.
    pub(crate) const fn new(least: u64, latency: u64, flush: u64) -> Self {
        Self {
            rate: 2_000_000_000,
            least: Duration::from_micros(least),
            latency: Duration::from_micros(latency),
            flush: Duration::from_micros(flush),
            fua_flushes: false,
            late: None,
        }
    }

    /// The same, where one answer in so many comes so many microseconds later.
    pub(crate) const fn with_late(self, one_in: u64, later: u64) -> Self {
        Self {
            late: Some((one_in, Duration::from_micros(later))),
            ..self
        }
    }

    /// The same, where FUA is a write and a flush.
    pub(crate) const fn with_fua_as_flush(self) -> Self {
        Self {
            fua_flushes: true,
            ..self
        }
    }
}

/// Requests have the medium one after the other, in the order in which they come, as on a disk that is asked for all of them
/// at once.
pub(crate) struct Disk {
    inner: Arc<dyn BlockDevice>,
    speed: Speed,
    /// When the medium has done all that was asked of it, in the executor's time.
    free: Arc<Mutex<Duration>>,
}

impl Disk {
    pub(crate) fn over(inner: Arc<dyn BlockDevice>, rate: u64) -> Self {
        let speed = Speed {
            rate,
            least: LEAST,
            latency: LATENCY,
            flush: LEAST,
            fua_flushes: false,
            late: None,
        };
        Self::of_speed(inner, speed)
    }

    pub(crate) fn of_speed(inner: Arc<dyn BlockDevice>, speed: Speed) -> Self {
        Self {
            inner,
            speed,
            free: Arc::default(),
        }
    }

    /// Another on the same medium.
    pub(crate) fn beside(&self, inner: Arc<dyn BlockDevice>) -> Self {
        Self {
            inner,
            speed: self.speed,
            free: Arc::clone(&self.free),
        }
    }
}

impl BlockDevice for Disk {
    fn info(&self) -> Info {
        Info {
            volatile_cache: true,
            ..self.inner.info()
        }
    }

    fn open(&self, spawner: &Spawner) -> Result<Box<dyn BlockQueue>> {
        Ok(Box::new(Queue {
            inner: self.inner.open(spawner)?,
            speed: self.speed,
            free: Arc::clone(&self.free),
            spawner: Rc::clone(spawner),
            sequence: RefCell::new(Sequence::new(1)),
        }))
    }
}

struct Queue {
    inner: Box<dyn BlockQueue>,
    speed: Speed,
    free: Arc<Mutex<Duration>>,
    spawner: Spawner,
    /// Says which answers are late.
    sequence: RefCell<Sequence>,
}

impl BlockQueue for Queue {
    fn submit(&self, request: Request) -> LocalBoxFuture<'static, Completion> {
        let speed = self.speed;
        let moved = Duration::from_nanos(request.len * 1_000_000_000 / speed.rate);
        let takes = match request.op {
            Op::Write { fua: true } if speed.fua_flushes => speed.least.max(moved) + speed.flush,
            Op::Read | Op::Write { .. } => speed.least.max(moved),
            Op::Flush => speed.flush,
            _ => speed.least,
        };
        let now = self.spawner.now();
        let done = {
            let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
            *free = now.max(*free) + takes;
            *free + speed.latency
        };
        let late = self
            .speed
            .late
            .filter(|(one_in, _)| self.sequence.borrow_mut().below(*one_in) == 0);
        let done = done + late.map_or(Duration::ZERO, |(_, later)| later);
        let (sent, spawner) = (self.inner.submit(request), Rc::clone(&self.spawner));
        Box::pin(async move {
            let completion = sent.await;
            spawner.sleep(done.saturating_sub(spawner.now())).await;
            completion
        })
    }
}

/// Bytes a second of one disk that is read from its beginning, four requests of 1 MiB at a time.
pub(crate) async fn sequential_rate(disk: &dyn BlockDevice, spawner: &Spawner) -> Result<f64> {
    const BLOCK: u64 = 1 << 20;
    let queue = disk.open(spawner)?;
    let begun = spawner.now();
    let blocks = disk.info().size / BLOCK;
    let mut sent: VecDeque<LocalBoxFuture<'static, Completion>> = VecDeque::new();
    for block in 0..blocks {
        if sent.len() == 4
            && let Some(oldest) = sent.pop_front()
        {
            oldest.await.result?;
        }
        let memory = IoVec::zeroed(BLOCK as usize);
        sent.push_back(queue.submit(Request::read(block * BLOCK, memory)));
    }
    for left in sent {
        left.await.result?;
    }
    let elapsed = spawner.now() - begun;
    Ok((blocks * BLOCK) as f64 / elapsed.as_secs_f64())
}
