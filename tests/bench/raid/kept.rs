//! A disk whose cache outlives a loss of power.

use std::sync::Arc;

use weft_block::{
    BlockDevice, BlockQueue, Completion, Info, LocalBoxFuture, Op, Request, Result, Spawner,
};

/// What such a disk has acknowledged is durable: it tells of no volatile cache, and flushes and FUA cost nothing.
pub(crate) struct Kept(pub(crate) Arc<dyn BlockDevice>);

struct Queue(Box<dyn BlockQueue>);

impl BlockDevice for Kept {
    fn info(&self) -> Info {
        let mut info = self.0.info();
        info.volatile_cache = false;
        info
    }

    fn open(&self, spawner: &Spawner) -> Result<Box<dyn BlockQueue>> {
        Ok(Box::new(Queue(self.0.open(spawner)?)))
    }
}

impl BlockQueue for Queue {
    fn submit(&self, mut request: Request) -> LocalBoxFuture<'static, Completion> {
        match request.op {
            Op::Flush => return Box::pin(std::future::ready(request.done())),
            Op::Write { .. } => request.op = Op::Write { fua: false },
            _ => {}
        }
        self.0.submit(request)
    }
}
