//! A DHCPv4 server as a machine without I/O (RFC 2131, 2132, 3046).
//!
//! [`Server`] takes datagrams and the time, and gives what to store and what to send, in this order. It never sends an
//! ACK for a lease whose record has not been given out before as [`Output::Store`], so whoever runs it makes the
//! record durable first and can lose power at any instant: a server made from the stored [`Lease`]s keeps every
//! promise that a client has seen.
//!
//! # What it promises
//!
//! - No address is held by two clients at the same time, whatever the network loses, delays, repeats or reorders and
//!   however often the server restarts; a client that breaks the protocol harms itself only.
//! - A client gets the address it had before, and otherwise one that follows from its identity alone, so the same
//!   guest has the same address on every host that starts with no leases.
//! - Its memory is bounded by the size of the pool. Offers to clients that never answer are the first to make way, so
//!   a flood of made-up clients does not keep out a real one.
//! - It speaks for its subnet alone (it is authoritative): a client that asks for an address which it cannot have is
//!   told so at once instead of being left to time out.

mod client;
mod config;
mod lease;
mod pool;
mod reply;
mod request;
mod server;

pub use client::ClientId;
pub use config::{Config, ConfigError, LARGEST_POOL, Reservation};
pub use lease::{Lease, LeaseState};
pub use server::{Counters, Server};
pub use weft_wire::machine::{DatagramMachine, LinkTarget, Output, Received, Transmit};

/// The port on which servers and relays listen.
pub const SERVER_PORT: u16 = 67;
/// The port on which clients listen.
pub const CLIENT_PORT: u16 = 68;
