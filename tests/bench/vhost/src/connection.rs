//! A front end without a VMM.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::sys::memfd::{MFdFlags, memfd_create};
use vhost::vhost_user::message::{
    VhostUserConfigFlags, VhostUserHeaderFlag, VhostUserInflight, VhostUserProtocolFeatures,
};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::{
    Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestRegionMmap,
    MmapRegion,
};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::DriverRing;

/// `VHOST_USER_F_PROTOCOL_FEATURES`.
const F_PROTOCOL: u64 = 1 << 30;
const F_INDIRECT: u64 = 1 << 28;
const F_EVENT_IDX: u64 = 1 << 29;
const F_VERSION_1: u64 = 1 << 32;

/// What went wrong, in the words of whoever said it.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// What a connection is to be like.
#[derive(Debug, Clone)]
pub struct ConnectionOptions {
    /// Rings.
    pub queues: u16,
    /// Descriptors of each.
    pub queue_size: u16,
    /// Whether to take the event index, if it is on offer.
    pub event_idx: bool,
    /// Whether to keep an in-flight region, if the backend knows it.
    pub in_flight: bool,
    /// Device features to take besides, as far as they are on offer.
    pub features: u64,
    /// Bytes of memory.
    pub memory: usize,
}

impl Default for ConnectionOptions {
    fn default() -> Self {
        Self {
            queues: 1,
            queue_size: 128,
            event_idx: true,
            in_flight: true,
            // Flush, discard and write-zeroes of a disk.
            features: 1 << 9 | 1 << 13 | 1 << 14,
            memory: 64 << 20,
        }
    }
}

/// A device that was set up and runs.
pub struct Connection {
    front: Frontend,
    /// The requests that a backend sends to us.
    backend: UnixStream,
    options: ConnectionOptions,
    memory: GuestMemoryMmap,
    /// One per queue; a driver takes its own.
    pub rings: Vec<Option<DriverRing>>,
    kicks: Vec<EventFd>,
    calls: Vec<EventFd>,
    errors: Vec<EventFd>,
    in_flight: Option<(VhostUserInflight, File)>,
    features: u64,
}

/// Memory of `len` bytes from address zero on, in a file that another process can map.
pub fn guest_memory(len: usize) -> Result<GuestMemoryMmap, Error> {
    let file = File::from(memfd_create(c"guest", MFdFlags::MFD_CLOEXEC)?);
    file.set_len(len as u64)?;
    let mapping = MmapRegion::from_file(FileOffset::new(file, 0), len)?;
    let region = GuestRegionMmap::new(mapping, GuestAddress(0)).ok_or("the memory is too large")?;
    Ok(GuestMemoryMmap::from_regions(vec![region])?)
}

