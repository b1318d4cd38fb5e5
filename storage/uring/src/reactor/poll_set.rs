//! Waiting in `poll(2)`, where io_uring is forbidden.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use slab::Slab;

use super::Reactor;
use crate::executor::{Core, Inbox};

pub(crate) struct PollSet {
    inbox: Arc<Inbox>,
    interests: Slab<Interest>,
}

struct Interest {
    /// A duplicate, so that it stays open while it is polled.
    fd: OwnedFd,
    flags: PollFlags,
    waker: Waker,
    ready: bool,
}

impl PollSet {
    pub(super) fn new(inbox: Arc<Inbox>) -> Self {
        Self {
            inbox,
            interests: Slab::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.interests.is_empty()
    }
}

/// Waits for the first ready descriptor, a call from another thread, or the end of `timeout`.
pub(super) fn wait(set: &RefCell<PollSet>, timeout: Option<Duration>) -> io::Result<()> {
    let (keys, ready) = {
        let set = set.borrow();
        let inbox = set.inbox.clone();
        let waiting = || set.interests.iter().filter(|(_, interest)| !interest.ready);
        let keys: Vec<usize> = waiting().map(|(key, _)| key).collect();
        let mut fds = vec![PollFd::new(inbox.bell(), PollFlags::POLLIN)];
        fds.extend(waiting().map(|(_, interest)| PollFd::new(interest.fd.as_fd(), interest.flags)));
        match nix::poll::poll(&mut fds, poll_timeout(timeout)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let told = |fd: &PollFd| fd.revents().is_some_and(|events| !events.is_empty());
        if told(&fds[0]) {
            inbox.quiet();
        }
        let ready: Vec<bool> = fds[1..].iter().map(told).collect();
        (keys, ready)
    };
    let mut wakers = Vec::new();
    let mut set = set.borrow_mut();
    for (key, _) in keys.into_iter().zip(ready).filter(|(_, ready)| *ready) {
        if let Some(interest) = set.interests.get_mut(key) {
            interest.ready = true;
            wakers.push(interest.waker.clone());
        }
    }
    drop(set);
    wakers.into_iter().for_each(Waker::wake);
    Ok(())
}

/// Rounded up, so that a timer is due when the wait ends.
fn poll_timeout(timeout: Option<Duration>) -> PollTimeout {
    let Some(timeout) = timeout else {
        return PollTimeout::NONE;
    };
    let milliseconds = timeout.as_nanos().div_ceil(1_000_000);
    i32::try_from(milliseconds)
        .ok()
        .and_then(|milliseconds| PollTimeout::try_from(milliseconds).ok())
        .unwrap_or(PollTimeout::MAX)
}

/// Ends when a descriptor is ready.
pub(super) struct Wait {
    core: Rc<Core>,
    fd: Option<OwnedFd>,
    flags: PollFlags,
    key: Option<usize>,
}

impl Wait {
    pub(super) fn new(core: Rc<Core>, fd: OwnedFd, flags: PollFlags) -> Self {
        Self {
            core,
            fd: Some(fd),
            flags,
            key: None,
        }
    }
}

fn set_of(core: &Core) -> &RefCell<PollSet> {
    match core.reactor() {
        Reactor::Poll(set) => set,
        Reactor::Ring(_) => unreachable!("a poll wait is made for a poll reactor"),
    }
}

impl Future for Wait {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let mut set = set_of(&this.core).borrow_mut();
        if let Some(fd) = this.fd.take() {
            this.key = Some(set.interests.insert(Interest {
                fd,
                flags: this.flags,
                waker: context.waker().clone(),
                ready: false,
            }));
            return Poll::Pending;
        }
        let interest = this.key.and_then(|key| set.interests.get_mut(key));
        let Some(interest) = interest.filter(|interest| !interest.ready) else {
            return Poll::Ready(());
        };
        interest.waker.clone_from(context.waker());
        Poll::Pending
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            set_of(&self.core).borrow_mut().interests.try_remove(key);
        }
    }
}
