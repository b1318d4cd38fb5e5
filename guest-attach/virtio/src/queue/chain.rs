//! A chain of descriptors, checked and translated.

use smallvec::SmallVec;
use weft_block::Segment;

/// The most descriptors in one chain, through an indirect table too. What a request can be is bounded by this:
/// it is also the most segments that one vectored system call takes (`IOV_MAX`).
pub const MAX_CHAIN: u16 = 1024;

/// The segments of one available chain, in order: those that the device reads first, then those that it writes.
///
/// Each lies in guest memory, which the queue's [`GuestMemory`](crate::GuestMemory) keeps mapped; none is empty.
#[derive(Debug, Clone)]
pub struct Chain {
    head: u16,
    segments: SmallVec<[Segment; 4]>,
    /// How many of the segments are readable.
    readable: usize,
    readable_len: u64,
    writable_len: u64,
}

impl Chain {
    pub(super) fn new(head: u16) -> Self {
        Self {
            head,
            segments: SmallVec::new(),
            readable: 0,
            readable_len: 0,
            writable_len: 0,
        }
    }

    pub(super) fn push(&mut self, segment: Segment, writable: bool) {
        self.segments.push(segment);
        if writable {
            self.writable_len += segment.len as u64;
        } else {
            self.readable += 1;
            self.readable_len += segment.len as u64;
        }
    }

    /// The name under which the driver knows the chain, and under which it is given back.
    pub fn head(&self) -> u16 {
        self.head
    }

    /// What the device may read.
    pub fn readable(&self) -> &[Segment] {
        &self.segments[..self.readable]
    }

    /// What the device may write.
    pub fn writable(&self) -> &[Segment] {
        &self.segments[self.readable..]
    }

    /// Bytes to read.
    pub fn readable_len(&self) -> u64 {
        self.readable_len
    }

    /// Bytes to write.
    pub fn writable_len(&self) -> u64 {
        self.writable_len
    }
}
