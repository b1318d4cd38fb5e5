//! The rings of a network device at work.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, select};
use weft_block::LocalBoxFuture;
use weft_uring::{Found, Poller, Task, poller, readable, sleep, spawn, yield_now};
use weft_virtio::net::{
    Answer, Counts, LONGEST_FRAME, NetModel, Progress, Receive, Transmit, control,
};
use weft_virtio::queue::{QueueError, SplitQueue};

use super::SharedPort;
use crate::bell::Bell;
use crate::event::{Event, Outlet};
use crate::ring::{Wires, Worker, look};
use crate::statistics::Counters;

/// How long a port that cannot be waited for is left alone.
const PORT_RETRY: Duration = Duration::from_millis(100);

/// What every ring has: its queue, its notifications, and whether it is to end.
struct Frame {
    index: u32,
    queue: Rc<RefCell<SplitQueue>>,
    bell: Rc<Bell>,
    call: Rc<Outlet>,
    error: Rc<Outlet>,
    counters: Arc<Counters>,
    stopping: Cell<bool>,
}

impl Frame {
    fn new(index: u32, queue: SplitQueue, wires: &Wires, counters: Arc<Counters>) -> Rc<Self> {
        Rc::new(Self {
            index,
            queue: Rc::new(RefCell::new(queue)),
            bell: Rc::default(),
            call: wires.call.clone(),
            error: wires.error.clone(),
            counters,
            stopping: Cell::new(false),
        })
    }

    fn interrupt(&self, wanted: bool) {
        if wanted {
            self.call.signal();
            self.counters.interrupts.add(1);
        }
    }

    fn give_up(&self, error: &QueueError) {
        tracing::warn!(ring = self.index, %error, "the guest broke a network queue, which ends here");
        self.counters.broken_rings.add(1);
        self.error.signal();
    }

    /// Sleeps until the guest kicks, or the ring is to end.
    async fn kicked(&self) -> Result<(), QueueError> {
        if self.stopping.get() || self.queue.borrow_mut().enable_notifications()? {
            return Ok(());
        }
        self.bell.rung().await;
        self.queue.borrow_mut().disable_notifications();
        Ok(())
    }

    /// Waits for the port, or until the ring is to end.
    async fn port(&self, ready: LocalBoxFuture<'_, std::io::Result<()>>) {
        let stop = async {
            while !self.stopping.get() {
                self.bell.rung().await;
            }
        };
        let stop = std::pin::pin!(stop);
        if let Either::Left((Err(error), stop)) = select(ready, stop).await {
            tracing::debug!(ring = self.index, %error, "a port cannot be waited for");
            let _ = select(Box::pin(sleep(PORT_RETRY)), stop).await;
        }
    }

    /// Runs `work` until the ring is told to stop.
    fn start(
        self: Rc<Self>,
        kick: Rc<Event>,
        work: impl Future<Output = ()> + 'static,
    ) -> Box<dyn Worker> {
        let listening = spawn(listen(self.clone(), kick));
        Box::new(Running {
            frame: self,
            working: spawn(work),
            listening,
        })
    }
}

/// Waits for kicks.
async fn listen(frame: Rc<Frame>, kick: Rc<Event>) {
    while readable(kick.fd()).await.is_ok() && kick.clear() {
        frame.counters.kicks.add(1);
        frame.bell.ring();
    }
}

struct Running {
    frame: Rc<Frame>,
    working: Task<()>,
    listening: Task<()>,
}

impl Worker for Running {
    fn stop(self: Box<Self>) -> LocalBoxFuture<'static, u16> {
        Box::pin(async move {
            self.listening.cancel();
            self.frame.stopping.set(true);
            self.frame.bell.ring();
            self.working.await;
            self.frame.queue.borrow().base()
        })
    }
}

/// Frames from the port to the guest.
pub(super) struct ReceiveRing;

impl ReceiveRing {
    pub(super) fn start(
        index: u32,
        queue: SplitQueue,
        wires: Wires,
        counters: Arc<Counters>,
        port: SharedPort,
        several: bool,
        model: &NetModel,
    ) -> Box<dyn Worker> {
        let frame = Frame::new(index, queue, &wires, counters);
        let receive = Receive::new(model.header(), model.mergeable(), LONGEST_FRAME);
        let work = Self::work(frame.clone(), receive, port, several);
        frame.start(wires.kick, work)
    }

    async fn work(frame: Rc<Frame>, mut receive: Receive, port: SharedPort, several: bool) {
        frame.queue.borrow_mut().disable_notifications();
        if let Err(error) = Self::serve(&frame, &mut receive, &port).await {
            frame.give_up(&error);
        }
        receive.stop(&mut frame.queue.borrow_mut());
        if several && let Err(error) = port.set_enabled(false) {
            tracing::warn!(%error, "a part of a port could not be switched off");
        }
    }

