//! `vm`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use weft_service::api::{Engine, Size};

/// What runs a machine.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum EngineArg {
    /// The platform VMM where hardware virtualization is there, otherwise QEMU
    Auto,
    /// The platform VMM
    Kvm,
    /// QEMU
    Qemu,
}

impl From<EngineArg> for Engine {
    fn from(engine: EngineArg) -> Self {
        match engine {
            EngineArg::Auto => Self::Auto,
            EngineArg::Kvm => Self::Kvm,
            EngineArg::Qemu => Self::Qemu,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum VmCommand {
    /// Start a machine
    Run(VmRunArgs),
    /// List the machines
    List,
    /// Show a machine
    Show {
        /// The machine
        name: String,
    },
    /// Show a machine's console and type into it; Ctrl-] leaves
    Console {
        /// The machine
        name: String,
        /// Only print what it has said so far
        #[arg(long)]
        log: bool,
    },
    /// Ask a machine to power off, and wait
    Stop {
        /// The machine
        name: String,
        /// How many seconds to wait
        #[arg(long, default_value_t = 30)]
        timeout: u64,
    },
    /// End a machine at once, as a power cut does
    Kill {
        /// The machine
        name: String,
    },
    /// Forget a machine that has stopped
    Remove {
        /// The machine
        name: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct VmRunArgs {
    /// Its name
    pub(crate) name: String,
    /// A bzImage or a vmlinux
    #[arg(long)]
    pub(crate) kernel: PathBuf,
    /// The initial RAM disk
    #[arg(long)]
    pub(crate) initrd: Option<PathBuf>,
    /// What the kernel is told
    #[arg(long, default_value = "")]
    pub(crate) cmdline: String,
    /// Virtual CPUs
    #[arg(long, default_value_t = 1)]
    pub(crate) cpus: u32,
    /// Memory
    #[arg(long, default_value = "256M")]
    pub(crate) memory: Size,
    /// A DISK; may be given several times
    #[arg(long = "disk")]
    pub(crate) disks: Vec<String>,
    /// A network; may be given several times
    #[arg(long = "net")]
    pub(crate) nets: Vec<String>,
    /// What runs it
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) engine: EngineArg,
}
