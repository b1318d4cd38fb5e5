//! One request queue at work.
//!
//! Everything that moves a ring comes together in [`BlkRing::turn`]: requests that the device answered go back to the
//! guest, chains that the guest made available go to the device, and what was given back is shown and signalled once
//! for all of it. While there is work the ring is looked at (a poller of the shard), not notified of; the poller turns
//! notifications on again before the shard sleeps.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use weft_block::{Completion, LocalBoxFuture, Op};
use weft_uring::{Found, Glance, Poller, Task, readable, spawn};
use weft_virtio::blk::{BlkModel, Reply, Step, Used};
use weft_virtio::queue::{QueueError, SplitQueue};

use super::flights::{Flights, Ready, SharedQueue};
use crate::event::{Event, Outlet};
use crate::ring::{Wires, Worker, look};
use crate::statistics::Counters;

/// Chains taken from a ring before what was answered meanwhile is shown to the guest.
const BATCH: usize = 64;
/// Batches in one turn, so that a device that answers at once leaves the shard to others.
const BATCHES_PER_TURN: usize = 8;

/// A running request queue.
pub(super) struct BlkRing {
    index: u32,
    queue: RefCell<SplitQueue>,
    flights: RefCell<Flights>,
    ready: Arc<Ready>,
    device: SharedQueue,
    model: Rc<RefCell<BlkModel>>,
    call: Rc<Outlet>,
    error: Rc<Outlet>,
    counters: Arc<Counters>,
    state: Cell<State>,
    poller: RefCell<Option<Poller>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    /// The guest broke the ring: nothing more is taken from it.
    Broken,
    /// What is in flight is waited for, and nothing more is taken.
    Stopping,
}

/// What a ring needs of its device.
pub(super) struct Parts {
    pub(super) device: SharedQueue,
    pub(super) model: Rc<RefCell<BlkModel>>,
    pub(super) counters: Arc<Counters>,
    pub(super) in_flight: usize,
}

impl BlkRing {
    /// Starts serving `queue` on this thread.
    pub(super) fn start(
        index: u32,
        queue: SplitQueue,
        wires: Wires,
        parts: Parts,
    ) -> Box<dyn Worker> {
        let flights = Flights::new(parts.in_flight.min(usize::from(queue.size())).max(1));
        let ring = Rc::new(Self {
            index,
            queue: RefCell::new(queue),
            ready: flights.ready(),
            flights: RefCell::new(flights),
            device: parts.device,
            model: parts.model,
            call: wires.call,
            error: wires.error,
            counters: parts.counters,
            state: Cell::new(State::Running),
            poller: RefCell::new(None),
        });
        ring.queue.borrow_mut().disable_notifications();
        let looked = Rc::downgrade(&ring);
        let poller = weft_uring::poller(move |glance| match looked.upgrade() {
            Some(ring) => ring.look(glance),
            None => Found::Cold,
        });
        poller.heat();
        ring.poller.replace(Some(poller));
        let served = ring.clone();
        let serving = spawn(std::future::poll_fn(move |context| served.turn(context)));
        let listening = spawn(listen(ring.clone(), wires.kick));
        Box::new(Running {
            ring,
            serving,
            listening,
        })
    }

