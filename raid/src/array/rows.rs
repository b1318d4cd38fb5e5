//! Rows with parity: reads, with what is lost made from the rest.

use std::rc::Rc;

use smallvec::SmallVec;
use weft_block::{Buffer, Completion, Error, ErrorKind, LocalBoxFuture, Request, Result};

use super::Lane;
use super::direct::{Direct, Whose};
use super::hedge::Others;
use super::lane::{Leg, Route};
use super::queue::Way;
use super::state::MemberId;
use super::stripes::gather;
use crate::geometry::Shape;
use crate::parity::{self, Term};
use crate::plan;

/// Bytes of each member that are read at once to make a lost range.
const PIECE: u64 = 256 << 10;

/// Reads a range. What is wholly there is asked for at once and needs no task of its own.
pub(crate) fn read(lane: &Rc<Lane>, request: Request) -> Way {
    let (route, geometry) = (lane.route(), &lane.shared.geometry);
    let place = geometry.locate(request.offset);
    let range = place.offset..place.offset + request.len;
    if request.len <= place.left
        && let Some(leg) = route.whole(place.slot, &range)
    {
        let part = Request::read(place.offset, request.buffer);
        return Way::Direct(part_of_row(lane, leg, place.slot, part));
    }
    let plan = plan::read(geometry, request.offset, request.len);
    let parts: SmallVec<[_; 4]> = plan
        .iter()
        .map(|io| -> LocalBoxFuture<'static, Completion> {
            let part = Request::read(io.offset, gather(&request.buffer, io));
            let slot = io.slot;
            match route.whole(slot, &(io.offset..io.offset + io.len)) {
                Some(leg) => Box::pin(part_of_row(lane, leg, slot, part)),
                None => lane.spawn(part, move |lane, part| lane.degraded_read(part, slot)),
            }
        })
        .collect();
    Way::Parts(Box::pin(async move {
        let mut failed = None;
        for part in parts {
            if let Err(error) = part.await.result {
                failed = failed.or(Some(error));
            }
        }
        match failed {
            Some(error) => request.failed(error),
            None => request.done(),
        }
    }))
}

/// Reads what lies on one member, which has it.
fn part_of_row(lane: &Rc<Lane>, leg: &Leg, slot: u32, part: Request) -> Direct {
    let (id, offset) = (leg.id, part.offset);
    let sent = lane.read_in_time(leg, part, Others::Row { slot });
    Direct::new(lane, sent, Whose::Row { slot, id, offset })
}

impl Lane {
    /// Answers a read of member space of a slot that is not wholly there.
    async fn degraded_read(self: Rc<Self>, part: Request, slot: u32) -> Completion {
        let range = part.offset..part.end();
        let leg = self.route().legs[slot as usize].clone();
        if let Some(leg) = leg.filter(|leg| leg.is_bad(&range)) {
            let _guard = self.shared.locks.exclusive(range).await;
            return self.answer_mended(part, slot, leg.id).await;
        }
        let _guard = self.shared.locks.shared(range.clone()).await;
        // A rebuild may have come by while the range was waited for.
        let route = self.route();
        if let Some(leg) = route.whole(slot, &range) {
            return leg.submit(part).await;
        }
        match self.make(slot, &part).await {
            Ok(()) => part.done(),
            Err(error) => part.failed(error),
        }
    }

    /// Answers a read that the member of `slot` could not, from the rest of the row, and writes it back there.
    pub(super) async fn heal(
        self: Rc<Self>,
        part: Request,
        slot: u32,
        id: MemberId,
        error: Error,
    ) -> Completion {
        if part.buffer.is_empty() {
            // An executor below has ended and taken the buffer with it.
            return part.failed(error);
        }
        if error.kind() == ErrorKind::Offline {
            if let Err(error) = self.fail_members(vec![(id, error)]).await {
                return part.failed(error);
            }
            return self.degraded_read(part, slot).await;
        }
        let range = part.offset..part.end();
        let _guard = self.shared.locks.exclusive(range.clone()).await;
        self.answer_mended(part, slot, id).await
    }

