//! The queue of an array: which way a request goes.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use futures_channel::oneshot;
use weft_block::{
    BlockQueue, Completion, Error, ErrorKind, IoVec, LocalBoxFuture, Op, Request, Result, Spawner,
};

use super::InFlight;
use super::copies::Balance;
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
        match Passing::begin(&lane) {
            Some(passing) => Box::pin(passing.along(self.side.submit(&lane, request))),
            None => self.side.detour(request),
        }
    }
}

impl Side {
    /// Sends a request the way that the shape of the lane gives.
    fn submit(&self, lane: &Rc<Lane>, request: Request) -> LocalBoxFuture<'static, Completion> {
        let shared = &lane.shared;
        let refusal = request.check(&shared.info).err();
        if let Some(refusal) = refusal.or_else(|| shared.refusal()) {
            return ready(request.failed(refusal));
        }
        if request.len == 0 && request.op != Op::Flush {
            return ready(request.done());
        }
        match (shared.geometry.shape(), request.op) {
            (_, Op::Flush) => lane.spawn(request, Lane::flush),
            (Shape::Stripes(_), _) => stripes::submit(lane, request),
            (Shape::Mirror | Shape::Copies(_), Op::Read) => self.balance.read(lane, request),
            (Shape::Mirror | Shape::Copies(_), _) => lane.spawn(request, Lane::copies_change),
            (Shape::Parity(_), Op::Read) => rows::read(lane, request),
            // A hint; a row that was discarded on some members only would not agree with its parity.
            (Shape::Parity(_), Op::Discard) => ready(request.done()),
            (Shape::Parity(_), _) => lane.gather(request),
        }
    }
}

/// A request that is under way: it counts until what was sent for it has ended, whoever waits for it.
struct Passing {
    lane: Rc<Lane>,
    sent: Option<LocalBoxFuture<'static, Completion>>,
}

impl Passing {
    /// Begins one, unless the lane's shape takes none.
    fn begin(lane: &Rc<Lane>) -> Option<Self> {
        lane.shared.core.enter();
        let passing = Self {
            lane: Rc::clone(lane),
            sent: None,
        };
        // Looked at after it counts: who closes the way waits for those that count.
        (!lane.shared.is_closed()).then_some(passing)
    }

    fn along(mut self, sent: LocalBoxFuture<'static, Completion>) -> Self {
        self.sent = Some(sent);
        self
    }
}

impl Future for Passing {
    type Output = Completion;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Completion> {
        let Some(sent) = self.sent.as_mut() else {
            return Poll::Pending;
        };
        let polled = sent.as_mut().poll(context);
        if polled.is_ready() {
            self.sent = None;
        }
        polled
    }
}

impl Drop for Passing {
    fn drop(&mut self) {
        let lane = Rc::clone(&self.lane);
        match self.sent.take() {
            None => lane.shared.core.leave(),
            // Nobody waits for it any more, but it goes on.
            Some(sent) => {
                let spawner = Rc::clone(&lane.spawner);
                spawner.spawn(Box::pin(async move {
                    drop(sent.await);
                    lane.shared.core.leave();
                }));
            }
        }
    }
}

impl Side {
    /// The way round for a request that came while the shape changes: it waits until that is done.
    fn detour(self: &Rc<Self>, request: Request) -> LocalBoxFuture<'static, Completion> {
        let (sender, receiver) = oneshot::channel();
        let side = Rc::clone(self);
        self.spawner.spawn(Box::pin(async move {
            // Nobody listens when the submitter has lost interest.
            let _ = sender.send(side.pass(request).await);
        }));
        Box::pin(answered(receiver))
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
            if let Some(passing) = Passing::begin(&lane) {
                return passing.along(self.submit(&lane, request)).await;
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

/// What a task that runs a request answers.
pub(super) async fn answered(receiver: oneshot::Receiver<Completion>) -> Completion {
    receiver.await.unwrap_or_else(|_| Completion {
        result: Err(Error::new(ErrorKind::Offline, "the executor has ended")),
        buffer: IoVec::empty(),
    })
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
        let (sender, receiver) = oneshot::channel();
        let lane = Rc::clone(self);
        let in_flight = InFlight::new(&self.shared.core);
        self.spawner.spawn(Box::pin(async move {
            let completion = steps(lane, request).await;
            drop(in_flight);
            // Nobody listens when the submitter has lost interest.
            let _ = sender.send(completion);
        }));
        Box::pin(answered(receiver))
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
