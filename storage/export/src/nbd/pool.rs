//! Payload memory that is used again.
//!
//! Shared by the server and the client.

use std::cell::RefCell;
use std::rc::Rc;

use weft_block::IoVec;

/// Bytes of the smallest buffer; the others double up to [`LARGEST`].
const SMALLEST: usize = 4 << 10;

/// Bytes of the largest buffer: the longest payload.
const LARGEST: usize = crate::nbd::proto::MAX_PAYLOAD as usize;

/// Bytes that a pool keeps for later. Fresh memory costs a page fault for every 4 KiB, several times what a read from
/// the page cache costs, so as much is kept as a busy client has on its way.
const MAX_KEPT: usize = 16 << 20;

/// Bytes that a pool keeps while nothing is under way.
const MAX_KEPT_IDLE: usize = 4 << 20;

const CLASSES: usize = (LARGEST / SMALLEST).ilog2() as usize + 1;

/// The payload memory of one connection. It goes with the connection.
pub(super) struct Pool {
    free: RefCell<Free>,
}

struct Free {
    classes: [Vec<IoVec>; CLASSES],
    bytes: usize,
}

impl Pool {
    pub(super) fn new() -> Rc<Self> {
        Rc::new(Self {
            free: RefCell::new(Free {
                classes: std::array::from_fn(|_| Vec::new()),
                bytes: 0,
            }),
        })
    }

    /// Memory for `len` bytes, of unspecified contents.
    pub(super) fn take(self: &Rc<Self>, len: usize) -> Payload {
        let class = class_of(len);
        let mut free = self.free.borrow_mut();
        let memory = match free.classes[class].pop() {
            Some(memory) => {
                free.bytes -= memory.len();
                memory
            }
            None => IoVec::zeroed(SMALLEST << class),
        };
        Payload {
            memory,
            len,
            pool: Rc::clone(self),
        }
    }

    /// Memory with what `from` holds now.
    pub(super) fn copy(self: &Rc<Self>, from: &IoVec) -> Payload {
        let mut payload = self.take(from.len());
        payload.memory.copy_from(0, from);
        payload
    }

    /// Nothing is under way: keeps no more than what the next requests are likely to want, the smallest buffers first.
    pub(super) fn rest(&self) {
        let mut free = self.free.borrow_mut();
        for class in (0..CLASSES).rev() {
            while free.bytes > MAX_KEPT_IDLE
                && let Some(memory) = free.classes[class].pop()
            {
                free.bytes -= memory.len();
            }
        }
    }

    fn give_back(&self, memory: IoVec) {
        let mut free = self.free.borrow_mut();
        // A layer below may hold a slice for longer than the request took; then it must not be written again.
        if memory.is_alone() && free.bytes + memory.len() <= MAX_KEPT {
            free.bytes += memory.len();
            free.classes[class_of(memory.len())].push(memory);
        }
    }
}

fn class_of(len: usize) -> usize {
    debug_assert!(len <= LARGEST, "sessions bound payloads");
    len.div_ceil(SMALLEST).next_power_of_two().ilog2() as usize
}

/// Pooled memory with a write's data or a read's.
pub(super) struct Payload {
    memory: IoVec,
    len: usize,
    pool: Rc<Pool>,
}

impl Payload {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Bytes of memory that it takes.
    pub(super) fn held(&self) -> usize {
        self.memory.len()
    }

    /// `len` bytes from `from` on, for a request or a system call.
    pub(super) fn part(&self, from: usize, len: usize) -> IoVec {
        debug_assert!(from + len <= self.len, "a part of the payload");
        self.memory.slice(from, len)
    }

    /// All of it.
    pub(super) fn whole(&self) -> IoVec {
        self.part(0, self.len)
    }

    /// Puts `bytes` at `at`.
    pub(super) fn fill(&mut self, at: usize, bytes: &[u8]) {
        debug_assert!(at + bytes.len() <= self.len, "a part of the payload");
        self.memory.copy_in(at, bytes);
    }
}

impl Drop for Payload {
    fn drop(&mut self) {
        let memory = std::mem::replace(&mut self.memory, IoVec::empty());
        self.pool.give_back(memory);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(payload: &Payload) -> *mut u8 {
        payload.whole().segments()[0].start.as_ptr()
    }

    #[test]
    fn memory_is_used_again_by_payloads_of_its_class() {
        let pool = Pool::new();
        let first = pool.take(5000);
        let place = start(&first);
        drop(first);
        assert_ne!(start(&pool.take(512)), place);
        assert_eq!(start(&pool.take(8192)), place);
        assert_eq!(pool.take(LARGEST).len(), LARGEST);
    }

    #[test]
    fn memory_that_a_layer_still_holds_is_not_used_again() {
        let pool = Pool::new();
        let payload = pool.take(4096);
        let place = start(&payload);
        let held = payload.part(0, 512);
        drop(payload);
        assert_ne!(start(&pool.take(4096)), place);
        drop(held);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let pool = Pool::new();
        let payloads: Vec<Payload> = (0..40).map(|_| pool.take(1 << 20)).collect();
        drop(payloads);
        assert_eq!(pool.free.borrow().bytes, MAX_KEPT);
        pool.rest();
        assert_eq!(pool.free.borrow().bytes, MAX_KEPT_IDLE);
    }
}
