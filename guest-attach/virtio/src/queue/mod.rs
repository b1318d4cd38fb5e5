//! Virtqueues: chains of descriptors in, used elements out.
//!
//! [`SplitQueue`] is the split ring of virtio 1.x. What it gives out ([`Chain`]) and what goes wrong
//! ([`QueueError`]) say nothing of the layout, so that a packed ring can stand beside it.
//!
//! # What a queue promises
//!
//! - **A chain is checked whole before anybody sees it**: every segment is mapped, none is empty, all that the device
//!   may only read come before all that it may write, and it ends within [`MAX_CHAIN`] descriptors. Models deeper in
//!   the house check no address again.
//! - **A guest that breaks its ring ends its ring**: each error is final for the queue, and is an error and nothing
//!   more. What was popped before it stays valid.
//! - **Used elements become visible in batches**: [`SplitQueue::push`] writes, [`SplitQueue::publish`] shows.
//!
//! Source: virtio 1.2, section 2.7; the in-flight region: vhost-user protocol, "Inflight I/O tracking".

mod chain;
#[allow(unsafe_code)] // A room of unsafe: memory shared with the front end.
mod inflight;
#[allow(unsafe_code)] // A room of unsafe: ring memory shared with the guest.
mod ring;
mod split;

pub use chain::{Chain, MAX_CHAIN};
pub use inflight::{InFlightRegion, in_flight_stride};
pub use split::{Layout, MAX_QUEUE_SIZE, QueueOptions, SplitQueue};

/// What a guest did wrong. Final for the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    /// The ring cannot be set up: its size is not a power of two up to [`MAX_QUEUE_SIZE`].
    #[error("a queue of {0} descriptors is not possible")]
    BadSize(u16),
    /// The ring cannot be set up: a part is not mapped in one piece or is misaligned.
    #[error("the queue's {part} at {address:#x} is not usable memory")]
    BadRing {
        /// Which of the three parts.
        part: &'static str,
        /// Its guest-physical address.
        address: u64,
    },
    /// More is available than the ring can hold.
    #[error("the driver made {available} chains available on a ring of {size}")]
    IndexAhead {
        /// How many chains the index claims.
        available: u16,
        /// Descriptors in the ring.
        size: u16,
    },
    /// A descriptor index leaves its table.
    #[error("descriptor {index} leaves a table of {size}")]
    BadIndex {
        /// The index.
        index: u16,
        /// Descriptors in the table.
        size: u16,
    },
    /// A segment is not guest memory.
    #[error("{len} bytes at {address:#x} are not guest memory")]
    BadAddress {
        /// Guest-physical address.
        address: u64,
        /// Bytes.
        len: u32,
    },
    /// A chain does not end where it must: it loops or is too long.
    #[error("the chain at descriptor {head} does not end within {limit} descriptors")]
    Endless {
        /// Its head.
        head: u16,
        /// Where it had to end.
        limit: u16,
    },
    /// A segment is empty.
    #[error("the chain at descriptor {head} has an empty segment")]
    EmptySegment {
        /// Its head.
        head: u16,
    },
    /// A segment to be read follows one to be written.
    #[error("the chain at descriptor {head} has a readable segment after a writable one")]
    WrongDirection {
        /// Its head.
        head: u16,
    },
    /// An indirect table is nested, empty, of no whole number of descriptors, continued, or was not negotiated.
    #[error("the chain at descriptor {head} has an indirect table that is not allowed")]
    BadIndirect {
        /// Its head.
        head: u16,
    },
    /// The chain's segments do not hold what the device needs.
    #[error("the chain at descriptor {head} lacks {what}")]
    Incomplete {
        /// Its head.
        head: u16,
        /// What is missing.
        what: &'static str,
    },
    /// The in-flight region does not fit the queue.
    #[error("the in-flight region is not usable: {0}")]
    BadInFlight(&'static str),
}
