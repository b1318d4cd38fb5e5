//! The serial console outside the guest: what it printed, kept and shown.
//!
//! The guest's CPUs only append to the [`Screen`]; the control thread takes it from there to the log, to standard output
//! and to whoever is connected.

mod clients;
mod log;

use std::io;
use std::sync::{Arc, Mutex};

use vmm_sys_util::eventfd::EventFd;

use crate::sync::lock;
use crate::timeline::Timeline;

pub(crate) use clients::Clients;
pub(crate) use log::Log;

/// Output that may wait for the control thread. What comes when it is full is lost.
const MAX_PENDING: usize = 256 << 10;

/// Output of the guest that nobody has taken yet.
pub(crate) struct Screen {
    pending: Mutex<Vec<u8>>,
    printed: Mutex<u32>,
    timeline: Arc<Timeline>,
    wake: EventFd,
}

impl Screen {
    /// An empty screen, which marks the first output of each boot on the timeline.
    pub(crate) fn new(timeline: Arc<Timeline>) -> io::Result<Self> {
        Ok(Self {
            pending: Mutex::default(),
            printed: Mutex::new(0),
            timeline,
            wake: EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?,
        })
    }

    /// Appends output. Never waits.
    pub(crate) fn print(&self, bytes: &[u8]) {
        let mut pending = lock(&self.pending);
        let was_empty = pending.is_empty();
        let room = MAX_PENDING - pending.len();
        pending.extend_from_slice(&bytes[..bytes.len().min(room)]);
        drop(pending);
        if was_empty {
            self.mark_first();
            self.wake();
        }
    }

    fn mark_first(&self) {
        let boot = self.timeline.boots();
        let before = std::mem::replace(&mut *lock(&self.printed), boot);
        if before != boot {
            self.timeline.mark("first console output");
        }
    }

    /// Takes all output.
    pub(crate) fn take(&self) -> Vec<u8> {
        std::mem::take(&mut lock(&self.pending))
    }

    /// Wakes the control thread: there is output, or room for input.
    pub(crate) fn wake(&self) {
        // Fails only when the counter is full, and then the thread wakes anyhow.
        let _ = self.wake.write(1);
    }

    /// Readable when somebody called [`Screen::wake`] since it was last read.
    pub(crate) fn event(&self) -> &EventFd {
        &self.wake
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_waits_within_a_bound() {
        let timeline = Arc::new(Timeline::new());
        let screen = Screen::new(timeline.clone()).unwrap();
        for _ in 0..300 {
            screen.print(&[b'x'; 1024]);
        }
        assert_eq!(timeline.steps().len(), 1, "the first output is a step");
        assert_eq!(screen.take().len(), MAX_PENDING);
        assert_eq!(screen.event().read().unwrap(), 1, "one wake for all of it");
    }
}
