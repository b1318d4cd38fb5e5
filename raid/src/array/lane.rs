//! A thread's side of an array: the members' queues that it has open, and its spare buffers.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_channel::oneshot;
use smallvec::SmallVec;
use weft_block::{
    BlockQueue, Completion, Error, ErrorKind, LocalBoxFuture, Op, Request, Result, Spawner,
};

use super::Shared;
use super::gather::Gather;
use super::pool::Pool;
use super::state::{Duty, Member, MemberId, done_bytes};
use super::watch::Watch;
use crate::bad_blocks::overlaps;

/// What one slot is made of at this moment, as a queue uses it.
#[derive(Clone)]
pub(crate) struct Leg {
    pub(crate) id: MemberId,
    pub(crate) queue: Rc<dyn BlockQueue>,
    /// First byte of data on the device.
    pub(crate) base: u64,
    /// Bytes that are there, if it is being rebuilt.
    done: Option<Arc<AtomicU64>>,
    /// Member space that its bad-block log says is lost.
    bad: Arc<[Range<u64>]>,
    /// Reads go elsewhere as long as they can.
    pub(crate) write_mostly: bool,
    /// What is to replace it, which takes every change that it takes.
    pub(crate) twin: Option<Rc<Twin>>,
}

/// A member beside the one of its slot.
pub(crate) struct Twin {
    pub(crate) leg: Leg,
    shared: Arc<Shared>,
}

impl Twin {
    /// Sends a change here too, and answers what `sent` answers. If this member does not take it, it is failed before
    /// that, and whoever waits tells the others before the change is acknowledged.
    fn beside(
        self: Rc<Self>,
        sent: LocalBoxFuture<'static, Completion>,
        request: Request,
    ) -> LocalBoxFuture<'static, Completion> {
        let own = self.leg.submit(request);
        Box::pin(async move {
            let (answer, own) = futures_util::future::join(sent, own).await;
            drop(own.buffer);
            if let Err(error) = own.result {
                self.shared.fail_aside(self.leg.id, &error.sentence());
            }
            answer
        })
    }
}

impl Leg {
    /// Whether `range` of member space is there.
    pub(crate) fn has(&self, range: &Range<u64>) -> bool {
        self.has_place(range) && !self.is_bad(range)
    }

    /// Whether `range` of member space is there, but for blocks of it that are lost.
    pub(crate) fn has_place(&self, range: &Range<u64>) -> bool {
        let done = self.done.as_ref();
        done.is_none_or(|done| range.end <= done_bytes(done))
    }

    /// Whether the member's log says that some of `range` is lost.
    pub(crate) fn is_bad(&self, range: &Range<u64>) -> bool {
        overlaps(&self.bad, range)
    }

    /// Sends a request whose offset counts from the start of the member's data.
    pub(crate) fn submit(&self, mut request: Request) -> LocalBoxFuture<'static, Completion> {
        let changes = !matches!(request.op, Op::Read | Op::Flush);
        let twin = self.twin.as_ref().filter(|_| changes).map(|twin| {
            let request = Request {
                buffer: request.buffer.clone(),
                ..request
            };
            (Rc::clone(twin), request)
        });
        if request.op != Op::Flush {
            request.offset += self.base;
        }
        let sent = self.queue.submit(request);
        match twin {
            Some((twin, request)) => twin.beside(sent, request),
            None => sent,
        }
    }
}

/// The slots of one moment. It is made anew when the members have changed.
pub(crate) struct Route {
    generation: u64,
    pub(crate) legs: SmallVec<[Option<Leg>; 8]>,
}

impl Route {
    /// The leg of `slot` if `range` of member space is there.
    pub(crate) fn whole(&self, slot: u32, range: &Range<u64>) -> Option<&Leg> {
        self.legs[slot as usize]
            .as_ref()
            .filter(|leg| leg.has(range))
    }
}

/// A thread's side of an array.
pub(crate) struct Lane {
    pub(crate) shared: Arc<Shared>,
    pub(crate) spawner: Spawner,
    pub(crate) pool: Pool,
    /// Writes to rows that wait.
    pub(crate) gather: Gather,
    /// How long members take with reads.
    pub(crate) watch: Rc<Watch>,
    /// The lane of the shape that goes, while this one's is coming.
    pub(crate) before: Option<Rc<Lane>>,
    route: RefCell<Rc<Route>>,
    opened: RefCell<HashMap<MemberId, Rc<dyn BlockQueue>>>,
}

