//! The platform VMM: a virtual machine on KVM, in a process of its own.
//!
//! [`run`] is the whole process: it makes the machine of a [`Config`], runs it until the guest switches itself off or
//! somebody ends it, and returns a [`Report`]. A reboot happens inside. It promises that
//! - a stock Linux kernel boots, bzImage or PVH vmlinux, with as many CPUs as asked for, found by ACPI;
//! - disks and NICs are virtio devices whose work is done by vhost-user back ends in other processes; a back end can die and
//!   come back while the guest runs, and no request is lost or done twice where the back end tracks what is in flight;
//! - nothing that the guest writes into memory, rings, registers or configuration makes the process panic;
//! - the process can do little: no new privileges, no files but its own (Landlock), few system calls (seccomp).
//!
//! It refuses: other architectures, machines without KVM, kernels without a 64-bit or PVH entry, device emulation beyond
//! what a Linux guest needs to live (a serial port, a power button, a PCI bus).
//!
//! Threads: the caller's (the supervisor), one for the [`control`] socket and the console, one for each device, one for each
//! CPU. The guest's requests pass none of them: its notifications go to the back end by ioeventfd, the interrupts come
//! back by irqfd.

#![cfg(target_arch = "x86_64")]

mod acpi;
mod boot;
mod bus;
mod config;
mod console;
pub mod control;
mod cpu;
mod devices;
mod error;
mod fd;
#[doc(hidden)]
pub mod hostile;
mod layout;
mod machine;
mod memory;
mod pci;
mod report;
mod run;
mod sandbox;
mod sync;
mod timeline;
mod vhost;
mod virtio;

pub use config::{
    Config, Console, Disk, MAX_CPUS, MAX_DEVICES, MAX_MEMORY, MAX_QUEUES, MIN_MEMORY, Nic,
};
pub use error::{Error, ErrorKind, Result};
pub use report::{Confinement, Ending, Report};
pub use run::run;
pub use timeline::Step;
pub use vhost::{DeviceStatus, Link};
