//! The queue over a file.

use std::future::ready;
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use futures_util::FutureExt;
use nix::errno::Errno;
use nix::unistd::{Whence, lseek64};
use weft_block::{
    BlockQueue, Completion, Error, Extent, ExtentKind, IoVec, LocalBoxFuture, Op, Request, Result,
};

use super::cached::Cached;
use super::errors::kind_of;
use super::job::Job;
use super::open::{Kind, OpenFile};
use super::ring_job::RingJob;
use super::sync_job;
use crate::offload::offload;
use crate::reactor::Ring;

/// How a queue's requests reach the kernel.
pub(super) enum Way {
    /// Plain system calls.
    Sync,
    /// The ring.
    Ring(Rc<Ring>),
    /// The page cache, and the ring for what it leaves.
    Cached(Rc<Ring>, Cached),
}

pub(super) struct FileQueue {
    file: Arc<OpenFile>,
    way: Way,
}

impl FileQueue {
    pub(super) fn new(file: Arc<OpenFile>, way: Way) -> Self {
        Self { file, way }
    }
}

fn run_now(mut job: Job) -> LocalBoxFuture<'static, Completion> {
    sync_job::run(&mut job);
    Box::pin(ready(job.completion()))
}

fn run_in(ring: &Rc<Ring>, job: Job) -> LocalBoxFuture<'static, Completion> {
    if job.is_done() {
        return Box::pin(ready(job.completion()));
    }
    let started = ring.start(RingJob::new(job));
    Box::pin(started.map(|operation| operation.into_job().completion()))
}

/// Discards on a block device: the ring has no operation for it before Linux 6.12.
fn run_beside(job: Job) -> LocalBoxFuture<'static, Completion> {
    let (file, call) = (job.file.clone(), job.call());
    let answer = offload(move || sync_job::perform(&file, &IoVec::empty(), call));
    Box::pin(answer.map(|result| {
        let mut job = job;
        let gone = |_| Err(io::Error::other("the thread that discards panicked"));
        job.returned(result.unwrap_or_else(gone));
        job.completion()
    }))
}

impl BlockQueue for FileQueue {
    fn submit(&self, request: Request) -> LocalBoxFuture<'static, Completion> {
        if let Err(error) = request.check(&self.file.info()) {
            return Box::pin(ready(request.failed(error)));
        }
        let start = |request| Job::new(self.file.clone(), request);
        let discards_blocks = request.op == Op::Discard && self.file.kind == Kind::Block;
        match &self.way {
            Way::Sync => run_now(start(request)),
            _ if discards_blocks && request.len > 0 => run_beside(start(request)),
            // The page cache would still answer on a thread whose executor has ended.
            Way::Cached(ring, cached) if !ring.is_closed() => {
                let done = match request.op {
                    Op::Read => Cached::read(&self.file, &request),
                    Op::Write { fua: false } => cached.write(&self.file, &request),
                    _ => return run_in(ring, start(request)),
                };
                if done as u64 == request.len {
                    return Box::pin(ready(request.done()));
                }
                let mut job = start(request);
                job.skip(done);
                run_in(ring, job)
            }
            Way::Ring(ring) | Way::Cached(ring, _) => run_in(ring, start(request)),
        }
    }

    fn extents(&self, offset: u64, len: u64) -> LocalBoxFuture<'static, Result<Vec<Extent>>> {
        let answer =
            check_range(&self.file, offset, len).and_then(|()| extents(&self.file, offset, len));
        Box::pin(ready(answer))
    }
}

/// The most extents that one call tells.
const MAX_EXTENTS: usize = 1024;

fn check_range(file: &OpenFile, offset: u64, len: u64) -> Result<()> {
    let mut as_read = Request::flush();
    (as_read.op, as_read.offset, as_read.len) = (Op::Read, offset, len);
    as_read.check(&file.info())
}

/// Walks the range from hole to data to hole.
fn extents(file: &OpenFile, offset: u64, len: u64) -> Result<Vec<Extent>> {
    let end = offset + len;
    let mut found = Vec::new();
    let mut at = offset;
    while at < end && found.len() < MAX_EXTENTS {
        let (kind, next) = extent_at(file, at, end).map_err(|error| {
            let sentence = format!("the extents of {} cannot be read", file.path.display());
            Error::new(kind_of(&error), sentence).with_source(error)
        })?;
        found.push(Extent {
            offset: at,
            len: next - at,
            kind,
        });
        at = next;
    }
    Ok(found)
}

/// What is at `at`, and where it ends, at most at `end`.
fn extent_at(file: &OpenFile, at: u64, end: u64) -> io::Result<(ExtentKind, u64)> {
    if file.kind == Kind::Block {
        return Ok((ExtentKind::Data, end));
    }
    let seek = |whence| lseek64(&file.file, at as i64, whence).map(|found| found as u64);
    match seek(Whence::SeekData) {
        Ok(data) if data > at => Ok((ExtentKind::Hole, data.min(end))),
        Ok(_) => Ok((ExtentKind::Data, seek(Whence::SeekHole)?.min(end))),
        // No data up to the end of the file.
        Err(Errno::ENXIO) => Ok((ExtentKind::Hole, end)),
        Err(Errno::EINVAL) => Ok((ExtentKind::Data, end)),
        Err(error) => Err(error.into()),
    }
}
