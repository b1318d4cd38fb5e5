//! A backend on a shard of its own, and devices for it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use weft_block::{
    BlockDevice, BlockQueue, Completion, Info, LocalBoxFuture, Request, Result, Spawner,
};
use weft_uring::{Shard, block_on, sleep, spawn};
use weft_vhost_client::{BlkDriver, Connection, ConnectionOptions, Done, Waiting};
use weft_vhost_user::{BlkBackend, BlkOptions, BlkServe, Served};

pub const BLOCK: u32 = 4096;
/// Longer than anything takes that works.
pub const LONG: Duration = Duration::from_secs(20);

pub struct Backend {
    pub folder: TempDir,
    pub shard: Shard,
    pub served: Option<Served>,
}

impl Backend {
    pub fn new(device: Arc<dyn BlockDevice>, queues: u16) -> Self {
        let mut backend = Self {
            folder: tempfile::tempdir().unwrap(),
            shard: Shard::start("attach").unwrap(),
            served: None,
        };
        backend.serve(device, queues);
        backend
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("disk.sock")
    }

    pub fn serve(&mut self, device: Arc<dyn BlockDevice>, queues: u16) {
        let options = BlkServe {
            model: BlkOptions {
                queues,
                serial: "weft-test".into(),
                ..BlkOptions::default()
            },
            ..BlkServe::default()
        };
        let shard = self.shard.handle();
        let serving = BlkBackend::serve(&shard, self.socket(), device, options);
        self.served = Some(block_on(serving).unwrap());
    }

    pub fn connect(&self, options: ConnectionOptions) -> Connection {
        Connection::open(&self.socket(), options).unwrap()
    }

    pub fn served(&self) -> &Served {
        self.served.as_ref().unwrap()
    }

    pub fn stop(&mut self) {
        block_on(self.served.take().unwrap().stop());
    }
}

pub fn driver(connection: &mut Connection, queue: usize, depth: usize) -> BlkDriver {
    let base = connection.data_start() + (queue as u64) * (8 << 20);
    BlkDriver::new(connection, queue, base, depth, BLOCK).unwrap()
}

pub fn finish(driver: &mut BlkDriver, waiting: Waiting) -> Done {
    assert!(driver.wait(waiting, LONG).unwrap(), "no completion came");
    driver.take().unwrap()
}

pub fn pattern(seed: usize) -> Vec<u8> {
    (0..BLOCK as usize)
        .map(|at| (at * 7 + seed * 13) as u8)
        .collect()
}

/// A device whose answers take a while, and come in the reverse order.
pub struct Stalling {
    inner: Arc<dyn BlockDevice>,
    longest: Duration,
}

impl Stalling {
    pub fn new(inner: impl BlockDevice + 'static, longest: Duration) -> Self {
        Self {
            inner: Arc::new(inner),
            longest,
        }
    }
}

impl BlockDevice for Stalling {
    fn info(&self) -> Info {
        self.inner.info()
    }

    fn open(&self, spawner: &Spawner) -> Result<Box<dyn BlockQueue>> {
        Ok(Box::new(StallingQueue {
            inner: self.inner.open(spawner)?.into(),
            longest: self.longest,
            submitted: std::cell::Cell::new(0),
        }))
    }
}

struct StallingQueue {
    inner: std::rc::Rc<dyn BlockQueue>,
    longest: Duration,
    submitted: std::cell::Cell<u32>,
}

impl BlockQueue for StallingQueue {
    fn submit(&self, request: Request) -> LocalBoxFuture<'static, Completion> {
        let number = self.submitted.get();
        self.submitted.set(number + 1);
        let delay = self.longest / (number % 8 + 1);
        let inner = self.inner.clone();
        let work = spawn(async move {
            sleep(delay).await;
            inner.submit(request).await
        });
        Box::pin(work)
    }
}
