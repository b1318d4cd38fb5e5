//! The front end's memory: regions that it sends, mapped here.
//!
//! A front end is trusted with one thing that its guest cannot do: it must not truncate the files behind its regions
//! while they are mapped (QEMU seals them), for touching a page that is gone kills the process that touches it.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use vhost::vhost_user::message::VhostUserMemoryRegion;
use vm_memory::{GuestAddress, GuestMemoryMmap, GuestRegionMmap};
use weft_virtio::GuestMemory;

use crate::Error;

/// Regions that a front end may add one by one.
pub(crate) const MEMORY_SLOTS: usize = 64;

/// A mapped region, known by the three addresses that the front end gave.
#[derive(Debug, Clone)]
struct Region {
    guest: u64,
    user: u64,
    len: u64,
    mapping: Arc<GuestRegionMmap>,
}

impl Region {
    fn map(region: &VhostUserMemoryRegion, file: OwnedFd) -> Result<Self, Error> {
        let file = File::from(file);
        check_length(&file, region.mmap_offset, region.memory_size)?;
        let mapping = region
            .mmap_region::<()>(file)
            .map_err(|error| Error::Memory(error.to_string()))?;
        let mapping = GuestRegionMmap::new(mapping, GuestAddress(region.guest_phys_addr))
            .ok_or_else(|| Error::Memory("a region ends beyond all addresses".into()))?;
        Ok(Self {
            guest: region.guest_phys_addr,
            user: region.user_addr,
            len: region.memory_size,
            mapping: Arc::new(mapping),
        })
    }
}

/// Whether `file` has `len` bytes from `offset` on: a mapping beyond its end would be deadly to touch.
pub(crate) fn check_length(file: &File, offset: u64, len: u64) -> Result<(), Error> {
    let metadata = file
        .metadata()
        .map_err(|error| Error::Memory(error.to_string()))?;
    let end = offset.checked_add(len);
    if metadata.is_file() && end.is_none_or(|end| end > metadata.len()) {
        return Err(Error::Memory("a region is longer than its file".into()));
    }
    Ok(())
}

/// All regions of one front end.
#[derive(Debug, Default)]
pub(crate) struct MemoryTable {
    regions: Vec<Region>,
    /// The regions as devices use them; made when first asked for.
    memory: Option<Rc<GuestMemory>>,
}

impl MemoryTable {
    /// Maps `regions` in the place of all before. On an error the table is as it was.
    pub(crate) fn replace(
        &mut self,
        regions: Vec<(VhostUserMemoryRegion, OwnedFd)>,
    ) -> Result<(), Error> {
        let regions: Vec<Region> = regions
            .into_iter()
            .map(|(region, file)| Region::map(&region, file))
            .collect::<Result<_, _>>()?;
        self.adopt(regions)
    }

    /// Maps one more region. One that is known already is mapped anew: QEMU 7.2 adds each region once for every queue
    /// pair of a NIC.
    pub(crate) fn add(
        &mut self,
        region: &VhostUserMemoryRegion,
        file: OwnedFd,
    ) -> Result<(), Error> {
        let added = Region::map(region, file)?;
        let mut regions = self.regions.clone();
        match self.find(region) {
            Some(known) => regions[known] = added,
            None if regions.len() >= MEMORY_SLOTS => {
                return Err(Error::Memory("all slots are taken".into()));
            }
            None => regions.push(added),
        }
        self.adopt(regions)
    }

    /// Forgets a region. One that is not known is forgotten already.
    pub(crate) fn remove(&mut self, region: &VhostUserMemoryRegion) -> Result<(), Error> {
        let Some(known) = self.find(region) else {
            return Ok(());
        };
        let mut regions = self.regions.clone();
        regions.remove(known);
        self.adopt(regions)
    }

    fn find(&self, region: &VhostUserMemoryRegion) -> Option<usize> {
        let (guest, user, len) = (region.guest_phys_addr, region.user_addr, region.memory_size);
        self.regions
            .iter()
            .position(|other| (other.guest, other.user, other.len) == (guest, user, len))
    }

    /// What devices see.
    pub(crate) fn memory(&self) -> Option<Rc<GuestMemory>> {
        self.memory.clone()
    }

    /// The guest-physical address of an address in the front end's own space, which is how it names rings.
    pub(crate) fn guest_address(&self, user: u64) -> Option<u64> {
        self.regions.iter().find_map(|region| {
            let offset = user.checked_sub(region.user)?;
            (offset < region.len).then(|| region.guest + offset)
        })
    }

    fn adopt(&mut self, regions: Vec<Region>) -> Result<(), Error> {
        let memory = collect(&regions)?;
        self.regions = regions;
        self.memory = Some(memory);
        Ok(())
    }
}

fn collect(regions: &[Region]) -> Result<Rc<GuestMemory>, Error> {
    let mut sorted: Vec<Arc<GuestRegionMmap>> = regions
        .iter()
        .map(|region| region.mapping.clone())
        .collect();
    sorted.sort_by_key(|region| vm_memory::GuestMemoryRegion::start_addr(region.as_ref()));
    if sorted.is_empty() {
        return Ok(Rc::new(GuestMemory::new(GuestMemoryMmap::new())));
    }
    let map = GuestMemoryMmap::from_arc_regions(sorted)
        .map_err(|error| Error::Memory(error.to_string()))?;
    Ok(Rc::new(GuestMemory::new(map)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(len: u64) -> OwnedFd {
        let file = tempfile::tempfile().unwrap();
        file.set_len(len).unwrap();
        file.into()
    }

    #[test]
    fn addresses_are_translated_by_region() {
        let mut table = MemoryTable::default();
        let low = VhostUserMemoryRegion::new(0, 0x10000, 0x7000_0000, 0);
        let high = VhostUserMemoryRegion::new(0x10_0000, 0x10000, 0x6000_0000, 0x1000);
        table
            .replace(vec![(high, file(0x11000)), (low, file(0x10000))])
            .unwrap();
        assert_eq!(table.guest_address(0x7000_0010), Some(0x10));
        assert_eq!(table.guest_address(0x6000_ffff), Some(0x10_ffff));
        assert_eq!(table.guest_address(0x6001_0000), None);
        let memory = table.memory().unwrap();
        assert!(memory.contiguous(0x10_0000, 0x10000).is_some());
        table.remove(&high).unwrap();
        assert_eq!(table.guest_address(0x6000_0000), None);
        table.remove(&high).unwrap();
        table.add(&high, file(0x11000)).unwrap();
        table.add(&high, file(0x11000)).unwrap();
        assert_eq!(table.regions.len(), 2);
        assert!(table.guest_address(0x6000_0000).is_some());
    }

    #[test]
    fn what_cannot_be_mapped_changes_nothing() {
        let mut table = MemoryTable::default();
        let low = VhostUserMemoryRegion::new(0, 0x10000, 0x7000_0000, 0);
        table.replace(vec![(low, file(0x10000))]).unwrap();
        let short = VhostUserMemoryRegion::new(0x10_0000, 0x10000, 0, 0);
        assert!(table.add(&short, file(0x1000)).is_err());
        let overlapping = VhostUserMemoryRegion::new(0x8000, 0x10000, 0, 0);
        assert!(table.add(&overlapping, file(0x10000)).is_err());
        assert_eq!(table.guest_address(0x7000_0000), Some(0));
        assert!(table.memory().unwrap().contiguous(0, 0x10000).is_some());
    }
}
