//! A device with the oracle in front.

use std::rc::Rc;
use std::sync::Arc;

use weft_block::{
    BlockDevice, BlockQueue, Completion, Extent, Info, LocalBoxFuture, Request, Result, Spawner,
    detached,
};

use super::Oracle;

pub(super) struct Watched {
    inner: Arc<dyn BlockDevice>,
    oracle: Oracle,
}

impl Watched {
    pub(super) fn new(inner: Arc<dyn BlockDevice>, oracle: Oracle) -> Self {
        Self { inner, oracle }
    }
}

impl BlockDevice for Watched {
    fn info(&self) -> Info {
        self.inner.info()
    }

    fn open(&self, spawner: &Spawner) -> Result<Box<dyn BlockQueue>> {
        Ok(Box::new(Queue {
            device: Arc::clone(&self.inner),
            inner: self.inner.open(spawner)?.into(),
            oracle: self.oracle.clone(),
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
    device: Arc<dyn BlockDevice>,
    inner: Rc<dyn BlockQueue>,
    oracle: Oracle,
    spawner: Spawner,
}

impl BlockQueue for Queue {
    fn submit(&self, request: Request) -> LocalBoxFuture<'static, Completion> {
        // A request that must be refused changes nothing, so the oracle need not know it.
        if request.check(&self.device.info()).is_err() {
            return self.inner.submit(request);
        }
        let begun = self.oracle.begin(&request);
        let below = self.inner.submit(request);
        let oracle = self.oracle.clone();
        detached(&self.spawner, async move {
            let completion = below.await;
            let kind = completion.result.as_ref().err().map(|error| error.kind());
            oracle.end(begun, kind, &completion.buffer);
            completion
        })
    }

    fn extents(&self, offset: u64, len: u64) -> LocalBoxFuture<'static, Result<Vec<Extent>>> {
        self.inner.extents(offset, len)
    }
}
