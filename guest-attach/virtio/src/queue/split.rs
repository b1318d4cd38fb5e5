//! The split ring.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::atomic::{Ordering, fence};

use super::ring::{
    DESC_INDIRECT, DESC_NEXT, DESC_SIZE, DESC_WRITE, Descriptor, IndirectTable, Ring,
};
use super::{Chain, InFlightRegion, MAX_CHAIN, QueueError};
use crate::GuestMemory;

/// The most descriptors in a split ring (virtio 1.2, 2.7).
pub const MAX_QUEUE_SIZE: u16 = 1 << 15;

/// `VIRTQ_AVAIL_F_NO_INTERRUPT`.
const AVAIL_NO_INTERRUPT: u16 = 1;
/// `VIRTQ_USED_F_NO_NOTIFY`.
const USED_NO_NOTIFY: u16 = 1;

/// Where a ring lies: guest-physical addresses of its three parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Descriptors, a power of two.
    pub size: u16,
    /// The descriptor table.
    pub desc: u64,
    /// The available ring.
    pub avail: u64,
    /// The used ring.
    pub used: u64,
}

/// What was negotiated for a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QueueOptions {
    /// `VIRTIO_F_EVENT_IDX`: both sides say which index they want to hear of.
    pub event_idx: bool,
    /// `VIRTIO_F_INDIRECT_DESC`.
    pub indirect: bool,
}

/// The device's side of a split virtqueue.
///
/// Indices run freely through 16 bits. Memory ordering, here and in the guest (virtio 1.2, 2.7.13 and 2.7.14):
///
/// - `avail.idx` is loaded with *acquire*: what the driver wrote before it (heads, descriptors, data) is seen after.
/// - `used.idx` is stored with *release*: elements and data written before it are seen by a driver that sees it.
/// - Telling the driver what to notify of, and then looking once more for what was missed, is a store followed by a
///   load of other memory: only a *sequentially consistent fence* between them keeps the two sides from both missing.
///   The same fence stands between the store of `used.idx` and the look at what the driver wants to hear of.
#[derive(Debug)]
pub struct SplitQueue {
    ring: Ring,
    size: u16,
    options: QueueOptions,
    memory: Rc<GuestMemory>,
    /// Position of the next head to pop.
    next_avail: u16,
    /// `avail.idx` as last seen.
    seen_avail: u16,
    /// Position of the next used element, published or not.
    next_used: u16,
    /// `used.idx` as the driver sees it.
    published: u16,
    /// `used.idx` when the driver's wish to be interrupted was last looked at; unknown after a restart, when an
    /// interrupt may have been lost.
    signalled: Option<u16>,
    /// What a predecessor had popped and not finished, in its order.
    resubmit: VecDeque<u16>,
    in_flight: Option<InFlightRegion>,
}

impl SplitQueue {
    /// A queue over the ring at `layout`, whose next available chain is at the free-running position `base`.
    ///
    /// With an in-flight region the position is what the region and the used ring say, and chains that a predecessor
    /// left unfinished are popped first, in the order in which they were popped before.
    ///
    /// # Errors
    /// If the ring is not usable memory, or its used index contradicts the position. A region that was used is left
    /// as it was then.
    pub fn new(
        memory: Rc<GuestMemory>,
        layout: &Layout,
        options: QueueOptions,
        base: u16,
        in_flight: Option<InFlightRegion>,
    ) -> Result<Self, QueueError> {
        let size = layout.size;
        if !size.is_power_of_two() || size > MAX_QUEUE_SIZE {
            return Err(QueueError::BadSize(size));
        }
        let ring = Ring::locate(&memory, layout)?;
        let used = ring.used_idx();
        let mut queue = Self {
            ring,
            size,
            options,
            memory,
            next_avail: base,
            seen_avail: base,
            next_used: used,
            published: used,
            signalled: None,
            resubmit: VecDeque::new(),
            in_flight: None,
        };
        if let Some(mut region) = in_flight {
            queue.resubmit = region.recover(size, used)?;
            // Everything popped before is used or in the list: what a predecessor had not noted it had not popped.
            if region.was_used() {
                queue.next_avail = used.wrapping_add(queue.resubmit.len() as u16);
                queue.seen_avail = queue.next_avail;
            }
            queue.in_flight = Some(region);
        }
        // The used index is the guest's memory: it may contradict the position that it goes with.
        let available = queue.next_avail.wrapping_sub(used);
        if available > size {
            return Err(QueueError::IndexAhead { available, size });
        }
        Ok(queue)
    }