    async fn answer_mended(&self, part: Request, slot: u32, id: MemberId) -> Completion {
        match self.mend(slot, id, part.offset, part.len).await {
            Ok(mended) => {
                part.buffer.clone().copy_in(0, &mended);
                self.pool.put(mended);
                part.done()
            }
            Err(error) => {
                let why = format!("array {} cannot be read", self.shared.name);
                part.failed(error.in_context(why))
            }
        }
    }

    /// What the member of `slot` holds in a range that it could not be read in at once: by halves, down to the blocks
    /// that are bad, which are made from the others and written back. The range is held.
    pub(crate) async fn mend(
        &self,
        slot: u32,
        id: MemberId,
        offset: u64,
        len: u64,
    ) -> Result<Buffer> {
        let range = offset..offset + len;
        let route = self.route();
        let reads = self
            .read_slots(&route, [slot].into_iter(), offset, len)
            .await;
        let error = match (
            reads.buffers.into_iter().next(),
            reads.failed.into_iter().next(),
        ) {
            (Some((_, buffer)), _) => return Ok(buffer),
            (None, failed) => failed.map(|(_, _, error)| error),
        };
        let block = u64::from(self.shared.info.logical_block);
        if len > block {
            let mut mended = self.pool.take(len as usize);
            let half = (len / 2).next_multiple_of(block);
            for (at, len) in [(0, half), (half, len - half)] {
                let part = Box::pin(self.mend(slot, id, offset + at, len)).await?;
                mended[at as usize..(at + len) as usize].copy_from_slice(&part);
                self.pool.put(part);
            }
            return Ok(mended);
        }
        // Where parity and data may differ after a crash, what parity makes is neither the old data nor the new.
        if let (true, Some(error)) = (self.shared.needs_resync(&range), error) {
            return Err(error);
        }
        let made = self.make_buffer(slot, offset, len).await?;
        let leg = route.legs[slot as usize].as_ref();
        if let Some(leg) = leg.filter(|leg| leg.id == id) {
            // Durable before the range is let go: another block of the row may be the next that is rewritten.
            let write = Request::write_fua(offset, weft_block::IoVec::copy_of(&made));
            // The read itself is answered, whatever becomes of the member.
            let _ = match leg.submit(write).await.result {
                Ok(()) if leg.is_bad(&range) => self.clear_lost(&[id], &range).await,
                Ok(()) => self.mended(id, offset).await,
                Err(error) => self.fail_members(vec![(id, error)]).await,
            };
        }
        Ok(made)
    }

    /// Fills a read of the member space of `slot` from all other slots. The range is held.
    async fn make(&self, slot: u32, part: &Request) -> Result<()> {
        let mut at = 0;
        while at < part.len {
            let len = PIECE.min(part.len - at);
            let made = self.make_buffer(slot, part.offset + at, len).await?;
            part.buffer.clone().copy_in(at as usize, &made);
            self.pool.put(made);
            at += len;
        }
        Ok(())
    }

    /// What `slot` holds, or should hold, in a range of member space, made from the others. The range is held.
    pub(crate) async fn make_buffer(&self, slot: u32, offset: u64, len: u64) -> Result<Buffer> {
        let Shape::Parity(rows) = self.shared.geometry.shape() else {
            unreachable!("only rows with parity are made from the rest");
        };
        // With one parity every slot is the exclusive or of the others, in whichever row; with two it matters which is which.
        let row = offset / rows.chunk();
        let row_end = (row + 1) * rows.chunk();
        if rows.parities() > 1 && offset + len > row_end {
            return self.make_halves(slot, offset, len, row_end - offset).await;
        }
        let range = offset..offset + len;
        let mut unreadable: SmallVec<[u32; 4]> = SmallVec::new();
        let mut first = None;
        loop {
            let route = self.route();
            let is_lost =
                |other: &u32| route.whole(*other, &range).is_none() || unreadable.contains(other);
            let lost: SmallVec<[u32; 4]> = (0..rows.members()).filter(is_lost).collect();
            let Some(recipe) = plan::recipe(rows, row, slot, &lost) else {
                break;
            };
            let sources = recipe.iter().map(|(source, _)| *source);
            let reads = self.read_slots(&route, sources, offset, len).await;
            if reads.failed.is_empty() {
                let made = self.add_up(&recipe, &reads.buffers, len);
                reads
                    .buffers
                    .into_iter()
                    .for_each(|(_, block)| self.pool.put(block));
                return Ok(made.expect("every block of the recipe was read"));
            }
            let mut gone = Vec::new();
            for (source, id, error) in reads.failed {
                unreadable.push(source);
                match (id, error.kind()) {
                    (Some(id), ErrorKind::Offline) => gone.push((id, error)),
                    _ => first = first.or(Some(error)),
                }
            }
            self.fail_members(gone).await?;
        }
        let block = u64::from(self.shared.info.logical_block);
        if len > block {
            // A bad block elsewhere in the range does not cost the rest of it.
            let half = (len / 2).next_multiple_of(block);
            return self.make_halves(slot, offset, len, half).await;
        }
        let name = &self.shared.name;
        let route = self.route();
        let marked = route.legs.iter().flatten().any(|leg| leg.is_bad(&range));
        let error = first.unwrap_or_else(|| match marked {
            true => Error::new(ErrorKind::Io, "blocks that it is made of are lost"),
            false => Error::new(
                ErrorKind::Offline,
                "more members are away than parity can make",
            ),
        });
        Err(error.in_context(format!("array {name} cannot make what slot {slot} held")))
    }

