//! Notifications between a ring's two sides: eventfds that the front end sent.

use std::cell::RefCell;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::Error;

/// An eventfd of the front end, made non-blocking: whatever its other holders do, neither side of it can stop our
/// thread.
#[derive(Debug)]
pub(crate) struct Event(OwnedFd);

impl Event {
    /// Takes the front end's descriptor.
    pub(crate) fn adopt(fd: OwnedFd) -> Result<Self, Error> {
        let failed = |error: Errno| Error::Connection(error.into());
        let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL).map_err(failed)?);
        fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).map_err(failed)?;
        Ok(Self(fd))
    }

    /// Raises it. A counter that is full is raised enough.
    pub(crate) fn signal(&self) {
        match nix::unistd::write(&self.0, &1_u64.to_ne_bytes()) {
            Ok(_) | Err(Errno::EAGAIN) => {}
            Err(error) => tracing::debug!(%error, "a notification was not taken"),
        }
    }

    /// Takes it back to zero; whether it is one that can be waited for again.
    pub(crate) fn clear(&self) -> bool {
        let mut count = [0; 8];
        matches!(
            nix::unistd::read(&self.0, &mut count),
            Ok(8) | Err(Errno::EAGAIN | Errno::EINTR)
        )
    }

    /// To wait for it.
    pub(crate) fn fd(&self) -> impl AsFd + '_ {
        self.0.as_fd()
    }
}

/// Where a ring's interrupts go. It can change while the ring runs, as it does when a guest masks an interrupt.
#[derive(Debug, Default)]
pub(crate) struct Outlet(RefCell<Option<Event>>);

impl Outlet {
    /// Sends interrupts there from now on, and one at once, for one may have been lost in between.
    pub(crate) fn set(&self, event: Option<Event>) {
        if let Some(event) = &event {
            event.signal();
        }
        *self.0.borrow_mut() = event;
    }

    /// Sends notifications there from now on.
    pub(crate) fn set_silently(&self, event: Option<Event>) {
        *self.0.borrow_mut() = event;
    }

    /// Raises an interrupt, if the front end wants any.
    pub(crate) fn signal(&self) {
        if let Some(event) = &*self.0.borrow() {
            event.signal();
        }
    }
}
