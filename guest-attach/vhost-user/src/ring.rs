//! What every device has for a ring: its wires, and a worker.

use std::rc::Rc;

use weft_block::LocalBoxFuture;

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
