//! A trial of `unshare` that leaves this process as it is.

use std::io;

/// Tries `unshare(flags)` in a child process that ends at once.
pub(super) fn try_unshare(flags: libc::c_int) -> io::Result<()> {
    // SAFETY: the child calls nothing but unshare and _exit, which are safe after a fork of a process with threads.
    let child = unsafe { libc::fork() };
    if child < 0 {
        return Err(io::Error::last_os_error());
    }
    if child == 0 {
        // SAFETY: as above; the errno travels as the exit status.
        unsafe {
            let status = if libc::unshare(flags) == 0 {
                0
            } else {
                *libc::__errno_location()
            };
            libc::_exit(status);
        }
    }
    let mut status = 0;
    loop {
        // SAFETY: `child` is ours and `status` lives across the call.
        if unsafe { libc::waitpid(child, &mut status, 0) } == child {
            break;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    match libc::WEXITSTATUS(status) {
        0 if libc::WIFEXITED(status) => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}
