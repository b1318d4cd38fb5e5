//! One wait of a thread for several descriptors, another thread and a deadline.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};

use crate::{Error, Result};

/// A bell that any thread rings to end another's wait.
#[derive(Debug)]
pub struct Bell(EventFd);

impl Bell {
    /// A bell that was not rung.
    pub fn new() -> Result<Self> {
        EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)
            .map(Self)
            .map_err(|e| Error::system("making an event descriptor", e))
    }

    /// Rings it. Once is enough until it was heard.
    pub fn ring(&self) {
        // A counter at its top is rung already.
        let _ = self.0.write(1);
    }

    /// Whether it was rung since the last time.
    pub fn heard(&self) -> bool {
        self.0.read().is_ok()
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Waits until one of `descriptors` has something to read or an error, or `timeout` has passed, and tells of which one
/// that is so. A signal ends the wait with none.
pub fn readable<const N: usize>(
    descriptors: [BorrowedFd<'_>; N],
    timeout: Option<Duration>,
) -> io::Result<[bool; N]> {
    let mut polled = descriptors.map(|fd| PollFd::new(fd, PollFlags::POLLIN));
    let timeout = timeout.map(TimeSpec::from);
    match ppoll(&mut polled, timeout, None) {
        Ok(_) => Ok(polled.map(|fd| fd.any().unwrap_or(true))),
        Err(nix::Error::EINTR) => Ok([false; N]),
        Err(e) => Err(e.into()),
    }
}

/// The time since the host was started, which goes on while it sleeps and never goes back.
pub fn since_boot() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME)
        .map(Duration::from)
        .unwrap_or_default()
}
