//! Where an executor waits: in a ring, or in `poll(2)`.

#[allow(unsafe_code)] // A room of unsafe: the promise that memory in flight stays in place.
mod flight;
mod poll_set;
#[allow(unsafe_code)] // A room of unsafe: entries that name memory go to the kernel.
mod ring;

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use nix::poll::PollFlags;

use crate::executor::{Core, Inbox};
pub(crate) use flight::{Operation, Step};
use poll_set::PollSet;
pub(crate) use ring::Ring;

/// What an executor waits in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Backend {
    /// A ring where the kernel gives one, otherwise `poll(2)`.
    #[default]
    Auto,
    /// io_uring, or an error.
    Ring,
    /// `poll(2)` and synchronous disk I/O: what is left where io_uring is forbidden.
    Poll,
}

pub(crate) enum Reactor {
    Ring(Rc<Ring>),
    Poll(RefCell<PollSet>),
}

impl Reactor {
    pub(crate) fn new(backend: Backend, inbox: Arc<Inbox>) -> io::Result<Self> {
        let poll = |inbox| Ok(Self::Poll(RefCell::new(PollSet::new(inbox))));
        match backend {
            Backend::Poll => poll(inbox),
            Backend::Ring => Ring::new(inbox).map(Self::Ring),
            Backend::Auto => match Ring::new(inbox.clone()) {
                Ok(ring) => Ok(Self::Ring(ring)),
                Err(error) => {
                    tracing::debug!(%error, "no io_uring here, using poll(2)");
                    poll(inbox)
                }
            },
        }
    }

    /// The ring, if there is one.
    pub(crate) fn ring(&self) -> Option<&Rc<Ring>> {
        match self {
            Self::Ring(ring) => Some(ring),
            Self::Poll(_) => None,
        }
    }

    /// Hands the turn's submissions to the kernel and lets completions come in, without waiting.
    pub(crate) fn submit(&self) -> io::Result<()> {
        match self {
            Self::Ring(ring) => ring.submit(),
            Self::Poll(set) if set.borrow().is_empty() => Ok(()),
            Self::Poll(set) => poll_set::wait(set, Some(Duration::ZERO)),
        }
    }

    /// Wakes whoever waited for what has completed.
    pub(crate) fn reap(&self) {
        if let Self::Ring(ring) = self {
            ring.reap();
        }
    }

    /// Submits, then waits for a completion, a call from another thread, or the end of `timeout`.
    pub(crate) fn wait(&self, timeout: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Ring(ring) => ring.wait(timeout),
            Self::Poll(set) => poll_set::wait(set, timeout),
        }
    }

    /// Cancels what can be cancelled and waits until the kernel holds no memory of ours.
    pub(crate) fn shut_down(&self) {
        if let Self::Ring(ring) = self {
            ring.shut_down();
        }
    }
}

/// Waits until a read from `fd` would not block, its peer is gone, or it has an error to tell.
///
/// # Errors
/// When the descriptor cannot be polled.
///
/// # Panics
/// On a thread without an executor.
pub async fn readable(fd: impl AsFd) -> io::Result<()> {
    ready(fd, PollFlags::POLLIN).await
}

/// Waits until a write to `fd` would not block, its peer is gone, or it has an error to tell.
///
/// # Errors
/// When the descriptor cannot be polled.
///
/// # Panics
/// On a thread without an executor.
pub async fn writable(fd: impl AsFd) -> io::Result<()> {
    ready(fd, PollFlags::POLLOUT).await
}

async fn ready(fd: impl AsFd, flags: PollFlags) -> io::Result<()> {
    let core = Core::current();
    if let Some(ring) = core.reactor().ring() {
        let readiness = ring::Readiness::new(fd.as_fd().as_raw_fd(), flags);
        return ring.start(readiness).cancelled_on_drop().await.result();
    }
    let fd = fd.as_fd().try_clone_to_owned()?;
    poll_set::Wait::new(core, fd, flags).await;
    Ok(())
}
