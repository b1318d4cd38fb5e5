//! What the transport needs of a device.

use vhost::vhost_user::VhostUserProtocolFeatures;
use weft_virtio::queue::SplitQueue;

use crate::Error;
use crate::ring::{Wires, Worker};

/// A virtio device on the thread that serves it: one for all front ends that come and go.
pub(crate) trait Device: 'static {
    /// The virtio features on offer.
    fn features(&self) -> u64;

    /// The protocol features that this kind of device adds to what every one has.
    fn protocol_features(&self) -> VhostUserProtocolFeatures;

    /// Rings, and how many of them the front end is told of (a control ring is not).
    fn rings(&self) -> Rings;

    /// The driver took `features`; zero is a reset.
    fn acknowledge(&self, features: u64) -> Result<(), Error>;

    /// The configuration space.
    fn config(&self) -> Vec<u8>;

    /// The driver writes to the configuration space; whether it may.
    fn write_config(&self, offset: u32, bytes: &[u8]) -> bool;

    /// Starts serving a ring on this thread.
    fn start(&self, index: u32, queue: SplitQueue, wires: Wires) -> Result<Box<dyn Worker>, Error>;

    /// Looks at what is below again; whether the configuration space changed.
    fn refresh(&self) -> bool;
}

/// How many rings a device has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rings {
    /// All of them.
    pub(crate) all: u32,
    /// What `GET_QUEUE_NUM` answers.
    pub(crate) told: u64,
}
