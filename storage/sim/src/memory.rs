//! A well-behaved device in memory.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use weft_block::{
    BlockDevice, BlockQueue, Completion, Extent, Info, LocalBoxFuture, Op, Request, Result, Spawner,
};

use crate::SparseImage;

/// Extents in one answer.
const MAX_EXTENTS: usize = 128;

/// A sparse device of any size in memory. Requests take effect when they are submitted and complete at once.
#[derive(Debug, Clone)]
pub struct MemoryDevice {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    info: Info,
    image: SparseImage,
}

impl MemoryDevice {
    /// `size` bytes in blocks of 512, with discard and without a volatile cache.
    pub fn new(size: u64) -> Self {
        let mut info = Info::new(size, 512);
        info.volatile_cache = false;
        info.discard = true;
        info.fast_zeroes = true;
        Self::with_info(info)
    }

    /// A device that is what `info` says.
    pub fn with_info(info: Info) -> Self {
        let image = SparseImage::default();
        Self {
            state: Arc::new(Mutex::new(State { info, image })),
        }
    }

    /// Changes what the device is, its size among it; bytes beyond a smaller size are forgotten.
    pub fn set_info(&self, info: Info) {
        let mut state = self.lock();
        if info.size < state.info.size {
            state.image.truncate(info.size);
        }
        state.info = info;
    }

    /// Changes the size alone.
    pub fn resize(&self, size: u64) {
        let mut info = self.info();
        info.size = size;
        self.set_info(info);
    }

    /// Reads bytes behind the queues' back.
    pub fn peek(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.lock().image.read(offset, &mut bytes);
        bytes
    }

    /// Writes bytes behind the queues' back, read-only or not.
    pub fn poke(&self, offset: u64, bytes: &[u8]) {
        self.lock().image.write(offset, bytes);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn perform(&self, mut request: Request) -> Completion {
        let mut state = self.lock();
        if let Err(error) = request.check(&state.info) {
            return request.failed(error);
        }
        let (offset, len) = (request.offset, request.len);
        match request.op {
            Op::Read => state.image.read_vector(offset, &mut request.buffer),
            Op::Write { .. } => state.image.write_vector(offset, &request.buffer),
            Op::Flush => {}
            Op::Discard if !state.info.discard => {}
            Op::Discard => state.image.zero(offset, len, true),
            Op::WriteZeroes { unmap, .. } => {
                let unmap = unmap && state.info.discard;
                state.image.zero(offset, len, unmap);
            }
        }
        request.done()
    }
}

impl BlockDevice for MemoryDevice {
    fn info(&self) -> Info {
        self.lock().info.clone()
    }

    fn open(&self, _spawner: &Spawner) -> Result<Box<dyn BlockQueue>> {
        Ok(Box::new(Queue(self.clone())))
    }

    fn set_len(&self, size: u64) -> Result<()> {
        Request::discard(size, 0).check(&Info {
            size,
            ..self.info()
        })?;
        self.resize(size);
        Ok(())
    }
}

struct Queue(MemoryDevice);

impl BlockQueue for Queue {
    fn submit(&self, request: Request) -> LocalBoxFuture<'static, Completion> {
        let completion = self.0.perform(request);
        Box::pin(std::future::ready(completion))
    }

    fn extents(&self, offset: u64, len: u64) -> LocalBoxFuture<'static, Result<Vec<Extent>>> {
        let state = self.0.lock();
        let result = Request::discard(offset, len)
            .check(&Info {
                read_only: false,
                ..state.info.clone()
            })
            .map(|()| state.image.extents(offset, len, MAX_EXTENTS));
        Box::pin(std::future::ready(result))
    }
}
