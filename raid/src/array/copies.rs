//! RAID-1 and RAID-10: reads from one copy, changes on all.
//!
//! The array is taken in *pieces*, runs that lie in one run on each member that has a copy: the whole of a mirror, the
//! chunks of RAID-10. Ranges that are locked and remembered are the array's own.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::join_all;
use smallvec::SmallVec;
use weft_block::{
    Completion, Error, ErrorKind, IoVec, LocalBoxFuture, Op, Request, Result, Spawner,
};

use super::Lane;
use super::direct::{Direct, Whose};
use super::hedge::{InTime, Others};
use super::lane::{Leg, Route};
use super::queue::{Way, ready};
use super::state::MemberId;
use super::watch::Watch;
use crate::geometry::Geometry;

/// Bytes that are copied and written at a time.
const PIECE: u64 = 1 << 20;
/// Pieces of one request in flight at most.
const REQUEST_PIECES: usize = 16;

/// One copy of a piece: the leg that holds it and where.
#[derive(Clone, Copy)]
pub(crate) struct Replica<'a> {
    pub(crate) slot: u32,
    pub(crate) leg: &'a Leg,
    /// Bytes of member space.
    pub(crate) offset: u64,
}

impl Replica<'_> {
    /// The `len` bytes of member space from its start on.
    pub(crate) fn range(&self, len: u64) -> Range<u64> {
        self.offset..self.offset + len
    }

    /// Whether `len` bytes of it are there.
    pub(crate) fn has(&self, len: u64) -> bool {
        self.leg.has(&self.range(len))
    }

    /// Whether some of `len` bytes are there and others not; it is seen by the first `block` of them.
    pub(crate) fn is_in_part(&self, len: u64, block: u64) -> bool {
        !self.has(len) && (self.leg.is_bad(&self.range(len)) || self.has(block))
    }

    /// Sends what `request` asks of the array to this copy.
    fn submit(&self, op: Op, len: u64, buffer: IoVec) -> LocalBoxFuture<'static, Completion> {
        let (op, offset) = (op, self.offset);
        self.leg.submit(Request {
            op,
            offset,
            len,
            buffer,
        })
    }
}

/// The copies of array byte `offset` whose members are there.
pub(crate) fn copies_at<'a>(
    geometry: &Geometry,
    route: &'a Route,
    offset: u64,
) -> SmallVec<[Replica<'a>; 4]> {
    let places = geometry.places(offset).into_iter();
    let copies = places.filter_map(|place| {
        let leg = route.legs[place.slot as usize].as_ref()?;
        Some(Replica {
            slot: place.slot,
            leg,
            offset: place.offset,
        })
    });
    copies.collect()
}

/// Cuts a range of the array into pieces of at most `most` bytes.
pub(crate) fn pieces(
    geometry: &Geometry,
    range: &Range<u64>,
    most: u64,
) -> impl Iterator<Item = Range<u64>> {
    let chunk = match geometry.chunk() {
        0 => u64::MAX,
        chunk => chunk,
    };
    let (mut start, end) = (range.start, range.end);
    std::iter::from_fn(move || {
        let chunk_end = (start / chunk).saturating_add(1).saturating_mul(chunk);
        let piece = start..end.min(chunk_end).min(start.saturating_add(most));
        start = piece.end;
        (!piece.is_empty()).then_some(piece)
    })
}

/// How a thread spreads its reads over the legs.
#[derive(Default)]
pub(crate) struct Balance {
    legs: RefCell<SmallVec<[Load; 4]>>,
    turn: Cell<usize>,
}

#[derive(Clone, Default)]
struct Load {
    reads: Rc<Reads>,
    /// Where the last read ended, in member space.
    end: u64,
}

/// The reads of a leg.
#[derive(Default)]
struct Reads {
    in_flight: Cell<u32>,
    /// What those take that were timed, in nanoseconds, the later ones counting more; zero as long as none was.
    usual: Cell<u64>,
}

impl Reads {
    fn took(&self, time: Duration) {
        let time = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let usual = match self.usual.get() {
            0 => time,
            usual => usual - usual / 8 + time / 8,
        };
        self.usual.set(usual.max(1));
    }

