//! A network port as a vhost-user-net backend.

#[allow(unsafe_code)] // A room of unsafe: system calls on guest memory.
mod frames;
mod ring;

use std::cell::RefCell;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use vhost::vhost_user::VhostUserProtocolFeatures as Protocol;
use weft_uring::ShardHandle;
use weft_virtio::net::{NetModel, NetOptions, NetPort};
use weft_virtio::queue::SplitQueue;

use crate::Error;
use crate::device::{Device, Rings};
use crate::ring::{Wires, Worker};
use crate::server::{self, Served};
use crate::statistics::Counters;
pub use frames::{FrameFile, Setting};
use ring::{ControlRing, ReceiveRing, TransmitRing};

/// The parts of a port, one for each queue pair.
pub type Ports = Vec<Box<dyn NetPort>>;

/// Serves network ports to VMMs.
#[derive(Debug)]
pub struct NetBackend;

impl NetBackend {
    /// Serves the port whose parts `ports` makes, at `socket`, on `shard`. The device has as many queue pairs as the
    /// port has parts; what `options` says of pairs is not looked at.
    ///
    /// # Errors
    /// [`Error::Port`] if the port cannot be made or has no part, [`Error::Busy`] or [`Error::Socket`] if the socket
    /// cannot be had.
    pub async fn serve(
        shard: &ShardHandle,
        socket: impl Into<PathBuf>,
        options: NetOptions,
        ports: impl FnOnce() -> io::Result<Ports> + Send + 'static,
    ) -> Result<Served, Error> {
        let make =
            move |counters| NetDevice::open(ports().map_err(Error::Port)?, options, counters);
        server::serve(shard, socket.into(), make).await
    }

    /// [`serve`](Self::serve) on the calling thread's executor.
    ///
    /// # Errors
    /// As `serve`.
    ///
    /// # Panics
    /// On a thread without an executor.
    pub fn serve_here(
        socket: impl Into<PathBuf>,
        options: NetOptions,
        ports: Ports,
    ) -> Result<Served, Error> {
        let make = move |counters| NetDevice::open(ports, options, counters);
        server::serve_here(socket.into(), make)
    }
}

type SharedPort = Rc<dyn NetPort>;

/// A port on its thread.
struct NetDevice {
    model: Rc<RefCell<NetModel>>,
    ports: Rc<[SharedPort]>,
    counters: Arc<Counters>,
}

impl NetDevice {
    fn open(ports: Ports, options: NetOptions, counters: Arc<Counters>) -> Result<Self, Error> {
        let pairs = u16::try_from(ports.len()).ok().filter(|&pairs| pairs > 0);
        let Some(pairs) = pairs else {
            let none = io::Error::new(io::ErrorKind::InvalidInput, "a port has at least one part");
            return Err(Error::Port(none));
        };
        let device = Self {
            model: Rc::new(RefCell::new(NetModel::new(NetOptions { pairs, ..options }))),
            ports: ports.into_iter().map(Rc::from).collect(),
            counters,
        };
        for port in &*device.ports {
            device.enable(port, false);
        }
        Ok(device)
    }

    /// Takes a part in or out of the traffic. A port of one part is always in it.
    fn enable(&self, port: &SharedPort, enabled: bool) {
        if self.ports.len() > 1
            && let Err(error) = port.set_enabled(enabled)
        {
            tracing::warn!(%error, enabled, "a part of a port could not be switched");
        }
    }
}

impl Device for NetDevice {
    fn features(&self) -> u64 {
        self.model.borrow().features()
    }

    fn protocol_features(&self) -> Protocol {
        Protocol::MTU
    }

    fn rings(&self) -> Rings {
        let pairs = u32::from(self.model.borrow().pairs());
        Rings {
            all: 2 * pairs + 1,
            // QEMU compares this with the pairs that it was asked for.
            told: pairs.into(),
        }
    }

    fn acknowledge(&self, features: u64) -> Result<(), Error> {
        let mut model = self.model.borrow_mut();
        model.acknowledge(features);
        if features == 0 {
            return Ok(());
        }
        let setup = model.port_setup();
        self.ports
            .iter()
            .try_for_each(|port| port.configure(&setup))
            .map_err(Error::Port)
    }

    fn config(&self) -> Vec<u8> {
        self.model.borrow().config().to_vec()
    }

    fn write_config(&self, _: u32, _: &[u8]) -> bool {
        false
    }

    fn start(&self, index: u32, queue: SplitQueue, wires: Wires) -> Result<Box<dyn Worker>, Error> {
        let counters = self.counters.clone();
        let Some(port) = self.ports.get(index as usize / 2) else {
            let (model, ports) = (self.model.clone(), self.ports.clone());
            return Ok(ControlRing::start(
                index, queue, wires, counters, model, ports,
            ));
        };
        let port = port.clone();
        let model = self.model.borrow();
        if index % 2 == 1 {
            return Ok(TransmitRing::start(
                index, queue, wires, counters, port, &model,
            ));
        }
        self.enable(&port, true);
        let several = self.ports.len() > 1;
        Ok(ReceiveRing::start(
            index, queue, wires, counters, port, several, &model,
        ))
    }

    fn refresh(&self) -> bool {
        false
    }
}
