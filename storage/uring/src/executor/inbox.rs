//! What other threads may do to an executor: wake its tasks, and send it work.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::sys::eventfd::{EfdFlags, EventFd};

/// Work that another thread sends: run once, on the executor's thread.
pub(crate) type Visit = Box<dyn FnOnce() + Send>;

/// How many visits may wait for an executor that is busy. More are refused, so a shard that hangs cannot eat the
/// machine's memory through its callers.
pub(crate) const MAX_WAITING_VISITS: usize = 4096;

/// The part of an executor that is shared between threads.
pub(crate) struct Inbox {
    mail: Mutex<Mail>,
    /// Whether `mail` holds anything; lets a turn pass without the lock.
    filled: AtomicBool,
    root_woken: AtomicBool,
    /// Whether the executor is in the kernel, or about to be, and must be called by the eventfd.
    asleep: AtomicBool,
    bell: EventFd,
}

#[derive(Default)]
struct Mail {
    closed: bool,
    /// Bounded by the number of tasks: each is in here at most once.
    woken: Vec<usize>,
    visits: Vec<Visit>,
}

impl Inbox {
    pub(crate) fn new() -> std::io::Result<Self> {
        let bell = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC)?;
        Ok(Self {
            mail: Mutex::default(),
            filled: AtomicBool::new(false),
            root_woken: AtomicBool::new(false),
            asleep: AtomicBool::new(false),
            bell,
        })
    }

    /// Wakes the task with this index, from any thread.
    pub(crate) fn wake(&self, index: usize) {
        let mut mail = self.lock();
        if mail.closed {
            return;
        }
        mail.woken.push(index);
        self.filled.store(true, Ordering::SeqCst);
        drop(mail);
        self.ring();
    }

    /// Sends work. False if the executor has ended or is full; the visit is dropped then.
    pub(crate) fn visit(&self, visit: Visit) -> bool {
        let mut mail = self.lock();
        if mail.closed || mail.visits.len() >= MAX_WAITING_VISITS {
            return false;
        }
        mail.visits.push(visit);
        self.filled.store(true, Ordering::SeqCst);
        drop(mail);
        self.ring();
        true
    }

    pub(crate) fn wake_root(&self) {
        self.root_woken.store(true, Ordering::SeqCst);
        self.ring();
    }

    pub(crate) fn root_is_woken(&self) -> bool {
        self.root_woken.load(Ordering::Acquire)
    }

    pub(crate) fn take_root(&self) -> bool {
        self.root_woken.load(Ordering::Relaxed) && self.root_woken.swap(false, Ordering::SeqCst)
    }

    /// Hands over all that came in.
    pub(crate) fn collect(&self, mut wake: impl FnMut(usize), mut visit: impl FnMut(Visit)) {
        if !self.filled.load(Ordering::Acquire) {
            return;
        }
        let mut mail = self.lock();
        self.filled.store(false, Ordering::SeqCst);
        let woken = std::mem::take(&mut mail.woken);
        let visits = std::mem::take(&mut mail.visits);
        drop(mail);
        woken.into_iter().for_each(&mut wake);
        visits.into_iter().for_each(&mut visit);
    }

    /// Says that the executor is about to wait. False if something came in meanwhile: do not wait then.
    pub(crate) fn fall_asleep(&self) -> bool {
        self.asleep.store(true, Ordering::SeqCst);
        // Both sides store first and look second, so at least one sees the other.
        let stay_up = self.filled.load(Ordering::SeqCst) || self.root_woken.load(Ordering::SeqCst);
        if stay_up {
            self.awake();
        }
        !stay_up
    }

    pub(crate) fn awake(&self) {
        self.asleep.store(false, Ordering::SeqCst);
    }

    /// Refuses everything from now on and drops what still waits.
    pub(crate) fn close(&self) {
        let mut mail = self.lock();
        mail.closed = true;
        let left = std::mem::take(&mut mail.visits);
        drop(mail);
        drop(left);
    }

    /// The eventfd that becomes readable when a sleeping executor is called.
    pub(crate) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// Empties the eventfd after it became readable.
    pub(crate) fn quiet(&self) {
        // The counter is not zero, so this does not block.
        let _ = self.bell.read();
    }

    /// Makes the eventfd readable whether anybody sleeps or not: ends a read of it that is in flight.
    pub(crate) fn ring_for_last_time(&self) {
        let _ = self.bell.write(1);
    }

    fn ring(&self) {
        if self.asleep.swap(false, Ordering::SeqCst) {
            // Fails only when 2^64 calls are unanswered; one is enough.
            let _ = self.bell.write(1);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Mail> {
        // Nothing under this lock panics.
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
