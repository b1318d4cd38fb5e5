//! Descriptors that another program has opened for this one.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use crate::{Error, ErrorKind, Result};

/// Takes over the descriptor whose number the environment variable holds; none if it is not set. It is closed in
/// programs that are started from now on. May be called once for each variable, before there are threads that open
/// files.
pub fn descriptor(variable: &str) -> Result<Option<OwnedFd>> {
    let Some(text) = std::env::var_os(variable) else {
        return Ok(None);
    };
    let number: Option<RawFd> = text.to_str().and_then(|text| text.parse().ok());
    let wrong = || {
        let text = text.to_string_lossy();
        let why = format!("{variable} is {text:?}, which is no open descriptor");
        Error::new(ErrorKind::Invalid, why)
    };
    let number = number.filter(|&number| number > 2).ok_or_else(wrong)?;
    // SAFETY: whoever started this program gave it this descriptor, and nothing else in it knows the number. If it is
    // not open, the next call says so and it is not closed.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    match fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)) {
        Ok(_) => Ok(Some(fd)),
        Err(_) => {
            std::mem::forget(fd);
            Err(wrong())
        }
    }
}
