//! What a VM is made of, as the service says it.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};

/// The most CPUs that one VM can have.
pub const MAX_CPUS: u32 = 32;
/// The most disks and NICs together: one PCI slot each on the one bus, whose slot 0 is the host bridge.
pub const MAX_DEVICES: usize = 31;
/// The most queues that one device is given.
pub const MAX_QUEUES: u16 = 32;
/// The least memory: below this no Linux kernel starts.
pub const MIN_MEMORY: u64 = 32 << 20;
/// The most memory.
pub const MAX_MEMORY: u64 = 1 << 40;

/// One virtual machine. All paths are absolute, or relative to the working directory of the process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The VM's name, for messages.
    pub name: String,
    /// How many virtual CPUs, 1 to [`MAX_CPUS`].
    pub cpus: u32,
    /// Guest memory in bytes, a multiple of 2 MiB, from [`MIN_MEMORY`] on.
    pub memory_bytes: u64,
    /// A Linux bzImage, or an ELF vmlinux with a PVH entry.
    pub kernel: PathBuf,
    /// The initial RAM file system.
    #[serde(default)]
    pub initrd: Option<PathBuf>,
    /// The kernel's command line. Nothing is added to it: `console=ttyS0` is the caller's to say.
    #[serde(default)]
    pub cmdline: String,
    /// Disks, in the order in which the guest finds them.
    #[serde(default)]
    pub disks: Vec<Disk>,
    /// NICs, in the order in which the guest finds them (after the disks on the bus).
    #[serde(default)]
    pub nics: Vec<Nic>,
    /// Where the serial console goes.
    #[serde(default)]
    pub console: Console,
    /// The control socket ([`crate::control`]); without it the VM can only be killed by a signal.
    #[serde(default)]
    pub control: Option<PathBuf>,
    /// A file that gets the exit report as one JSON document when the VM has ended.
    #[serde(default)]
    pub report: Option<PathBuf>,
    /// Whether the process gives up its rights before the guest runs: no_new_privs, seccomp filters and Landlock.
    /// They hold for the calling thread (and so for the process) until it ends.
    #[serde(default = "yes")]
    pub sandbox: bool,
}

/// A disk: a virtio-blk device whose work is done by a vhost-user back end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    /// The disk's name, for messages; unique among disks and NICs.
    pub name: String,
    /// The Unix socket on which the back end listens.
    pub socket: PathBuf,
    /// How many queues the guest is offered; the back end may offer less. 0 means one for each CPU.
    #[serde(default)]
    pub queues: u16,
}

/// A NIC: a virtio-net device whose work is done by a vhost-user back end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nic {
    /// The NIC's name, for messages; unique among disks and NICs.
    pub name: String,
    /// The Unix socket on which the back end listens.
    pub socket: PathBuf,
    /// The hardware address that the guest sees. Without it the back end's configuration says it.
    #[serde(default)]
    pub mac: Option<[u8; 6]>,
}

/// Where the serial console (ttyS0) goes. All three may be set, or none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Console {
    /// A Unix socket: who connects gets the latest output, then what follows, and may type.
    #[serde(default)]
    pub socket: Option<PathBuf>,
    /// A file that keeps the output.
    #[serde(default)]
    pub log: Option<PathBuf>,
    /// The log never grows over this many bytes: when it is full, its older half goes.
    #[serde(default = "default_log_bytes")]
    pub log_bytes: u64,
    /// Output also to the process's standard output.
    #[serde(default)]
    pub stdout: bool,
}

impl Default for Console {
    fn default() -> Self {
        Self {
            socket: None,
            log: None,
            log_bytes: default_log_bytes(),
            stdout: false,
        }
    }
}

fn default_log_bytes() -> u64 {
    1 << 20
}

fn yes() -> bool {
    true
}

impl Config {
    /// Says what cannot be, before anything is made.
    pub fn validate(&self) -> Result<()> {
        let invalid = |text: String| {
            Err(Error::new(
                ErrorKind::Config,
                format!("VM {}: {text}", self.name),
            ))
        };
        if !(1..=MAX_CPUS).contains(&self.cpus) {
            return invalid(format!(
                "{} CPUs asked for, 1 to {MAX_CPUS} are possible",
                self.cpus
            ));
        }
        if !(MIN_MEMORY..=MAX_MEMORY).contains(&self.memory_bytes) {
            return invalid(format!(
                "{} bytes of memory asked for, {MIN_MEMORY} to {MAX_MEMORY} are possible",
                self.memory_bytes
            ));
        }
        if !self.memory_bytes.is_multiple_of(2 << 20) {
            return invalid(format!(
                "{} bytes of memory is not a multiple of 2 MiB",
                self.memory_bytes
            ));
        }
        if self.cmdline.len() >= crate::layout::COMMAND_LINE_MAX {
            return invalid(format!(
                "the kernel command line has {} bytes, Linux takes {} at most",
                self.cmdline.len(),
                crate::layout::COMMAND_LINE_MAX - 1
            ));
        }
        if self.cmdline.contains('\0') {
            return invalid("the kernel command line has a NUL byte in it".into());
        }
        if self.disks.len() + self.nics.len() > MAX_DEVICES {
            return invalid(format!("more than {MAX_DEVICES} disks and NICs"));
        }
        if let Some(disk) = self.disks.iter().find(|disk| disk.queues > MAX_QUEUES) {
            return invalid(format!(
                "disk {} asks for {} queues, {MAX_QUEUES} at most are possible",
                disk.name, disk.queues
            ));
        }
        let mut names = BTreeSet::new();
        let mut sockets = BTreeSet::new();
        let disks = self.disks.iter().map(|disk| (&disk.name, &disk.socket));
        let nics = self.nics.iter().map(|nic| (&nic.name, &nic.socket));
        for (name, socket) in disks.chain(nics) {
            if !names.insert(name) {
                return invalid(format!("two devices are named {name}"));
            }
            if !sockets.insert(socket) {
                return invalid(format!(
                    "{name} names the socket {} that another device has already",
                    socket.display()
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        serde_json::from_str(r#"{"name":"t","cpus":1,"memory_bytes":268435456,"kernel":"/k"}"#)
            .unwrap()
    }

    #[test]
    fn little_is_enough() {
        let config = config();
        config.validate().unwrap();
        assert!(config.sandbox);
        assert_eq!(config.console.log_bytes, 1 << 20);
    }

    #[test]
    fn what_cannot_be_is_named() {
        type Case = (fn(&mut Config), &'static str);
        let cases: [Case; 6] = [
            (|c| c.cpus = 0, "0 CPUs"),
            (|c| c.cpus = 33, "33 CPUs"),
            (|c| c.memory_bytes = 1, "1 bytes"),
            (|c| c.memory_bytes += 1, "multiple of 2 MiB"),
            (|c| c.cmdline = "x".repeat(2048), "2048 bytes"),
            (
                |c| {
                    let disk = Disk {
                        name: "d".into(),
                        socket: "/s".into(),
                        queues: 1,
                    };
                    c.disks = vec![disk.clone(), disk];
                },
                "two devices",
            ),
        ];
        for (spoil, text) in cases {
            let mut config = config();
            spoil(&mut config);
            let error = config.validate().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(error.to_string().contains(text), "{error}");
        }
    }

    #[test]
    fn unknown_words_are_refused() {
        let text = r#"{"name":"t","cpus":1,"memory_bytes":1,"kernel":"/k","ram":1}"#;
        assert!(serde_json::from_str::<Config>(text).is_err());
    }
}
