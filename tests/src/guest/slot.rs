//! How many emulated machines run at once, over all test processes of this user.

use std::fs::File;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::fcntl::{Flock, FlockArg};

use crate::cache_dir;

/// Two, since an emulated machine keeps a core busy and the machines that run the tests have two.
const GUESTS_AT_ONCE: usize = 2;

/// A place among the emulated machines that may run now; given back when dropped, or when the process ends.
#[derive(Debug)]
pub struct GuestSlot {
    _lock: Flock<File>,
}

/// Waits until another emulated machine may run.
///
/// # Errors
/// If the cache folder cannot be written.
pub fn guest_slot() -> Result<GuestSlot> {
    let folder = cache_dir();
    std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    loop {
        for number in 0..GUESTS_AT_ONCE {
            let path = folder.join(format!("guest-slot-{number}.lock"));
            let file = File::create(&path).with_context(|| format!("making {}", path.display()))?;
            if let Ok(lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                return Ok(GuestSlot { _lock: lock });
            }
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