impl Connection {
    /// Connects to the backend at `socket` and starts its rings.
    pub fn open(socket: &Path, options: ConnectionOptions) -> Result<Self, Error> {
        let memory = guest_memory(options.memory)?;
        let event = || EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK);
        let many = || {
            (0..options.queues)
                .map(|_| event())
                .collect::<Result<Vec<_>, _>>()
        };
        let (kicks, calls, errors) = (many()?, many()?, many()?);
        let (front, backend) = Self::connect(socket, &options)?;
        let mut connection = Self {
            front,
            backend,
            memory,
            rings: Vec::new(),
            kicks,
            calls,
            errors,
            in_flight: None,
            features: 0,
            options,
        };
        connection.negotiate()?;
        let options = &connection.options;
        let stride = DriverRing::bytes(options.queue_size);
        connection.rings = (0..u64::from(options.queues))
            .map(|index| {
                let event_idx = connection.features & F_EVENT_IDX != 0;
                let at = index * stride;
                let size = options.queue_size;
                Some(DriverRing::new(&connection.memory, at, size, event_idx))
            })
            .collect();
        connection.start(None)?;
        Ok(connection)
    }

    fn connect(
        socket: &Path,
        options: &ConnectionOptions,
    ) -> Result<(Frontend, UnixStream), Error> {
        let front = Frontend::connect(socket, options.queues.into())?;
        // The pair's other end goes to the backend in `negotiate`.
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        drop(theirs);
        Ok((front, ours))
    }

    fn negotiate(&mut self) -> Result<(), Error> {
        self.front.set_owner()?;
        let offered = self.front.get_features()?;
        let mut wanted = F_PROTOCOL | F_VERSION_1 | F_INDIRECT | self.options.features;
        if self.options.event_idx {
            wanted |= F_EVENT_IDX;
        }
        self.features = offered & wanted;
        let mut protocol = VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::BACKEND_REQ;
        if self.options.in_flight {
            protocol |= VhostUserProtocolFeatures::INFLIGHT_SHMFD;
        }
        protocol &= self.front.get_protocol_features()?;
        self.front.set_protocol_features(protocol)?;
        if protocol.contains(VhostUserProtocolFeatures::REPLY_ACK) {
            self.front.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        }
        if protocol.contains(VhostUserProtocolFeatures::BACKEND_REQ) {
            let (ours, theirs) = UnixStream::pair()?;
            ours.set_nonblocking(true)?;
            self.front.set_backend_request_fd(&theirs)?;
            self.backend = ours;
        }
        self.front.set_features(self.features)?;
        if protocol.contains(VhostUserProtocolFeatures::INFLIGHT_SHMFD) {
            self.share_in_flight()?;
        }
        Ok(())
    }

    fn share_in_flight(&mut self) -> Result<(), Error> {
        if self.in_flight.is_none() {
            let wanted = VhostUserInflight::new(0, 0, self.options.queues, self.options.queue_size);
            self.in_flight = Some(self.front.get_inflight_fd(&wanted)?);
        }
        if let Some((description, file)) = &self.in_flight {
            self.front.set_inflight_fd(description, file.as_raw_fd())?;
        }
        Ok(())
    }

    /// Sets up the rings; their positions are `bases`, or what their used rings say.
    fn start(&mut self, bases: Option<&[u16]>) -> Result<(), Error> {
        let regions = self
            .memory
            .iter()
            .map(VhostUserMemoryRegionInfo::from_guest_region)
            .collect::<Result<Vec<_>, _>>()?;
        self.front.set_mem_table(&regions)?;
        for index in 0..usize::from(self.options.queues) {
            let at = ring_addresses(&self.options, index);
            let host = |address| {
                let host = self.memory.get_host_address(GuestAddress(address))?;
                Ok::<_, Error>(host as u64)
            };
            let used: u16 = self.memory.read_obj(GuestAddress(at.used + 2))?;
            let base = bases.map_or(u16::from_le(used), |bases| bases[index]);
            self.front.set_vring_num(index, at.size)?;
            self.front.set_vring_base(index, base)?;
            let config = VringConfigData {
                queue_max_size: at.size,
                queue_size: at.size,
                flags: 0,
                desc_table_addr: host(at.desc)?,
                used_ring_addr: host(at.used)?,
                avail_ring_addr: host(at.avail)?,
                log_addr: None,
            };
            self.front.set_vring_addr(index, &config)?;
            self.front.set_vring_err(index, &self.errors[index])?;
            self.front.set_vring_call(index, &self.calls[index])?;
            self.front.set_vring_kick(index, &self.kicks[index])?;
            self.front.set_vring_enable(index, true)?;
        }
        Ok(())
    }

    /// Stops the rings; their positions.
    pub fn stop(&mut self) -> Result<Vec<u16>, Error> {
        (0..usize::from(self.options.queues))
            .map(|index| Ok(self.front.get_vring_base(index)? as u16))
            .collect()
    }

    /// Starts the rings again where they were stopped.
    pub fn resume(&mut self, bases: &[u16]) -> Result<(), Error> {
        self.start(Some(bases))
    }

    /// Connects to a successor of the backend, as a VMM does after it died: the rings stay as they are.
    pub fn reconnect(&mut self, socket: &Path) -> Result<(), Error> {
        (self.front, self.backend) = Self::connect(socket, &self.options)?;
        self.negotiate()?;
        self.start(None)
    }

    /// The front end itself, for what is not wrapped here.
    pub fn front(&mut self) -> &mut Frontend {
        &mut self.front
    }

    /// The features that both sides took.
    pub fn features(&self) -> u64 {
        self.features
    }

    /// The memory of the guest that is not there.
    pub fn memory(&self) -> &GuestMemoryMmap {
        &self.memory
    }

    /// The first address behind the rings.
    pub fn data_start(&self) -> u64 {
        u64::from(self.options.queues) * DriverRing::bytes(self.options.queue_size)
    }

    /// `len` bytes of the configuration space.
    pub fn config(&mut self, len: u32) -> Result<Vec<u8>, Error> {
        let room = vec![0; len as usize];
        let flags = VhostUserConfigFlags::empty();
        let (_, bytes) = self.front.get_config(0, len, flags, &room)?;
        Ok(bytes)
    }

    /// A queue's kick and call.
    pub fn wires(&self, queue: usize) -> Result<(EventFd, EventFd), Error> {
        Ok((
            self.kicks[queue].try_clone()?,
            self.calls[queue].try_clone()?,
        ))
    }

    /// Whether the backend said that a ring is broken.
    pub fn is_broken(&self, queue: usize) -> bool {
        self.errors[queue].read().is_ok()
    }

    /// The socket on which the backend sends requests; it does not block.
    pub fn backend_requests(&self) -> &UnixStream {
        &self.backend
    }
}

fn ring_addresses(options: &ConnectionOptions, index: usize) -> crate::RingAddresses {
    let at = index as u64 * DriverRing::bytes(options.queue_size);
    DriverRing::layout(at, options.queue_size)
}
