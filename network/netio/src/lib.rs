//! The network edge: the only network crate with system calls.
//!
//! [`tap`] and [`udp`] are the data side: frames and batches of datagrams, driven by whoever moves them, who waits by [`wait`] and asks [`routes`] for the way. Everything else is the control side:
//! [`datagram`] runs machines that answer on a link; [`plan`] says what to do for a network and does it, by [`link`] (netlink), [`nft`] (rules) and [`forwarding`];
//! [`namespace`] carries any of it into another network stack.
//!
//! All of it acts in the network namespace of the calling thread. The asynchronous parts need a tokio runtime, of
//! which a current-thread one inside [`Namespace::run`] will do.

pub mod datagram;
mod error;
pub mod forwarding;
pub mod host;
#[allow(unsafe_code)] // A room of unsafe: the owner of a descriptor that comes from outside.
pub mod inherited;
mod ipv6;
pub mod link;
pub mod local;
mod name;
pub mod namespace;
pub mod network;
pub mod nft;
pub mod plan;
pub mod routes;
pub mod tap;
pub mod udp;
pub mod wait;

pub use error::{Error, ErrorKind, Result};
pub use name::{InterfaceName, LONGEST_INTERFACE_NAME};
pub use namespace::Namespace;
pub use network::{Mode, NetworkName, NetworkSpec, PortForward, PortSpec, TunnelWay};
pub use tap::{Offloads, Tap, TapOptions};
