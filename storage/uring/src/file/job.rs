//! What a request asks of the kernel, step by step. Decides; waits for nothing and calls nothing.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use weft_block::{Completion, Error, ErrorKind, IoVec, Op, Request};

use super::errors::kind_of;
use super::open::{Kind, OpenFile};
use crate::reactor::Step;
use crate::sys::MAX_TRANSFER;

/// Zeroes written at a time where neither the file system nor the device can zero a range by itself.
const ZERO_CHUNK: u64 = 1 << 20;

/// One system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    /// Read at `offset` into the memory after its first `skip` bytes.
    Read { offset: u64, skip: usize },
    /// Write the memory after its first `skip` bytes at `offset`.
    Write {
        offset: u64,
        skip: usize,
        durable: bool,
    },
    /// `fallocate` of a range.
    Allocate { mode: i32, offset: u64, len: u64 },
    /// `BLKDISCARD` of a range.
    Discard { offset: u64, len: u64 },
    /// `fdatasync`.
    Sync,
}

/// Where a request is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Moving data; so many bytes are done.
    Move {
        done: u64,
    },
    /// Giving up the range, zeroing it in one of several ways.
    Discard,
    Punch,
    ZeroRange,
    /// Writing zeroes; so many bytes are done.
    WriteZeroes {
        done: u64,
    },
    Sync,
    Done,
}

/// A request on its way.
pub(super) struct Job {
    pub(super) file: Arc<OpenFile>,
    request: Request,
    /// Memory that the kernel moves data from or to where the request's own will not do.
    substitute: Option<IoVec>,
    phase: Phase,
    error: Option<Error>,
}

impl Job {
    /// Takes a request that was checked.
    pub(super) fn new(file: Arc<OpenFile>, request: Request) -> Self {
        let alignment = file.info().memory_alignment as usize;
        let misaligned = file.direct && !request.buffer.is_aligned(alignment);
        let refuses = |flag: &std::sync::atomic::AtomicBool| flag.load(Ordering::Relaxed);
        let phase = match request.op {
            Op::Flush if file.volatile => Phase::Done,
            Op::Flush => Phase::Sync,
            _ if request.len == 0 => Phase::Done,
            Op::Read | Op::Write { .. } => Phase::Move { done: 0 },
            Op::Discard if file.kind == Kind::Block => Phase::Discard,
            Op::Discard if refuses(&file.refuses.punch) => Phase::Done,
            Op::Discard => Phase::Punch,
            Op::WriteZeroes { unmap: true, .. } if !refuses(&file.refuses.punch) => Phase::Punch,
            Op::WriteZeroes { .. } if !refuses(&file.refuses.zero_range) => Phase::ZeroRange,
            Op::WriteZeroes { .. } => Phase::WriteZeroes { done: 0 },
        };
        let mut job = Self {
            file,
            request,
            substitute: None,
            phase,
            error: None,
        };
        job.prepare(misaligned);
        job
    }

    /// Makes the memory that the phase needs besides the request's own.
    fn prepare(&mut self, misaligned: bool) {
        self.substitute = match (self.phase, self.request.op) {
            (Phase::Move { .. }, Op::Write { .. }) if misaligned => {
                Some(self.request.buffer.to_buffer().into())
            }
            (Phase::Move { .. }, _) if misaligned => Some(IoVec::zeroed(self.request.buffer.len())),
            (Phase::WriteZeroes { .. }, _) => {
                Some(IoVec::zeroed(self.request.len.min(ZERO_CHUNK) as usize))
            }
            _ => None,
        };
    }

    /// Says that a read has its first `done` bytes already.
    pub(super) fn skip(&mut self, done: usize) {
        self.phase = Phase::Move { done: done as u64 };
    }

    pub(super) fn is_done(&self) -> bool {
        self.phase == Phase::Done
    }

    /// The memory that a read or write call is about.
    pub(super) fn memory(&self) -> &IoVec {
        self.substitute.as_ref().unwrap_or(&self.request.buffer)
    }

    /// Whether it must be on the medium when it is done.
    fn is_durable(&self) -> bool {
        let fua = matches!(
            self.request.op,
            Op::Write { fua: true } | Op::WriteZeroes { fua: true, .. }
        );
        fua && !self.file.volatile
    }

    /// The next call. Must not be asked for once the job is done.
    pub(super) fn call(&self) -> Call {
        let Request {
            op, offset, len, ..
        } = self.request;
        let durable = self.is_durable();
        match self.phase {
            Phase::Move { done } => {
                let (offset, skip) = (offset + done, done as usize);
                match op {
                    Op::Write { .. } => Call::Write {
                        offset,
                        skip,
                        durable,
                    },
                    _ => Call::Read { offset, skip },
                }
            }
            Phase::Discard => Call::Discard { offset, len },
            Phase::Punch => {
                let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                Call::Allocate { mode, offset, len }
            }
            Phase::ZeroRange => {
                let mode = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;
                Call::Allocate { mode, offset, len }
            }
            Phase::WriteZeroes { done } => {
                // The last chunk may be shorter: skip the head of the zeroes.
                let chunk = self.memory().len() as u64;
                let skip = chunk - chunk.min(len - done);
                let (offset, skip) = (offset + done, skip as usize);
                Call::Write {
                    offset,
                    skip,
                    durable,
                }
            }
            Phase::Sync => Call::Sync,
            Phase::Done => unreachable!("a job that is done asks for nothing"),
        }
    }

