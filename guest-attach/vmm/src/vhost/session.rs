//! One connection to a back end: negotiation, configuration, starting and stopping its rings.

use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use vhost::vhost_user::message::VhostUserInflight;
use vhost::vhost_user::message::{VhostUserConfigFlags, VhostUserHeaderFlag};
use vhost::vhost_user::{
    Frontend, FrontendReqHandler, HandlerResult, VhostUserFrontend, VhostUserFrontendReqHandler,
    VhostUserProtocolFeatures as Protocol,
};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::{GuestAddress, GuestMemoryBackend};

use super::features::{self, Kind};
use crate::config::MAX_QUEUES;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::fd;
use crate::memory::GuestRam;
use crate::virtio::{Activation, MAX_RING, Queue};

/// A back end that does not answer within this time is given up and connected to again.
const ANSWER_TIME: Duration = Duration::from_secs(20);

/// The region in which a back end notes what it is working on. It outlives the back end.
pub(super) struct Inflight {
    layout: VhostUserInflight,
    file: File,
}

struct ConfigChanged(AtomicBool);

impl VhostUserFrontendReqHandler for ConfigChanged {
    fn handle_config_change(&self) -> HandlerResult<u64> {
        self.0.store(true, Ordering::Relaxed);
        Ok(0)
    }
}

/// A back end that answers.
pub(super) struct Session {
    frontend: Frontend,
    /// A second handle of the connection, to wait on.
    socket: OwnedFd,
    back_end: u64,
    protocol: Protocol,
    kind: Kind,
    queues: u16,
    requests: Option<FrontendReqHandler<ConfigChanged>>,
    changed: Arc<ConfigChanged>,
}

fn failed(what: &str) -> String {
    format!("the back end did not take {what}")
}

impl Session {
    /// Connects to `socket` and negotiates. `queues` are wanted; there may be less.
    pub(super) fn open(socket: &Path, kind: Kind, queues: u16) -> Result<Self> {
        let name = || format!("cannot connect to the back end at {}", socket.display());
        let stream = UnixStream::connect(socket).context(ErrorKind::Backend, name())?;
        stream
            .set_read_timeout(Some(ANSWER_TIME))
            .and_then(|()| stream.set_write_timeout(Some(ANSWER_TIME)))
            .context(ErrorKind::Backend, name())?;
        Self::negotiate(stream, kind, queues)
    }

    fn negotiate(stream: UnixStream, kind: Kind, queues: u16) -> Result<Self> {
        let socket = OwnedFd::from(
            stream
                .try_clone()
                .context(ErrorKind::Backend, "no descriptor left")?,
        );
        let mut frontend = Frontend::from_stream(stream, u64::from(MAX_QUEUES));
        frontend
            .set_owner()
            .context(ErrorKind::Backend, failed("SET_OWNER"))?;
        let back_end = frontend.get_features().context(
            ErrorKind::Backend,
            "the back end does not tell its features",
        )?;
        let mut protocol = Protocol::empty();
        if back_end & features::PROTOCOL != 0 {
            let offered = frontend.get_protocol_features().context(
                ErrorKind::Backend,
                "the back end does not tell its protocol features",
            )?;
            protocol = offered & features::protocol();
            frontend
                .set_protocol_features(protocol)
                .context(ErrorKind::Backend, failed("SET_PROTOCOL_FEATURES"))?;
        }
        if protocol.contains(Protocol::REPLY_ACK) {
            frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        }
        let mut session = Self {
            frontend,
            socket,
            back_end,
            protocol,
            kind,
            queues,
            requests: None,
            changed: Arc::new(ConfigChanged(AtomicBool::new(false))),
        };
        session.count_queues()?;
        session.open_request_channel()?;
        Ok(session)
    }

