//! Reads that do not wait for a member that takes too long: what others can answer is made from them, and the first
//! answer counts.
//!
//! A request's memory belongs to the member that reads into it, for as long as that takes. So a read that may be answered
//! without its member goes into memory of our own and is copied. That is cheap for the few KiB that most reads have;
//! more goes straight to where it belongs, unless its member is suspected.
//!
//! Writes wait for every member that takes part, however slow: what a member has missed without being failed would be
//! read from it as if it were good. A member that is slow without end is failed by whoever knows its limits, as a
//! remote disk does that does not come back in time.

use std::rc::Rc;
use std::task::{Context, Poll, ready};

use futures_channel::oneshot;
use futures_util::future::{Either, select};
use smallvec::SmallVec;
use weft_block::{Buffer, Completion, Error, ErrorKind, IoVec, LocalBoxFuture, Request, Result};

use super::copies::copies_at;
use super::lane::{Leg, Route};
use super::state::MemberId;
use super::watch::{Flight, Hedge, Standing, TICK};
use super::{InFlight, Lane};
use crate::geometry::Shape;
use crate::plan;

/// Bytes up to which a read goes into memory of our own whatever its member is like: 4 KiB cost a fifth of a microsecond
/// more then, of four and a half.
const COPIED: u64 = 16 << 10;
/// Bytes that are made of other members at a time.
const PIECE: u64 = 256 << 10;

/// A member's read that is under way.
type Sent = LocalBoxFuture<'static, Completion>;

/// What else a read can be answered from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Others {
    /// The other blocks of a row with parity, of which this slot has one.
    Row { slot: u32 },
    /// Other copies of what begins at a byte of the array.
    Copies { origin: u64, not: MemberId },
}

/// A read of a member that is waited for as long as it may take.
pub(crate) enum InTime {
    /// It goes to where it belongs; there is a flight if somebody wants to know how long it takes.
    Straight { sent: Sent, flight: Option<Flight> },
    /// It goes into memory of our own.
    Aside(Aside),
    /// The others are asked as well.
    Beside(Sent),
    /// It is answered.
    Over,
}

/// A read that goes into memory of our own.
pub(crate) struct Aside {
    id: MemberId,
    /// What was asked for.
    part: Request,
    others: Others,
    sent: Sent,
    flight: Flight,
}

impl InTime {
    /// A request for which nothing is done if it takes long.
    pub(crate) fn unwatched(sent: Sent) -> Self {
        Self::Straight { sent, flight: None }
    }

    pub(crate) fn poll(&mut self, lane: &Rc<Lane>, context: &mut Context<'_>) -> Poll<Completion> {
        match self {
            Self::Over => Poll::Pending,
            Self::Beside(sent) => sent.as_mut().poll(context),
            Self::Straight { sent, flight } => {
                let completion = ready!(sent.as_mut().poll(context));
                *flight = None;
                Poll::Ready(completion)
            }
            Self::Aside(aside) => {
                if let Poll::Ready(completion) = aside.sent.as_mut().poll(context) {
                    let Self::Aside(aside) = std::mem::replace(self, Self::Over) else {
                        unreachable!("it was matched");
                    };
                    drop(aside.flight);
                    return Poll::Ready(lane.copied(aside.part, completion));
                }
                let late = aside.flight.is_late(context);
                if !late || !lane.others_can(&aside.others, &aside.part) {
                    return Poll::Pending;
                }
                let Some(hedge) = lane.watch.hedge() else {
                    return Poll::Pending;
                };
                let Self::Aside(aside) = std::mem::replace(self, Self::Over) else {
                    unreachable!("it was matched");
                };
                let mut first = Box::pin(Rc::clone(lane).first_answer(aside, hedge));
                let polled = first.as_mut().poll(context);
                *self = Self::Beside(first);
                polled
            }
        }
    }
}

impl Lane {
    /// Reads member space from `leg`, or from others if it takes too long. An error is the member's own, and the memory
    /// comes back with it.
    pub(crate) fn read_in_time(
        self: &Rc<Self>,
        leg: &Leg,
        part: Request,
        others: Others,
    ) -> InTime {
        let alone = self.shared.geometry.tolerates() == 0 || !self.may_hedge(&others, &part);
        if alone {
            return InTime::unwatched(leg.submit(part));
        }
        let standing = self.watch.standing(leg.id);
        if standing == Standing::Late
            && self.others_can(&others, &part)
            && let Some(hedge) = self.watch.hedge()
        {
            return InTime::unwatched(self.read_elsewhere(leg, part, others, hedge));
        }
        let flight = self.watch.begin(leg.id, &self.spawner);
        if part.len > COPIED && standing == Standing::Good {
            return InTime::Straight {
                sent: leg.submit(part),
                flight: Some(flight),
            };
        }
        let memory = self.watch.memory(part.len as usize);
        let sent = leg.submit(Request::read(part.offset, memory));
        InTime::Aside(Aside {
            id: leg.id,
            part,
            others,
            sent,
            flight,
        })
    }

