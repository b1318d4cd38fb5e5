//! Devices and queues.

use std::future::Future;
use std::pin::Pin;

use crate::{Completion, Error, ErrorKind, Request, Result, Spawner};

/// A boxed future that stays on its thread.
pub type LocalBoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// What a device is. Only `size` may change while the device lives; ask again after a resize.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// Bytes, a multiple of `logical_block`.
    pub size: u64,
    /// Bytes: the unit of requests, a power of two of at least 512.
    pub logical_block: u32,
    /// Bytes: what the medium writes without reading first; at least `logical_block`.
    pub physical_block: u32,
    /// Bytes: lengths and offsets that are multiples of this are cheapest (a full stripe); zero if nothing is known.
    pub optimal_io: u32,
    /// Bytes: the alignment that memory segments must have, at most [`BUFFER_ALIGNMENT`](crate::BUFFER_ALIGNMENT);
    /// one if any will do. A device that needs more than a caller gave copies; it does not refuse.
    pub memory_alignment: u32,
    /// Whether acknowledged writes need a flush to be durable.
    pub volatile_cache: bool,
    /// Whether writes are refused.
    pub read_only: bool,
    /// Whether discard gives space back.
    pub discard: bool,
    /// Whether write-zeroes is cheaper than writing zeroes. It always works.
    pub fast_zeroes: bool,
}

impl Info {
    /// A writable device of `size` bytes in blocks of `block` bytes, with a volatile cache and no other ability.
    pub fn new(size: u64, block: u32) -> Self {
        Self {
            size,
            logical_block: block,
            physical_block: block,
            optimal_io: 0,
            memory_alignment: 1,
            volatile_cache: true,
            read_only: false,
            discard: false,
            fast_zeroes: false,
        }
    }
}

/// How a range is backed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExtentKind {
    /// Holds data, as far as is known.
    Data,
    /// Allocated and known to read as zeroes.
    Zero,
    /// Not allocated; reads as zeroes.
    Hole,
}

/// A range with one answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// First byte on the device.
    pub offset: u64,
    /// Bytes, never zero.
    pub len: u64,
    /// How it is backed.
    pub kind: ExtentKind,
}

/// The control side of a device. See the crate's first page for what it promises.
pub trait BlockDevice: Send + Sync {
    /// What the device is now.
    fn info(&self) -> Info;

    /// Opens a queue for the calling thread; its steps run on `spawner`.
    ///
    /// # Errors
    /// `Offline` if the device is gone, `Busy` if [`max_queues`](Self::max_queues) are open.
    fn open(&self, spawner: &Spawner) -> Result<Box<dyn BlockQueue>>;

    /// How many queues can be open at once. Small where each costs a thread or a connection.
    fn max_queues(&self) -> usize {
        usize::MAX
    }

    /// Makes the device `size` bytes long: what is gained reads as zeroes, what is cut off is gone. It is durable after a
    /// later flush. The caller sees to it that no request is in flight beyond the smaller of both sizes.
    ///
    /// # Errors
    /// `Unsupported` where the size is not the caller's to choose, as with all that is not a file; `Misaligned` unless
    /// `size` is whole logical blocks; `ReadOnly`, `NoSpace`.
    fn set_len(&self, size: u64) -> Result<()> {
        let _ = size;
        Err(Error::new(
            ErrorKind::Unsupported,
            "the device keeps its size",
        ))
    }
}

/// The data side of a device, for one thread.
pub trait BlockQueue {
    /// Starts `request`; the future only waits for it, and its buffer comes back with the completion.
    ///
    /// Requests are bounded by their submitter: a queue accepts all it is given.
    fn submit(&self, request: Request) -> LocalBoxFuture<'static, Completion>;

    /// How the range is backed, in order and without gaps, starting at `offset` and covering at least one byte and at
    /// most `len`. The default knows only that everything may hold data.
    ///
    /// # Errors
    /// As a read of the range.
    fn extents(&self, offset: u64, len: u64) -> LocalBoxFuture<'static, Result<Vec<Extent>>> {
        Box::pin(std::future::ready(Ok(vec![Extent {
            offset,
            len,
            kind: ExtentKind::Data,
        }])))
    }
}
