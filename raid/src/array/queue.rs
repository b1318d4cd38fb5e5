//! The queue of an array: which way a request goes.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use weft_block::{
    Along, BlockQueue, Completion, Error, LocalBoxFuture, Op, Request, Result, Spawner, detached,
};

use super::InFlight;
use super::copies::Balance;
use super::direct::Direct;
use super::state::MemberId;
use super::{Array, Lane, rows, stripes};
use crate::geometry::Shape;

/// A queue of an array.
pub(crate) struct Queue {
    side: Rc<Side>,
}

/// What a queue and the requests that went round it share.
struct Side {
    array: Array,
    spawner: Spawner,
    lane: RefCell<Rc<Lane>>,
    balance: Rc<Balance>,
}

impl Queue {
    /// # Errors
    /// As [`Lane::open`].
    pub(crate) fn open(array: &Array, spawner: &Spawner) -> Result<Self> {
        let lane = Lane::open(&array.shared(), spawner)?;
        Ok(Self {
            side: Rc::new(Side {
                array: array.clone(),
                spawner: Rc::clone(spawner),
                lane: RefCell::new(lane),
                balance: Rc::default(),
            }),
        })
    }
}

impl BlockQueue for Queue {
    fn submit(&self, request: Request) -> LocalBoxFuture<'static, Completion> {
        let lane = Rc::clone(&self.side.lane.borrow());
        lane.shared.core.requests.fetch_add(1, Ordering::Relaxed);
        let Some(passing) = Passing::begin(&lane) else {
            return self.side.detour(request);
        };
        match self.side.submit(&lane, request) {
            Way::Direct(sent) => Box::pin(passing.along(sent)),
            Way::Parts(sent) => Box::pin(passing.along(sent)),
            Way::Task(sent) => sent,
        }
    }
}

/// How a request goes.
pub(crate) enum Way {
    /// One member has it.
    Direct(Direct),
    /// Several members have it, and no task.
    Parts(LocalBoxFuture<'static, Completion>),
    /// A task of its own has it, which counts by itself and runs to the end whoever waits; or it is answered.
    Task(LocalBoxFuture<'static, Completion>),
}

impl Way {
    /// Waits for what was sent.
    pub(crate) fn wait(self) -> LocalBoxFuture<'static, Completion> {
        match self {
            Self::Direct(sent) => Box::pin(sent),
            Self::Parts(sent) | Self::Task(sent) => sent,
        }
    }
}

impl Side {
    /// Sends a request the way that the shape of the lane gives.
    fn submit(&self, lane: &Rc<Lane>, request: Request) -> Way {
        let shared = &lane.shared;
        let refusal = request.check(&shared.info).err();
        if let Some(refusal) = refusal.or_else(|| shared.refusal()) {
            return Way::Task(ready(request.failed(refusal)));
        }
        if request.len == 0 && request.op != Op::Flush {
            return Way::Task(ready(request.done()));
        }
        match (shared.geometry.shape(), request.op) {
            (_, Op::Flush) => Way::Task(lane.spawn(request, Lane::flush)),
            (Shape::Stripes(_), _) => stripes::submit(lane, request),
            (Shape::Mirror | Shape::Copies(_), Op::Read) => self.balance.read(lane, request),
            (Shape::Mirror | Shape::Copies(_), _) => {
                Way::Task(lane.spawn(request, Lane::copies_change))
            }
            (Shape::Parity(_), Op::Read) => rows::read(lane, request),
            // A hint; a row that was discarded on some members only would not agree with its parity.
            (Shape::Parity(_), Op::Discard) => Way::Task(ready(request.done())),
            (Shape::Parity(_), _) => Way::Task(lane.gather(request)),
        }
    }
}

/// A request that is under way: it counts until this is dropped.
struct Passing {
    lane: Rc<Lane>,
}

impl Passing {
    /// Begins one, unless the lane's shape takes none.
    fn begin(lane: &Rc<Lane>) -> Option<Self> {
        lane.shared.core.enter();
        let passing = Self {
            lane: Rc::clone(lane),
        };
        // Looked at after it counts: who closes the way waits for those that count.
        (!lane.shared.is_closed()).then_some(passing)
    }

