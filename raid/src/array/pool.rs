//! Buffers that are used again: a fresh one costs page faults on every write.

use std::cell::RefCell;

use weft_block::{Buffer, IoVec};

/// Bytes that a queue keeps for its next requests.
const POOL_BYTES: usize = 4 << 20;

/// The spare buffers of one thread. Their contents are what was left in them.
#[derive(Default)]
pub(crate) struct Pool {
    spare: RefCell<Spare>,
}

#[derive(Default)]
struct Spare {
    /// Oldest first.
    buffers: Vec<Buffer>,
    bytes: usize,
}

impl Pool {
    /// A buffer of `len` bytes with any contents.
    pub(crate) fn take(&self, len: usize) -> Buffer {
        let mut spare = self.spare.borrow_mut();
        match spare.buffers.iter().rposition(|buffer| buffer.len() == len) {
            Some(index) => {
                spare.bytes -= len;
                spare.buffers.remove(index)
            }
            None => Buffer::zeroed(len),
        }
    }

    /// Gives a buffer back.
    pub(crate) fn put(&self, buffer: Buffer) {
        if buffer.is_empty() || buffer.len() > POOL_BYTES {
            return;
        }
        let mut spare = self.spare.borrow_mut();
        spare.bytes += buffer.len();
        spare.buffers.push(buffer);
        while spare.bytes > POOL_BYTES {
            let oldest = spare.buffers.remove(0);
            spare.bytes -= oldest.len();
        }
    }

    /// Gives the memory of a completed request back, if nobody else holds it.
    pub(crate) fn put_vector(&self, vector: IoVec) {
        if let Some(buffer) = sole(vector) {
            self.put(buffer);
        }
    }
}

/// The vector's buffer without a copy, or nothing.
fn sole(vector: IoVec) -> Option<Buffer> {
    let start = vector.segments().first()?.start;
    // `into_buffer` copies only if others share; such a copy is not worth keeping.
    let buffer = vector.into_buffer();
    std::ptr::eq(buffer.as_ptr(), start.as_ptr()).then_some(buffer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_and_the_bound_holds() {
        let pool = Pool::default();
        let buffer = pool.take(4096);
        let start = buffer.as_ptr();
        pool.put_vector(IoVec::from(buffer));
        assert_eq!(pool.take(4096).as_ptr(), start);
        for _ in 0..100 {
            pool.put(Buffer::zeroed(1 << 20));
        }
        assert_eq!(pool.spare.borrow().bytes, POOL_BYTES);
    }
}