    /// How often its usual time doubles that of the fastest leg.
    fn slowness(&self, fastest: u64) -> u32 {
        let times = self.usual.get().checked_div(fastest).unwrap_or(1);
        times.max(1).ilog2().min(MOST_SLOWNESS)
    }
}

/// One read in so many is timed: the clock costs as much as the rest of the choice.
const TIMED: usize = 8;
/// One read in so many goes to a leg by turns, so that one that has become faster is found out. It is timed.
const TRIED: usize = 64;
/// Doublings of the fastest leg's time that count: with less than so many reads in flight there, a leg gets none.
const MOST_SLOWNESS: u32 = 6;

/// Counts a read off when it is answered or forgotten.
pub(super) struct Counted {
    reads: Rc<Reads>,
    /// Since when, if it is timed.
    since: Option<Duration>,
}

impl Counted {
    /// The read is answered.
    pub(super) fn done(self, spawner: &Spawner) {
        if let Some(since) = self.since {
            self.reads.took(spawner.now().saturating_sub(since));
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let in_flight = &self.reads.in_flight;
        in_flight.set(in_flight.get() - 1);
    }
}

impl Balance {
    /// Reads each piece from one of its copies; from another, with the first one mended, if that fails.
    pub(crate) fn read(&self, lane: &Rc<Lane>, request: Request) -> Way {
        let range = request.offset..request.end();
        let mut pieces = pieces(&lane.shared.geometry, &range, u64::MAX);
        let (first, second) = (pieces.next(), pieces.next());
        let (Some(first), Some(second)) = (first, second) else {
            return self.read_piece(lane, request);
        };
        let sent: Vec<_> = [first, second]
            .into_iter()
            .chain(pieces)
            .map(|piece| {
                let at = (piece.start - range.start) as usize;
                let buffer = request.buffer.slice(at, (piece.end - piece.start) as usize);
                self.read_piece(lane, Request::read(piece.start, buffer))
                    .wait()
            })
            .collect();
        Way::Parts(Box::pin(async move {
            let mut failed = None;
            for completion in join_all(sent).await {
                if let Err(error) = completion.result {
                    failed = failed.or(Some(error));
                }
            }
            match failed {
                Some(error) => request.failed(error),
                None => request.done(),
            }
        }))
    }

    fn read_piece(&self, lane: &Rc<Lane>, mut request: Request) -> Way {
        let route = lane.route();
        let range = request.offset..request.end();
        let first_only = lane.shared.needs_resync(&range);
        let copies = copies_at(&lane.shared.geometry, &route, range.start);
        let block = u64::from(lane.shared.info.logical_block);
        if first_only
            && copies
                .iter()
                .any(|copy| copy.is_in_part(request.len, block))
        {
            return Way::Task(lane.spawn(request, Lane::copies_read_doubtful));
        }
        let Some(copy) = self.choose(
            &lane.watch,
            &copies,
            route.legs.len(),
            request.len,
            first_only,
        ) else {
            let error = Error::new(
                ErrorKind::Offline,
                format!("array {} has no member left", lane.shared.name),
            );
            return Way::Task(ready(request.failed(error)));
        };
        let counted = self.count(&copy, request.len, &lane.spawner);
        let id = copy.leg.id;
        request.offset = copy.offset;
        let sent = match first_only || copies.len() == 1 {
            true => InTime::unwatched(copy.leg.submit(request)),
            false => {
                let origin = range.start;
                lane.read_in_time(copy.leg, request, Others::Copies { origin, not: id })
            }
        };
        let whose = Whose::Copy {
            id,
            offset: range.start,
            counted: Some(counted),
        };
        Way::Direct(Direct::new(lane, sent, whose))
    }