    /// A disk has as many queues as both sides have; a NIC one pair.
    fn count_queues(&mut self) -> Result<()> {
        self.queues = match self.kind {
            Kind::Nic { .. } => 2,
            Kind::Disk if self.protocol.contains(Protocol::MQ) => {
                let most = self
                    .frontend
                    .get_queue_num()
                    .context(ErrorKind::Backend, "the back end does not tell its queues")?;
                self.queues.min(most.min(u64::from(MAX_QUEUES)) as u16)
            }
            Kind::Disk => 1,
        };
        if self.queues == 0 {
            return Err(Error::new(ErrorKind::Backend, "the back end has no queue"));
        }
        Ok(())
    }

    fn open_request_channel(&mut self) -> Result<()> {
        if !self.protocol.contains(Protocol::BACKEND_REQ) {
            return Ok(());
        }
        let mut handler = FrontendReqHandler::new(self.changed.clone())
            .context(ErrorKind::Backend, "no descriptor left")?;
        handler.set_reply_ack_flag(self.protocol.contains(Protocol::REPLY_ACK));
        self.frontend
            .set_backend_request_fd(&handler.get_tx_raw_fd())
            .context(ErrorKind::Backend, failed("SET_BACKEND_REQ_FD"))?;
        self.requests = Some(handler);
        Ok(())
    }

    /// What the guest may be offered.
    pub(super) fn offered(&self) -> u64 {
        self.kind.offered(self.back_end)
    }

    /// How many queues there are.
    pub(super) fn queues(&self) -> u16 {
        self.queues
    }

    /// The connection, and the channel of the back end's own requests.
    pub(super) fn sockets(&self) -> (&OwnedFd, Option<BorrowedFd<'_>>) {
        let requests = self.requests.as_ref().map(fd::borrow);
        (&self.socket, requests)
    }

    /// Takes one request of the back end from the channel; whether its configuration has changed comes back.
    pub(super) fn take_request(&mut self) -> Result<bool> {
        if let Some(handler) = &mut self.requests {
            handler.handle_request().context(
                ErrorKind::Backend,
                "the back end's request is not understood",
            )?;
        }
        Ok(self.changed.0.swap(false, Ordering::Relaxed))
    }

    /// Reads the device's configuration.
    pub(super) fn read_config(&mut self) -> Result<Vec<u8>> {
        let length = self.kind.config_bytes();
        let mut config = vec![0; length as usize];
        if self.protocol.contains(Protocol::CONFIG) {
            let (_, bytes) = self
                .frontend
                .get_config(0, length, VhostUserConfigFlags::WRITABLE, &config)
                .context(
                    ErrorKind::Backend,
                    "the back end does not tell its configuration",
                )?;
            config = bytes;
        } else if self.kind == Kind::Disk {
            return Err(Error::new(
                ErrorKind::Backend,
                "the back end has no CONFIG protocol feature, without which a disk has no size",
            ));
        }
        self.kind.patch_config(&mut config, self.queues);
        Ok(config)
    }

    /// Passes on what the guest wrote into the configuration.
    pub(super) fn write_config(&mut self, offset: u32, bytes: &[u8]) -> Result<()> {
        if !self.protocol.contains(Protocol::CONFIG) {
            return Ok(());
        }
        self.frontend
            .set_config(offset, VhostUserConfigFlags::WRITABLE, bytes)
            .context(ErrorKind::Backend, failed("SET_CONFIG"))
    }

