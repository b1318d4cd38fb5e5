//! The memory of a request: scattered segments and whoever keeps them alive.

use std::any::Any;
use std::ptr::NonNull;
use std::rc::Rc;

use smallvec::SmallVec;

use crate::Buffer;

/// One run of bytes. Inside an [`IoVec`] it is valid as long as the vector's owner lives.
#[derive(Debug, Clone, Copy)]
pub struct Segment {
    /// First byte.
    pub start: NonNull<u8>,
    /// Bytes.
    pub len: usize,
}

/// Most requests are of one run or two; more take an allocation, which they are large enough to pay for.
type Segments = SmallVec<[Segment; 2]>;

/// Scattered memory that a request reads from or writes to.
///
/// The memory belongs to an owner (a [`Buffer`], a guest's RAM) that the vector keeps alive, and may change under a
/// reader's eyes when the owner is a guest, so it is never seen as a slice: bytes are copied in and out.
/// Slices of a vector share the owner. A vector stays on its thread, so two slices never race in our own code; overlap
/// with the kernel's or a guest's access yields unspecified bytes and nothing worse.
#[derive(Debug, Clone)]
pub struct IoVec {
    segments: Segments,
    len: usize,
    owner: Option<Rc<dyn Any>>,
}

impl IoVec {
    /// No memory: what flush, discard and write-zeroes carry.
    pub fn empty() -> Self {
        Self {
            segments: SmallVec::new(),
            len: 0,
            owner: None,
        }
    }

    /// Fresh zeroed memory, aligned for direct I/O.
    pub fn zeroed(len: usize) -> Self {
        Buffer::zeroed(len).into()
    }

    /// A copy of `bytes`, aligned for direct I/O.
    pub fn copy_of(bytes: &[u8]) -> Self {
        Buffer::copy_of(bytes).into()
    }

    /// Memory that `owner` keeps in place.
    ///
    /// # Safety
    /// Each segment must be valid for reads and writes of its length for as long as `owner` (or a clone of it) lives,
    /// and no Rust reference to those bytes may exist while this vector or a slice of it does.
    // The door of this room: guest memory comes in here.
    pub unsafe fn from_segments(
        segments: impl IntoIterator<Item = Segment>,
        owner: Rc<dyn Any>,
    ) -> Self {
        let segments: Segments = segments
            .into_iter()
            .filter(|segment| segment.len > 0)
            .collect();
        let len = segments.iter().map(|segment| segment.len).sum();
        Self {
            segments,
            len,
            owner: Some(owner),
        }
    }

    /// The bytes of `parts` one after the other, sharing their owners: how requests are joined without a copy.
    pub fn join(parts: impl IntoIterator<Item = Self>) -> Self {
        let mut parts: Vec<Self> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        if parts.len() == 1 {
            return parts.remove(0);
        }
        Self {
            segments: parts
                .iter()
                .flat_map(|part| &part.segments)
                .copied()
                .collect(),
            len: parts.iter().map(|part| part.len).sum(),
            owner: Some(Rc::new(parts)),
        }
    }

    /// Bytes in all segments.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no memory.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The runs, in order, for a system call. None is empty.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Whether no other vector and nobody else holds this memory's owner, so that it may be used for something new.
    pub fn is_alone(&self) -> bool {
        self.owner
            .as_ref()
            .is_none_or(|owner| Rc::strong_count(owner) == 1)
    }

    /// Whether every segment starts and ends at a multiple of `alignment`.
    pub fn is_aligned(&self, alignment: usize) -> bool {
        self.segments.iter().all(|segment| {
            (segment.start.as_ptr() as usize).is_multiple_of(alignment)
                && segment.len.is_multiple_of(alignment)
        })
    }

    /// The `len` bytes from `offset` on, sharing the owner.
    ///
    /// # Panics
    /// If the range leaves the vector.
    #[must_use]
    pub fn slice(&self, offset: usize, len: usize) -> Self {
        assert!(
            offset <= self.len && len <= self.len - offset,
            "slice leaves the vector"
        );
        let segments = self.parts(offset, len).collect();
        Self {
            segments,
            len,
            owner: self.owner.clone(),
        }
    }

