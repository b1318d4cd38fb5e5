//! One front end: what it has set up, and what each of its requests changes.
//!
//! A session waits for nothing but its rings: a request that stops one is answered when all that was in flight there
//! is done.

use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;

use vhost::vhost_user::message::{VhostUserInflight, VhostUserVringState};
use vhost::vhost_user::{VhostUserProtocolFeatures as Protocol, VhostUserVirtioFeatures};
use vm_memory::ByteValued;
use weft_virtio::queue::{MAX_QUEUE_SIZE, SplitQueue};
use weft_virtio::queue_options;

use crate::Error;
use crate::channel::{Channel, Message};
use crate::device::Device;
use crate::event::Event;
use crate::inflight::InFlight;
use crate::memory::{MEMORY_SLOTS, MemoryTable};
use crate::message::{Header, Request, config_change};
use crate::statistics::Counters;
use crate::vring::VringState;

/// `VHOST_USER_F_PROTOCOL_FEATURES`.
const F_PROTOCOL: u64 = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
/// The most bytes of configuration space that can be asked for; what a device does not have reads as zero.
const CONFIG_LIMIT: u32 = 256;

/// What a request is answered with.
#[derive(Debug)]
pub(crate) enum Reply {
    /// Nothing of its own: an acknowledgement if the front end wants one.
    Done,
    /// Not done, and nothing changed.
    Refused,
    /// These bytes.
    Payload(Vec<u8>),
    /// These bytes and a descriptor.
    WithFile(Vec<u8>, OwnedFd),
}

/// A connected front end.
pub(crate) struct Session<D> {
    device: Rc<D>,
    counters: Arc<Counters>,
    features: u64,
    protocol: Protocol,
    status: u64,
    memory: MemoryTable,
    in_flight: Option<InFlight>,
    /// Where we send requests of our own.
    backend: Option<Channel>,
    vrings: Vec<VringState>,
}

impl<D: Device> Session<D> {
    /// A front end that has just connected.
    pub(crate) fn new(device: Rc<D>, counters: Arc<Counters>) -> Self {
        let rings = device.rings().all;
        Self {
            device,
            counters,
            features: 0,
            protocol: Protocol::empty(),
            status: 0,
            memory: MemoryTable::default(),
            in_flight: None,
            backend: None,
            vrings: (0..rings).map(VringState::new).collect(),
        }
    }

    /// Serves one message of `channel`.
    ///
    /// # Errors
    /// The connection must end: the front end broke the protocol, or it is gone.
    pub(crate) async fn serve(&mut self, channel: &Channel, message: Message) -> Result<(), Error> {
        let (header, body, files) = message;
        let request = Request::parse(&header, &body, files)?;
        let answered = request.has_answer();
        let reply = self.handle(request).await;
        // An acknowledgement in the place of an answer would be taken for one.
        let reply = if answered { Ok(reply?) } else { reply };
        self.answer(channel, &header, reply).await
    }

    /// Stops all rings: what is in flight is finished first.
    pub(crate) async fn close(&mut self) {
        for vring in &mut self.vrings {
            vring.pause().await;
        }
        // The next front end negotiates anew.
        let _ = self.device.acknowledge(0);
    }

    /// Tells the front end that the configuration space changed, if it can be told.
    pub(crate) async fn announce_config(&mut self) {
        if !self.protocol.contains(Protocol::BACKEND_REQ) {
            return;
        }
        if let Some(backend) = &self.backend
            && let Err(error) = backend.send(&config_change(), None).await
        {
            tracing::debug!(%error, "the front end was not told of a new configuration");
            self.backend = None;
        }
    }

    async fn answer(
        &self,
        channel: &Channel,
        header: &Header,
        reply: Result<Reply, Error>,
    ) -> Result<(), Error> {
        let acked = header.wants_ack() && self.protocol.contains(Protocol::REPLY_ACK);
        match reply {
            Ok(Reply::Payload(payload)) => channel.send(&header.reply(&payload), None).await,
            Ok(Reply::WithFile(payload, file)) => {
                let file = Some(file.as_raw_fd());
                channel.send(&header.reply(&payload), file).await
            }
            Ok(Reply::Done) if acked => channel.send(&header.ack(true), None).await,
            Ok(Reply::Refused) if acked => channel.send(&header.ack(false), None).await,
            Ok(Reply::Done | Reply::Refused) => Ok(()),
            Err(error) if acked => {
                tracing::warn!(%error, "a request of the front end was refused");
                channel.send(&header.ack(false), None).await
            }
            Err(error) => Err(error),
        }
    }

