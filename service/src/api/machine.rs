//! Machines.

use serde::{Deserialize, Serialize};

/// What runs a machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Engine {
    /// The platform VMM where hardware virtualization is there, otherwise QEMU.
    #[default]
    Auto,
    /// The platform VMM.
    Kvm,
    /// QEMU.
    Qemu,
}

impl std::fmt::Display for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Kvm => "kvm",
            Self::Qemu => "qemu",
        })
    }
}

/// Start a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmRun {
    /// Its name.
    pub name: String,
    /// A bzImage or a vmlinux.
    pub kernel: String,
    /// The initial RAM disk.
    pub initrd: Option<String>,
    /// What the kernel is told.
    #[serde(default)]
    pub cmdline: String,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Bytes.
    pub memory_bytes: u64,
    /// DISKs.
    #[serde(default)]
    pub disks: Vec<String>,
    /// Networks.
    #[serde(default)]
    pub nets: Vec<String>,
    /// What runs it.
    #[serde(default)]
    pub engine: Engine,
}

/// Whether it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MachineState {
    /// Its process is there.
    Running,
    /// Its process has ended.
    Stopped,
}

/// A machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Its name.
    pub name: String,
    /// Whether it runs.
    pub state: MachineState,
    /// `kvm` or `qemu`.
    pub engine: Engine,
    /// How the engine was chosen, in a sentence.
    pub engine_reason: String,
    /// Its process.
    pub pid: Option<u32>,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Bytes.
    pub memory_bytes: u64,
    /// DISKs.
    pub disks: Vec<String>,
    /// Networks.
    pub nets: Vec<String>,
    /// Hardware addresses, one for each network.
    pub macs: Vec<String>,
    /// The addresses that it was leased.
    pub addresses: Vec<String>,
    /// Where its console is.
    pub console: Console,
}

/// Where a console is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Console {
    /// What it has said, as a file.
    pub log: String,
    /// Where it is spoken to: a Unix socket.
    pub socket: String,
}

/// How long a stop waits.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Stop {
    /// Seconds for the guest to power off.
    pub seconds: u64,
}
