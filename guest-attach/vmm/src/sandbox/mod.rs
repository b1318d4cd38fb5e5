//! What the process gives up before the guest runs.
//!
//! A guest that breaks out of a device model has this process's rights, so they are made small first: no new privileges,
//! no file but those of the configuration (Landlock), and for each kind of thread only the system calls that it needs
//! (seccomp; any other ends the process). Threads start with the filter of their parent and then take their own.

mod files;
mod filter;

use crate::config::Config;
use crate::error::{Context, ErrorKind, Result};
use crate::report::Confinement;

pub(crate) use filter::ThreadKind;

/// Gives up new privileges and all files but those of `config`, for this thread and those that it will start, and then all
/// system calls but those of the supervisor.
pub(crate) fn enter(config: &Config) -> Result<Confinement> {
    nix::sys::prctl::set_no_new_privs()
        .context(ErrorKind::Sandbox, "cannot give up new privileges")?;
    let landlock = files::restrict(config)?;
    filter::apply(ThreadKind::Supervisor)?;
    Ok(Confinement {
        seccomp: true,
        landlock,
    })
}

/// Narrows the calling thread to what its kind needs.
pub(crate) fn narrow(kind: ThreadKind, confined: bool) -> Result<()> {
    if confined {
        filter::apply(kind)
    } else {
        Ok(())
    }
}
