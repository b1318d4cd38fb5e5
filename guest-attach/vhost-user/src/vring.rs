//! What a front end has said of one ring.

use std::rc::Rc;

use vhost::vhost_user::message::VhostUserVringAddr;
use weft_virtio::queue::Layout;

use crate::event::{Event, Outlet};
use crate::memory::MemoryTable;
use crate::ring::{Wires, Worker};

/// The three parts of a ring, in the front end's addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Parts {
    desc: u64,
    avail: u64,
    used: u64,
}

/// A ring: set up bit by bit, running once all of it is there.
pub(crate) struct VringState {
    index: u32,
    size: u16,
    parts: Option<Parts>,
    base: u16,
    kick: Option<Rc<Event>>,
    call: Rc<Outlet>,
    error: Rc<Outlet>,
    enabled: bool,
    worker: Option<Box<dyn Worker>>,
}

impl VringState {
    pub(crate) fn new(index: u32) -> Self {
        Self {
            index,
            size: 0,
            parts: None,
            base: 0,
            kick: None,
            call: Rc::default(),
            error: Rc::default(),
            enabled: false,
            worker: None,
        }
    }

    /// Stops the ring as long as it takes to change something; what was in flight is finished.
    pub(crate) async fn pause(&mut self) {
        if let Some(worker) = self.worker.take() {
            self.base = worker.stop().await;
        }
    }

    /// Stops the ring until it gets a new kick; the position where a successor goes on.
    pub(crate) async fn stop(&mut self) -> u16 {
        self.pause().await;
        self.kick = None;
        self.base
    }

    /// Forgets everything but where notifications go, which a reset of the device does not change.
    pub(crate) async fn reset(&mut self) {
        self.pause().await;
        let (call, error) = (self.call.clone(), self.error.clone());
        *self = Self {
            call,
            error,
            ..Self::new(self.index)
        };
    }

    pub(crate) async fn set_size(&mut self, size: u16) {
        self.pause().await;
        self.size = size;
    }

    pub(crate) async fn set_base(&mut self, base: u16) {
        self.pause().await;
        self.base = base;
    }

    /// Front ends say addresses again while a ring runs; only new ones disturb it.
    pub(crate) async fn set_address(&mut self, address: &VhostUserVringAddr) {
        let parts = Parts {
            desc: address.descriptor,
            avail: address.available,
            used: address.used,
        };
        if self.parts != Some(parts) {
            self.pause().await;
            self.parts = Some(parts);
        }
    }

    pub(crate) async fn set_kick(&mut self, kick: Event) {
        self.pause().await;
        self.kick = Some(Rc::new(kick));
    }

    pub(crate) fn wires_call(&mut self, event: Option<Event>) {
        self.call.set(event);
    }

    pub(crate) fn wires_error(&mut self, event: Option<Event>) {
        self.error.set_silently(event);
    }

    pub(crate) fn set_enabled(&mut self, enabled: bool) {
        self.enabled = enabled;
    }

    pub(crate) fn base(&self) -> u16 {
        self.base
    }

    /// Where the ring lies, if it can be started now and does not run yet.
    pub(crate) fn to_start(&self, memory: &MemoryTable) -> Option<Layout> {
        if self.worker.is_some() || !self.enabled || self.size == 0 {
            return None;
        }
        self.kick.as_ref()?;
        let parts = self.parts?;
        let locate = |address| {
            let found = memory.guest_address(address);
            if found.is_none() {
                tracing::warn!(ring = self.index, address, "a ring lies in no known memory");
            }
            found
        };
        Some(Layout {
            size: self.size,
            desc: locate(parts.desc)?,
            avail: locate(parts.avail)?,
            used: locate(parts.used)?,
        })
    }

    pub(crate) fn wires(&self) -> Option<Wires> {
        Some(Wires {
            kick: self.kick.clone()?,
            call: self.call.clone(),
            error: self.error.clone(),
        })
    }

    pub(crate) fn started(&mut self, worker: Box<dyn Worker>) {
        self.worker = Some(worker);
    }

    /// The ring cannot run: the front end is told.
    pub(crate) fn broken(&mut self) {
        self.kick = None;
        self.error.signal();
    }
}
