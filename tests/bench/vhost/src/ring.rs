//! The driver's side of a split virtqueue (virtio 1.2, 2.7).

use std::sync::atomic::{AtomicU16, Ordering, fence};

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

const DESC_NEXT: u16 = 1;
const DESC_WRITE: u16 = 2;
const DESC_INDIRECT: u16 = 4;

/// Guest-physical addresses of a ring.
#[derive(Debug, Clone, Copy)]
pub struct RingAddresses {
    /// Descriptors.
    pub size: u16,
    /// The descriptor table.
    pub desc: u64,
    /// The available ring.
    pub avail: u64,
    /// The used ring.
    pub used: u64,
}

/// A segment of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Guest-physical address.
    pub address: u64,
    /// Bytes.
    pub len: u32,
    /// Whether the device writes it.
    pub writable: bool,
}

/// A ring as its driver holds it.
#[derive(Debug)]
pub struct DriverRing {
    memory: GuestMemoryMmap,
    addresses: RingAddresses,
    desc: *mut u8,
    avail: *mut u8,
    used: *mut u8,
    free: Vec<u16>,
    /// The descriptors of each chain in use, by its head.
    chains: Vec<Vec<u16>>,
    avail_idx: u16,
    /// `avail.idx` when the device was last asked whether it wants a kick.
    announced: u16,
    seen_used: u16,
    event_idx: bool,
}

impl DriverRing {
    /// Bytes that a ring of `size` descriptors takes.
    pub fn bytes(size: u16) -> u64 {
        let size = u64::from(size);
        (16 * size + 6 + 2 * size).next_multiple_of(4096) + (6 + 8 * size).next_multiple_of(4096)
    }

    /// Where the parts of a ring of `size` descriptors at the guest-physical address `at` lie.
    pub fn layout(at: u64, size: u16) -> RingAddresses {
        let avail = at + 16 * u64::from(size);
        let used = (avail + 6 + 2 * u64::from(size)).next_multiple_of(4096);
        RingAddresses {
            size,
            desc: at,
            avail,
            used,
        }
    }

    /// A zeroed ring at the guest-physical address `at`, a multiple of 4096.
    ///
    /// # Panics
    /// If it does not lie in `memory`.
    pub fn new(memory: &GuestMemoryMmap, at: u64, size: u16, event_idx: bool) -> Self {
        let addresses = Self::layout(at, size);
        let zeroes = vec![0; Self::bytes(size) as usize];
        memory
            .write_slice(&zeroes, GuestAddress(at))
            .expect("the ring lies in memory");
        let host = |address| {
            memory
                .get_host_address(GuestAddress(address))
                .expect("the ring lies in memory")
        };
        Self {
            memory: memory.clone(),
            addresses,
            desc: host(addresses.desc),
            avail: host(addresses.avail),
            used: host(addresses.used),
            free: (0..size).rev().collect(),
            chains: vec![Vec::new(); usize::from(size)],
            avail_idx: 0,
            announced: 0,
            seen_used: 0,
            event_idx,
        }
    }

    /// Where it lies.
    pub fn addresses(&self) -> RingAddresses {
        self.addresses
    }

    /// The next position of the available ring.
    pub fn avail_idx(&self) -> u16 {
        self.avail_idx
    }

    /// The position up to which used elements were taken.
    pub fn seen_used(&self) -> u16 {
        self.seen_used
    }

    /// Starts at another position, as after a long life. Before the first chain only.
    pub fn start_at(&mut self, position: u16) {
        assert_eq!(self.free.len(), usize::from(self.addresses.size));
        (self.avail_idx, self.announced, self.seen_used) = (position, position, position);
        self.store(self.avail, 2, position, Ordering::Relaxed);
        self.store(self.used, 2, position, Ordering::Relaxed);
    }

    /// Puts a chain of direct descriptors into the ring; its head, or nothing if too few are free.
    pub fn add(&mut self, parts: &[Part]) -> Option<u16> {
        if parts.is_empty() || parts.len() > self.free.len() {
            return None;
        }
        let chain = self.free.split_off(self.free.len() - parts.len());
        for (at, part) in parts.iter().enumerate() {
            let next = chain.get(at + 1).copied();
            write_descriptor(self.desc, chain[at], part, 0, next);
        }
        let head = chain[0];
        self.chains[usize::from(head)] = chain;
        self.make_available(head);
        Some(head)
    }

