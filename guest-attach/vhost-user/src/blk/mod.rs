//! Any block device as a vhost-user-blk backend.

mod flights;
mod ring;

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use vhost::vhost_user::VhostUserProtocolFeatures as Protocol;
use weft_block::BlockDevice;
use weft_uring::{ShardHandle, spawner};
use weft_virtio::blk::{BlkModel, BlkOptions};
use weft_virtio::queue::SplitQueue;

use crate::Error;
use crate::device::{Device, Rings};
use crate::ring::{Wires, Worker};
use crate::server::{self, Served};
use crate::statistics::Counters;
use flights::SharedQueue;
use ring::{BlkRing, Parts};

/// The most requests that a ring may have in flight at its device, unless [`BlkServe::in_flight`] says otherwise.
/// As many as QEMU's largest default ring; what a guest makes available beyond waits in its own ring.
pub const IN_FLIGHT_PER_RING: usize = 256;

/// How a device is served.
#[derive(Debug, Clone)]
pub struct BlkServe {
    /// What the guest sees.
    pub model: BlkOptions,
    /// Requests of one ring that may be at the device at once.
    pub in_flight: usize,
}

impl Default for BlkServe {
    fn default() -> Self {
        Self {
            model: BlkOptions::default(),
            in_flight: IN_FLIGHT_PER_RING,
        }
    }
}

/// Serves block devices to VMMs.
#[derive(Debug)]
pub struct BlkBackend;

impl BlkBackend {
    /// Serves `device` at `socket`, on `shard`: best the one on which the device's own stack runs, so that a request
    /// changes no thread.
    ///
    /// All request queues share one queue of the device. A front end that says nothing of the in-flight region loses
    /// what is in flight when we die; QEMU and our VMM use it.
    ///
    /// # Errors
    /// [`Error::Device`] if the device cannot be opened, [`Error::Busy`] or [`Error::Socket`] if the socket cannot be
    /// had.
    pub async fn serve(
        shard: &ShardHandle,
        socket: impl Into<PathBuf>,
        device: Arc<dyn BlockDevice>,
        options: BlkServe,
    ) -> Result<Served, Error> {
        let make = move |counters| BlkDevice::open(device, options, counters);
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
        device: Arc<dyn BlockDevice>,
        options: BlkServe,
    ) -> Result<Served, Error> {
        let make = move |counters| BlkDevice::open(device, options, counters);
        server::serve_here(socket.into(), make)
    }
}

/// A block device on its thread.
struct BlkDevice {
    device: Arc<dyn BlockDevice>,
    queue: SharedQueue,
    model: Rc<RefCell<BlkModel>>,
    in_flight: usize,
    counters: Arc<Counters>,
}

impl BlkDevice {
    fn open(
        device: Arc<dyn BlockDevice>,
        options: BlkServe,
        counters: Arc<Counters>,
    ) -> Result<Self, Error> {
        let queue = device.open(&spawner()).map_err(Error::Device)?;
        let model = BlkModel::new(device.info(), options.model);
        Ok(Self {
            device,
            queue: queue.into(),
            model: Rc::new(RefCell::new(model)),
            in_flight: options.in_flight,
            counters,
        })
    }
}

impl Device for BlkDevice {
    fn features(&self) -> u64 {
        self.model.borrow().features()
    }

    fn protocol_features(&self) -> Protocol {
        Protocol::INFLIGHT_SHMFD
    }

    fn rings(&self) -> Rings {
        let queues = self.model.borrow().queues();
        Rings {
            all: queues.into(),
            told: queues.into(),
        }
    }

    fn acknowledge(&self, features: u64) -> Result<(), Error> {
        self.model.borrow_mut().acknowledge(features);
        Ok(())
    }

    fn config(&self) -> Vec<u8> {
        self.model.borrow().config().to_vec()
    }

    fn write_config(&self, offset: u32, bytes: &[u8]) -> bool {
        self.model.borrow_mut().write_config(offset, bytes)
    }

    fn start(&self, index: u32, queue: SplitQueue, wires: Wires) -> Result<Box<dyn Worker>, Error> {
        let parts = Parts {
            device: self.queue.clone(),
            model: self.model.clone(),
            counters: self.counters.clone(),
            in_flight: self.in_flight,
        };
        Ok(BlkRing::start(index, queue, wires, parts))
    }

    fn refresh(&self) -> bool {
        self.model.borrow_mut().resize(self.device.info().size)
    }
}
