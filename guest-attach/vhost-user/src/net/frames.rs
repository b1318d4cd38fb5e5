//! A port that is a file: each write sends a frame, each read gives one. A TAP queue is such a file.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use weft_block::{IoVec, LocalBoxFuture, Segment};
use weft_uring::{readable, writable};
use weft_virtio::net::{NetPort, PortSetup};

/// The most segments that one system call takes (`IOV_MAX`).
const SEGMENTS: usize = 1024;

/// What the owner of a file is to do with it.
#[derive(Debug, Clone, Copy)]
pub enum Setting {
    /// Frames are to look like this (for a TAP: the header's size and `TUNSETOFFLOAD`).
    Setup(PortSetup),
    /// The file takes part in the traffic, or not (for a TAP of several queues: `TUNSETQUEUE`).
    Enabled(bool),
}

type Set<T> = dyn Fn(&T, Setting) -> io::Result<()>;

/// A file of frames as a port. The file must be non-blocking, with a virtio-net header in front of each frame.
pub struct FrameFile<T> {
    file: T,
    set: Box<Set<T>>,
}

impl<T: AsFd> FrameFile<T> {
    /// Takes `file`; `set` does what is special about it.
    pub fn new(file: T, set: impl Fn(&T, Setting) -> io::Result<()> + 'static) -> Self {
        Self {
            file,
            set: Box::new(set),
        }
    }
}

impl<T: AsFd> NetPort for FrameFile<T> {
    fn configure(&self, setup: &PortSetup) -> io::Result<()> {
        (self.set)(&self.file, Setting::Setup(*setup))
    }

    fn set_enabled(&self, enabled: bool) -> io::Result<()> {
        (self.set)(&self.file, Setting::Enabled(enabled))
    }

    fn send(&self, frame: &IoVec) -> io::Result<bool> {
        let segments = slices(frame.segments())?;
        // SAFETY: the segments are valid while `frame` lives, and the call ends before.
        let sent = unsafe {
            let count = segments.len() as libc::c_int;
            libc::writev(self.file.as_fd().as_raw_fd(), segments.as_ptr(), count)
        };
        if sent >= 0 {
            return Ok(true);
        }
        unless_blocked(io::Error::last_os_error(), false)
    }

    fn receive(&self, into: &mut IoVec) -> io::Result<Option<usize>> {
        let segments = slices(into.segments())?;
        // SAFETY: as in `send`; the memory may be written, for it is the guest's or ours.
        let received = unsafe {
            let count = segments.len() as libc::c_int;
            libc::readv(self.file.as_fd().as_raw_fd(), segments.as_ptr(), count)
        };
        match usize::try_from(received) {
            Ok(len) => Ok(Some(len)),
            Err(_) => unless_blocked(io::Error::last_os_error(), None),
        }
    }

    fn readable(&self) -> LocalBoxFuture<'_, io::Result<()>> {
        Box::pin(readable(self.file.as_fd()))
    }

    fn writable(&self) -> LocalBoxFuture<'_, io::Result<()>> {
        Box::pin(writable(self.file.as_fd()))
    }
}

/// The segments as the system takes them: `Segment` has another layout.
fn slices(segments: &[Segment]) -> io::Result<smallvec::SmallVec<[libc::iovec; 32]>> {
    if segments.len() > SEGMENTS {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(segments
        .iter()
        .map(|segment| libc::iovec {
            iov_base: segment.start.as_ptr().cast(),
            iov_len: segment.len,
        })
        .collect())
}

fn unless_blocked<R>(error: io::Error, blocked: R) -> io::Result<R> {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(blocked),
        _ => Err(error),
    }
}
