//! A disk of a given speed.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use weft_block::{
    BlockDevice, BlockQueue, Completion, Info, IoVec, LocalBoxFuture, Op, Request, Result, Spawner,
};

/// How long the smallest request keeps the medium, and how much later it is answered.
const LEAST: Duration = Duration::from_micros(50);
const LATENCY: Duration = Duration::from_micros(80);

/// Requests have the medium one after the other, in the order in which they come, as on a disk that is asked for all of them
/// at once.
pub(crate) struct Disk {
    inner: Arc<dyn BlockDevice>,
    /// Bytes a second that the medium moves.
    rate: u64,
    /// When the medium has done all that was asked of it, in the executor's time.
    free: Arc<Mutex<Duration>>,
}

impl Disk {
    pub(crate) fn over(inner: Arc<dyn BlockDevice>, rate: u64) -> Self {
        Self {
            inner,
            rate,
            free: Arc::default(),
        }
    }
}

impl BlockDevice for Disk {
    fn info(&self) -> Info {
        self.inner.info()
    }

    fn open(&self, spawner: &Spawner) -> Result<Box<dyn BlockQueue>> {
        Ok(Box::new(Queue {
            inner: self.inner.open(spawner)?,
            rate: self.rate,
            free: Arc::clone(&self.free),
            spawner: Rc::clone(spawner),
        }))
    }
}

struct Queue {
    inner: Box<dyn BlockQueue>,
    rate: u64,
    free: Arc<Mutex<Duration>>,
    spawner: Spawner,
}

impl BlockQueue for Queue {
    fn submit(&self, request: Request) -> LocalBoxFuture<'static, Completion> {
        let takes = match request.op {
            Op::Read | Op::Write { .. } => LEAST.max(Duration::from_nanos(
                request.len * 1_000_000_000 / self.rate,
            )),
            _ => LEAST,
        };
        let now = self.spawner.now();
        let done = {
            let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
            *free = now.max(*free) + takes;
            *free + LATENCY
        };
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
