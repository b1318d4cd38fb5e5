//! The model of virtio-net.
//!
//! [`NetModel`] is what the driver sees of the device. [`Transmit`] moves frames from a queue to a [`NetPort`],
//! [`Receive`] from a port into a queue's buffers, [`control`] answers the control queue. Each works in bounded turns
//! and never waits: its [`Progress`] says what to wait for.
//!
//! A frame keeps its virtio-net header on the way through: checksums and segments are made by whoever ends the path,
//! never here. Frames go from guest memory into the port and back without a copy of ours.
//!
//! Source: virtio 1.2, section 5.1.

mod config;
mod control;
mod port;
#[allow(unsafe_code)] // A room of unsafe: frames lie in guest memory.
mod receive;
#[allow(unsafe_code)] // A room of unsafe: frames lie in guest memory.
mod transmit;

pub use config::{CONFIG_LEN, NetModel, NetOptions};
pub use control::{Answer, control};
pub use port::{NetPort, Offloads, PortSetup};
pub use receive::Receive;
pub use transmit::Transmit;

/// Bytes of `struct virtio_net_hdr` with its `num_buffers`: virtio 1.x, and mergeable buffers before it.
pub const HEADER: usize = 12;
/// Bytes of the header of a legacy driver without mergeable buffers.
pub const LEGACY_HEADER: usize = 10;
/// The longest frame without its header: an IP packet of 64 KiB with Ethernet and one VLAN tag.
pub const LONGEST_FRAME: usize = 65_535 + 14 + 4;
/// Frames that one turn moves at most, so that a busy queue leaves its thread to others.
pub const FRAMES_PER_TURN: usize = 64;

/// Why a turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// The queue has no chain: wait for the driver.
    QueueEmpty,
    /// The port has no frame, or no room for one: wait for it.
    PortBlocked,
    /// The turn is over and there may be more.
    More,
}

/// What went through, since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Frames.
    pub frames: u64,
    /// Their bytes, without headers.
    pub bytes: u64,
    /// Frames that the port or the guest's buffers did not take.
    pub dropped: u64,
}
