//! How a VM ended.

use serde::{Deserialize, Serialize};

use crate::timeline::Step;

/// The end of a VM, and how it came there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The VM's name.
    pub name: String,
    /// Why it ended.
    pub ending: Ending,
    /// How often the machine was started: 1, and one more for each reboot.
    pub boots: u32,
    /// When the steps of the boots were reached.
    pub steps: Vec<Step>,
    /// What confined the process.
    pub sandbox: Confinement,
}

/// Why a VM ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Ending {
    /// The guest switched itself off.
    PoweredOff,
    /// It was ended by the control socket.
    Killed,
    /// It could not start or go on.
    Failed {
        /// The error's kind, as [`ErrorKind::name`](crate::ErrorKind::name) says it.
        error: String,
        /// The whole sentence.
        message: String,
    },
}

/// What confines a VM's process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confinement {
    /// Each thread has a filter of system calls.
    pub seccomp: bool,
    /// Files other than those of the configuration cannot be opened. Not so on kernels without Landlock.
    pub landlock: bool,
}
