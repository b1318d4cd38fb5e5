//! Exports of block devices to other programs and machines.
//!
//! Each protocol is a module of its own, with the same names inside: `proto` holds the wire types, `session` the
//! protocol as a machine without I/O and without a clock, `server` the sockets and queues around it. What comes from
//! a peer is hostile: sessions bound what they keep, answer what is wrong as the protocol's document says, and never
//! panic.

pub mod nbd;
