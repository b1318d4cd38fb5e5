//! Jobs done by the ring.

use std::io;
use std::os::fd::AsRawFd;

use io_uring::{opcode, squeue, types};

use super::job::{Call, Job};
use crate::reactor::{Operation, Step};
use crate::sys::{self, RawSegments};

/// A job and the segments of its call.
pub(super) struct RingJob {
    job: Job,
    segments: RawSegments,
}

impl RingJob {
    /// Takes a job that is not done, and whose calls the ring knows.
    pub(super) fn new(job: Job) -> Self {
        Self {
            job,
            segments: RawSegments::new(),
        }
    }

    pub(super) fn into_job(self) -> Job {
        self.job
    }
}

// SAFETY: read and write entries name `segments`, which are in place while the operation is, and through them the job's
// memory: an IoVec that the job owns, whose owner it keeps alive, and that it touches only after its last call.
unsafe impl Operation for RingJob {
    fn entry(&mut self) -> squeue::Entry {
        let fd = types::Fd(self.job.file.file.as_raw_fd());
        match self.job.call() {
            Call::Read { offset, skip } => {
                self.segments = sys::raw_segments(self.job.memory(), skip);
                match &*self.segments {
                    [one] => opcode::Read::new(fd, one.iov_base.cast(), one.iov_len as u32)
                        .offset(offset)
                        .build(),
                    many => opcode::Readv::new(fd, many.as_ptr(), many.len() as u32)
                        .offset(offset)
                        .build(),
                }
            }
            Call::Write {
                offset,
                skip,
                durable,
            } => {
                let flags = if durable { libc::RWF_DSYNC } else { 0 };
                self.segments = sys::raw_segments(self.job.memory(), skip);
                match &*self.segments {
                    [one] => opcode::Write::new(fd, one.iov_base.cast(), one.iov_len as u32)
                        .offset(offset)
                        .rw_flags(flags)
                        .build(),
                    many => opcode::Writev::new(fd, many.as_ptr(), many.len() as u32)
                        .offset(offset)
                        .rw_flags(flags)
                        .build(),
                }
            }
            Call::Allocate { mode, offset, len } => opcode::Fallocate::new(fd, len)
                .offset(offset)
                .mode(mode)
                .build(),
            Call::Sync => opcode::Fsync::new(fd)
                .flags(types::FsyncFlags::DATASYNC)
                .build(),
            Call::Discard { .. } => unreachable!("the queue does discards of block devices itself"),
        }
    }

    fn completed(&mut self, result: i32, _flags: u32) -> Step {
        let result = usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result));
        self.job.returned(result)
    }
}