impl Lane {
    /// Opens every member for the calling thread.
    ///
    /// # Errors
    /// `Busy` if a member has no queue left. A member that is gone is found out when it is used.
    pub(crate) fn open(shared: &Arc<Shared>, spawner: &Spawner) -> Result<Rc<Self>> {
        let before = match &shared.moving {
            Some(moving) => Some(Self::open(&moving.before, spawner)?),
            None => None,
        };
        let lane = Rc::new(Self {
            before,
            shared: Arc::clone(shared),
            spawner: Rc::clone(spawner),
            pool: Pool::default(),
            gather: Gather::default(),
            watch: Rc::default(),
            route: RefCell::new(Rc::new(Route {
                generation: u64::MAX,
                legs: SmallVec::new(),
            })),
            opened: RefCell::default(),
        });
        let devices: Vec<_> = {
            let state = shared.state();
            let live = state
                .members
                .iter()
                .filter(|member| member.duty.slot().is_some() || member.duty.is_journal());
            live.map(|member| (member.id, Arc::clone(&member.device)))
                .collect()
        };
        for (id, device) in devices {
            match device.open(spawner) {
                Ok(queue) => {
                    lane.opened.borrow_mut().insert(id, Rc::from(queue));
                }
                Err(error) if error.kind() == ErrorKind::Busy => return Err(error),
                Err(_) => {}
            }
        }
        Ok(lane)
    }

    /// The slots as they are now.
    pub(crate) fn route(&self) -> Rc<Route> {
        let generation = self.shared.core.generation.load(Ordering::Acquire);
        let current = Rc::clone(&self.route.borrow());
        if current.generation == generation {
            return current;
        }
        let fresh = Rc::new(self.build_route());
        *self.route.borrow_mut() = Rc::clone(&fresh);
        fresh
    }

    fn build_route(&self) -> Route {
        let state = self.shared.state();
        // Read under the lock that every change is made under.
        let generation = self.shared.core.generation.load(Ordering::Acquire);
        let slots = self.shared.geometry.members();
        let mut found: SmallVec<[Option<_>; 8]> = SmallVec::new();
        let parts = |member: &Member| {
            let done = match &member.duty {
                Duty::Rebuilding { done, .. } | Duty::Replacing { done, .. } => {
                    Some(Arc::clone(done))
                }
                _ => None,
            };
            let write_mostly = member.is_write_mostly();
            (
                member.id,
                self.shared.base(member),
                done,
                Arc::clone(&member.bad),
                write_mostly,
            )
        };
        for slot in 0..slots {
            let holder = state.holder(slot).map(parts);
            found.push(holder.map(|holder| (holder, state.replacement(slot).map(parts))));
        }
        let present: Vec<MemberId> = state.members.iter().map(|member| member.id).collect();
        drop(state);
        self.opened
            .borrow_mut()
            .retain(|id, _| present.contains(id));
        let leg = |(id, base, done, bad, write_mostly)| Leg {
            id,
            queue: self.queue(id),
            base,
            done,
            bad,
            write_mostly,
            twin: None,
        };
        let legs = found.into_iter().map(|slot| {
            let (holder, replacement) = slot?;
            let twin = replacement.map(|replacement| {
                Rc::new(Twin {
                    leg: leg(replacement),
                    shared: Arc::clone(&self.shared),
                })
            });
            Some(Leg {
                twin,
                ..leg(holder)
            })
        });
        Route {
            generation,
            legs: legs.collect(),
        }
    }

    /// The queue of a member; one that cannot be opened answers every request with `Offline`.
    pub(crate) fn queue(&self, id: MemberId) -> Rc<dyn BlockQueue> {
        if let Some(queue) = self.opened.borrow().get(&id) {
            return Rc::clone(queue);
        }
        let device = {
            let state = self.shared.state();
            state.member(id).map(|member| Arc::clone(&member.device))
        };
        let gone = || Error::new(ErrorKind::Offline, "the member was removed");
        match device
            .ok_or_else(gone)
            .and_then(|device| device.open(&self.spawner))
        {
            Ok(queue) => {
                let queue: Rc<dyn BlockQueue> = Rc::from(queue);
                self.opened.borrow_mut().insert(id, Rc::clone(&queue));
                queue
            }
            Err(error) => Rc::new(Gone(error.sentence())),
        }
    }

    /// Runs `work` to its end whoever waits for it, and waits for it.
    pub(crate) async fn to_the_end<T: 'static>(
        spawner: &Spawner,
        work: impl Future<Output = Result<T>> + 'static,
    ) -> Result<T> {
        let (sender, receiver) = oneshot::channel();
        spawner.spawn(Box::pin(async move {
            // Nobody listens when the caller has lost interest.
            let _ = sender.send(work.await);
        }));
        let ended = || Error::new(ErrorKind::Offline, "the executor ended before the work did");
        receiver.await.unwrap_or_else(|_| Err(ended()))
    }
}

/// The queue of a device that cannot be opened.
struct Gone(String);

impl BlockQueue for Gone {
    fn submit(&self, request: Request) -> LocalBoxFuture<'static, Completion> {
        let error = Error::new(ErrorKind::Offline, self.0.clone());
        Box::pin(std::future::ready(request.failed(error)))
    }
}