    async fn handle(&mut self, request: Request) -> Result<Reply, Error> {
        match request {
            Request::GetFeatures => Ok(number(self.device.features() | F_PROTOCOL)),
            Request::SetFeatures(features) => self.set_features(features),
            Request::SetOwner => Ok(Reply::Done),
            Request::ResetOwner | Request::ResetDevice => self.reset().await,
            Request::GetProtocolFeatures => Ok(number(self.offered().bits())),
            Request::SetProtocolFeatures(bits) => {
                self.protocol = Protocol::from_bits_truncate(bits) & self.offered();
                Ok(Reply::Done)
            }
            Request::GetQueueCount => Ok(number(self.device.rings().told)),
            Request::GetStatus => Ok(number(self.status)),
            Request::SetStatus(0) => self.reset().await,
            Request::SetStatus(status) => {
                self.status = status & 0xff;
                Ok(Reply::Done)
            }
            Request::SetMtu => Ok(Reply::Done),
            Request::SetBackendChannel(socket) => {
                self.backend = Some(Channel::new(socket)?);
                Ok(Reply::Done)
            }
            Request::GetConfig { offset, size } => Ok(self.config(offset, size)),
            Request::SetConfig { offset, bytes } => {
                Ok(match self.device.write_config(offset, &bytes) {
                    true => Reply::Done,
                    false => Reply::Refused,
                })
            }
            Request::GetInFlight(wanted) => self.in_flight_file(&wanted),
            Request::SetInFlight(description, file) => {
                self.in_flight = Some(InFlight::map(&description, file)?);
                Ok(Reply::Done)
            }
            Request::GetMemorySlots => Ok(number(MEMORY_SLOTS as u64)),
            Request::SetMemoryTable(regions) => {
                self.pause_all().await;
                let changed = self.memory.replace(regions);
                self.resume_all(changed)
            }
            Request::AddMemory(region, file) => {
                self.pause_all().await;
                let changed = self.memory.add(&region, file);
                self.resume_all(changed)
            }
            Request::RemoveMemory(region) => {
                self.pause_all().await;
                let changed = self.memory.remove(&region);
                self.resume_all(changed)
            }
            other => self.handle_vring(other).await,
        }
    }

    /// The requests that concern one ring.
    async fn handle_vring(&mut self, request: Request) -> Result<Reply, Error> {
        match request {
            Request::SetVringSize(vring) => {
                let size = u16::try_from(vring.value)
                    .ok()
                    .filter(|&size| size.is_power_of_two() && size <= MAX_QUEUE_SIZE)
                    .ok_or(Error::Protocol("a ring's size is not possible"))?;
                self.vring(vring.index)?.set_size(size).await;
            }
            Request::SetVringBase(vring) => {
                let base = vring.value as u16;
                self.vring(vring.index)?.set_base(base).await;
            }
            Request::SetVringAddress(address) => {
                let index = address.index;
                self.vring(index)?.set_address(&address).await;
                self.settle(index);
            }
            Request::SetVringCall(index, file) => {
                let event = file.map(Event::adopt).transpose()?;
                self.vring(index)?.wires_call(event);
            }
            Request::SetVringError(index, file) => {
                let event = file.map(Event::adopt).transpose()?;
                self.vring(index)?.wires_error(event);
            }
            Request::SetVringKick(index, file) => {
                // Without a descriptor the front end asks for a ring that is polled for ever, which costs a core.
                let file = file.ok_or(Error::Protocol("a ring has no kick"))?;
                let event = Event::adopt(file)?;
                self.vring(index)?.set_kick(event).await;
                self.settle(index);
            }
            Request::SetVringEnable(index, true) => {
                self.vring(index)?.set_enabled(true);
                self.settle(index);
            }
            Request::SetVringEnable(index, false) => {
                let vring = self.vring(index)?;
                vring.pause().await;
                vring.set_enabled(false);
            }
            Request::GetVringBase(index) => {
                let base = self.vring(index)?.stop().await;
                let state = VhostUserVringState::new(index, u32::from(base));
                return Ok(Reply::Payload(state.as_slice().to_vec()));
            }
            _ => unreachable!("all other requests are handled before"),
        }
        Ok(Reply::Done)
    }

