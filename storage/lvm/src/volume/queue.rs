//! The data path of a volume.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::future::join_all;
use weft_block::{
    BlockDevice, BlockQueue, Completion, Error, Extent, IoVec, LocalBoxFuture, Op, Request, Result,
    Spawner,
};

use super::{Map, Shared};

pub(super) struct Queue {
    shared: Arc<Shared>,
    spawner: Spawner,
    below: RefCell<Below>,
    _open: Arc<()>,
}

/// A map and the queues of its devices.
struct Below {
    version: u64,
    map: Arc<Map>,
    queues: Vec<Rc<dyn BlockQueue>>,
}

impl Queue {
    pub(super) fn open(shared: Arc<Shared>, spawner: &Spawner) -> Result<Self> {
        let version = shared.version.load(Ordering::Acquire);
        let map = Arc::clone(&shared.lock());
        let queues = open_all(&map, None, spawner)?;
        Ok(Self {
            _open: Arc::clone(&shared.open),
            shared,
            spawner: spawner.clone(),
            below: RefCell::new(Below {
                version,
                map,
                queues,
            }),
        })
    }

    /// Follows the volume if it has changed since the last request.
    fn refresh(&self) -> Result<()> {
        let version = self.shared.version.load(Ordering::Acquire);
        let below = &mut *self.below.borrow_mut();
        if below.version == version {
            return Ok(());
        }
        let map = Arc::clone(&self.shared.lock());
        below.queues = open_all(&map, Some(below), &self.spawner)?;
        below.map = map;
        below.version = version;
        Ok(())
    }

    fn start(&self, mut request: Request) -> LocalBoxFuture<'static, Completion> {
        if let Err(error) = self.refresh() {
            return ready(request.failed(error));
        }
        let Below { map, queues, .. } = &*self.below.borrow();
        if let Err(error) = request.check(&map.info) {
            return ready(request.failed(error));
        }
        if request.op == Op::Flush {
            return match &queues[..] {
                [only] => only.submit(request),
                all => flush(all, request),
            };
        }
        if request.len == 0 {
            return ready(request.done());
        }
        match map.direct(request.offset, request.len) {
            Some((device, offset)) => {
                request.offset = offset;
                queues[device].submit(request)
            }
            None => split(map, queues, request),
        }
    }
}

/// A queue for each device; those that `old` has open are used on.
fn open_all(map: &Map, old: Option<&Below>, spawner: &Spawner) -> Result<Vec<Rc<dyn BlockQueue>>> {
    let open = |device: &Arc<dyn BlockDevice>| {
        let same = old.and_then(|old| {
            let index = old
                .map
                .devices
                .iter()
                .position(|one| Arc::ptr_eq(one, device))?;
            Some(Rc::clone(&old.queues[index]))
        });
        match same {
            Some(queue) => Ok(queue),
            None => Ok(Rc::from(device.open(spawner)?)),
        }
    };
    map.devices.iter().map(open).collect()
}

fn flush(queues: &[Rc<dyn BlockQueue>], request: Request) -> LocalBoxFuture<'static, Completion> {
    let flushes: Vec<_> = queues
        .iter()
        .map(|queue| queue.submit(Request::flush()))
        .collect();
    together(flushes, request.buffer)
}

fn split(
    map: &Map,
    queues: &[Rc<dyn BlockQueue>],
    request: Request,
) -> LocalBoxFuture<'static, Completion> {
    let Request { op, buffer, .. } = request;
    let parts = map.split(request.offset, request.len);
    let started: Vec<_> = parts
        .into_iter()
        .map(|part| {
            let pieces = part.pieces.iter();
            let buffer = match buffer.is_empty() {
                true => IoVec::empty(),
                false => IoVec::join(
                    pieces.map(|&(place, len)| buffer.slice(place as usize, len as usize)),
                ),
            };
            queues[part.device].submit(Request {
                op,
                offset: part.offset,
                len: part.len,
                buffer,
            })
        })
        .collect();
    together(started, buffer)
}

/// Waits for all; the first error is the answer. Each part is on its way already, whoever waits.
fn together(
    started: Vec<LocalBoxFuture<'static, Completion>>,
    buffer: IoVec,
) -> LocalBoxFuture<'static, Completion> {
    Box::pin(async move {
        let done = join_all(started).await;
        let result = done.into_iter().try_for_each(|part| part.result);
        Completion { result, buffer }
    })
}

fn ready(completion: Completion) -> LocalBoxFuture<'static, Completion> {
    Box::pin(std::future::ready(completion))
}

impl BlockQueue for Queue {
    fn submit(&self, request: Request) -> LocalBoxFuture<'static, Completion> {
        self.start(request)
    }

    fn extents(&self, offset: u64, len: u64) -> LocalBoxFuture<'static, Result<Vec<Extent>>> {
        let failed = |error: Error| -> LocalBoxFuture<'static, Result<Vec<Extent>>> {
            Box::pin(std::future::ready(Err(error)))
        };
        if let Err(error) = self.refresh() {
            return failed(error);
        }
        let Below { map, queues, .. } = &*self.below.borrow();
        let mut read_only = map.info.clone();
        read_only.read_only = false;
        if let Err(error) = Request::discard(offset, len).check(&read_only) {
            return failed(error);
        }
        let Some((device, below, run)) = map.run(offset) else {
            return Box::pin(std::future::ready(Ok(Vec::new())));
        };
        let answer = queues[device].extents(below, len.min(run));
        Box::pin(async move {
            let mut extents = answer.await?;
            for extent in &mut extents {
                extent.offset = extent.offset - below + offset;
            }
            Ok(extents)
        })
    }
}
