//! Jobs done with plain system calls.

use std::io;

use nix::fcntl::{FallocateFlags, fallocate};
use weft_block::IoVec;

use super::job::{Call, Job};
use super::open::OpenFile;
use crate::reactor::Step;
use crate::sys;

/// Does the whole job on this thread.
pub(super) fn run(job: &mut Job) {
    while !job.is_done() {
        let result = perform(&job.file, job.memory(), job.call());
        if job.returned(result) == Step::Done {
            return;
        }
    }
}

/// Makes one call. `memory` is what a read or write is about.
pub(super) fn perform(file: &OpenFile, memory: &IoVec, call: Call) -> io::Result<usize> {
    let fd = &file.file;
    match call {
        Call::Read { offset, skip } => sys::read_at(fd, memory, skip, offset, 0),
        Call::Write {
            offset,
            skip,
            durable,
        } => {
            let flags = if durable { libc::RWF_DSYNC } else { 0 };
            sys::write_at(fd, memory, skip, offset, flags)
        }
        Call::Allocate { mode, offset, len } => {
            let mode = FallocateFlags::from_bits_retain(mode);
            fallocate(fd, mode, offset as libc::off_t, len as libc::off_t)?;
            Ok(0)
        }
        Call::Discard { offset, len } => sys::discard_blocks(fd, offset, len).map(|()| 0),
        Call::Sync => fd.sync_data().map(|()| 0),
    }
}
