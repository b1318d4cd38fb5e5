//! A guestless vhost-user driver.
//!
//! [`DriverRing`] is the driver's side of a split virtqueue in memory of our own: the other end of a device in tests.
//! [`Connection`] is a vhost-user front end without a VMM, over the `vhost` crate's front-end role, and
//! [`BlkDriver`] a virtio-blk driver on it: the load generator of `make bench-vhost`, the same for every backend.

mod blk;
mod connection;
#[allow(unsafe_code)] // A room of unsafe: descriptors are borrowed by number.
mod event;
#[allow(unsafe_code)] // A room of unsafe: ring memory shared with a device.
mod ring;

pub use blk::{BlkDriver, Done, Waiting};
pub use connection::{Connection, ConnectionOptions, Error, guest_memory};
pub use ring::{DriverRing, Part, RingAddresses};
