//! A guest's memory as a device sees it: guest-physical addresses in, host segments out.

use std::ptr::NonNull;

use smallvec::SmallVec;
use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, MemoryRegionAddress};
use weft_block::Segment;

use crate::queue::QueueError;

/// One mapped run of guest-physical addresses.
#[derive(Debug, Clone, Copy)]
struct Region {
    base: u64,
    len: u64,
    host: NonNull<u8>,
}

/// The mapped memory of a guest. It stays mapped while this value lives, so an `Rc` of it is the owner that a
/// request over guest memory keeps (see [`weft_block::IoVec::from_segments`]).
///
/// Segments that it gives out lie inside the mapping. Their bytes may change at any time under the guest's hands.
#[derive(Debug)]
pub struct GuestMemory {
    regions: SmallVec<[Region; 4]>,
    map: GuestMemoryMmap,
}

impl GuestMemory {
    /// Takes `map`, whose regions do not overlap.
    pub fn new(map: GuestMemoryMmap) -> Self {
        let regions = map
            .iter()
            .filter_map(|region| {
                let host = region.get_host_address(MemoryRegionAddress(0)).ok()?;
                Some(Region {
                    base: region.start_addr().0,
                    len: region.len(),
                    host: NonNull::new(host)?,
                })
            })
            .collect();
        Self { regions, map }
    }

    /// The mapping itself.
    pub fn map(&self) -> &GuestMemoryMmap {
        &self.map
    }

    /// The host segments of `len` bytes at the guest-physical `address`, in order, given to `each`. There are several
    /// only where neighbouring regions meet inside the range.
    ///
    /// # Errors
    /// [`QueueError::BadAddress`] if a byte of the range is not mapped; `each` may have seen the part before it.
    pub fn segments(
        &self,
        address: u64,
        len: u32,
        mut each: impl FnMut(Segment),
    ) -> Result<(), QueueError> {
        let bad = QueueError::BadAddress { address, len };
        let end = address.checked_add(u64::from(len)).ok_or(bad)?;
        let mut at = address;
        while at < end {
            let (start, available) = self.locate(at).ok_or(bad)?;
            // Bounded by `end - at`, which came from a u32.
            let take = available.min(end - at);
            each(Segment {
                start,
                len: take as usize,
            });
            at += take;
        }
        Ok(())
    }

    /// Where `len` bytes at the guest-physical `address` lie, if they are mapped in one piece.
    pub fn contiguous(&self, address: u64, len: u64) -> Option<NonNull<u8>> {
        let (start, available) = self.locate(address)?;
        (len <= available).then_some(start)
    }

    /// The host address of a mapped guest-physical address, and how many bytes follow in its region.
    fn locate(&self, address: u64) -> Option<(NonNull<u8>, u64)> {
        self.regions.iter().find_map(|region| {
            let offset = address.checked_sub(region.base)?;
            if offset >= region.len {
                return None;
            }
            // SAFETY: the offset lies inside the mapped region, which `self.map` keeps.
            let start = unsafe { region.host.add(offset as usize) };
            Some((start, region.len - offset))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::GuestAddress;

    #[test]
    fn ranges_cross_neighbours_and_end_at_holes() {
        let map = GuestMemoryMmap::from_ranges(&[
            (GuestAddress(0x1000), 0x1000),
            (GuestAddress(0x2000), 0x1000),
            (GuestAddress(0x8000), 0x1000),
        ])
        .unwrap();
        let memory = GuestMemory::new(map);
        let parts = |address, len| {
            let mut parts = Vec::new();
            memory
                .segments(address, len, |segment| parts.push(segment.len))
                .map(|()| parts)
        };
        assert_eq!(parts(0x1ff0, 0x20), Ok(vec![0x10, 0x10]));
        assert_eq!(parts(0x2000, 0x1000), Ok(vec![0x1000]));
        assert!(parts(0x2fff, 2).is_err());
        assert!(parts(0, 1).is_err());
        assert!(parts(u64::MAX, 2).is_err());
        assert!(memory.contiguous(0x1ff0, 0x20).is_none());
        assert!(memory.contiguous(0x8ff0, 0x10).is_some());
        assert!(memory.contiguous(0x8ff0, 0x11).is_none());
    }
}
