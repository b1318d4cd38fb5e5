//! One send or receive, tried at once or left to the ring.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use io_uring::{cqueue, opcode, squeue, types};

use super::Memory;
use crate::reactor::{Operation, Step};
use crate::sys::{self, MAX_SEGMENTS, RawSegments};

/// Which way the bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Receive,
    Send,
}

/// What an attempt without waiting came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attempt {
    /// The transfer is over; see its outcome.
    Over,
    /// The socket would block.
    WouldBlock,
}

/// A transfer between a socket and memory that it owns.
pub(super) struct Transfer<M> {
    fd: Arc<OwnedFd>,
    way: Way,
    /// Whether all of the memory is to be moved, or just what comes first.
    whole: bool,
    memory: M,
    /// What is left of `memory`, into which it points.
    left: RawSegments,
    moved: usize,
    error: Option<io::Error>,
    /// Whether the kernel said that the socket holds more than was received.
    pub(super) more: bool,
    header: libc::msghdr,
}

impl<M: Memory> Transfer<M> {
    pub(super) fn new(fd: Arc<OwnedFd>, way: Way, whole: bool, mut memory: M) -> Self {
        let mut left = RawSegments::new();
        memory.lend(&mut left);
        Self {
            fd,
            way,
            whole,
            memory,
            left,
            moved: 0,
            error: None,
            more: false,
            header: sys::message(&mut []),
        }
    }

    /// How many bytes were moved, or why not; and the memory. Bytes moved before an error are lost with it.
    pub(super) fn outcome(self) -> (io::Result<usize>, M) {
        let result = match self.error {
            Some(error) => Err(error),
            None => Ok(self.moved),
        };
        (result, self.memory)
    }

    /// Moves what can be moved without waiting.
    pub(super) fn attempt(&mut self) -> Attempt {
        loop {
            let count = self.left.len().min(MAX_SEGMENTS);
            let segments = &mut self.left[..count];
            // SAFETY: the segments belong to `memory`, which `self` owns and nobody else touches.
            let result = unsafe {
                match self.way {
                    Way::Receive => sys::receive_now(&self.fd, segments),
                    Way::Send => sys::send_now(&self.fd, segments),
                }
            };
            let step = match result {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Attempt::WouldBlock;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => Step::Again,
                Err(error) => {
                    self.error = Some(error);
                    Step::Done
                }
                Ok(count) => self.advance(count),
            };
            if step == Step::Done {
                // All that was asked for came at once: there may well be more.
                self.more = self.left.is_empty();
                return Attempt::Over;
            }
        }
    }

    /// Ends the transfer with an error that did not come from a transfer.
    pub(super) fn fail(&mut self, error: io::Error) {
        self.error = Some(error);
    }

    /// Whether nothing is to be moved at all.
    pub(super) fn is_empty(&self) -> bool {
        self.left.is_empty()
    }

    fn advance(&mut self, count: usize) -> Step {
        self.moved += count;
        if count == 0 && self.way == Way::Receive {
            if self.whole {
                self.error = Some(io::ErrorKind::UnexpectedEof.into());
            }
            return Step::Done;
        }
        let mut count = count;
        let mut gone = 0;
        for segment in &mut self.left {
            if count < segment.iov_len {
                segment.iov_base = segment.iov_base.wrapping_byte_add(count);
                segment.iov_len -= count;
                break;
            }
            count -= segment.iov_len;
            gone += 1;
        }
        self.left.drain(..gone);
        if self.whole && !self.left.is_empty() {
            Step::Again
        } else {
            Step::Done
        }
    }
}

// SAFETY: the entry names `left` and `header`, which are in place while the operation is, and the segments of `memory`,
// which the operation owns and touches only in `advance`, after a completion.
unsafe impl<M: Memory> Operation for Transfer<M> {
    fn entry(&mut self) -> squeue::Entry {
        let fd = types::Fd(self.fd.as_raw_fd());
        let count = self.left.len().min(MAX_SEGMENTS);
        let segments = &mut self.left[..count];
        let wait_for_all = if self.whole { libc::MSG_WAITALL } else { 0 };
        let flags = wait_for_all | libc::MSG_NOSIGNAL;
        if let [one] = segments
            && let Ok(len) = u32::try_from(one.iov_len)
        {
            let start: *mut u8 = one.iov_base.cast();
            return match self.way {
                Way::Receive => opcode::Recv::new(fd, start, len).flags(flags).build(),
                Way::Send => opcode::Send::new(fd, start, len).flags(flags).build(),
            };
        }
        self.header = sys::message(segments);
        match self.way {
            Way::Receive => opcode::RecvMsg::new(fd, &mut self.header)
                .flags(flags.cast_unsigned())
                .build(),
            Way::Send => opcode::SendMsg::new(fd, &self.header)
                .flags(flags.cast_unsigned())
                .build(),
        }
    }

    fn completed(&mut self, result: i32, flags: u32) -> Step {
        self.more = cqueue::sock_nonempty(flags);
        match usize::try_from(result) {
            Ok(count) => self.advance(count),
            Err(_) if result == -libc::EINTR => Step::Again,
            Err(_) => {
                self.error = Some(io::Error::from_raw_os_error(-result));
                Step::Done
            }
        }
    }

    fn may_be_cancelled(&self) -> bool {
        true
    }
}
