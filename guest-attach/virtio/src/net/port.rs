//! The other side of a virtio-net device.

use std::io;

use weft_block::{IoVec, LocalBoxFuture};

/// One queue of a port to a network, on the thread that uses it. A TAP queue is one; a switch's port another.
///
/// Frames have a virtio-net header in front, little-endian, of the length that [`PortSetup`] said last.
pub trait NetPort {
    /// Says what frames are to look like. Called before the first frame and after each negotiation.
    ///
    /// # Errors
    /// If the port cannot do it; the device is not started then.
    fn configure(&self, setup: &PortSetup) -> io::Result<()>;

    /// Takes the next part in or out of the traffic: a device with several queue pairs uses as many as its driver
    /// asked for.
    ///
    /// # Errors
    /// If the port cannot do it.
    fn set_enabled(&self, enabled: bool) -> io::Result<()> {
        let _ = enabled;
        Ok(())
    }

    /// Gives a frame to the network; false if there is no room now, and the frame was not taken.
    ///
    /// # Errors
    /// If the frame was refused; it is dropped.
    fn send(&self, frame: &IoVec) -> io::Result<bool>;

    /// Fills `into` from its start with the next frame and gives the frame's length; none if no frame waits. What a
    /// longer frame has more is lost.
    ///
    /// # Errors
    /// If the port is broken for now.
    fn receive(&self, into: &mut IoVec) -> io::Result<Option<usize>>;

    /// Waits until a frame may be there.
    fn readable(&self) -> LocalBoxFuture<'_, io::Result<()>>;

    /// Waits until there may be room for a frame.
    fn writable(&self) -> LocalBoxFuture<'_, io::Result<()>>;
}

/// What a port's frames look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortSetup {
    /// Bytes of virtio-net header: [`HEADER`](super::HEADER) or [`LEGACY_HEADER`](super::LEGACY_HEADER).
    pub header: usize,
    /// What the reader of the port takes besides whole, checksummed frames.
    pub offloads: Offloads,
    /// All virtio features that the driver took.
    pub features: u64,
}

/// Work that is left to the receiver of a frame. The bits are those of Linux's `TUN_F_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offloads(u32);

impl Offloads {
    /// Checksums that are not there yet.
    pub const CHECKSUM: Self = Self(0x01);
    /// Long TCP segments over IPv4.
    pub const TSO4: Self = Self(0x02);
    /// Long TCP segments over IPv6.
    pub const TSO6: Self = Self(0x04);
    /// Long TCP segments with ECN.
    pub const TSO_ECN: Self = Self(0x08);
    /// UDP datagrams to be fragmented.
    pub const UFO: Self = Self(0x10);
    /// Long runs of UDP datagrams over IPv4.
    pub const USO4: Self = Self(0x20);
    /// Long runs of UDP datagrams over IPv6.
    pub const USO6: Self = Self(0x40);
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// What a TAP of any kernel since 2.6.27 can do.
    pub const TCP: Self = Self(0x01 | 0x02 | 0x04 | 0x08);

    /// The bits, as `TUNSETOFFLOAD` takes them.
    pub fn bits(self) -> u32 {
        self.0
    }

    /// From bits; unknown ones are left out.
    pub fn from_bits(bits: u32) -> Self {
        Self(bits & 0x7f)
    }

    /// Both together.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` is in it.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether frames can be longer than the MTU.
    pub fn are_long(self) -> bool {
        self.0 & !Self::CHECKSUM.0 != 0
    }
}