    /// Asks the others at once, and the member only if they cannot answer.
    fn read_elsewhere(
        self: &Rc<Self>,
        leg: &Leg,
        part: Request,
        others: Others,
        hedge: Hedge,
    ) -> Sent {
        let leg = leg.clone();
        self.spawn(part, move |lane, mut part| async move {
            let made = lane.make_aside(others, part.offset, part.len).await;
            drop(hedge);
            match made {
                Ok(made) => {
                    part.buffer.copy_in(0, &made);
                    lane.pool.put(made);
                    part.done()
                }
                Err(_) => leg.submit(part).await,
            }
        })
    }

    /// Waits for a member that is late, and for the others.
    async fn first_answer(self: Rc<Self>, aside: Aside, hedge: Hedge) -> Completion {
        let Aside {
            id,
            part,
            others,
            sent,
            flight,
        } = aside;
        let made = self.start_aside(others, &part, hedge);
        match select(sent, made).await {
            Either::Left((completion, made)) if completion.result.is_err() => {
                drop(flight);
                match made.await {
                    Ok(Ok(made)) => {
                        self.fail_if_gone(id, completion);
                        self.answered(part, made)
                    }
                    _ => self.copied(part, completion),
                }
            }
            Either::Left((completion, _)) => {
                drop(flight);
                self.copied(part, completion)
            }
            Either::Right((Ok(Ok(made)), sent)) => {
                self.await_late(id, sent, flight);
                self.answered(part, made)
            }
            Either::Right((_, sent)) => {
                let completion = sent.await;
                drop(flight);
                self.copied(part, completion)
            }
        }
    }

    /// The answer of a member that has read into memory of our own.
    fn copied(&self, mut part: Request, completion: Completion) -> Completion {
        match completion.result {
            Ok(()) => {
                part.buffer.copy_from(0, &completion.buffer);
                self.watch.keep(completion.buffer);
                part.done()
            }
            Err(error) => part.failed(error),
        }
    }

    fn answered(&self, mut part: Request, made: Buffer) -> Completion {
        part.buffer.copy_in(0, &made);
        self.pool.put(made);
        part.done()
    }

    /// Lets a read that is not waited for any more come to its end.
    fn await_late(self: &Rc<Self>, id: MemberId, sent: Sent, flight: Flight) {
        flight.settle();
        let lane = Rc::clone(self);
        self.spawner.spawn(Box::pin(async move {
            let completion = sent.await;
            drop(flight);
            match completion.result {
                Ok(()) => lane.watch.keep(completion.buffer),
                Err(_) => lane.fail_if_gone(id, completion),
            }
        }));
    }

    /// A read that was answered otherwise has failed. A block that cannot be read is mended by who reads it next; a
    /// member that is gone is failed now.
    fn fail_if_gone(self: &Rc<Self>, id: MemberId, completion: Completion) {
        let Err(error) = completion.result else {
            return;
        };
        if error.kind() != ErrorKind::Offline {
            return;
        }
        let (lane, in_flight) = (Rc::clone(self), InFlight::new(&self.shared.core));
        // Whoever gives the array another shape meets the member as well.
        if self.shared.is_closed() {
            return;
        }
        self.spawner.spawn(Box::pin(async move {
            // The data is lost without it: its next read tells.
            let _ = lane.fail_members(vec![(id, error)]).await;
            drop(in_flight);
        }));
    }

    /// Makes a read from others in a task of its own, which goes on if nobody waits.
    fn start_aside(
        self: &Rc<Self>,
        others: Others,
        part: &Request,
        hedge: Hedge,
    ) -> oneshot::Receiver<Result<Buffer>> {
        let (sender, receiver) = oneshot::channel();
        let (lane, offset, len) = (Rc::clone(self), part.offset, part.len);
        let in_flight = InFlight::new(&self.shared.core);
        self.spawner.spawn(Box::pin(async move {
            let made = lane.make_aside(others, offset, len).await;
            drop((hedge, in_flight));
            // The member may have been faster.
            let _ = sender.send(made);
        }));
        receiver
    }

    /// Whether others hold the same: where members may differ, what is made from them is another value.
    fn may_hedge(&self, others: &Others, part: &Request) -> bool {
        let start = match others {
            Others::Row { .. } => part.offset,
            Others::Copies { origin, .. } => *origin,
        };
        !self.shared.needs_resync(&(start..start + part.len))
    }

    /// Whether others can answer now, none of which is late itself.
    fn others_can(&self, others: &Others, part: &Request) -> bool {
        let route = self.route();
        match *others {
            Others::Row { slot } => {
                let range = part.offset..part.end();
                self.recipe_in_time(&route, slot, &range).is_some()
            }
            Others::Copies { origin, not } => {
                let copies = copies_at(&self.shared.geometry, &route, origin);
                let is_ready = |id: MemberId| id != not && !self.watch.is_late(id);
                let mut copies = copies.iter();
                copies.any(|copy| copy.has(part.len) && is_ready(copy.leg.id))
            }
        }
    }