    /// The copy to read: one on a write-mostly member or on one that is late only if there is no other; the one whose
    /// member's last read ended here, unless it is a slow one; otherwise the one whose member has the least to do, for
    /// the time that it usually takes. Where copies may differ, always the first, so that readers see one value until
    /// the resync has made it everybody's.
    fn choose<'a>(
        &self,
        watch: &Watch,
        copies: &[Replica<'a>],
        slots: usize,
        len: u64,
        first_only: bool,
    ) -> Option<Replica<'a>> {
        let mut loads = self.legs.borrow_mut();
        loads.resize_with(slots, Load::default);
        let mut whole = copies.iter().filter(|copy| copy.has(len)).copied();
        if first_only {
            return whole.next();
        }
        let turn = self.turn.get().wrapping_add(1);
        self.turn.set(turn);
        let tries = turn.is_multiple_of(TRIED);
        let first = if tries { turn / TRIED } else { turn };
        let usual = whole.clone().map(|copy| &loads[copy.slot as usize].reads);
        let fastest = usual.map(|reads| reads.usual.get()).min().unwrap_or(0);
        whole.min_by_key(|copy| {
            let slot = copy.slot as usize;
            let load = &loads[slot];
            let slowness = load.reads.slowness(fastest);
            let follows = load.end == copy.offset && slowness == 0 && !tries;
            let work = match tries {
                true => 0,
                false => (load.reads.in_flight.get() + 1) << slowness,
            };
            (
                copy.leg.write_mostly,
                watch.is_late(copy.leg.id),
                !follows,
                work,
                (slot + first) % slots,
            )
        })
    }

    fn count(&self, copy: &Replica<'_>, len: u64, spawner: &Spawner) -> Counted {
        let load = &mut self.legs.borrow_mut()[copy.slot as usize];
        load.end = copy.offset + len;
        let reads = Rc::clone(&load.reads);
        reads.in_flight.set(reads.in_flight.get() + 1);
        let timed = self.turn.get().is_multiple_of(TIMED);
        Counted {
            reads,
            since: timed.then(|| spawner.now()),
        }
    }
}

impl Lane {
    /// A write, write-zeroes or discard, on all copies.
    pub(crate) async fn copies_change(self: Rc<Self>, request: Request) -> Completion {
        // Zeroes and discards carry no data, so they need not be cut small.
        let most = match request.op {
            Op::Write { .. } => PIECE,
            _ => u64::MAX,
        };
        let range = request.offset..request.end();
        let mut pieces = pieces(&self.shared.geometry, &range, most);
        loop {
            let some: SmallVec<[Range<u64>; 16]> = pieces.by_ref().take(REQUEST_PIECES).collect();
            let result = match &some[..] {
                [] => return request.done(),
                [piece] => self.copies_write(&request, piece.clone()).await,
                // All run to their end, whichever fails.
                some => {
                    let parts = some
                        .iter()
                        .map(|piece| self.copies_write(&request, piece.clone()));
                    join_all(parts).await.into_iter().collect()
                }
            };
            if let Err(error) = result {
                return request.failed(error);
            }
        }
    }

    async fn copies_write(&self, request: &Request, piece: Range<u64>) -> Result<()> {
        let (at, len) = (piece.start - request.offset, piece.end - piece.start);
        let _guard = self.shared.locks.exclusive(piece.clone()).await;
        let writing = self.begin(piece.clone()).await?;
        if let Err(error) = self.settle(&piece).await {
            // Nothing of it was sent.
            writing.done();
            return Err(error);
        }
        let route = self.route();
        let copies = copies_at(&self.shared.geometry, &route, piece.start);
        let all = self.shared.geometry.places(piece.start).len();
        if copies.is_empty() {
            let why = format!("array {} has no member left for this", self.shared.name);
            return Err(Error::new(ErrorKind::Offline, why));
        }
        let data = match request.op {
            // A guest may change its pages while they are written, and the copies must agree.
            Op::Write { .. } if copies.len() > 1 => {
                let mut copy = self.pool.take(len as usize);
                request.buffer.copy_out(at as usize, &mut copy);
                IoVec::from(copy)
            }
            Op::Write { .. } => request.buffer.slice(at as usize, len as usize),
            _ => IoVec::empty(),
        };
        if copies.len() < all || copies.iter().any(|copy| !copy.has(len)) {
            writing.missed();
        }
        let sent: SmallVec<[_; 4]> = copies
            .iter()
            .map(|copy| (copy.leg.id, copy.submit(request.op, len, data.clone())))
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
        if copies.len() > 1 {
            self.pool.put_vector(data);
        }
        self.outcome(failed).await?;
        writing.done();
        let places: SmallVec<[(&Leg, u64); 4]> =
            copies.iter().map(|copy| (copy.leg, copy.offset)).collect();
        self.healed(&places, len).await
    }

