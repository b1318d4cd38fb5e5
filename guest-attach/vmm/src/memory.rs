//! Guest memory: one memfd, shared with the back ends, mapped below 3 GiB and above 4 GiB.

use std::fs::File;
use std::sync::Arc;

use nix::sys::memfd::{MFdFlags, memfd_create};
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap};

use crate::error::{Context, ErrorKind, Result};
use crate::layout::{ABOVE_4G, RAM_GAP_START};

/// The guest's RAM.
pub(crate) type GuestRam = GuestMemoryMmap<()>;

/// The ranges of RAM of a guest with `bytes` of memory: start and length.
pub(crate) fn ram_ranges(bytes: u64) -> Vec<(u64, u64)> {
    let low = bytes.min(RAM_GAP_START);
    let mut ranges = vec![(0, low)];
    if bytes > low {
        ranges.push((ABOVE_4G, bytes - low));
    }
    ranges
}

/// Makes `bytes` of zeroed guest memory. Pages are taken from the host when they are first touched.
pub(crate) fn allocate(bytes: u64) -> Result<Arc<GuestRam>> {
    let context = || format!("cannot make {} MiB of guest memory", bytes >> 20);
    let fd = memfd_create(c"weft-guest-ram", MFdFlags::MFD_CLOEXEC)
        .context(ErrorKind::Memory, context())?;
    let file = File::from(fd);
    file.set_len(bytes).context(ErrorKind::Memory, context())?;
    let file = Arc::new(file);
    let mut offset = 0;
    let mut ranges = Vec::new();
    for (start, length) in ram_ranges(bytes) {
        let place = FileOffset::from_arc(file.clone(), offset);
        ranges.push((GuestAddress(start), length as usize, Some(place)));
        offset += length;
    }
    GuestRam::from_ranges_with_files(ranges)
        .map(Arc::new)
        .context(ErrorKind::Memory, context())
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::{Bytes, GuestMemoryBackend, GuestMemoryRegion};

    #[test]
    fn small_memory_is_one_range() {
        assert_eq!(ram_ranges(256 << 20), [(0, 256 << 20)]);
        assert_eq!(ram_ranges(3 << 30), [(0, 3 << 30)]);
    }

    #[test]
    fn memory_over_3_gib_goes_on_at_4_gib() {
        assert_eq!(ram_ranges(5 << 30), [(0, 3 << 30), (4 << 30, 2 << 30)]);
    }

    #[test]
    fn both_ranges_lie_in_one_file() {
        let ram = allocate(4 << 30).unwrap();
        let offsets: Vec<u64> = ram
            .iter()
            .map(|region| region.file_offset().unwrap().start())
            .collect();
        assert_eq!(offsets, [0, 3 << 30]);
        ram.write_obj(7_u64, GuestAddress(4 << 30)).unwrap();
        assert_eq!(ram.read_obj::<u64>(GuestAddress(4 << 30)).unwrap(), 7);
        assert!(ram.write_obj(7_u64, GuestAddress(3 << 30)).is_err());
    }
}