    /// Copies `into.len()` bytes from `offset` on out of the vector.
    ///
    /// # Panics
    /// If the range leaves the vector.
    pub fn copy_out(&self, offset: usize, into: &mut [u8]) {
        assert!(
            offset <= self.len && into.len() <= self.len - offset,
            "copy leaves the vector"
        );
        let mut rest = into;
        for part in self.parts(offset, rest.len()) {
            let (head, tail) = rest.split_at_mut(part.len);
            // SAFETY: the segment is valid while `self.owner` lives, and `head` is a distinct Rust slice of its length.
            unsafe {
                std::ptr::copy_nonoverlapping(part.start.as_ptr(), head.as_mut_ptr(), part.len)
            };
            rest = tail;
        }
    }

    /// Copies `from` into the vector at `offset`.
    ///
    /// # Panics
    /// If the range leaves the vector.
    pub fn copy_in(&mut self, offset: usize, from: &[u8]) {
        assert!(
            offset <= self.len && from.len() <= self.len - offset,
            "copy leaves the vector"
        );
        let mut rest = from;
        for part in self.parts(offset, rest.len()) {
            let (head, tail) = rest.split_at(part.len);
            // SAFETY: as in `copy_out`; no Rust reference to the vector's bytes exists (`from_segments`).
            unsafe { std::ptr::copy_nonoverlapping(head.as_ptr(), part.start.as_ptr(), part.len) };
            rest = tail;
        }
    }

    /// Copies all of `from` into the vector at `offset`, without a stop on the way. What both of them hold may end up as
    /// either.
    ///
    /// # Panics
    /// If the range leaves the vector.
    pub fn copy_from(&mut self, offset: usize, from: &Self) {
        assert!(
            offset <= self.len && from.len <= self.len - offset,
            "copy leaves the vector"
        );
        let mut at = offset;
        for source in &from.segments {
            let mut start = source.start;
            for part in self.parts(at, source.len) {
                // SAFETY: both are valid while the vectors' owners live, and `copy` bears that they overlap; no Rust
                // reference to the bytes of either exists (`from_segments`). The parts' lengths add up to the segment's.
                unsafe {
                    std::ptr::copy(start.as_ptr(), part.start.as_ptr(), part.len);
                    start = start.add(part.len);
                }
            }
            at += source.len;
        }
    }

    /// Sets `len` bytes from `offset` on to `value`.
    ///
    /// # Panics
    /// If the range leaves the vector.
    pub fn fill(&mut self, offset: usize, len: usize, value: u8) {
        assert!(
            offset <= self.len && len <= self.len - offset,
            "fill leaves the vector"
        );
        for part in self.parts(offset, len) {
            // SAFETY: as in `copy_in`.
            unsafe { std::ptr::write_bytes(part.start.as_ptr(), value, part.len) };
        }
    }

    /// A private copy of all bytes: what a layer that uses the data twice takes first.
    pub fn to_buffer(&self) -> Buffer {
        let mut buffer = Buffer::zeroed(self.len);
        self.copy_out(0, &mut buffer);
        buffer
    }

    /// The buffer that this vector was made from, if it was made from one, holds the whole of it and nobody else does;
    /// otherwise a copy.
    pub fn into_buffer(self) -> Buffer {
        let whole = self.len;
        let copy = |vector: &Self| vector.to_buffer();
        let Some(owner) = self.owner.clone() else {
            return copy(&self);
        };
        let Ok(held) = owner.downcast::<HeldBuffer>() else {
            return copy(&self);
        };
        let starts_there = self.segments.first().is_some_and(|first| {
            first.start == held.start && first.len == whole && held.len == whole
        });
        if !starts_there || Rc::strong_count(&held) != 2 {
            return copy(&self);
        }
        drop(self);
        match Rc::try_unwrap(held) {
            Ok(held) => held.buffer,
            Err(_) => unreachable!("the count was two and one was dropped"),
        }
    }

    fn parts(&self, offset: usize, len: usize) -> impl Iterator<Item = Segment> + use<'_> {
        let (mut skip, mut left) = (offset, len);
        self.segments.iter().filter_map(move |segment| {
            if left == 0 {
                return None;
            }
            if skip >= segment.len {
                skip -= segment.len;
                return None;
            }
            let take = left.min(segment.len - skip);
            // SAFETY: `skip` lies inside the segment.
            let start = unsafe { segment.start.add(skip) };
            (skip, left) = (0, left - take);
            Some(Segment { start, len: take })
        })
    }
}

/// A buffer that nobody sees as a slice any more, so that its bytes are reached through segments alone.
struct HeldBuffer {
    buffer: Buffer,
    start: NonNull<u8>,
    len: usize,
}

