//! Eventfds, as something that can be waited for.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use vmm_sys_util::eventfd::EventFd;

/// An eventfd of the crate that the front end speaks.
#[derive(Debug)]
pub(crate) struct Event(pub(crate) EventFd);

impl AsFd for Event {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as `self` lives.
        unsafe { BorrowedFd::borrow_raw(self.0.as_raw_fd()) }
    }
}
