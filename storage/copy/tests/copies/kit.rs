//! What the tests of copies share.

use std::sync::Arc;
use std::time::Duration;

use weft_block::{
    BlockDevice, BlockQueue, Completion, Info, LocalBoxFuture, Op, Request, Result, Spawner,
};
use weft_sim::{Delays, Executor, MemoryDevice, Slow, Workload};

/// Bytes of the disks.
pub(crate) const SIZE: u64 = 1 << 20;

/// A disk that holds something everywhere but in its middle.
pub(crate) fn disk() -> MemoryDevice {
    let disk = MemoryDevice::new(SIZE);
    let bytes: Vec<u8> = (0..SIZE / 4).map(|byte| (byte / 512) as u8 | 1).collect();
    disk.poke(0, &bytes);
    disk.poke(SIZE - SIZE / 4, &bytes);
    disk
}

/// The same disk, whose requests take their time.
pub(crate) fn slow(disk: &MemoryDevice, executor: &Executor, seed: u64) -> Arc<dyn BlockDevice> {
    let delays = Delays::up_to(Duration::from_millis(3));
    Arc::new(Slow::new(
        Arc::new(disk.clone()),
        &executor.clock(),
        seed,
        delays,
    ))
}

pub(crate) fn contents(disk: &MemoryDevice) -> Vec<u8> {
    disk.peek(0, SIZE as usize)
}

pub(crate) fn load(seed: u64, requests: usize) -> Workload {
    let mut load = Workload::new(seed, requests);
    load.max_blocks = 200;
    load
}

/// A disk that takes discards for hints, as it may.
pub(crate) struct Deaf(pub(crate) MemoryDevice);

impl BlockDevice for Deaf {
    fn info(&self) -> Info {
        self.0.info()
    }

    fn open(&self, spawner: &Spawner) -> Result<Box<dyn BlockQueue>> {
        Ok(Box::new(DeafQueue(self.0.open(spawner)?)))
    }
}

struct DeafQueue(Box<dyn BlockQueue>);

impl BlockQueue for DeafQueue {
    fn submit(&self, request: Request) -> LocalBoxFuture<'static, Completion> {
        match request.op {
            Op::Discard => Box::pin(std::future::ready(request.done())),
            _ => self.0.submit(request),
        }
    }
}
