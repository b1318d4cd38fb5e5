//! Waiting in io_uring.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use io_uring::{IoUring, cqueue, opcode, squeue, types};
use nix::poll::PollFlags;
use slab::Slab;

use super::flight::{Flight, InFlight, Landed, Operation, Started, Step};
use crate::executor::Inbox;

/// Entries that one turn can queue before a system call. More are submitted in several calls.
const SUBMISSIONS: u32 = 256;

/// Completions that fit into the ring; the kernel keeps what is beyond (`IORING_FEAT_NODROP`).
const COMPLETIONS: u32 = 2048;

/// User data of entries that belong to no operation.
const CANCELLATION: u64 = u64::MAX;
const BELL: u64 = u64::MAX - 1;

/// Flags of `io_uring_enter` (uapi/linux/io_uring.h): wait for completions; the argument carries a timeout; the wait is
/// not for a disk.
const ENTER_GETEVENTS: u32 = 1 << 0;
const ENTER_EXT_ARG: u32 = 1 << 3;
const ENTER_NO_IOWAIT: u32 = 1 << 7;

pub(crate) struct Ring {
    ring: RefCell<IoUring>,
    flights: RefCell<Slab<Rc<dyn Flight>>>,
    /// How many of the flights are work for a disk, rather than waits that may be cancelled.
    at_work: Cell<usize>,
    inbox: Arc<Inbox>,
    /// Whether a read of the inbox's eventfd is in flight.
    listening: Cell<bool>,
    /// Where that read puts its counter. The kernel writes to it, so it lives as long as the ring.
    rung: Rc<Cell<u64>>,
    /// Entries that found the queue full while the kernel took none. Bounded by the operations in flight.
    backlog: RefCell<VecDeque<squeue::Entry>>,
    closed: Cell<bool>,
}

