//! The datapath of a tunnel: the WireGuard machine of `weft-vpn`, joined to a source of packets and to UDP ports.
//!
//! A [`Device`] is one interface and one thread. What the thread takes in one call stays together: a TCP segment of 64
//! KiB is cut and each part sealed straight into the buffer of one send, and what the network has put behind each other
//! is opened where it lies and goes on as one packet, without a copy. The order of packets is kept in both directions.
//!
//! [`Packets`] is where packets come from and go to: a TUN device ([`Tun`]) now; a port of a switch needs nothing else.
//! The UDP ports stay in the namespace in which the device was started; the TUN device may be in any other.
//!
//! With nothing to do the thread sleeps until the machine's next deadline, of which there is none when all are silent.

mod device;
mod inbound;
mod outbound;
mod packets;
mod ports;
mod uapi;
mod ways;

pub use device::{Counters, Device, entropy, now};
pub use packets::{Packets, Tun};
pub use uapi::Uapi;