    /// Descriptors in the ring.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// The memory that chains lie in.
    pub fn memory(&self) -> &Rc<GuestMemory> {
        &self.memory
    }

    /// Where a successor goes on, if nothing that was popped is unfinished: the position of the next head.
    pub fn base(&self) -> u16 {
        self.next_avail
    }

    /// How many chains a predecessor left unfinished that were not popped again yet.
    pub fn unfinished(&self) -> usize {
        self.resubmit.len()
    }

    /// How many chains were popped and are not pushed back yet.
    pub fn outstanding(&self) -> u16 {
        self.next_avail
            .wrapping_sub(self.next_used)
            .wrapping_sub(self.resubmit.len() as u16)
    }

    /// The next available chain, if there is one.
    ///
    /// # Errors
    /// What the guest did wrong; the queue must not be used any more.
    pub fn pop(&mut self) -> Result<Option<Chain>, QueueError> {
        if let Some(head) = self.resubmit.pop_front() {
            return self.chain(head).map(Some);
        }
        if self.next_avail == self.seen_avail && !self.look()? {
            return Ok(None);
        }
        let head = self.ring.avail_head(self.next_avail);
        let chain = self.chain(head)?;
        self.next_avail = self.next_avail.wrapping_add(1);
        if let Some(region) = &mut self.in_flight {
            region.begin(head);
        }
        Ok(Some(chain))
    }

    /// Whether a chain waits, by a fresh look at the ring.
    ///
    /// # Errors
    /// If the index claims more than the ring can hold.
    pub fn look(&mut self) -> Result<bool, QueueError> {
        // Acquire: pairs with the driver's barrier between filling the ring and moving the index.
        let seen = self.ring.avail_idx(Ordering::Acquire);
        // A driver reuses a descriptor only after its chain came back, so no more than the ring's size can be out.
        let available = seen.wrapping_sub(self.next_used);
        if available > self.size || seen.wrapping_sub(self.next_avail) > self.size {
            return Err(QueueError::IndexAhead {
                available,
                size: self.size,
            });
        }
        self.seen_avail = seen;
        Ok(seen != self.next_avail || !self.resubmit.is_empty())
    }

    /// Takes back the last `count` pops, whose chains were not pushed: they will be popped again.
    pub fn unpop(&mut self, count: u16) {
        debug_assert!(self.in_flight.is_none() && count <= self.outstanding());
        self.next_avail = self.next_avail.wrapping_sub(count);
    }

    /// Gives a chain back, `written` bytes of its writable part filled. The driver sees it after
    /// [`publish`](Self::publish).
    pub fn push(&mut self, head: u16, written: u32) {
        debug_assert!(self.outstanding() > 0, "more pushed than popped");
        self.ring.set_used_element(self.next_used, head, written);
        self.next_used = self.next_used.wrapping_add(1);
        if let Some(region) = &mut self.in_flight {
            region.batch(head);
        }
    }

    /// Shows the driver what was pushed; whether it wants to be interrupted for that.
    pub fn publish(&mut self) -> bool {
        if self.next_used == self.published {
            return false;
        }
        // Release: elements and data first, then the index that shows them.
        self.ring.set_used_idx(self.next_used, Ordering::Release);
        self.published = self.next_used;
        if let Some(region) = &mut self.in_flight {
            region.published(self.next_used);
        }
        self.wants_interrupt()
    }

    /// Whether the driver is to be interrupted for what was published since the last time it was asked.
    fn wants_interrupt(&mut self) -> bool {
        // The index is stored before the wish is loaded: a driver that raises its wish and then looks at the index
        // either sees the new index or is seen here.
        fence(Ordering::SeqCst);
        if !self.options.event_idx {
            return self.ring.avail_flags() & AVAIL_NO_INTERRUPT == 0;
        }
        let new = self.published;
        let Some(old) = self.signalled.replace(new) else {
            return true;
        };
        // Virtio 1.2, 2.7.10: the event lies among what is new.
        let event = self.ring.used_event();
        new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
    }

