//! The queue of an array: which way a request goes.

use std::rc::Rc;
use std::sync::atomic::Ordering;

use futures_channel::oneshot;
use weft_block::{
    BlockQueue, Completion, Error, ErrorKind, IoVec, LocalBoxFuture, Op, Request, Result,
};

use super::InFlight;
use super::copies::Balance;
use super::state::MemberId;
use super::{Lane, rows, stripes};
use crate::geometry::Shape;

/// A queue of an array.
pub(crate) struct Queue {
    lane: Rc<Lane>,
    balance: Rc<Balance>,
}

impl Queue {
    pub(crate) fn new(lane: Rc<Lane>) -> Self {
        Self {
            lane,
            balance: Rc::default(),
        }
    }
}

impl BlockQueue for Queue {
    fn submit(&self, request: Request) -> LocalBoxFuture<'static, Completion> {
        let shared = &self.lane.shared;
        shared.core.requests.fetch_add(1, Ordering::Relaxed);
        let refusal = request.check(&shared.info).err();
        if let Some(refusal) = refusal.or_else(|| shared.refusal()) {
            return ready(request.failed(refusal));
        }
        if request.len == 0 && request.op != Op::Flush {
            return ready(request.done());
        }
        match (shared.geometry.shape(), request.op) {
            (_, Op::Flush) => self.lane.spawn(request, Lane::flush),
            (Shape::Stripes(_), _) => stripes::submit(&self.lane, request),
            (Shape::Mirror | Shape::Copies(_), Op::Read) => self.balance.read(&self.lane, request),
            (Shape::Mirror | Shape::Copies(_), _) => self.lane.spawn(request, Lane::copies_change),
            (Shape::Parity(_), Op::Read) => rows::read(&self.lane, request),
            // A hint; a row that was discarded on some members only would not agree with its parity.
            (Shape::Parity(_), Op::Discard) => ready(request.done()),
            (Shape::Parity(_), _) => self.lane.spawn(request, Lane::rows_write),
        }
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
        let (sender, receiver) = oneshot::channel();
        let lane = Rc::clone(self);
        let in_flight = InFlight::new(&self.shared.core);
        self.spawner.spawn(Box::pin(async move {
            let completion = steps(lane, request).await;
            drop(in_flight);
            // Nobody listens when the submitter has lost interest.
            let _ = sender.send(completion);
        }));
        Box::pin(async move {
            receiver.await.unwrap_or_else(|_| Completion {
                result: Err(Error::new(ErrorKind::Offline, "the executor has ended")),
                buffer: IoVec::empty(),
            })
        })
    }

    /// Makes what was written durable on every member; a member that cannot is out before this is answered.
    async fn flush(self: Rc<Self>, request: Request) -> Completion {
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
