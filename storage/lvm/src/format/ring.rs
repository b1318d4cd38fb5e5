//! Where the next text goes.

use std::ops::Range;

use thiserror::Error;

use super::{HEADER_BYTES, Location};

/// The ring of a metadata area, from the header to the end. Texts start at multiples of 512 bytes and may wrap.
///
/// A text never starts in, and never overwrites, a block that holds part of the committed one, so that a write that is
/// torn leaves the committed text whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ring {
    /// Bytes of the area, header and ring.
    size: u64,
    /// Bytes that the device writes as one.
    block: u64,
}

/// The area has no room for another text beside the committed one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the metadata of {needed} bytes does not fit twice into a metadata area of {size} bytes")]
pub struct RingFull {
    /// Bytes of the text.
    pub needed: u64,
    /// Bytes of the area.
    pub size: u64,
}

impl Ring {
    /// The ring of an area of `size` bytes on a device that writes `block` bytes as one.
    pub fn new(size: u64, block: u64) -> Self {
        Self {
            size,
            block: block.max(HEADER_BYTES),
        }
    }

    /// The offset in the area for a text of `len` bytes that leaves `committed` whole.
    ///
    /// # Errors
    /// Where there is none: LVM2 too asks that a text fits twice.
    pub fn place(&self, committed: &Location, len: u64) -> Result<u64, RingFull> {
        let full = RingFull {
            needed: len,
            size: self.size,
        };
        let begin = self.block;
        let end = self.size / self.block * self.block;
        let needed = len.next_multiple_of(self.block);
        let Some(room) = end.checked_sub(begin) else {
            return Err(full);
        };
        if needed > room / 2 {
            return Err(full);
        }
        if committed.is_empty() {
            return Ok(begin);
        }
        let [first, wrapped] = self.parts(committed.offset, committed.size);
        if !wrapped.is_empty() {
            // The committed text ends after the wrap, so the free room is in one piece.
            let next = wrapped.end.next_multiple_of(self.block);
            let until = first.start / self.block * self.block;
            return match next + needed <= until {
                true => Ok(next),
                false => Err(full),
            };
        }
        let next = first.end.next_multiple_of(self.block);
        let until = first.start / self.block * self.block;
        if next + needed <= end {
            Ok(next)
        } else if begin + needed <= until {
            Ok(begin)
        } else if self.block == HEADER_BYTES && end.saturating_sub(next) + until - begin >= needed {
            // Split around the end, as LVM2 does.
            Ok(next)
        } else {
            Err(full)
        }
    }

    /// The bytes of the area that a text at `offset` of `len` bytes covers: up to the end, and on from the header.
    pub fn parts(&self, offset: u64, len: u64) -> [Range<u64>; 2] {
        let first = len.min(self.size.saturating_sub(offset));
        [
            offset..offset + first,
            HEADER_BYTES..HEADER_BYTES + (len - first),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn blocks(ring: &Ring, location: &Location) -> Vec<u64> {
        ring.parts(location.offset, location.size)
            .into_iter()
            .filter(|part| !part.is_empty())
            .flat_map(|part| part.start / ring.block..part.end.div_ceil(ring.block))
            .collect()
    }

    proptest! {
        #[test]
        fn a_text_never_touches_the_committed_one(
            sectors in 4_u64..64,
            block in prop::sample::select(vec![512_u64, 4096]),
            texts in prop::collection::vec(1_u64..6000, 1..40),
        ) {
            let ring = Ring::new(sectors * 512, block);
            let mut committed = Location::default();
            for len in texts {
                let Ok(offset) = ring.place(&committed, len) else { continue };
                let next = Location { offset, size: len, ..Location::default() };
                prop_assert!(offset >= HEADER_BYTES && offset.is_multiple_of(512));
                let [_, wrapped] = ring.parts(offset, len);
                prop_assert!(wrapped.end <= offset.max(HEADER_BYTES));
                let old = blocks(&ring, &committed);
                prop_assert!(committed.is_empty() || blocks(&ring, &next).iter().all(|block| !old.contains(block)));
                prop_assert!(blocks(&ring, &next).iter().all(|&number| number * block >= 512));
                committed = next;
            }
        }
    }

    #[test]
    fn small_texts_always_fit() {
        let ring = Ring::new(16 * 512, 512);
        let mut committed = Location::default();
        let mut wrapped = 0;
        for sectors in [4, 6, 7].into_iter().cycle().take(100) {
            let size = 512 * sectors - 100;
            let offset = ring
                .place(&committed, size)
                .expect("half of the ring is free");
            wrapped += u32::from(offset + size > 16 * 512);
            committed = Location {
                offset,
                size,
                ..Location::default()
            };
        }
        assert!(wrapped > 0, "some text was split around the end");
    }
}