    /// Places of legs were written: what of them was marked as lost is there again.
    pub(crate) async fn healed(&self, places: &[(&Leg, u64)], len: u64) -> Result<()> {
        for (leg, offset) in places {
            let range = *offset..*offset + len;
            if leg.is_bad(&range) {
                self.clear_lost(&[leg.id], &range).await?;
            }
        }
        Ok(())
    }

    /// Answers a read of a piece that `broken` could not, from another copy, and writes what was read there to `broken`.
    pub(super) async fn copies_heal(
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
            return match self.copies_mend(&request, None).await {
                Ok(()) => request.done(),
                Err(error) => request.failed(error),
            };
        }
        if self.shared.needs_resync(&range) {
            return self.copies_read_blocks(request, None).await;
        }
        if self.copies_mend(&request, Some(broken)).await.is_ok() {
            return request.done();
        }
        // No copy is whole.
        self.copies_read_blocks(request, Some(broken)).await
    }

    /// Answers a read of a piece where the copies may differ, and of which some copy has only a part.
    async fn copies_read_doubtful(self: Rc<Self>, request: Request) -> Completion {
        let _guard = self
            .shared
            .locks
            .exclusive(request.offset..request.end())
            .await;
        self.copies_read_blocks(request, None).await
    }

    /// Block by block, each from the first copy that has it: where copies may differ, readers of more and of less must see
    /// the same. The range is held.
    async fn copies_read_blocks(&self, request: Request, last: Option<MemberId>) -> Completion {
        let block = u64::from(self.shared.info.logical_block);
        let mut at = 0;
        while at < request.len {
            let buffer = request.buffer.slice(at as usize, block as usize);
            let part = Request::read(request.offset + at, buffer);
            if let Err(error) = self.copies_mend(&part, last).await {
                return request.failed(error);
            }
            at += block;
        }
        request.done()
    }

    /// Reads a piece from the first copy that is there and rewrites it on those before that are not. The range is
    /// held. `last` is asked last: it has just failed.
    pub(crate) async fn copies_mend(
        &self,
        request: &Request,
        last: Option<MemberId>,
    ) -> Result<()> {
        let route = self.route();
        let len = request.len;
        let mut copies = copies_at(&self.shared.geometry, &route, request.offset);
        let all = copies.clone();
        copies.retain(|copy| copy.has(len));
        copies.sort_by_key(|copy| Some(copy.leg.id) == last);
        let (mut bad, mut failed) = (Vec::new(), Vec::new());
        let mut answer = Err(Error::new(
            ErrorKind::Offline,
            format!("no member of array {} is left", self.shared.name),
        ));
        // Memory of our own: a guest may change its pages before they are written to the bad legs.
        let data = IoVec::from(self.pool.take(len as usize));
        for copy in copies {
            match copy.submit(Op::Read, len, data.clone()).await.result {
                Ok(()) => {
                    answer = Ok(copy.leg.id);
                    break;
                }
                Err(error) if error.kind() == ErrorKind::Offline => {
                    failed.push((copy.leg.id, error));
                }
                Err(error) => {
                    bad.push(copy);
                    let why = format!("array {} cannot be read", self.shared.name);
                    answer = Err(error.in_context(why));
                }
            }
        }
        let source = answer?;
        let copied = data.to_buffer();
        request.buffer.clone().copy_in(0, &copied);
        let healed = all.iter().find(|copy| {
            let id = copy.leg.id;
            Some(id) == last && id != source && bad.iter().all(|other| other.leg.id != id)
        });
        bad.extend(healed.copied());
        for copy in bad {
            // Durable before the range is let go: the copy that was read may be the next that is rewritten, and a cut
            // must not find both under way.
            let write = Op::Write { fua: true };
            match copy.submit(write, len, data.clone()).await.result {
                Ok(()) => self.mended(copy.leg.id, copy.offset).await?,
                Err(error) => failed.push((copy.leg.id, error)),
            }
        }
        self.pool.put_vector(data);
        self.fail_members(failed).await
    }
}
