//! The queue over a file.

use std::future::ready;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::FutureExt;
use nix::errno::Errno;
use nix::unistd::{Whence, lseek64};
use weft_block::{BlockQueue, Completion, Extent, ExtentKind, LocalBoxFuture, Op, Request, Result};

use super::errors::kind_of;
use super::job::Job;
use super::open::{Kind, OpenFile};
use super::ring_job::RingJob;
use super::sync_job;
use crate::reactor::Ring;

/// How a queue's requests reach the kernel.
pub(super) enum Way {
    /// Plain system calls.
    Sync,
    /// The ring.
    Ring(Rc<Ring>),
    /// Reads that must not wait, and the ring for what they leave.
    Cached(Rc<Ring>),
}

pub(super) struct FileQueue {
    file: Arc<OpenFile>,
    way: Way,
}

impl FileQueue {
    pub(super) fn new(file: Arc<OpenFile>, way: Way) -> Self {
        Self { file, way }
    }

    /// Reads what is in the page cache. Gives how many bytes of the request that were.
    fn read_cached(&self, request: &Request) -> usize {
        let no_wait = &self.file.refuses.no_wait;
        if no_wait.load(Ordering::Relaxed) {
            return 0;
        }
        match sync_job::read_cached(&self.file, request) {
            Ok(count) => count,
            Err(error) => {
                if error.raw_os_error() == Some(libc::EOPNOTSUPP) {
                    no_wait.store(true, Ordering::Relaxed);
                }
                // Whatever it is, the ring will tell.
                0
            }
        }
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

impl BlockQueue for FileQueue {
    fn submit(&self, request: Request) -> LocalBoxFuture<'static, Completion> {
        if let Err(error) = request.check(&self.file.info()) {
            return Box::pin(ready(request.failed(error)));
        }
        let ring = match &self.way {
            Way::Sync => return run_now(Job::new(self.file.clone(), request)),
            // The ring has no operation for it before Linux 6.12.
            _ if request.op == Op::Discard && self.file.kind == Kind::Block => {
                return run_now(Job::new(self.file.clone(), request));
            }
            Way::Cached(ring) if request.op == Op::Read && request.len > 0 => {
                let count = self.read_cached(&request);
                if count as u64 == request.len {
                    return Box::pin(ready(request.done()));
                }
                let mut job = Job::new(self.file.clone(), request);
                job.skip(count);
                return run_in(ring, job);
            }
            Way::Ring(ring) | Way::Cached(ring) => ring,
        };
        run_in(ring, Job::new(self.file.clone(), request))
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
            weft_block::Error::new(kind_of(&error), sentence).with_source(error)
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