    /// Asks the driver not to notify: the device will look by itself. A hint; a driver with event index notifies at
    /// most once more.
    pub fn disable_notifications(&mut self) {
        if !self.options.event_idx {
            self.ring.set_used_flags(USED_NO_NOTIFY);
        }
    }

    /// Asks the driver to notify of the next chain; whether one came in between, so that there is nothing to wait for.
    ///
    /// # Errors
    /// As [`look`](Self::look).
    pub fn enable_notifications(&mut self) -> Result<bool, QueueError> {
        if self.options.event_idx {
            self.ring.set_avail_event(self.next_avail);
        } else {
            self.ring.set_used_flags(0);
        }
        // The wish is stored before the index is loaded: see the type's comment.
        fence(Ordering::SeqCst);
        self.look()
    }

    /// Walks and checks the chain at `head`.
    fn chain(&self, head: u16) -> Result<Chain, QueueError> {
        if head >= self.size {
            return Err(QueueError::BadIndex {
                index: head,
                size: self.size,
            });
        }
        let mut chain = Chain::new(head);
        let limit = self.size.min(MAX_CHAIN);
        let mut index = head;
        for _ in 0..limit {
            let descriptor = self.ring.descriptor(index);
            if descriptor.flags & DESC_INDIRECT != 0 {
                self.indirect(&mut chain, descriptor)?;
                return Ok(chain);
            }
            self.segment(&mut chain, descriptor)?;
            if descriptor.flags & DESC_NEXT == 0 {
                return Ok(chain);
            }
            index = descriptor.next;
            if index >= self.size {
                return Err(QueueError::BadIndex {
                    index,
                    size: self.size,
                });
            }
        }
        Err(QueueError::Endless { head, limit })
    }

    /// Walks the indirect table that ends a chain. A table may follow direct segments (virtio 1.2, 2.7.5.3.2) and
    /// nothing may follow it.
    fn indirect(&self, chain: &mut Chain, pointer: Descriptor) -> Result<(), QueueError> {
        let bad = QueueError::BadIndirect { head: chain.head() };
        let size = u64::from(pointer.len) / DESC_SIZE;
        let whole = u64::from(pointer.len).is_multiple_of(DESC_SIZE);
        if !self.options.indirect || pointer.flags & DESC_NEXT != 0 || !whole || size == 0 {
            return Err(bad);
        }
        // A longer table is allowed; a longer chain in it is not, and only the head of the table can be reached then.
        let size = u16::try_from(size).map_err(|_| bad)?;
        let table = IndirectTable::locate(&self.memory, pointer.address, size).ok_or(
            QueueError::BadAddress {
                address: pointer.address,
                len: pointer.len,
            },
        )?;
        let limit = size.min(MAX_CHAIN);
        let mut index = 0;
        for _ in 0..limit {
            let descriptor = table.descriptor(index);
            if descriptor.flags & DESC_INDIRECT != 0 {
                return Err(bad);
            }
            self.segment(chain, descriptor)?;
            if descriptor.flags & DESC_NEXT == 0 {
                return Ok(());
            }
            index = descriptor.next;
            if index >= size {
                return Err(QueueError::BadIndex { index, size });
            }
        }
        let head = chain.head();
        Err(QueueError::Endless { head, limit })
    }

    fn segment(&self, chain: &mut Chain, descriptor: Descriptor) -> Result<(), QueueError> {
        let head = chain.head();
        if descriptor.len == 0 {
            return Err(QueueError::EmptySegment { head });
        }
        let writable = descriptor.flags & DESC_WRITE != 0;
        if !writable && !chain.writable().is_empty() {
            return Err(QueueError::WrongDirection { head });
        }
        let (address, len) = (descriptor.address, descriptor.len);
        self.memory
            .segments(address, len, |segment| chain.push(segment, writable))?;
        // Virtio 1.2, 2.7.5.2: a chain holds at most 2^32 bytes, so the lengths that devices report fit.
        if chain.readable_len() + chain.writable_len() > u64::from(u32::MAX) {
            return Err(QueueError::BadAddress { address, len });
        }
        Ok(())
    }
}
