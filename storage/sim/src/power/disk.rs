//! A disk that loses what it has not made durable when its power is cut.

use std::sync::{Arc, Mutex};

use weft_block::{
    BlockDevice, BlockQueue, Completion, Error, ErrorKind, Info, LocalBoxFuture, Op, Request,
    Result, Spawner, detached,
};

use super::cache::{Cache, Horizon};
use super::{PowerSupply, lock};
use crate::{SparseImage, yield_now};

/// A disk with a volatile cache on a [`PowerSupply`]. It keeps the block contract and not an inch more: a flush makes
/// durable only what it must, and requests complete in any order. Clones are the same disk.
#[derive(Clone)]
pub struct PowerCut {
    cache: Arc<Mutex<Cache>>,
    supply: PowerSupply,
}

impl PowerCut {
    /// A zeroed disk that is what `info` says. Without `volatile_cache` it completes only what is durable.
    pub fn new(supply: &PowerSupply, info: Info) -> Self {
        Self::with_image(supply, info, SparseImage::default())
    }

    /// A disk that holds `image` durably.
    pub fn with_image(supply: &PowerSupply, info: Info, image: SparseImage) -> Self {
        let cache = Arc::new(Mutex::new(Cache::new(info, image)));
        supply.add(&cache);
        Self {
            cache,
            supply: supply.clone(),
        }
    }

    /// What is durable on it.
    pub fn image(&self) -> SparseImage {
        lock(&self.cache).durable().clone()
    }

    /// Reads durable bytes behind the queues' back, torn sectors as they were before.
    pub fn peek(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        lock(&self.cache).durable().read(offset, &mut bytes);
        bytes
    }

    /// Writes bytes durably behind the queues' back.
    pub fn poke(&self, offset: u64, bytes: &[u8]) {
        lock(&self.cache).poke(offset, bytes);
    }
}

impl BlockDevice for PowerCut {
    fn info(&self) -> Info {
        lock(&self.cache).info.clone()
    }

    fn open(&self, spawner: &Spawner) -> Result<Box<dyn BlockQueue>> {
        let Some(generation) = self.supply.generation() else {
            return Err(no_power());
        };
        Ok(Box::new(Queue {
            live: Live {
                disk: self.clone(),
                generation,
            },
            spawner: spawner.clone(),
        }))
    }

    fn set_len(&self, size: u64) -> Result<()> {
        if self.supply.generation().is_none() {
            return Err(no_power());
        }
        let info = Info {
            size,
            ..self.info()
        };
        Request::write_zeroes(size, 0, false).check(&info)?;
        self.supply.step();
        lock(&self.cache).set_len(size);
        Ok(())
    }
}

struct Queue {
    live: Live,
    spawner: Spawner,
}

/// The disk as a queue of one power-on sees it.
#[derive(Clone)]
struct Live {
    disk: PowerCut,
    generation: u64,
}

/// What is left to do when a request completes.
enum Ending {
    Nothing,
    Write {
        id: u64,
        durable: bool,
    },
    /// And the size that it makes durable.
    Flush(Horizon, u64),
}

impl BlockQueue for Queue {
    fn submit(&self, mut request: Request) -> LocalBoxFuture<'static, Completion> {
        let begun = self.live.begin(&mut request);
        let ending = match begun {
            Ok(ending) => ending,
            Err(error) => return Box::pin(std::future::ready(request.failed(error))),
        };
        let live = self.live.clone();
        let turns = live.disk.supply.choose(4);
        detached(&self.spawner, async move {
            for _ in 0..turns {
                yield_now().await;
            }
            match live.end(&request, ending) {
                Ok(()) => request.done(),
                Err(error) => request.failed(error),
            }
        })
    }
}

impl Live {
    /// Lets a request take effect in the cache.
    fn begin(&self, request: &mut Request) -> Result<Ending> {
        let supply = &self.disk.supply;
        self.check_power()?;
        let info = lock(&self.disk.cache).info.clone();
        request.check(&info)?;
        if request.op != Op::Read {
            supply.step();
        }
        // A hint: by chance it is taken or ignored.
        let ignored = request.op == Op::Discard && supply.choose(2) == 0;
        let mut cache = lock(&self.disk.cache);
        let (offset, len) = (request.offset, request.len);
        let through = !info.volatile_cache;
        let ending = match request.op {
            Op::Read => {
                cache.read(offset, &mut request.buffer)?;
                Ending::Nothing
            }
            Op::Write { fua } => Ending::Write {
                id: cache.write(offset, len, Some(&request.buffer)),
                durable: fua || through,
            },
            Op::WriteZeroes { fua, .. } => Ending::Write {
                id: cache.write(offset, len, None),
                durable: fua || through,
            },
            Op::Discard if ignored => Ending::Nothing,
            Op::Discard => Ending::Write {
                id: cache.write(offset, len, None),
                durable: through,
            },
            Op::Flush => Ending::Flush(cache.horizon(), cache.info.size),
        };
        Ok(ending)
    }

    /// Completes it, unless the power went in between.
    fn end(&self, request: &Request, ending: Ending) -> Result<()> {
        self.check_power()?;
        let mut cache = lock(&self.disk.cache);
        match ending {
            Ending::Nothing => {}
            Ending::Write { id, durable } => {
                cache.complete(request.offset, request.len, id, durable);
            }
            Ending::Flush(horizon, size) => cache.flush(&horizon, size),
        }
        Ok(())
    }

    fn check_power(&self) -> Result<()> {
        if self.disk.supply.is_alive(self.generation) {
            return Ok(());
        }
        Err(no_power())
    }
}

fn no_power() -> Error {
    Error::new(ErrorKind::Offline, "the simulated disk has lost its power")
}