    /// A range in two parts, of which the first has `half` bytes.
    async fn make_halves(&self, slot: u32, offset: u64, len: u64, half: u64) -> Result<Buffer> {
        let mut made = self.pool.take(len as usize);
        for (at, len) in [(0, half), (half, len - half)] {
            let part = Box::pin(self.make_buffer(slot, offset + at, len)).await?;
            made[at as usize..(at + len) as usize].copy_from_slice(&part);
            self.pool.put(part);
        }
        Ok(made)
    }

    /// What a recipe comes to with what was read, each block with its slot; none if a block of it was not read.
    pub(crate) fn add_up(
        &self,
        recipe: &plan::Recipe,
        read: &[(u32, Buffer)],
        len: u64,
    ) -> Option<Buffer> {
        let term = |&(slot, factor): &(u32, u8)| {
            let (_, block) = read.iter().find(|(read, _)| *read == slot)?;
            Some((factor, &**block))
        };
        let terms: Option<SmallVec<[Term<'_>; 16]>> = recipe.iter().map(term).collect();
        let terms = terms?;
        let mut made = self.pool.take(len as usize);
        parity::sum(&mut made, &terms);
        Some(made)
    }

    /// Reads a range of member space of several slots at once.
    pub(crate) async fn read_slots(
        &self,
        route: &Route,
        slots: impl Iterator<Item = u32>,
        offset: u64,
        len: u64,
    ) -> SlotReads {
        self.read_places(route, slots.map(|slot| (slot, offset)), len)
            .await
    }

    /// Reads as many bytes of member space at several places at once, each a slot and an offset.
    pub(crate) async fn read_places(
        &self,
        route: &Route,
        places: impl Iterator<Item = (u32, u64)>,
        len: u64,
    ) -> SlotReads {
        let sent: SmallVec<[_; 8]> = places
            .map(|(slot, offset)| {
                let leg = route.whole(slot, &(offset..offset + len));
                let read = leg.map(|leg| {
                    let buffer = self.pool.take(len as usize);
                    (leg.id, leg.submit(Request::read(offset, buffer.into())))
                });
                (slot, read)
            })
            .collect();
        let mut reads = SlotReads::default();
        for (slot, read) in sent {
            let Some((id, completion)) = read else {
                let error = Error::new(ErrorKind::Offline, format!("slot {slot} is missing"));
                reads.failed.push((slot, None, error));
                continue;
            };
            let completion = completion.await;
            match completion.result {
                Ok(()) => reads.buffers.push((slot, completion.buffer.into_buffer())),
                Err(error) => reads.failed.push((slot, Some(id), error)),
            }
        }
        reads
    }
}

/// What came of reading several slots.
#[derive(Default)]
pub(crate) struct SlotReads {
    pub(crate) buffers: SmallVec<[(u32, Buffer); 8]>,
    /// The slot, its member if it has one, and what went wrong.
    pub(crate) failed: Vec<(u32, Option<MemberId>, Error)>,
}
