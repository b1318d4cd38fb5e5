//! RAID-1: reads from one leg, changes on all.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use smallvec::SmallVec;
use weft_block::{Completion, Error, ErrorKind, IoVec, LocalBoxFuture, Op, Request};

use super::Lane;
use super::lane::{Leg, Route};
use super::queue::ready;
use super::state::MemberId;

/// Bytes that are copied and written at a time.
const PIECE: u64 = 1 << 20;

/// How a thread spreads its reads over the legs.
#[derive(Default)]
pub(crate) struct Balance {
    legs: RefCell<SmallVec<[Load; 4]>>,
    turn: Cell<usize>,
}

#[derive(Clone, Default)]
struct Load {
    in_flight: Rc<Cell<u32>>,
    /// Where the last read ended.
    end: u64,
}

/// Counts a read off when it is answered or forgotten.
struct Counted(Rc<Cell<u32>>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Balance {
    /// Reads from one leg; from another, with the first one mended, if that fails.
    pub(crate) fn read(
        &self,
        lane: &Rc<Lane>,
        request: Request,
    ) -> LocalBoxFuture<'static, Completion> {
        let route = lane.route();
        let range = request.offset..request.end();
        let first_only = lane.shared.needs_resync(&range);
        let Some(slot) = self.choose(&route, &range, first_only) else {
            let error = Error::new(
                ErrorKind::Offline,
                format!("array {} has no member left", lane.shared.name),
            );
            return ready(request.failed(error));
        };
        let leg = route.legs[slot].clone().expect("it was chosen");
        let counted = self.count(slot, range.end);
        let sent = leg.submit(request);
        let lane = Rc::clone(lane);
        Box::pin(async move {
            let completion = sent.await;
            drop(counted);
            let Err(error) = completion.result else {
                return completion;
            };
            let again = Request::read(range.start, completion.buffer);
            lane.spawn(again, move |lane, request| {
                lane.mirror_heal(request, leg.id, error)
            })
            .await
        })
    }

    /// The leg to read from: the one whose last read ended here, otherwise the one with the least to do. Where the
    /// legs may differ, always the first, so that readers see one value until the resync has made it everybody's.
    fn choose(
        &self,
        route: &Route,
        range: &std::ops::Range<u64>,
        first_only: bool,
    ) -> Option<usize> {
        let mut loads = self.legs.borrow_mut();
        loads.resize_with(route.legs.len(), Load::default);
        let whole = |slot: &usize| route.whole(*slot as u32, range).is_some();
        let mut slots = (0..loads.len()).filter(whole);
        if first_only {
            return slots.next();
        }
        let turn = self.turn.get();
        let count = loads.len();
        self.turn.set(turn.wrapping_add(1));
        slots.min_by_key(|&slot| {
            let load = &loads[slot];
            let follows = load.end == range.start;
            (!follows, load.in_flight.get(), (slot + turn) % count)
        })
    }

    fn count(&self, slot: usize, end: u64) -> Counted {
        let load = &mut self.legs.borrow_mut()[slot];
        load.end = end;
        load.in_flight.set(load.in_flight.get() + 1);
        Counted(Rc::clone(&load.in_flight))
    }
}

impl Lane {
    /// A write, write-zeroes or discard, on all legs.
    pub(crate) async fn mirror_change(self: Rc<Self>, request: Request) -> Completion {
        let mut at = 0;
        // Zeroes and discards carry no data, so they go in one piece.
        let piece = match request.op {
            Op::Write { .. } => PIECE,
            _ => u64::MAX,
        };
        while at < request.len {
            let len = piece.min(request.len - at);
            if let Err(error) = self.mirror_piece(&request, at, len).await {
                return request.failed(error);
            }
            at += len;
        }
        request.done()
    }