    async fn serve(
        frame: &Frame,
        receive: &mut Receive,
        port: &SharedPort,
    ) -> Result<(), QueueError> {
        let mut before = Counts::default();
        while !frame.stopping.get() {
            let turn = receive.turn(&mut frame.queue.borrow_mut(), &**port);
            let (progress, interrupt) = turn?;
            frame.interrupt(interrupt);
            let counts = receive.counts();
            let counters = &frame.counters;
            counters.reads.add(counts.frames - before.frames);
            counters.read_bytes.add(counts.bytes - before.bytes);
            counters.dropped.add(counts.dropped - before.dropped);
            before = counts;
            match progress {
                Progress::More => yield_now().await,
                Progress::QueueEmpty => frame.kicked().await?,
                Progress::PortBlocked => frame.port(port.readable()).await,
            }
        }
        Ok(())
    }
}

/// Frames from the guest to the port.
pub(super) struct TransmitRing;

impl TransmitRing {
    pub(super) fn start(
        index: u32,
        queue: SplitQueue,
        wires: Wires,
        counters: Arc<Counters>,
        port: SharedPort,
        model: &NetModel,
    ) -> Box<dyn Worker> {
        let frame = Frame::new(index, queue, &wires, counters);
        let looked = (Rc::downgrade(&frame.queue), frame.bell.clone());
        let poller = poller(move |glance| {
            let Some(queue) = looked.0.upgrade() else {
                return Found::Cold;
            };
            if !look(&mut queue.borrow_mut(), glance) {
                return Found::Nothing;
            }
            looked.1.ring();
            Found::Work
        });
        let transmit = Transmit::new(model.header());
        let work = Self::work(frame.clone(), transmit, port, poller);
        frame.start(wires.kick, work)
    }

    async fn work(frame: Rc<Frame>, mut transmit: Transmit, port: SharedPort, poller: Poller) {
        if let Err(error) = Self::serve(&frame, &mut transmit, &port, &poller).await {
            frame.give_up(&error);
        }
        transmit.stop(&mut frame.queue.borrow_mut());
    }

    async fn serve(
        frame: &Frame,
        transmit: &mut Transmit,
        port: &SharedPort,
        poller: &Poller,
    ) -> Result<(), QueueError> {
        let mut before = Counts::default();
        frame.queue.borrow_mut().disable_notifications();
        while !frame.stopping.get() {
            let turn = transmit.turn(&mut frame.queue.borrow_mut(), &**port);
            let (progress, interrupt) = turn?;
            frame.interrupt(interrupt);
            let counts = transmit.counts();
            let counters = &frame.counters;
            counters.writes.add(counts.frames - before.frames);
            counters.written_bytes.add(counts.bytes - before.bytes);
            counters.dropped.add(counts.dropped - before.dropped);
            before = counts;
            match progress {
                Progress::More => yield_now().await,
                Progress::QueueEmpty => {
                    // Looked at while it is busy; the poller asks for kicks before the shard sleeps.
                    poller.heat();
                    frame.bell.rung().await;
                }
                Progress::PortBlocked => frame.port(port.writable()).await,
            }
        }
        Ok(())
    }
}

/// Commands of the guest's driver. A VMM that keeps this ring to itself, as QEMU does, never starts it.
pub(super) struct ControlRing;

impl ControlRing {
    pub(super) fn start(
        index: u32,
        queue: SplitQueue,
        wires: Wires,
        counters: Arc<Counters>,
        model: Rc<RefCell<NetModel>>,
        ports: Rc<[SharedPort]>,
    ) -> Box<dyn Worker> {
        let frame = Frame::new(index, queue, &wires, counters);
        let work = {
            let frame = frame.clone();
            async move {
                if let Err(error) = Self::serve(&frame, &model, &ports).await {
                    frame.give_up(&error);
                }
            }
        };
        frame.start(wires.kick, work)
    }

    async fn serve(
        frame: &Frame,
        model: &RefCell<NetModel>,
        ports: &[SharedPort],
    ) -> Result<(), QueueError> {
        while !frame.stopping.get() {
            let popped = frame.queue.borrow_mut().pop()?;
            let Some(chain) = popped else {
                frame.kicked().await?;
                continue;
            };
            let answer = {
                let mut queue = frame.queue.borrow_mut();
                let answer = control(&model.borrow(), &mut queue, &chain)?;
                frame.interrupt(queue.publish());
                answer
            };
            if let Answer::Pairs(pairs) = answer
                && ports.len() > 1
            {
                for (index, port) in ports.iter().enumerate() {
                    if let Err(error) = port.set_enabled(index < usize::from(pairs)) {
                        tracing::warn!(%error, "a part of a port could not be switched");
                    }
                }
            }
        }
        Ok(())
    }
}