    /// Moves what can be moved; done when it is to stop and nothing is in flight.
    fn turn(&self, context: &mut Context<'_>) -> Poll<()> {
        self.flights.borrow().register(context.waker());
        let mut worked = false;
        for _ in 0..BATCHES_PER_TURN {
            let moved = self.land() + self.take();
            if self.queue.borrow_mut().publish() {
                self.call.signal();
                self.counters.interrupts.add(1);
            }
            if moved == 0 {
                if worked {
                    self.heat();
                }
                return match self.state.get() {
                    State::Stopping if self.flights.borrow().is_empty() => Poll::Ready(()),
                    _ => Poll::Pending,
                };
            }
            worked = true;
        }
        self.heat();
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Gives back what the device has answered; how many.
    fn land(&self) -> usize {
        let mut moved = 0;
        loop {
            let Some((completion, reply)) = self.flights.borrow_mut().landed() else {
                return moved;
            };
            self.answer(completion, reply);
            moved += 1;
        }
    }

    /// Takes chains from the ring and starts them, as many as have a place and make a batch; how many.
    fn take(&self) -> usize {
        let mut moved = 0;
        while moved < BATCH
            && self.state.get() == State::Running
            && !self.flights.borrow().is_full()
        {
            match self.start_next() {
                Ok(true) => moved += 1,
                Ok(false) => break,
                Err(error) => {
                    self.give_up(&error);
                    break;
                }
            }
        }
        moved
    }

    fn start_next(&self) -> Result<bool, QueueError> {
        let mut queue = self.queue.borrow_mut();
        let Some(chain) = queue.pop()? else {
            return Ok(false);
        };
        let step = self.model.borrow().parse(&chain, queue.memory())?;
        drop(queue);
        match step {
            Step::Answered(used) => self.push(used),
            Step::Submit(request, reply) => {
                self.count(request.op, request.len);
                let future = self.device.submit(request);
                let answered = self.flights.borrow_mut().start(future, reply);
                if let Some((completion, reply)) = answered {
                    self.answer(completion, reply);
                }
            }
        }
        Ok(true)
    }

    fn answer(&self, completion: Completion, reply: Reply) {
        if let Err(error) = &completion.result {
            self.counters.errors.add(1);
            tracing::debug!(
                ring = self.index,
                error = error.sentence(),
                "a request failed"
            );
        }
        self.push(reply.finish(&completion.result));
    }

    fn push(&self, used: Used) {
        self.queue.borrow_mut().push(used.head, used.written);
    }

    fn count(&self, op: Op, len: u64) {
        match op {
            Op::Read => {
                self.counters.reads.add(1);
                self.counters.read_bytes.add(len);
            }
            Op::Write { .. } => {
                self.counters.writes.add(1);
                self.counters.written_bytes.add(len);
            }
            Op::Flush => self.counters.flushes.add(1),
            Op::Discard | Op::WriteZeroes { .. } => self.counters.discards.add(1),
        }
    }

    /// Ends the ring: the front end is told, and what is in flight is still answered.
    fn give_up(&self, error: &QueueError) {
        tracing::warn!(ring = self.index, %error, "the guest broke a request queue, which ends here");
        self.state.set(State::Broken);
        self.counters.broken_rings.add(1);
        self.error.signal();
    }

    fn heat(&self) {
        if self.state.get() != State::Broken
            && let Some(poller) = &*self.poller.borrow()
        {
            poller.heat();
        }
    }

    /// A look at the ring from the shard's loop.
    fn look(&self, glance: Glance) -> Found {
        if self.state.get() != State::Running {
            return Found::Cold;
        }
        // Without a free place the next answer, not the guest, is what to wait for.
        let waits = look(&mut self.queue.borrow_mut(), glance);
        if !waits || self.flights.borrow().is_full() {
            return Found::Nothing;
        }
        self.ready.wake();
        Found::Work
    }
}

/// Waits for kicks.
async fn listen(ring: Rc<BlkRing>, kick: Rc<Event>) {
    while readable(kick.fd()).await.is_ok() {
        if !kick.clear() {
            tracing::warn!(ring = ring.index, "a kick is no eventfd");
            break;
        }
        ring.counters.kicks.add(1);
        ring.queue.borrow_mut().disable_notifications();
        ring.ready.wake();
    }
}

struct Running {
    ring: Rc<BlkRing>,
    serving: Task<()>,
    listening: Task<()>,
}

impl Worker for Running {
    fn stop(self: Box<Self>) -> LocalBoxFuture<'static, u16> {
        Box::pin(async move {
            self.listening.cancel();
            self.ring.state.set(State::Stopping);
            self.ring.ready.wake();
            self.serving.await;
            self.ring.poller.take();
            self.ring.queue.borrow().base()
        })
    }
}