    /// It counts until what was sent for it has ended, whoever waits for that.
    fn along<F>(self, sent: F) -> Along<F, Self>
    where
        F: Future<Output = Completion> + Unpin + 'static,
    {
        let spawner = Rc::clone(&self.lane.spawner);
        Along::new(&spawner, sent, self)
    }
}

impl Drop for Passing {
    fn drop(&mut self) {
        self.lane.shared.core.leave();
    }
}

impl Side {
    /// The way round for a request that came while the shape changes: it waits until that is done.
    fn detour(self: &Rc<Self>, request: Request) -> LocalBoxFuture<'static, Completion> {
        let side = Rc::clone(self);
        detached(&self.spawner, async move { side.pass(request).await })
    }

    async fn pass(&self, request: Request) -> Completion {
        loop {
            self.array.core.opened().await;
            let lane = match self.fresh_lane() {
                Ok(lane) => lane,
                Err(error) => return request.failed(error),
            };
            if lane.shared.moving.is_some() {
                let Some(in_flight) = InFlight::unless_held(&lane.shared.core) else {
                    continue;
                };
                let answer = self.pass_both(&lane, request).await;
                drop(in_flight);
                return answer;
            }
            if let Some(_passing) = Passing::begin(&lane) {
                return self.submit(&lane, request).wait().await;
            }
        }
    }

    /// Sends a request the way of both shapes.
    async fn pass_both(&self, lane: &Rc<Lane>, request: Request) -> Completion {
        let refusal = request.check(&lane.shared.info).err();
        if let Some(refusal) = refusal.or_else(|| lane.shared.refusal()) {
            return request.failed(refusal);
        }
        match (&lane.shared.moving, request.op) {
            (_, Op::Flush) => Rc::clone(lane).flush(request).await,
            (Some(moving), op) if op != Op::Discard && request.len > 0 => {
                Rc::clone(lane).pass_moving(moving, request).await
            }
            _ => request.done(),
        }
    }

    /// A lane of the shape that the array has now.
    fn fresh_lane(&self) -> Result<Rc<Lane>> {
        let lane = Rc::clone(&self.lane.borrow());
        let shared = self.array.shared();
        if Arc::ptr_eq(&lane.shared, &shared) {
            return Ok(lane);
        }
        let lane = Lane::open(&shared, &self.spawner)?;
        *self.lane.borrow_mut() = Rc::clone(&lane);
        Ok(lane)
    }
}

pub(crate) fn ready(completion: Completion) -> LocalBoxFuture<'static, Completion> {
    Box::pin(std::future::ready(completion))
}

/// The request's FUA flag.
pub(crate) fn fua(op: Op) -> bool {
    matches!(
        op,
        Op::Write { fua: true } | Op::WriteZeroes { fua: true, .. }
    )
}

impl Lane {
    /// Runs the steps of a request as a task of its own, to the end whoever waits.
    pub(crate) fn spawn<F>(
        self: &Rc<Self>,
        request: Request,
        steps: impl FnOnce(Rc<Self>, Request) -> F + 'static,
    ) -> LocalBoxFuture<'static, Completion>
    where
        F: Future<Output = Completion> + 'static,
    {
        let lane = Rc::clone(self);
        let in_flight = InFlight::new(&self.shared.core);
        detached(&self.spawner, async move {
            let _in_flight = in_flight;
            steps(lane, request).await
        })
    }

    /// Makes what was written durable on every member; a member that cannot is out before this is answered.
    async fn flush(self: Rc<Self>, request: Request) -> Completion {
        if self.is_journaled() {
            // It is, in the journal.
            return match self.fail_members(Vec::new()).await {
                Ok(()) => request.done(),
                Err(error) => request.failed(error),
            };
        }
        let log = self.shared.log.as_ref();
        let settled = log.and_then(|log| Some((log, log.settled()?)));
        let failed = self.flush_members().await;
        match self.outcome(failed).await {
            Ok(()) => {
                if let Some((log, changes)) = settled {
                    log.durable(changes);
                }
                request.done()
            }
            Err(error) => request.failed(error),
        }
    }

    /// What members' failures mean for a request that changes something: on an array with redundancy they are failed
    /// and the request succeeds, as long as enough are left.
    pub(crate) async fn outcome(&self, failed: Vec<(MemberId, Error)>) -> Result<()> {
        if failed.is_empty() && self.shared.geometry.tolerates() == 0 {
            return Ok(());
        }
        if self.shared.geometry.tolerates() == 0 {
            let name = &self.shared.name;
            let (_, error) = failed.into_iter().next().expect("it is not empty");
            return Err(error.in_context(format!("a member of array {name} failed")));
        }
        self.fail_members(failed).await
    }
}
