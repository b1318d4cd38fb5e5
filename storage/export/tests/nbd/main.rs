//! The NBD server behind real sockets, with a client that is made of the protocol's types alone.

#![allow(clippy::unwrap_used)] // A test panics where it fails, in its helpers too.

mod client;
mod hostile;
mod peer;
mod reconnect;
mod server;