    /// How a block of a row is made of members that are there and not late.
    fn recipe_in_time(
        &self,
        route: &Route,
        slot: u32,
        range: &std::ops::Range<u64>,
    ) -> Option<plan::Recipe> {
        let Shape::Parity(rows) = self.shared.geometry.shape() else {
            return None;
        };
        let is_ready = |other: u32| {
            let leg = route.whole(other, range);
            leg.is_some_and(|leg| !self.watch.is_late(leg.id))
        };
        let lost: SmallVec<[u32; 4]> = (0..rows.members())
            .filter(|&other| !is_ready(other))
            .collect();
        plan::recipe(rows, range.start / rows.chunk(), slot, &lost)
    }

    /// What a member has in a range of member space, made from others. An error says only that it could not be.
    async fn make_aside(self: &Rc<Self>, others: Others, offset: u64, len: u64) -> Result<Buffer> {
        match others {
            Others::Row { slot } => {
                let _guard = self.shared.locks.shared(offset..offset + len).await;
                self.make_of_row(slot, offset, len).await
            }
            Others::Copies { origin, not } => self.make_of_copies(origin, not, len).await,
        }
    }

    /// The range is held.
    async fn make_of_row(self: &Rc<Self>, slot: u32, offset: u64, len: u64) -> Result<Buffer> {
        let (end, chunk) = (offset + len, self.shared.geometry.chunk());
        let mut whole = self.pool.take(len as usize);
        let mut start = offset;
        while start < end {
            let row_end = (start / chunk + 1) * chunk;
            let range = start..end.min(row_end).min(start + PIECE);
            let len = range.end - range.start;
            let route = self.route();
            let recipe = self.recipe_in_time(&route, slot, &range);
            let recipe = recipe
                .filter(|_| !self.shared.needs_resync(&range))
                .ok_or_else(cannot)?;
            let sources = recipe.iter().filter_map(|(source, _)| {
                let leg = route.whole(*source, &range)?;
                Some((*source, leg, range.start))
            });
            let Some(read) = self.read_aside(sources, len).await? else {
                // One more is late: without it, if that can be.
                continue;
            };
            let made = self.add_up(&recipe, &read, len).ok_or_else(cannot)?;
            read.into_iter().for_each(|(_, block)| self.pool.put(block));
            let at = (range.start - offset) as usize;
            whole[at..at + len as usize].copy_from_slice(&made);
            self.pool.put(made);
            start = range.end;
        }
        Ok(whole)
    }

    async fn make_of_copies(
        self: &Rc<Self>,
        origin: u64,
        not: MemberId,
        len: u64,
    ) -> Result<Buffer> {
        let route = self.route();
        let mut copies = copies_at(&self.shared.geometry, &route, origin);
        copies.retain(|copy| copy.leg.id != not && copy.has(len));
        copies.sort_by_key(|copy| (self.watch.is_late(copy.leg.id), copy.leg.write_mostly));
        for copy in copies {
            let source = [(copy.slot, copy.leg, copy.offset)].into_iter();
            let Ok(Some(mut read)) = self.read_aside(source, len).await else {
                continue;
            };
            if !self.shared.needs_resync(&(origin..origin + len)) {
                return read.pop().map(|(_, block)| block).ok_or_else(cannot);
            }
        }
        Err(cannot())
    }

    /// Reads several members at once; nothing if one of them turns out to be late.
    async fn read_aside(
        self: &Rc<Self>,
        sources: impl Iterator<Item = (u32, &Leg, u64)>,
        len: u64,
    ) -> Result<Option<Blocks>> {
        let (ids, sent): (SmallVec<[MemberId; 8]>, Vec<_>) = sources
            .map(|(slot, leg, offset)| {
                let memory = IoVec::from(self.pool.take(len as usize));
                let sent = leg.submit(Request::read(offset, memory));
                (leg.id, self.watched(slot, leg.id, sent))
            })
            .unzip();
        let mut all = futures_util::future::try_join_all(sent);
        loop {
            match select(all, self.spawner.sleep(TICK)).await {
                Either::Left((read, _)) => {
                    let read = read.map_err(|_| cannot())?;
                    return read
                        .into_iter()
                        .collect::<Option<_>>()
                        .map(Some)
                        .ok_or_else(cannot);
                }
                Either::Right((_, waiting)) => all = waiting,
            }
            if ids.iter().any(|&id| self.watch.is_late(id)) {
                return Ok(None);
            }
        }
    }

    /// A member's read as a task of its own, so that it is known how long it takes, whoever waits. It answers nothing if
    /// it fails.
    fn watched(
        self: &Rc<Self>,
        slot: u32,
        id: MemberId,
        sent: Sent,
    ) -> oneshot::Receiver<Option<(u32, Buffer)>> {
        let (sender, receiver) = oneshot::channel();
        let flight = self.watch.begin(id, &self.spawner);
        self.spawner.spawn(Box::pin(async move {
            let completion = sent.await;
            drop(flight);
            let read = completion
                .result
                .is_ok()
                .then(|| completion.buffer.into_buffer());
            // Another may have been late.
            let _ = sender.send(read.map(|block| (slot, block)));
        }));
        receiver
    }
}

/// What was read of members, by slot.
type Blocks = SmallVec<[(u32, Buffer); 8]>;

fn cannot() -> Error {
    Error::new(ErrorKind::Io, "the others cannot answer now")
}
