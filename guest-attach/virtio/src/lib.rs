//! Virtqueues and the block and network device models, without a transport.
//!
//! - [`queue`]: the device's side of a split virtqueue over guest memory ([`GuestMemory`]).
//! - [`blk`]: virtio-blk: what the device says of itself, and a chain turned into a [`weft_block::Request`].
//! - [`net`]: virtio-net: what the device says of itself, and frames between chains and a [`net::NetPort`].
//!
//! Nothing here waits, spawns, reads a clock or knows how a notification travels: a transport (vhost-user, a VMM)
//! owns the queues, calls the models and delivers interrupts.
//!
//! # What a guest can do
//!
//! Everything a guest wrote is hostile. A broken ring or chain is a [`queue::QueueError`], final for that queue and
//! harmless to everything else; a request that makes no sense is answered with the device's error status. Data is
//! never copied on the way: requests point into guest memory, which the guest may change while they are under way, so
//! whatever is decided upon (headers, descriptors, ranges) is copied first, once.

pub mod blk;
#[allow(unsafe_code)] // A room of unsafe: a guest's mapped memory.
mod memory;
pub mod net;
pub mod queue;
#[allow(unsafe_code)] // A room of unsafe: bytes of a guest are copied here.
mod segments;

pub use memory::GuestMemory;

/// `VIRTIO_F_VERSION_1`: the device is not a legacy one.
pub const F_VERSION_1: u64 = 1 << virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
/// `VIRTIO_F_INDIRECT_DESC`.
pub const F_INDIRECT: u64 = 1 << virtio_bindings::virtio_ring::VIRTIO_RING_F_INDIRECT_DESC;
/// `VIRTIO_F_EVENT_IDX`.
pub const F_EVENT_IDX: u64 = 1 << virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;

/// What a ring is to do under the negotiated `features`.
pub fn queue_options(features: u64) -> queue::QueueOptions {
    queue::QueueOptions {
        event_idx: features & F_EVENT_IDX != 0,
        indirect: features & F_INDIRECT != 0,
    }
}
