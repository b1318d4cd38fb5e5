//! vhost-user backends for any VMM.
//!
//! [`BlkBackend`] serves a block device, [`NetBackend`] a network port, each on a Unix socket, to one front end after
//! the other.
//!
//! # One thread, no locks
//!
//! A backend lives on one shard: the listening socket, the conversation with the front end and the rings are tasks of
//! the same executor that runs the device below. So nothing is shared between threads, a request never changes one,
//! and a message that stops a ring simply waits for it. The `vhost` crate gives the protocol's words (request codes,
//! payloads and their checks) and, in the tests, the other side; its request handler is not used: it blocks its
//! thread in `recvmsg`, would need a thread for each socket and locks to the rings, and knows neither the device
//! status nor the notification of a changed configuration.
//!
//! # What a backend promises
//!
//! 1. **No request is lost or done twice.** What a guest was told is done is done. When we die, even by `kill -9`,
//!    the in-flight region that the front end keeps says what was not, and a successor at the same socket does that
//!    first.
//! 2. **A guest ends its own ring at most.** A broken ring is logged, counted and signalled to the front end; other
//!    rings, devices and the daemon go on.
//! 3. **A stop is a stop between requests.** What is in flight is finished; what is not taken yet stays in the ring
//!    for the successor.
//! 4. **Idle costs nothing.** A busy ring is looked at for at most [`weft_uring::SPIN_LIMIT`] at a time; an idle one
//!    sleeps until it is kicked.
//! 5. **Bounds.** Requests in flight: [`IN_FLIGHT_PER_RING`]; memory regions, message lengths and descriptors: those
//!    of the protocol.

mod bell;
mod blk;
#[allow(unsafe_code)] // A room of unsafe: descriptors arrive as numbers.
mod channel;
mod device;
mod error;
mod event;
mod inflight;
mod memory;
mod message;
mod net;
mod ring;
mod server;
mod session;
mod socket;
mod statistics;
mod vring;

pub use blk::{BlkBackend, BlkServe, IN_FLIGHT_PER_RING};
pub use error::Error;
pub use net::{FrameFile, NetBackend, Ports, Setting};
pub use server::Served;
pub use statistics::Statistics;
pub use weft_virtio::blk::BlkOptions;
pub use weft_virtio::net::{NetOptions, NetPort, Offloads, PortSetup};