    async fn mirror_piece(&self, request: &Request, at: u64, len: u64) -> weft_block::Result<()> {
        let start = request.offset + at;
        let range = start..start + len;
        let _guard = self.shared.locks.exclusive(range.clone()).await;
        let writing = self.begin(range.clone()).await?;
        let route = self.route();
        let legs: SmallVec<[&Leg; 4]> = route.legs.iter().flatten().collect();
        let data = match request.op {
            // A guest may change its pages while they are written, and the legs must agree.
            Op::Write { .. } if legs.len() > 1 => {
                let mut copy = self.pool.take(len as usize);
                request.buffer.copy_out(at as usize, &mut copy);
                IoVec::from(copy)
            }
            Op::Write { .. } => request.buffer.slice(at as usize, len as usize),
            _ => IoVec::empty(),
        };
        if legs.len() < route.legs.len() || legs.iter().any(|leg| !leg.has(&range)) {
            writing.missed();
        }
        let sent: SmallVec<[_; 4]> = legs
            .iter()
            .map(|leg| {
                let part = Request {
                    op: request.op,
                    offset: start,
                    len,
                    buffer: data.clone(),
                };
                (leg.id, leg.submit(part))
            })
            .collect();
        let (mut failed, mut left) = (Vec::new(), Vec::new());
        for (id, completion) in sent {
            let completion = completion.await;
            left.push(completion.buffer);
            if let Err(error) = completion.result {
                failed.push((id, error));
            }
        }
        left.clear();
        if legs.len() > 1 {
            self.pool.put_vector(data);
        }
        self.outcome(failed).await?;
        writing.done();
        let healed: SmallVec<[MemberId; 2]> = legs
            .iter()
            .filter(|leg| leg.is_bad(&range))
            .map(|leg| leg.id)
            .collect();
        self.clear_lost(&healed, &range).await
    }

    /// Answers a read that `broken` could not, from another leg, and writes what was read there to `broken`.
    async fn mirror_heal(
        self: Rc<Self>,
        request: Request,
        broken: MemberId,
        error: Error,
    ) -> Completion {
        if request.buffer.is_empty() {
            // An executor below has ended and taken the buffer with it.
            return request.failed(error);
        }
        let range = request.offset..request.end();
        let _guard = self.shared.locks.exclusive(range.clone()).await;
        if error.kind() == ErrorKind::Offline {
            // Failing the last leg is refused, and the error is the answer then.
            if self.fail_members(vec![(broken, error)]).await.is_err() {
                let why = format!("no member of array {} can be read", self.shared.name);
                return request.failed(Error::new(ErrorKind::Offline, why));
            }
            return match self.mirror_copy(&request, None).await {
                Ok(()) => request.done(),
                Err(error) => request.failed(error),
            };
        }
        if self.mirror_copy(&request, Some(broken)).await.is_ok() {
            return request.done();
        }
        // No leg has all of it: block by block, each from whichever leg has it.
        let block = u64::from(self.shared.info.logical_block);
        let mut at = 0;
        while at < request.len {
            let buffer = request.buffer.slice(at as usize, block as usize);
            let part = Request::read(request.offset + at, buffer);
            if let Err(error) = self.mirror_copy(&part, Some(broken)).await {
                return request.failed(error);
            }
            at += block;
        }
        request.done()
    }

    /// Reads a range from the first leg that has it and rewrites it on the legs before that have not. The range is
    /// held. `last` is asked last: it has just failed.
    pub(crate) async fn mirror_copy(
        &self,
        request: &Request,
        last: Option<MemberId>,
    ) -> weft_block::Result<()> {
        let route = self.route();
        let range = request.offset..request.end();
        let mut legs: SmallVec<[&Leg; 4]> = route
            .legs
            .iter()
            .flatten()
            .filter(|leg| leg.has(&range))
            .collect();
        legs.sort_by_key(|leg| Some(leg.id) == last);
        let (mut bad, mut failed) = (Vec::new(), Vec::new());
        let mut answer = Err(Error::new(
            ErrorKind::Offline,
            format!("no member of array {} is left", self.shared.name),
        ));
        // Memory of our own: a guest may change its pages before they are written to the bad legs.
        let data = IoVec::from(self.pool.take(request.len as usize));
        for leg in legs {
            let read = Request::read(request.offset, data.clone());
            match leg.submit(read).await.result {
                Ok(()) => {
                    answer = Ok(leg.id);
                    break;
                }
                Err(error) if error.kind() == ErrorKind::Offline => failed.push((leg.id, error)),
                Err(error) => {
                    bad.push(leg);
                    let why = format!("array {} cannot be read", self.shared.name);
                    answer = Err(error.in_context(why));
                }
            }
        }
        let source = answer?;
        let copy = data.to_buffer();
        request.buffer.clone().copy_in(0, &copy);
        let healed = route.legs.iter().flatten().find(|leg| {
            Some(leg.id) == last && leg.id != source && bad.iter().all(|other| other.id != leg.id)
        });
        bad.extend(healed);
        for leg in bad {
            let write = Request::write(request.offset, data.clone());
            if let Err(error) = leg.submit(write).await.result {
                failed.push((leg.id, error));
            }
        }
        self.pool.put_vector(data);
        self.fail_members(failed).await
    }
}