    fn in_flight_file(&self, wanted: &VhostUserInflight) -> Result<Reply, Error> {
        let rings = self.device.rings().all;
        if u32::from(wanted.num_queues) > rings || wanted.queue_size > MAX_QUEUE_SIZE {
            return Err(Error::Protocol(
                "an in-flight region for rings that do not exist",
            ));
        }
        let (made, file) = InFlight::create(wanted)?;
        Ok(Reply::WithFile(made.as_slice().to_vec(), file.into()))
    }

    fn offered(&self) -> Protocol {
        Protocol::MQ
            | Protocol::REPLY_ACK
            | Protocol::BACKEND_REQ
            | Protocol::CONFIG
            | Protocol::RESET_DEVICE
            | Protocol::STATUS
            | Protocol::CONFIGURE_MEM_SLOTS
            | self.device.protocol_features()
    }

    fn set_features(&mut self, features: u64) -> Result<Reply, Error> {
        if features & !(self.device.features() | F_PROTOCOL) != 0 {
            return Err(Error::Protocol("features were taken that are not on offer"));
        }
        if features != self.features {
            self.device.acknowledge(features & !F_PROTOCOL)?;
            self.features = features;
        }
        if features & F_PROTOCOL == 0 {
            // A front end that does not know how to enable rings means them to run at once.
            for vring in &mut self.vrings {
                vring.set_enabled(true);
            }
        }
        Ok(Reply::Done)
    }

    async fn reset(&mut self) -> Result<Reply, Error> {
        for vring in &mut self.vrings {
            vring.reset().await;
        }
        self.device.acknowledge(0)?;
        (self.features, self.status, self.in_flight) = (0, 0, None);
        Ok(Reply::Done)
    }

    fn config(&self, offset: u32, size: u32) -> Reply {
        if offset.saturating_add(size) > CONFIG_LIMIT {
            // An empty payload says that it cannot be had.
            return Reply::Payload(Vec::new());
        }
        let mut space = self.device.config();
        space.resize(CONFIG_LIMIT as usize, 0);
        let mut payload = Vec::with_capacity(12 + size as usize);
        for word in [offset, size, 0] {
            payload.extend(word.to_ne_bytes());
        }
        payload.extend(&space[offset as usize..(offset + size) as usize]);
        Reply::Payload(payload)
    }

    fn vring(&mut self, index: u32) -> Result<&mut VringState, Error> {
        self.vrings
            .get_mut(index as usize)
            .ok_or(Error::Protocol("a ring does not exist"))
    }

    async fn pause_all(&mut self) {
        for vring in &mut self.vrings {
            vring.pause().await;
        }
    }

    fn resume_all(&mut self, changed: Result<(), Error>) -> Result<Reply, Error> {
        for index in 0..self.vrings.len() as u32 {
            self.settle(index);
        }
        changed.map(|()| Reply::Done)
    }

    /// Starts a ring if it has all that it needs. A ring that cannot be started is broken, which is its guest's
    /// affair and not the connection's.
    fn settle(&mut self, index: u32) {
        let Some(vring) = self.vrings.get_mut(index as usize) else {
            return;
        };
        let Some(layout) = vring.to_start(&self.memory) else {
            return;
        };
        let Some(memory) = self.memory.memory() else {
            return;
        };
        let region = self.in_flight.as_ref().and_then(|file| file.ring(index));
        let options = queue_options(self.features);
        let started = SplitQueue::new(memory, &layout, options, vring.base(), region)
            .map_err(|source| Error::Ring { index, source })
            .and_then(|queue| {
                let resumed = queue.unfinished();
                if resumed > 0 {
                    tracing::info!(ring = index, resumed, "resuming what a predecessor left");
                }
                let wires = vring.wires().ok_or(Error::Protocol("a ring has no kick"))?;
                self.device.start(index, queue, wires)
            });
        match started {
            Ok(worker) => vring.started(worker),
            Err(error) => {
                tracing::warn!(%error, "a ring was not started");
                self.counters.broken_rings.add(1);
                vring.broken();
            }
        }
    }
}

fn number(value: u64) -> Reply {
    Reply::Payload(value.to_ne_bytes().to_vec())
}