    /// Decides what the result of a call means.
    pub(super) fn returned(&mut self, result: io::Result<usize>) -> Step {
        self.phase = match result {
            Ok(count) => self.succeeded(count as u64),
            Err(error) if is_transient(&error) => self.phase,
            Err(error) => self.refused(error),
        };
        if matches!(self.phase, Phase::WriteZeroes { done: 0 }) && self.substitute.is_none() {
            self.prepare(false);
        }
        if self.phase == Phase::Done {
            Step::Done
        } else {
            Step::Again
        }
    }

    fn succeeded(&mut self, count: u64) -> Phase {
        match self.phase {
            Phase::Move { done } if self.ends_within_block(done, count) => {
                let rest = self.request.len - done - count;
                let memory = self.substitute.as_mut().unwrap_or(&mut self.request.buffer);
                memory.fill((done + count) as usize, rest as usize, 0);
                Phase::Done
            }
            Phase::Move { .. } | Phase::WriteZeroes { .. } if count == 0 => {
                let sentence = format!("{} ends before the device does", self.file.path.display());
                self.fail(Error::new(ErrorKind::Io, sentence))
            }
            Phase::Move { done } if done + count < self.request.len => {
                Phase::Move { done: done + count }
            }
            Phase::WriteZeroes { done } if done + count < self.request.len => {
                Phase::WriteZeroes { done: done + count }
            }
            Phase::Punch | Phase::ZeroRange if self.is_durable() => Phase::Sync,
            _ => Phase::Done,
        }
    }

    /// Whether a read has come to the end of a file whose last block goes on with zeroes.
    fn ends_within_block(&self, done: u64, count: u64) -> bool {
        let block = u64::from(self.file.info().logical_block);
        let rest = self.request.len - done - count;
        // Direct reads end within a block at the end of a file alone, and cannot be taken up there.
        let ended = count == 0 || self.file.direct && !(done + count).is_multiple_of(block);
        self.file.fill_last_block
            && self.request.op == Op::Read
            && ended
            && (1..block).contains(&rest)
    }

    /// Goes on to the next way of doing it, if there is one.
    fn refused(&mut self, error: io::Error) -> Phase {
        let unsupported = matches!(
            error.raw_os_error(),
            Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::ENOTTY | libc::EINVAL)
        );
        let refuses = &self.file.refuses;
        match (self.phase, self.request.op) {
            // A hint that cannot be taken is taken.
            (Phase::Discard, _) if unsupported => Phase::Done,
            (Phase::Punch, op) if unsupported => {
                refuses.punch.store(true, Ordering::Relaxed);
                match op {
                    Op::Discard => Phase::Done,
                    _ if refuses.zero_range.load(Ordering::Relaxed) => {
                        Phase::WriteZeroes { done: 0 }
                    }
                    _ => Phase::ZeroRange,
                }
            }
            (Phase::ZeroRange, _) if unsupported => {
                refuses.zero_range.store(true, Ordering::Relaxed);
                Phase::WriteZeroes { done: 0 }
            }
            _ => {
                let sentence = self.sentence();
                self.fail(Error::new(kind_of(&error), sentence).with_source(error))
            }
        }
    }

    fn fail(&mut self, error: Error) -> Phase {
        self.error = Some(error);
        Phase::Done
    }

    fn sentence(&self) -> String {
        let Request {
            op, offset, len, ..
        } = self.request;
        let path = self.file.path.display();
        let doing = match op {
            Op::Flush => return format!("{path} cannot be flushed"),
            Op::Read => "read",
            Op::Write { .. } => "written",
            Op::Discard => "discarded",
            Op::WriteZeroes { .. } => "zeroed",
        };
        format!("{len} bytes at {offset} of {path} cannot be {doing}")
    }

    /// The answer, once the job is done.
    pub(super) fn completion(self) -> Completion {
        let Self {
            mut request,
            substitute,
            error,
            ..
        } = self;
        if let Some(error) = error {
            return request.failed(error);
        }
        if let (Op::Read, Some(substitute)) = (request.op, substitute) {
            request.buffer.copy_in(0, &substitute.into_buffer());
        }
        request.done()
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN))
}

// A transfer of a whole number of blocks stays one when it is cut into calls.
const _: () = assert!(MAX_TRANSFER.is_multiple_of(65536));
