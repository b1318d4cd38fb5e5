//! Descriptors of foreign types as safe borrows.

#![allow(unsafe_code, reason = "some crates lend raw descriptors only")]

use std::os::fd::{AsRawFd, BorrowedFd};

/// Borrows the descriptor of `owner`, which must be its own for as long as it lives. True of every `AsRawFd` type used
/// here: an eventfd, a socket, a vhost-user channel.
pub(crate) fn borrow(owner: &impl AsRawFd) -> BorrowedFd<'_> {
    // SAFETY: The descriptor belongs to `owner`, which the result borrows, so it stays open for that long.
    unsafe { BorrowedFd::borrow_raw(owner.as_raw_fd()) }
}
