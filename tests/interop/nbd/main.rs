//! NBD, judged by libnbd's tools, QEMU's, fio and the kernel's client; and our client against nbdkit and qemu-nbd.

#![allow(clippy::unwrap_used)] // A test panics where it fails, in its helpers too.

mod client;
mod kernel;
mod libnbd;
mod qemu;
mod site;