    /// Puts a chain into the ring through an indirect table at the guest-physical address `table`.
    pub fn add_indirect(&mut self, table: u64, parts: &[Part]) -> Option<u16> {
        let head = self.free.pop()?;
        let at = self
            .memory
            .get_host_address(GuestAddress(table))
            .expect("the table lies in memory");
        for (index, part) in parts.iter().enumerate() {
            let next = (index + 1 < parts.len()).then_some(index as u16 + 1);
            write_descriptor(at, index as u16, part, 0, next);
        }
        let pointer = Part {
            address: table,
            len: 16 * parts.len() as u32,
            writable: false,
        };
        write_descriptor(self.desc, head, &pointer, DESC_INDIRECT, None);
        self.chains[usize::from(head)] = vec![head];
        self.make_available(head);
        Some(head)
    }

    /// Makes what was added visible to the device; whether it wants a kick for that.
    pub fn publish(&mut self) -> bool {
        // Release: heads and descriptors first, then the index that shows them.
        self.store(self.avail, 2, self.avail_idx, Ordering::Release);
        fence(Ordering::SeqCst);
        let (old, new) = (self.announced, self.avail_idx);
        self.announced = new;
        if old == new {
            return false;
        }
        if !self.event_idx {
            return self.load(self.used, 0, Ordering::Relaxed) & 1 == 0;
        }
        let event = self.load(
            self.used,
            4 + 8 * usize::from(self.addresses.size),
            Ordering::Relaxed,
        );
        new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
    }

    /// Whether the device has given a chain back that was not taken yet.
    pub fn has_used(&self) -> bool {
        self.load(self.used, 2, Ordering::Acquire) != self.seen_used
    }

    /// The next used element: its head and the bytes written.
    ///
    /// # Panics
    /// If the device gives back what it does not hold.
    pub fn take(&mut self) -> Option<(u16, u32)> {
        if !self.has_used() {
            return None;
        }
        let slot = usize::from(self.seen_used & (self.addresses.size - 1));
        // SAFETY: the element lies in the used ring, aligned to 4.
        let (head, len) = unsafe {
            let element = self.used.add(4 + 8 * slot).cast::<u32>();
            (
                u32::from_le(element.read_volatile()),
                u32::from_le(element.add(1).read_volatile()),
            )
        };
        self.seen_used = self.seen_used.wrapping_add(1);
        let chain = std::mem::take(&mut self.chains[head as usize]);
        assert!(!chain.is_empty(), "chain {head} came back twice");
        self.free.extend(chain.into_iter().rev());
        Some((head as u16, len))
    }

    /// Asks for an interrupt with the next used element; whether one is there already.
    pub fn want_interrupt(&mut self) -> bool {
        if self.event_idx {
            self.store(
                self.avail,
                4 + 2 * usize::from(self.addresses.size),
                self.seen_used,
                Ordering::Relaxed,
            );
        } else {
            self.store(self.avail, 0, 0, Ordering::Relaxed);
        }
        fence(Ordering::SeqCst);
        self.has_used()
    }

    /// Asks for no interrupts: the driver looks by itself.
    pub fn refuse_interrupts(&mut self) {
        if self.event_idx {
            // An event that lies behind everything for as long as possible.
            let never = self.seen_used.wrapping_sub(1);
            self.store(
                self.avail,
                4 + 2 * usize::from(self.addresses.size),
                never,
                Ordering::Relaxed,
            );
        } else {
            self.store(self.avail, 0, 1, Ordering::Relaxed);
        }
    }

    fn make_available(&mut self, head: u16) {
        let slot = usize::from(self.avail_idx & (self.addresses.size - 1));
        self.store(self.avail, 4 + 2 * slot, head, Ordering::Relaxed);
        self.avail_idx = self.avail_idx.wrapping_add(1);
    }

    fn load(&self, part: *mut u8, offset: usize, order: Ordering) -> u16 {
        // SAFETY: a 16-bit field of the ring, which lies in `self.memory`.
        u16::from_le(unsafe { AtomicU16::from_ptr(part.add(offset).cast()) }.load(order))
    }

    fn store(&self, part: *mut u8, offset: usize, value: u16, order: Ordering) {
        // SAFETY: as in `load`.
        unsafe { AtomicU16::from_ptr(part.add(offset).cast()) }.store(value.to_le(), order);
    }
}

fn write_descriptor(table: *mut u8, index: u16, part: &Part, flags: u16, next: Option<u16>) {
    let mut flags = flags;
    if part.writable {
        flags |= DESC_WRITE;
    }
    if next.is_some() {
        flags |= DESC_NEXT;
    }
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&part.address.to_le_bytes());
    bytes[8..12].copy_from_slice(&part.len.to_le_bytes());
    bytes[12..14].copy_from_slice(&flags.to_le_bytes());
    bytes[14..].copy_from_slice(&next.unwrap_or(0).to_le_bytes());
    // SAFETY: the driver owns this descriptor, which lies in the table.
    unsafe {
        table
            .add(16 * usize::from(index))
            .cast::<[u8; 16]>()
            .write(bytes)
    };
}
