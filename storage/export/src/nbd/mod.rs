//! NBD, the network block device protocol.
//!
//! Source: the protocol document of the NBD project, `doc/proto.md`; sections are cited by name. Spoken are the fixed
//! newstyle handshake, structured replies and the metadata context `base:allocation`, by the server and by the client
//! device alike. TLS and extended headers are answered as unsupported.

pub mod client;
mod input;
mod pool;
pub mod proto;
pub mod server;
pub mod session;
