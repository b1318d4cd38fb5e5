//! The block contract.
//!
//! A [`BlockDevice`] is the control side of a disk, an array, a volume or an image: it says how large it is, what it
//! can do, and opens queues. A [`BlockQueue`] is the data side: it takes [`Request`]s that own their buffers and
//! answers each with a [`Completion`] that gives the buffers back. Layers stack: an array is a device over devices.
//! This crate performs no I/O and reads no clock.
//!
//! # What a device promises
//!
//! 1. **Visibility.** A write whose completion was delivered is seen by every later read, on every queue.
//!    Two requests that overlap and are in flight together may take effect in either order, sector by sector.
//! 2. **Durability.** A write is durable once a flush that was submitted after the write's completion has itself
//!    completed (on any queue of the device), or at once when it carried `fua`. A device without a volatile cache
//!    completes only what is durable. Discard and write-zeroes become durable as writes do.
//! 3. **No order.** Between requests that no flush separates there is no order, whatever the order of submission.
//! 4. **Failure.** A failed write leaves each of its sectors old, new or unreadable, and nothing else changed.
//!    A failed read gives back the buffer with unspecified contents. A failed flush promises nothing about the writes
//!    before it, and a later successful flush does not cover them: who needs them writes them again.
//! 5. **Power.** After a power cut each sector (of the logical block size) written since its last durable write is
//!    old, new or, if it was being written, torn into unreadability. Durable sectors are untouched.
//! 6. **Discard.** After a completed discard a sector reads as its old value or as zeroes until it is written again;
//!    after a completed write-zeroes it reads as zeroes. Both are hints for allocation, never for data that is kept.
//!
//! # What a caller promises
//!
//! - Offsets and lengths are whole logical blocks inside the device; anything else is answered with
//!   [`ErrorKind::Misaligned`] or [`ErrorKind::OutOfRange`] and touches nothing. [`Request::check`] is that test, and
//!   every device makes it first.
//! - A guest may change its pages while a write is in flight. A layer that writes data twice, or derives from it
//!   (mirrors, parity, checksums, compression), copies it once and uses the copy for everything.
//!
//! # Ownership and progress
//!
//! [`BlockQueue::submit`] starts the request; the future it returns only waits. Dropping that future neither cancels
//! the request nor frees its buffers: the queue keeps both until the work below is done. A layer whose work takes
//! several steps therefore runs them as a task on the [`Spawner`] that its queue was opened with. It is also where a
//! layer that minds how long things take asks for the time, so that a simulation can be its clock.
//! Queues are not `Send`: each belongs to the thread that opened it, and several threads may each open their own.

#[allow(unsafe_code)] // A room of unsafe: raw memory with one owner.
mod buffer;
mod bytes;
mod device;
mod error;
#[allow(unsafe_code)] // A room of unsafe: memory that a guest or the kernel may change.
mod iovec;
mod range_locks;
mod request;
pub mod signature;
mod spawn;
mod switch;
mod task;

pub use buffer::{BUFFER_ALIGNMENT, Buffer};
pub use bytes::Bytes;
pub use device::{BlockDevice, BlockQueue, Extent, ExtentKind, Info, LocalBoxFuture};
pub use error::{Error, ErrorKind, Result};
pub use iovec::{IoVec, Segment};
pub use range_locks::{Acquire, RangeGuard, RangeLocks};
pub use request::{Completion, Op, Request};
pub use spawn::{Spawn, Spawner, yield_now};
pub use switch::{Paused, Switch};
pub use task::{Along, answered, detached};

/// Bytes in a sector, the unit of md, LVM2 and virtio-blk, whatever the logical block size of a device.
pub const SECTOR: u64 = 512;