impl From<Buffer> for IoVec {
    fn from(mut buffer: Buffer) -> Self {
        let len = buffer.len();
        let Some(start) = NonNull::new(buffer.as_mut_ptr()).filter(|_| len > 0) else {
            return Self::empty();
        };
        let mut segments = SmallVec::new();
        segments.push(Segment { start, len });
        Self {
            segments,
            len,
            owner: Some(Rc::new(HeldBuffer { buffer, start, len })),
        }
    }
}

/// Memory of any alignment: for what was made by others. A device that needs it aligned copies it.
impl From<Vec<u8>> for IoVec {
    fn from(mut bytes: Vec<u8>) -> Self {
        let len = bytes.len();
        let Some(start) = NonNull::new(bytes.as_mut_ptr()).filter(|_| len > 0) else {
            return Self::empty();
        };
        // SAFETY: a vector's heap memory stays in place while the Rc lives, and is reached through segments alone.
        unsafe { Self::from_segments([Segment { start, len }], Rc::new(bytes)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scattered(parts: &[&[u8]]) -> IoVec {
        let mut buffers: Vec<Vec<u8>> = parts.iter().map(|part| part.to_vec()).collect();
        let segments: Vec<Segment> = buffers
            .iter_mut()
            .map(|part| Segment {
                start: NonNull::new(part.as_mut_ptr()).expect("a vector's pointer is not null"),
                len: part.len(),
            })
            .collect();
        // SAFETY: the vectors' heap memory stays in place while the Rc lives, and is reached through segments alone.
        unsafe { IoVec::from_segments(segments, Rc::new(buffers)) }
    }

    #[test]
    fn slices_and_copies_cross_segments() {
        let mut vector = scattered(&[b"abc", b"", b"defgh", b"ij"]);
        assert_eq!(vector.len(), 10);
        let mut middle = [0; 6];
        vector.slice(2, 6).copy_out(0, &mut middle);
        assert_eq!(&middle, b"cdefgh");
        vector.copy_in(1, b"XYZW");
        vector.fill(8, 2, b'.');
        assert_eq!(&*vector.to_buffer(), b"aXYZWfgh..");
        assert_eq!(vector.slice(3, 0).segments().len(), 0);
    }

    #[test]
    fn vectors_are_copied_whatever_their_segments() {
        let source = scattered(&[b"ab", b"cdefg", b"h"]);
        let mut target = scattered(&[b"...", b"....", b"....."]);
        target.copy_from(1, &source);
        assert_eq!(&*target.to_buffer(), b".abcdefgh...");
        target.copy_from(12, &IoVec::empty());
    }

    #[test]
    fn joined_vectors_share_their_memory() {
        let mut first = IoVec::copy_of(b"abcdef");
        let second = IoVec::copy_of(b"ghij");
        let joined = IoVec::join([first.slice(2, 4), IoVec::empty(), second]);
        first.fill(3, 1, b'X');
        drop(first);
        assert_eq!(&*joined.to_buffer(), b"cXefghij");
    }

    #[test]
    fn a_buffer_comes_back_uncopied_when_alone() {
        let buffer = Buffer::copy_of(b"same memory");
        let start = buffer.as_ptr();
        let vector = IoVec::from(buffer);
        assert_eq!(vector.into_buffer().as_ptr(), start);
    }

    #[test]
    fn a_shared_buffer_comes_back_as_a_copy() {
        let vector = IoVec::copy_of(b"shared");
        let part = vector.slice(1, 3);
        let buffer = vector.into_buffer();
        assert_eq!(&*buffer, b"shared");
        assert_eq!(&*part.into_buffer(), b"har");
    }

    #[test]
    fn bytes_of_others_become_a_vector_where_they_are() {
        let bytes = b"packed".to_vec();
        let start = bytes.as_ptr();
        let vector = IoVec::from(bytes);
        assert_eq!(vector.segments()[0].start.as_ptr().cast_const(), start);
        assert_eq!(&*vector.slice(2, 3).to_buffer(), b"cke");
        assert!(IoVec::from(Vec::new()).is_empty());
    }

    #[test]
    fn a_vector_is_alone_once_its_slices_are_gone() {
        let vector = IoVec::zeroed(8);
        let part = vector.slice(0, 4);
        assert!(!vector.is_alone());
        drop(part);
        assert!(vector.is_alone());
    }

    #[test]
    #[should_panic(expected = "slice leaves the vector")]
    fn a_slice_beyond_the_end_is_refused() {
        let _ = IoVec::zeroed(8).slice(4, 5);
    }
}
