//! The three parts of a split ring as raw shared memory.
//!
//! Everything here is one load or store at a checked place. The order between them is stated where it matters, in
//! `split.rs`.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use super::{Layout, QueueError};
use crate::GuestMemory;

/// `VIRTQ_DESC_F_NEXT`: the chain goes on.
pub(super) const DESC_NEXT: u16 = 1;
/// `VIRTQ_DESC_F_WRITE`: the device writes this segment.
pub(super) const DESC_WRITE: u16 = 2;
/// `VIRTQ_DESC_F_INDIRECT`: the segment is a table of descriptors.
pub(super) const DESC_INDIRECT: u16 = 4;
/// Bytes of a descriptor.
pub(super) const DESC_SIZE: u64 = 16;

/// `struct virtq_desc`, in the host's byte order.
#[derive(Debug, Clone, Copy)]
pub(super) struct Descriptor {
    pub(super) address: u64,
    pub(super) len: u32,
    pub(super) flags: u16,
    pub(super) next: u16,
}

/// Host addresses of a ring's parts. Valid while the guest memory that they were found in stays mapped.
#[derive(Debug)]
pub(super) struct Ring {
    size: u16,
    desc: NonNull<u8>,
    avail: NonNull<u8>,
    used: NonNull<u8>,
}

impl Ring {
    /// Finds and checks the parts: each in one piece, aligned as virtio 1.2, 2.7 asks.
    pub(super) fn locate(memory: &GuestMemory, layout: &Layout) -> Result<Self, QueueError> {
        let size = u64::from(layout.size);
        let part = |part, address, len, alignment: usize| {
            memory
                .contiguous(address, len)
                .filter(|start| (start.as_ptr() as usize).is_multiple_of(alignment))
                .ok_or(QueueError::BadRing { part, address })
        };
        Ok(Self {
            size: layout.size,
            desc: part("descriptor table", layout.desc, size * DESC_SIZE, 16)?,
            avail: part("available ring", layout.avail, 6 + 2 * size, 2)?,
            used: part("used ring", layout.used, 6 + 8 * size, 4)?,
        })
    }

    pub(super) fn descriptor(&self, index: u16) -> Descriptor {
        debug_assert!(index < self.size);
        // SAFETY: the table holds `size` descriptors, and callers check the index.
        unsafe { read_descriptor(self.desc, index) }
    }

    /// `avail.flags`.
    pub(super) fn avail_flags(&self) -> u16 {
        self.load(self.avail, 0, Ordering::Relaxed)
    }

    /// `avail.idx`.
    pub(super) fn avail_idx(&self, order: Ordering) -> u16 {
        self.load(self.avail, 2, order)
    }

    /// The head at a free-running position of the available ring.
    pub(super) fn avail_head(&self, position: u16) -> u16 {
        let slot = usize::from(position & (self.size - 1));
        self.load(self.avail, 4 + 2 * slot, Ordering::Relaxed)
    }

    /// `used_event`, behind the available ring.
    pub(super) fn used_event(&self) -> u16 {
        self.load(
            self.avail,
            4 + 2 * usize::from(self.size),
            Ordering::Relaxed,
        )
    }

    pub(super) fn set_used_flags(&self, flags: u16) {
        self.store(self.used, 0, flags, Ordering::Relaxed);
    }

    /// `used.idx`.
    pub(super) fn used_idx(&self) -> u16 {
        self.load(self.used, 2, Ordering::Relaxed)
    }

    pub(super) fn set_used_idx(&self, value: u16, order: Ordering) {
        self.store(self.used, 2, value, order);
    }

    pub(super) fn set_used_element(&self, position: u16, head: u16, len: u32) {
        let slot = usize::from(position & (self.size - 1));
        // SAFETY: the used ring holds `size` elements of 8 bytes behind its 4 bytes of header, and is aligned to 4.
        unsafe {
            let element = self.used.add(4 + 8 * slot).cast::<u32>();
            element.write_volatile(u32::from(head).to_le());
            element.add(1).write_volatile(len.to_le());
        }
    }

    /// `avail_event`, behind the used ring.
    pub(super) fn set_avail_event(&self, value: u16) {
        self.store(
            self.used,
            4 + 8 * usize::from(self.size),
            value,
            Ordering::Relaxed,
        );
    }

    fn load(&self, part: NonNull<u8>, offset: usize, order: Ordering) -> u16 {
        // SAFETY: callers give offsets of 16-bit fields inside the part; parts are aligned to 2 at least, and all
        // accesses to these fields, here and in the guest, are atomic.
        let field = unsafe { AtomicU16::from_ptr(part.as_ptr().add(offset).cast()) };
        u16::from_le(field.load(order))
    }

    fn store(&self, part: NonNull<u8>, offset: usize, value: u16, order: Ordering) {
        // SAFETY: as in `load`.
        let field = unsafe { AtomicU16::from_ptr(part.as_ptr().add(offset).cast()) };
        field.store(value.to_le(), order);
    }
}

/// A table of descriptors somewhere in guest memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct IndirectTable {
    start: NonNull<u8>,
    size: u16,
}

impl IndirectTable {
    /// A table of `size` descriptors at the guest-physical `address`.
    pub(super) fn locate(memory: &GuestMemory, address: u64, size: u16) -> Option<Self> {
        let start = memory.contiguous(address, u64::from(size) * DESC_SIZE)?;
        Some(Self { start, size })
    }

    pub(super) fn descriptor(&self, index: u16) -> Descriptor {
        debug_assert!(index < self.size);
        // SAFETY: the table holds `size` descriptors, and callers check the index.
        unsafe { read_descriptor(self.start, index) }
    }
}

/// # Safety
/// `table` must hold more than `index` descriptors. It may be unaligned.
unsafe fn read_descriptor(table: NonNull<u8>, index: u16) -> Descriptor {
    // Read once, so that what is checked is what is used, whatever the guest writes meanwhile.
    // SAFETY: the caller's promise.
    let start = unsafe { table.add(usize::from(index) * DESC_SIZE as usize) };
    let (low, high) = if (start.as_ptr() as usize).is_multiple_of(8) {
        let words = start.cast::<u64>();
        // SAFETY: the caller's promise, and the alignment was just seen.
        unsafe { (words.read_volatile(), words.add(1).read_volatile()) }
    } else {
        // An indirect table may lie anywhere.
        let words = start.cast::<[[u8; 8]; 2]>();
        // SAFETY: the caller's promise; byte arrays have no alignment.
        let [low, high] = unsafe { words.read_volatile() };
        (u64::from_ne_bytes(low), u64::from_ne_bytes(high))
    };
    let high = u64::from_le(high);
    Descriptor {
        address: u64::from_le(low),
        len: high as u32,
        flags: (high >> 32) as u16,
        next: (high >> 48) as u16,
    }
}
