//! The daemon: inventory, reconciliation, jobs and the HTTP API.
//!
//! This is the only place where the rooms are joined: arrays over disks, groups over arrays, volumes to exports and
//! machines, ports to networks. It is cut by family, and the families have the same shape:
//!
//! - [`storage`]: disks, arrays, volume groups, volumes and their NBD exports. On-disk metadata is the truth; the store
//!   remembers only which disks belong together.
//! - [`network`]: bridges, addresses, rules and DHCP leases. The store is the truth; the kernel is reconciled with it.
//! - [`attach`]: sockets that give volumes and networks to machines, and the machines, each a process of its own that
//!   outlives the daemon.
//!
//! [`lab`] declares objects of all families in one file and computes what has to change. [`api`] holds the types that
//! the program and the daemon exchange. [`store`] keeps what is declared. [`daemon`] starts all of it, brings back
//! what was there before a crash, and stops it.
//!
//! What the daemon promises: a command has happened when it has been answered, and is then in the store and on the
//! disks; a failed command leaves the old state; a daemon killed at any instant comes back to one of the two.

pub mod api;
pub mod attach;
pub mod daemon;
pub mod http;
pub mod lab;
pub mod network;
mod one_or_more;
pub mod paths;
pub mod shards;
pub mod storage;
pub mod store;
