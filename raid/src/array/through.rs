//! A member with a volatile cache in an array that has told its users that it has none: nobody flushes it, so each of its
//! writes is durable before it is answered.

use std::sync::Arc;

use weft_block::{
    BlockDevice, BlockQueue, Completion, Info, LocalBoxFuture, Op, Request, Result, Spawner,
};

/// A device whose writes are durable when they are answered.
struct Through(Arc<dyn BlockDevice>);

struct Queue(Box<dyn BlockQueue>);

/// `device`, as one without a volatile cache.
pub(crate) fn through(device: Arc<dyn BlockDevice>) -> Arc<dyn BlockDevice> {
    match device.info().volatile_cache {
        true => Arc::new(Through(device)),
        false => device,
    }
}

impl BlockDevice for Through {
    fn info(&self) -> Info {
        Info {
            volatile_cache: false,
            ..self.0.info()
        }
    }

    fn open(&self, spawner: &Spawner) -> Result<Box<dyn BlockQueue>> {
        Ok(Box::new(Queue(self.0.open(spawner)?)))
    }

    fn max_queues(&self) -> usize {
        self.0.max_queues()
    }
}

impl BlockQueue for Queue {
    fn submit(&self, mut request: Request) -> LocalBoxFuture<'static, Completion> {
        request.op = match request.op {
            Op::Write { .. } => Op::Write { fua: true },
            Op::WriteZeroes { unmap, .. } => Op::WriteZeroes { unmap, fua: true },
            other => other,
        };
        self.0.submit(request)
    }
}