    /// Starts the rings. With `resume` they go on behind the last answered request, else they are new.
    pub(super) fn start(
        &mut self,
        activation: &Activation,
        inflight: &mut Option<Inflight>,
        resume: bool,
    ) -> Result<()> {
        let missing = activation.features & !self.offered();
        if missing != 0 {
            return Err(Error::new(
                ErrorKind::Backend,
                format!(
                    "the back end came back without the features {missing:#x} that the guest uses"
                ),
            ));
        }
        // Features of this side alone are none of the back end's.
        let own = self.kind.own() & !self.back_end;
        let taken = activation.features & !own | self.back_end & features::PROTOCOL;
        self.frontend
            .set_features(taken)
            .context(ErrorKind::Backend, failed("SET_FEATURES"))?;
        self.share_memory(&activation.ram)?;
        self.share_inflight(inflight)?;
        for queue in &activation.queues {
            self.start_ring(queue, &activation.ram, resume)
                .context(ErrorKind::Backend, failed(&format!("ring {}", queue.index)))?;
        }
        for queue in &activation.queues {
            if self.back_end & features::PROTOCOL != 0 {
                self.frontend
                    .set_vring_enable(usize::from(queue.index), true)
                    .context(ErrorKind::Backend, failed("SET_VRING_ENABLE"))?;
            }
            if resume {
                // The last back end may have died between taking a kick and answering, or answering and calling.
                let _ = queue.kick.write(1);
                let _ = queue.call.write(1);
            }
        }
        Ok(())
    }

    fn share_memory(&mut self, ram: &GuestRam) -> Result<()> {
        let regions: Vec<VhostUserMemoryRegionInfo> = ram
            .iter()
            .map(VhostUserMemoryRegionInfo::from_guest_region)
            .collect::<std::result::Result<_, _>>()
            .context(ErrorKind::Memory, "guest memory is not shared")?;
        self.frontend
            .set_mem_table(&regions)
            .context(ErrorKind::Backend, failed("SET_MEM_TABLE"))?;
        Ok(())
    }

    fn share_inflight(&mut self, inflight: &mut Option<Inflight>) -> Result<()> {
        if !self.protocol.contains(Protocol::INFLIGHT_SHMFD) {
            return Ok(());
        }
        let region = match inflight {
            Some(region) => region,
            None => {
                let wanted = VhostUserInflight::new(0, 0, self.queues, MAX_RING);
                let (layout, file) = self
                    .frontend
                    .get_inflight_fd(&wanted)
                    .context(ErrorKind::Backend, "the back end gives no in-flight region")?;
                inflight.insert(Inflight { layout, file })
            }
        };
        self.frontend
            .set_inflight_fd(&region.layout, region.file.as_raw_fd())
            .context(ErrorKind::Backend, failed("SET_INFLIGHT_FD"))
    }

    fn start_ring(&mut self, queue: &Queue, ram: &GuestRam, resume: bool) -> vhost::Result<()> {
        let index = usize::from(queue.index);
        let ring = &queue.ring;
        let host = |address: u64| {
            ram.get_host_address(GuestAddress(address))
                .map(|pointer| pointer as u64)
                .map_err(|_| vhost::Error::InvalidGuestMemory)
        };
        let base = if resume { ring.used_index(ram) } else { 0 };
        self.frontend.set_vring_num(index, ring.size)?;
        self.frontend.set_vring_base(index, base)?;
        let addresses = VringConfigData {
            queue_max_size: MAX_RING,
            queue_size: ring.size,
            flags: 0,
            desc_table_addr: host(ring.descriptors)?,
            used_ring_addr: host(ring.used)?,
            avail_ring_addr: host(ring.available)?,
            log_addr: None,
        };
        self.frontend.set_vring_addr(index, &addresses)?;
        self.frontend.set_vring_call(index, &queue.call)?;
        self.frontend.set_vring_kick(index, &queue.kick)
    }

    /// Stops the rings; the back end has finished what it had taken when this returns.
    pub(super) fn stop(&mut self, activation: &Activation) -> Result<()> {
        let rings = || {
            activation
                .queues
                .iter()
                .map(|queue| usize::from(queue.index))
        };
        if self.back_end & features::PROTOCOL != 0 {
            for ring in rings() {
                self.frontend
                    .set_vring_enable(ring, false)
                    .context(ErrorKind::Backend, failed("SET_VRING_ENABLE"))?;
            }
        }
        for ring in rings() {
            self.frontend
                .get_vring_base(ring)
                .context(ErrorKind::Backend, failed("GET_VRING_BASE"))?;
        }
        Ok(())
    }
}
