//! Packet types: bytes with accessors, and valid representations.
//!
//! Each protocol has two types. A `Packet` is a view of bytes whose lengths were checked once, when it was made: its
//! accessors cannot panic and tell what the bytes say, right or wrong. A `Repr` holds what is valid and nothing else:
//! `Repr::parse` refuses a packet whose fields or checksums contradict each other, `Repr::emit` writes bytes that
//! parse to the same `Repr`. Bytes may come from anyone: no parser panics, allocates or loops on its input.
//!
//! The crate performs no I/O, and knows what its neighbours have in common: [`MacAddress`], [`IpCidr`], [`Ipv4Cidr`],
//! [`Ipv4Range`], and the shape of a machine that answers datagrams ([`machine`]).

pub mod arp;
mod checksum;
mod cidr;
mod datagram;
mod error;
pub mod ethernet;
mod hash;
pub mod icmp;
mod ip_cidr;
pub mod ipv4;
mod mac;
pub mod machine;
pub mod offload;
mod range;
pub mod udp;

pub use cidr::Ipv4Cidr;
pub use datagram::UdpFrame;
pub use error::{Malformed, ParseError};
pub use hash::stable_hash;
pub use ip_cidr::IpCidr;
pub use mac::MacAddress;
pub use range::Ipv4Range;
