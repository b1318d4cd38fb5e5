//! What every device has for a ring: its wires, and a worker.

use std::rc::Rc;

use weft_block::LocalBoxFuture;
use weft_uring::Glance;
use weft_virtio::queue::SplitQueue;

use crate::event::{Event, Outlet};

/// A ring's notifications.
#[derive(Debug, Clone)]
pub(crate) struct Wires {
    /// Raised by the front end when chains are available.
    pub(crate) kick: Rc<Event>,
    /// Raised by us when chains came back.
    pub(crate) call: Rc<Outlet>,
    /// Raised by us when the ring is broken.
    pub(crate) error: Rc<Outlet>,
}

/// A ring at work on this thread.
pub(crate) trait Worker {
    /// Takes no more chains, finishes those that were taken, and gives the position where a successor goes on.
    fn stop(self: Box<Self>) -> LocalBoxFuture<'static, u16>;
}

/// A poller's look at a ring: whether there is something to take. An error counts, for whoever takes finds it again.
/// Nothing there before the shard sleeps means that the guest was asked for a kick.
pub(crate) fn look(queue: &mut SplitQueue, glance: Glance) -> bool {
    let waits = match glance {
        Glance::Hot => queue.look(),
        Glance::Park => queue.enable_notifications(),
    };
    let waits = !matches!(waits, Ok(false));
    if waits {
        queue.disable_notifications();
    }
    waits
}
