//! Memory that a socket operation may own.

use weft_block::{Buffer, IoVec};

use crate::sys::RawSegments;

/// Memory that travels with a socket operation and comes back with its answer.
///
/// `Vec<u8>` and [`Buffer`] lend all their bytes (a vector's length, not its capacity), an [`IoVec`] its segments; a
/// vector and a pair lend their parts one after the other.
///
/// # Safety
/// The segments that [`lend`](Self::lend) names must stay valid for reads and writes while the value lives, also when it
/// is moved, and no Rust reference to them may be used until the operation is over.
pub unsafe trait Memory: 'static {
    /// Appends the segments to `raw`.
    #[doc(hidden)]
    fn lend(&mut self, raw: &mut RawSegments);
}

fn push(raw: &mut RawSegments, start: *mut u8, len: usize) {
    if len > 0 {
        raw.push(libc::iovec {
            iov_base: start.cast(),
            iov_len: len,
        });
    }
}

// SAFETY: a vector's heap memory stays in place when the vector moves.
unsafe impl Memory for Vec<u8> {
    fn lend(&mut self, raw: &mut RawSegments) {
        push(raw, self.as_mut_ptr(), self.len());
    }
}

// SAFETY: a buffer's heap memory stays in place when the buffer moves.
unsafe impl Memory for Buffer {
    fn lend(&mut self, raw: &mut RawSegments) {
        push(raw, self.as_mut_ptr(), self.len());
    }
}

// SAFETY: an IoVec keeps its segments' owner alive, and nobody sees them as slices.
unsafe impl Memory for IoVec {
    fn lend(&mut self, raw: &mut RawSegments) {
        for segment in self.segments() {
            push(raw, segment.start.as_ptr(), segment.len);
        }
    }
}

// SAFETY: each part keeps its own promise, and parts are not touched while the whole is lent.
unsafe impl<M: Memory> Memory for Vec<M>
where
    M: NotAByte,
{
    fn lend(&mut self, raw: &mut RawSegments) {
        self.iter_mut().for_each(|part| part.lend(raw));
    }
}

/// Keeps `Vec<u8>` apart from vectors of memories.
#[doc(hidden)]
pub trait NotAByte {}
impl NotAByte for IoVec {}
impl NotAByte for Buffer {}

// SAFETY: each part keeps its own promise.
unsafe impl<A: Memory, B: Memory> Memory for (A, B) {
    fn lend(&mut self, raw: &mut RawSegments) {
        self.0.lend(raw);
        self.1.lend(raw);
    }
}
