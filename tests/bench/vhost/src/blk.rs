//! A virtio-blk driver on one queue of a connection.

use std::os::fd::AsFd;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use virtio_bindings::virtio_blk as bind;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

use crate::event::Event;
use crate::{Connection, DriverRing, Error, Part};

/// Bytes of a request's header.
const HEADER: u64 = 16;
/// Bytes of a request's place beside its data: header, status, and a table of three descriptors.
const OVERHEAD: u64 = 128;
const STATUS: u64 = 16;
const TABLE: u64 = 32;

/// How a driver waits for completions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// It looks at the ring until something is there.
    Polled,
    /// It asks for an interrupt and sleeps.
    Interrupt,
}

/// A completed request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Done {
    /// Its place.
    pub slot: usize,
    /// The device's status: 0 is success.
    pub status: u8,
    /// The bytes that the device says it wrote.
    pub written: u32,
}

/// One queue, with a fixed number of places for requests of a fixed size.
pub struct BlkDriver {
    ring: DriverRing,
    memory: GuestMemoryMmap,
    kick: EventFd,
    call: Event,
    base: u64,
    bytes: u64,
    indirect: bool,
    /// The place of the request at each head.
    slots: Vec<usize>,
}

impl BlkDriver {
    /// Takes `queue` of `connection` for requests of `bytes` in `depth` places, whose memory starts at `base`.
    pub fn new(
        connection: &mut Connection,
        queue: usize,
        base: u64,
        depth: usize,
        bytes: u32,
    ) -> Result<Self, Error> {
        let ring = connection.rings[queue].take().ok_or("the queue is taken")?;
        let (kick, call) = connection.wires(queue)?;
        let driver = Self {
            slots: vec![0; usize::from(ring.addresses().size)],
            ring,
            memory: connection.memory().clone(),
            kick,
            call: Event(call),
            base: base.next_multiple_of(4096),
            bytes: u64::from(bytes).next_multiple_of(4096),
            indirect: connection.features() & (1 << 28) != 0,
        };
        let end = driver.overhead(depth);
        driver.memory.write_slice(&[0], GuestAddress(end))?;
        Ok(driver)
    }

    /// Where the data of a place lies.
    pub fn data(&self, slot: usize) -> u64 {
        self.base + slot as u64 * (self.bytes + OVERHEAD.next_multiple_of(4096))
    }

    fn overhead(&self, slot: usize) -> u64 {
        self.data(slot) + self.bytes
    }

    /// Makes a request available: the device sees it after [`publish`](Self::publish).
    pub fn submit(&mut self, slot: usize, kind: u32, sector: u64, len: u32) -> Result<(), Error> {
        let at = self.overhead(slot);
        let mut header = [0; HEADER as usize];
        header[..4].copy_from_slice(&kind.to_le_bytes());
        header[8..].copy_from_slice(&sector.to_le_bytes());
        self.memory.write_slice(&header, GuestAddress(at))?;
        let writable = kind == bind::VIRTIO_BLK_T_IN || kind == bind::VIRTIO_BLK_T_GET_ID;
        let part = |address, len, writable| Part {
            address,
            len,
            writable,
        };
        let parts = [
            part(at, HEADER as u32, false),
            part(self.data(slot), len, writable),
            part(at + STATUS, 1, true),
        ];
        let head = match (len, self.indirect) {
            (0, _) => self.ring.add(&[parts[0], parts[2]]),
            (_, true) => self.ring.add_indirect(at + TABLE, &parts),
            (_, false) => self.ring.add(&parts),
        };
        self.slots[usize::from(head.ok_or("the ring is full")?)] = slot;
        Ok(())
    }

    /// Reads `len` bytes at `sector` into a place.
    pub fn read(&mut self, slot: usize, sector: u64, len: u32) -> Result<(), Error> {
        self.submit(slot, bind::VIRTIO_BLK_T_IN, sector, len)
    }

    /// Writes `len` bytes of a place at `sector`.
    pub fn write(&mut self, slot: usize, sector: u64, len: u32) -> Result<(), Error> {
        self.submit(slot, bind::VIRTIO_BLK_T_OUT, sector, len)
    }

    /// Flushes.
    pub fn flush(&mut self, slot: usize) -> Result<(), Error> {
        self.submit(slot, bind::VIRTIO_BLK_T_FLUSH, 0, 0)
    }

    /// Shows the device what was submitted, and kicks it if it wants that.
    pub fn publish(&mut self) -> Result<(), Error> {
        if self.ring.publish() {
            self.kick.write(1)?;
        }
        Ok(())
    }

    /// Kicks the device whether it wants that or not.
    pub fn kick(&self) -> Result<(), Error> {
        Ok(self.kick.write(1)?)
    }

    /// The next completion that is there.
    pub fn take(&mut self) -> Option<Done> {
        let (head, written) = self.ring.take()?;
        let slot = self.slots[usize::from(head)];
        let status = GuestAddress(self.overhead(slot) + STATUS);
        let status = self.memory.read_obj(status).unwrap_or(u8::MAX);
        Some(Done {
            slot,
            status,
            written,
        })
    }

    /// Waits until a completion is there; false after `limit`.
    pub fn wait(&mut self, waiting: Waiting, limit: Duration) -> Result<bool, Error> {
        let started = std::time::Instant::now();
        if waiting == Waiting::Polled {
            let mut looks = 0_u32;
            while !self.ring.has_used() {
                std::hint::spin_loop();
                looks += 1;
                if looks.is_multiple_of(1024) && started.elapsed() > limit {
                    return Ok(false);
                }
            }
            return Ok(true);
        }
        while !self.ring.want_interrupt() {
            let left = limit.saturating_sub(started.elapsed());
            if left.is_zero() {
                return Ok(false);
            }
            let timeout = PollTimeout::try_from(left.as_millis() as i32 + 1)?;
            poll(
                &mut [PollFd::new(self.call.as_fd(), PollFlags::POLLIN)],
                timeout,
            )?;
            let _ = self.call.0.read();
        }
        self.ring.refuse_interrupts();
        Ok(true)
    }

    /// Asks for no interrupts from now on.
    pub fn refuse_interrupts(&mut self) {
        self.ring.refuse_interrupts();
    }

    /// The ring, for tests that break it.
    pub fn ring(&mut self) -> &mut DriverRing {
        &mut self.ring
    }

    /// The bytes of a place.
    pub fn bytes(&self, slot: usize, len: usize) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0; len];
        self.memory
            .read_slice(&mut bytes, GuestAddress(self.data(slot)))?;
        Ok(bytes)
    }

    /// Fills a place.
    pub fn fill(&self, slot: usize, bytes: &[u8]) -> Result<(), Error> {
        Ok(self
            .memory
            .write_slice(bytes, GuestAddress(self.data(slot)))?)
    }
}
