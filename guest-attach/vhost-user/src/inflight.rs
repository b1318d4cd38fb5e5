//! The memory file that holds the in-flight region of every ring.
//!
//! We make it and the front end keeps it. After our death the front end gives it to our successor, who finds in it
//! what was under way.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use vhost::vhost_user::message::VhostUserInflight;
use vm_memory::{FileOffset, MmapRegion};
use weft_virtio::queue::{InFlightRegion, in_flight_stride};

use crate::Error;
use crate::memory::check_length;

/// The regions of all rings, mapped.
#[derive(Debug, Clone)]
pub(crate) struct InFlight {
    mapping: Arc<MmapRegion>,
    queues: u16,
    queue_size: u16,
}

impl InFlight {
    /// Makes a file for what `wanted` asks for; the description of it and the file go to the front end.
    pub(crate) fn create(wanted: &VhostUserInflight) -> Result<(VhostUserInflight, File), Error> {
        let failed = |error: nix::Error| Error::Memory(error.to_string());
        let len = in_flight_stride(wanted.queue_size) as u64 * u64::from(wanted.num_queues);
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let file = File::from(memfd_create(c"weft-in-flight", flags).map_err(failed)?);
        file.set_len(len)
            .map_err(|error| Error::Memory(error.to_string()))?;
        // Nobody can take the pages away under us.
        let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
        fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).map_err(failed)?;
        let made = VhostUserInflight::new(len, 0, wanted.num_queues, wanted.queue_size);
        Ok((made, file))
    }

    /// Maps a file that the front end kept.
    pub(crate) fn map(description: &VhostUserInflight, file: OwnedFd) -> Result<Self, Error> {
        let (queues, queue_size) = (description.num_queues, description.queue_size);
        let needed = in_flight_stride(queue_size) as u64 * u64::from(queues);
        if description.mmap_size < needed {
            return Err(Error::Protocol("an in-flight region is too small"));
        }
        let file = File::from(file);
        check_length(&file, description.mmap_offset, needed)?;
        let place = FileOffset::new(file, description.mmap_offset);
        let mapping = MmapRegion::from_file(place, needed as usize)
            .map_err(|error| Error::Memory(error.to_string()))?;
        Ok(Self {
            mapping: Arc::new(mapping),
            queues,
            queue_size,
        })
    }

    /// The region of one ring; none for a ring that the file does not know.
    pub(crate) fn ring(&self, index: u32) -> Option<InFlightRegion> {
        if index >= u32::from(self.queues) {
            return None;
        }
        let offset = index as usize * in_flight_stride(self.queue_size);
        InFlightRegion::new(self.mapping.clone(), offset, self.queue_size).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_can_be_mapped_and_not_cut() {
        let wanted = VhostUserInflight::new(0, 0, 2, 128);
        let (made, file) = InFlight::create(&wanted).unwrap();
        assert_eq!({ made.mmap_size }, 2 * in_flight_stride(128) as u64);
        assert!(file.set_len(0).is_err());
        let mapped = InFlight::map(&made, file.into()).unwrap();
        assert!(mapped.ring(1).is_some());
        assert!(mapped.ring(2).is_none());
    }

    #[test]
    fn a_short_file_is_refused() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(100).unwrap();
        let claim = VhostUserInflight::new(1 << 20, 0, 2, 128);
        assert!(InFlight::map(&claim, file.into()).is_err());
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        let claim = VhostUserInflight::new(100, 0, 2, 128);
        assert!(InFlight::map(&claim, file.into()).is_err());
    }
}