impl Ring {
    pub(super) fn new(inbox: Arc<Inbox>) -> io::Result<Rc<Self>> {
        let ring = build()?;
        let params = ring.params();
        if !(params.is_feature_ext_arg() && params.is_feature_nodrop()) {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "this kernel's io_uring is older than Linux 5.11",
            ));
        }
        Ok(Rc::new(Self {
            ring: RefCell::new(ring),
            flights: RefCell::default(),
            at_work: Cell::new(0),
            inbox,
            listening: Cell::new(false),
            rung: Rc::default(),
            backlog: RefCell::default(),
            closed: Cell::new(false),
        }))
    }

    /// Whether its executor has ended.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// Queues an operation for the turn's submission. If the ring has been shut down the operation ends with
    /// `ESHUTDOWN`.
    pub(crate) fn start<O: Operation + 'static>(self: &Rc<Self>, operation: O) -> Started<O> {
        let flight = Rc::new(InFlight::new(operation));
        if self.closed.get() {
            flight.refuse(-libc::ESHUTDOWN);
            return Started::new(flight, self.clone());
        }
        let entry = flight.next_entry();
        let key = self.flights.borrow_mut().insert(flight.clone());
        self.at_work.update(|count| count + flight.weight());
        flight.set_key(key);
        // SAFETY: `flights` keeps the operation, and with it the memory that the entry names, until the kernel has
        // answered the entry; see `Operation`.
        unsafe { self.push(&entry.user_data(key as u64)) };
        Started::new(flight, self.clone())
    }

    /// Asks the kernel to give up an operation. It still completes, perhaps with `ECANCELED`.
    pub(super) fn cancel(&self, key: usize) {
        let entry = opcode::AsyncCancel::new(key as u64)
            .build()
            .user_data(CANCELLATION);
        // SAFETY: the entry names no memory.
        unsafe { self.push(&entry) };
    }

    pub(super) fn submit(&self) -> io::Result<()> {
        self.refill();
        let mut ring = self.ring.borrow_mut();
        let queue = ring.submission();
        if queue.is_empty() && !queue.taskrun() && !queue.cq_overflow() {
            return Ok(());
        }
        drop(queue);
        tolerate(ring.submit())
    }

    pub(super) fn wait(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.listen();
        if !self.refill() {
            return self.submit();
        }
        let mut ring = self.ring.borrow_mut();
        let queued = ring.submission().len() as u32;
        let mut flags = ENTER_GETEVENTS;
        if self.at_work.get() == 0 && ring.params().is_feature_no_iowait() {
            // Nothing but sockets, timers and other threads: a wait for those is no wait for a disk, and must not show
            // as one in the machine's statistics.
            flags |= ENTER_NO_IOWAIT;
        }
        let timeout = timeout.map(types::Timespec::from);
        let mut args = types::SubmitArgs::new();
        if let Some(timeout) = &timeout {
            args = args.timespec(timeout);
        }
        // SAFETY: with ENTER_EXT_ARG the argument is a SubmitArgs, which lives through the call with what it points to.
        tolerate(unsafe {
            ring.submitter()
                .enter(queued, 1, flags | ENTER_EXT_ARG, Some(&args))
        })
    }

    /// Takes completions and wakes whoever waited for them.
    pub(super) fn reap(&self) {
        loop {
            // One at a time: what a completion leads to may push new entries into the ring.
            let Some(entry) = self.ring.borrow_mut().completion().next() else {
                return;
            };
            self.land(&entry);
        }
    }

    fn land(&self, entry: &cqueue::Entry) {
        let key = match entry.user_data() {
            CANCELLATION => return,
            BELL => {
                self.listening.set(false);
                return;
            }
            key => key as usize,
        };
        let flight = self.flights.borrow()[key].clone();
        match flight.land(entry.result(), entry.flags()) {
            Landed::Again => {
                let next = flight.next_entry().user_data(entry.user_data());
                // SAFETY: as in `start`: the flight stays in `flights`.
                unsafe { self.push(&next) };
            }
            Landed::Done(waker) => {
                self.at_work.update(|count| count - flight.weight());
                let ours = self.flights.borrow_mut().remove(key);
                drop(ours);
                // Before the waker runs: whoever awaits it takes the operation out of its last owner but one.
                drop(flight);
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
        }
    }

    /// Cancels everything and waits until the kernel has answered all of it.
    pub(super) fn shut_down(&self) {
        self.closed.set(true);
        let keys: Vec<usize> = self.flights.borrow().iter().map(|(key, _)| key).collect();
        for key in keys {
            if self.flights.borrow()[key].may_be_cancelled() {
                self.cancel(key);
            }
        }
        if self.listening.get() {
            // The read of the eventfd ends when the counter is not zero.
            self.inbox.ring_for_last_time();
        }
        while !self.flights.borrow().is_empty() || self.listening.get() {
            self.refill();
            if let Err(error) = tolerate(self.ring.borrow().submit_and_wait(1)) {
                // Memory that the kernel may still write to must not be freed: keep it for ever.
                tracing::error!(%error, "the ring cannot be drained; its memory is leaked");
                std::mem::forget(self.flights.take());
                std::mem::forget(self.rung.clone());
                self.listening.set(false);
                return;
            }
            self.reap();
        }
    }

    /// Keeps a read of the inbox's eventfd in flight, so that other threads can end the wait.
    fn listen(&self) {
        if self.listening.replace(true) {
            return;
        }
        let fd = types::Fd(self.inbox.bell().as_raw_fd());
        let entry = opcode::Read::new(fd, self.rung.as_ptr().cast(), size_of::<u64>() as u32)
            .build()
            .user_data(BELL);
        // SAFETY: `rung` is on the heap and lives as long as `self`, and `shut_down` waits for this read.
        unsafe { self.push(&entry) };
    }

    /// Queues an entry, submitting first if the queue is full.
    ///
    /// # Safety
    /// The memory that the entry names must stay valid until its completion was reaped.
    unsafe fn push(&self, entry: &squeue::Entry) {
        self.backlog.borrow_mut().push_back(entry.clone());
        if self.refill() {
            return;
        }
        // An error here comes again from the wait at the end of the turn, and is told there.
        let _ = self.ring.borrow().submit();
        self.refill();
    }

    /// Moves the backlog into the queue. False if some of it did not fit.
    fn refill(&self) -> bool {
        let mut backlog = self.backlog.borrow_mut();
        if backlog.is_empty() {
            return true;
        }
        let mut ring = self.ring.borrow_mut();
        let mut queue = ring.submission();
        while let Some(entry) = backlog.front() {
            // SAFETY: `push` was promised that the entry's memory stays valid.
            if unsafe { queue.push(entry) }.is_err() {
                return false;
            }
            backlog.pop_front();
        }
        true
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.shut_down();
    }
}

/// The best ring that this kernel gives.
fn build() -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder.setup_cqsize(COMPLETIONS).setup_clamp().dontfork();
    // Completions are handled when this thread asks for them, not by interrupting it: Linux 6.1.
    builder
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag();
    match builder.build(SUBMISSIONS) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => IoUring::builder()
            .setup_cqsize(COMPLETIONS)
            .setup_clamp()
            .dontfork()
            .build(SUBMISSIONS),
        built => built,
    }
}

/// Sorts out the ends of a wait that are no failures: a timeout, a signal, a completion queue that must be reaped first.
fn tolerate(entered: io::Result<usize>) -> io::Result<()> {
    match entered {
        Ok(_) => Ok(()),
        Err(error) => match error.raw_os_error() {
            Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
            _ => Err(error),
        },
    }
}

/// Waits for a descriptor.
pub(super) struct Readiness {
    fd: RawFd,
    flags: PollFlags,
    result: i32,
}

impl Readiness {
    pub(super) fn new(fd: RawFd, flags: PollFlags) -> Self {
        Self {
            fd,
            flags,
            result: 0,
        }
    }

    pub(super) fn result(self) -> io::Result<()> {
        if self.result < 0 {
            return Err(io::Error::from_raw_os_error(-self.result));
        }
        Ok(())
    }
}

// SAFETY: the entry names no memory.
unsafe impl Operation for Readiness {
    fn entry(&mut self) -> squeue::Entry {
        let flags = u32::from(self.flags.bits().cast_unsigned());
        opcode::PollAdd::new(types::Fd(self.fd), flags).build()
    }

    fn completed(&mut self, result: i32, _flags: u32) -> Step {
        self.result = result;
        Step::Done
    }

    fn may_be_cancelled(&self) -> bool {
        true
    }
}
