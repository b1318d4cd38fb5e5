//! The control socket: one JSON document a line, a request and its answer.
//!
//! | request | what happens | answer |
//! |---|---|---|
//! | `{"op":"status"}` | | `{"ok":true,"status":{…}}` |
//! | `{"op":"shutdown"}` | the power button is pressed; the guest may take its time, or not listen | `{"ok":true}` |
//! | `{"op":"kill"}` | the CPUs stop, the process ends | `{"ok":true}` |
//! | `{"op":"pause"}`, `{"op":"resume"}` | the CPUs stop for a while, and go on | `{"ok":true}` |
//! | `{"op":"wait"}` | | `{"ok":true,"report":{…}}` when the VM has ended |
//!
//! What is not understood is answered with `{"ok":false,"error":"…"}`. The end of the connection without an answer means
//! that the process was killed. [`Client`] is the other side.

mod client;
mod server;

use serde::{Deserialize, Serialize};

pub use client::Client;
pub(crate) use server::{End, Operator, Order, Server, Sockets};

use crate::report::Report;
use crate::timeline::Step;
use crate::vhost::DeviceStatus;

/// What can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum Request {
    /// How the VM is.
    Status,
    /// Press the power button.
    Shutdown,
    /// End the VM at once.
    Kill,
    /// Stop the CPUs for a while.
    Pause,
    /// Let the CPUs go on.
    Resume,
    /// Tell when the VM has ended.
    Wait,
}

/// The answer to a request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// Whether it was done.
    pub ok: bool,
    /// Why it was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The answer to `status`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
    /// The answer to `wait`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<Report>,
}

impl Reply {
    fn done() -> Self {
        Self {
            ok: true,
            ..Self::default()
        }
    }

    fn refused(error: impl Into<String>) -> Self {
        Self {
            error: Some(error.into()),
            ..Self::default()
        }
    }
}

/// What the VM does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Back ends are awaited, or a reboot is under way.
    Starting,
    /// The CPUs run.
    Running,
    /// The CPUs are stopped for a while.
    Paused,
}

/// How the VM is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The VM's name.
    pub name: String,
    /// The process.
    pub pid: u32,
    /// What it does.
    pub state: State,
    /// How often the machine was started: 1, and one more for each reboot.
    pub boots: u32,
    /// Its disks and NICs.
    pub devices: Vec<DeviceStatus>,
    /// The steps of the boots so far.
    pub steps: Vec<Step>,
}
