//! Resync: parity is made from the data again, legs from the first one, where a crash may have left them apart.

use std::ops::Range;
use std::sync::atomic::Ordering;

use futures_util::future::join_all;
use smallvec::SmallVec;
use weft_block::{Buffer, Error, ErrorKind, IoVec, Request, Result};

use super::{has_parity, windows};
use crate::array::copies::{copies_at, pieces};
use crate::array::lane::{Lane, Leg};
use crate::array::state::MemberId;
use crate::geometry::{ParityRows, Shape};
use crate::parity;
use crate::plan;

/// What came of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// The members agree.
    Agree,
    /// A block cannot be read, so what belongs to it cannot be made.
    Unreadable,
}

impl Lane {
    /// Resyncs up to `most` bytes of the chunk that is next.
    pub(super) async fn resync_step(&self, most: u64) -> Result<()> {
        let size = self.shared.geometry.sync_size();
        let lacks_data = self.shared.state().lacks_data(&self.shared.geometry);
        if has_parity(&self.shared.geometry) && lacks_data {
            // Without it parity says nothing more than the data it stands for: it is taken as it is, as md does.
            let mut state = self.shared.state();
            state.intent.resynced(&(0..size));
            state.unsettled = true;
            self.shared.resync_changed(&state);
            return Ok(());
        }
        let (chunk, range) = {
            let mut state = self.shared.state();
            let cursor = state.resync_cursor;
            let next = state.intent.next_resyncable(cursor);
            let Some(next) = next.or_else(|| state.intent.next_resyncable(0)) else {
                return Ok(());
            };
            if state.resync_total < state.intent.resync_bytes() {
                state.resync_total = state.intent.resync_bytes();
            }
            let end = next.end.min(size);
            (next.end, next.start..end.min(next.start + most))
        };
        let mut unreadable = false;
        for (lane, part) in self.sides(&range) {
            let _guard = lane.shared.locks.exclusive(part.clone()).await;
            let done =
                join_all(windows(&part).map(|window| lane.resync_window(window, false))).await;
            for outcome in done {
                unreadable |= outcome? == Outcome::Unreadable;
            }
        }
        if range.end >= chunk.min(size) {
            self.resync_durable().await?;
        }
        let mut state = self.shared.state();
        state.resync_unreadable |= unreadable;
        self.resync_advance(&mut state, &range, chunk);
        Ok(())
    }

    /// What was rewritten is durable before the members count as agreeing: otherwise a crash could take it back, while
    /// what is written next relies on it.
    async fn resync_durable(&self) -> Result<()> {
        let core = &self.shared.core;
        let rewritten = core.rewritten.load(Ordering::Acquire);
        if core.rewritten_durable.load(Ordering::Acquire) >= rewritten {
            return Ok(());
        }
        let failed = self.flush_members().await;
        self.fail_members(failed).await?;
        core.rewritten_durable
            .fetch_max(rewritten, Ordering::AcqRel);
        Ok(())
    }

    /// The parts of a range of member space that hold rows: of each shape those that count, while the shape changes.
    fn sides(&self, range: &Range<u64>) -> SmallVec<[(&Self, Range<u64>); 2]> {
        let (Some(moving), Some(before)) = (&self.shared.moving, &self.before) else {
            return SmallVec::from_iter([(self, range.clone())]);
        };
        let position = moving.position();
        let spaces = [
            (self, moving.moves.new_space(position)),
            (&**before, moving.moves.old_space(position)),
        ];
        let within = spaces.into_iter().map(|(lane, space)| {
            let part = range.start.max(space.start)..range.end.min(space.end);
            (lane, part)
        });
        within.filter(|(_, part)| !part.is_empty()).collect()
    }

    fn resync_advance(&self, state: &mut crate::array::State, range: &Range<u64>, chunk_end: u64) {
        let size = self.shared.geometry.sync_size();
        let chunk_start = state.intent.chunk_start(range.start);
        // Only if every part of the chunk was done in this pass.
        let in_order = range.start == chunk_start || state.resync_cursor == range.start;
        if !in_order {
            state.resync_cursor = chunk_start;
            return;
        }
        state.resync_cursor = range.end;
        if range.end == chunk_end.min(size) {
            match std::mem::take(&mut state.resync_unreadable) {
                true => state.intent.stuck(range.start),
                false => state.intent.resynced(&(chunk_start..range.end)),
            }
            // Past the chunk, also where member space ends within it: should it have to be done again, it is from its start.
            state.resync_cursor = chunk_end;
            self.shared.resync_changed(state);
        }
        if state.intent.resync_count() == 0 {
            (state.resync_cursor, state.resync_total) = (0, 0);
            state.unsettled = true;
        }
    }

    /// Makes the members agree in a range that awaits its resync, durably, before something is written there. Whether
    /// they do.
    ///
    /// A crash can leave what was being written in the parity, or on one copy, and not where it is read. If the power went
    /// again while that place is written anew, and tore it, what is left would tell of a value that nobody was shown.
    pub(crate) async fn settle(&self, range: &Range<u64>) -> Result<bool> {
        if !self.shared.needs_resync(range) {
            return Ok(true);
        }
        let mut agree = true;
        for window in windows(range) {
            agree &= self.resync_window(window, true).await? == Outcome::Agree;
        }
        // The resync may have come by before.
        self.resync_durable().await?;
        Ok(agree)
    }

    async fn resync_window(&self, range: Range<u64>, durable: bool) -> Result<Outcome> {
        let result = match self.shared.geometry.shape() {
            Shape::Parity(_) => self.resync_parity(range.clone(), durable).await,
            _ => self.resync_copies(range.clone(), durable).await,
        }?;
        let block = u64::from(self.shared.block as u32);
        if result == Outcome::Agree || range.end - range.start <= block {
            return Ok(result);
        }
        // One bad block does not keep the others from agreeing.
        let middle = range.start + ((range.end - range.start) / 2).next_multiple_of(block);
        let mut outcome = Outcome::Agree;
        for half in [range.start..middle, middle..range.end] {
            if Box::pin(self.resync_window(half, durable)).await? == Outcome::Unreadable {
                outcome = Outcome::Unreadable;
            }
        }
        Ok(outcome)
    }

    /// Makes the parities of a window from its data and writes them where they differ.
    async fn resync_parity(&self, range: Range<u64>, durable: bool) -> Result<Outcome> {
        let Shape::Parity(shape) = self.shared.geometry.shape() else {
            return Ok(Outcome::Agree);
        };
        let row = range.start / shape.chunk();
        let row_end = (row + 1) * shape.chunk();
        if range.end > row_end {
            // Each row has its parity elsewhere.
            for part in [range.start..row_end, row_end..range.end] {
                let outcome = Box::pin(self.resync_parity(part, durable)).await?;
                if outcome == Outcome::Unreadable {
                    return Ok(outcome);
                }
            }
            return Ok(Outcome::Agree);
        }
        let parities: SmallVec<[u32; 2]> = shape.parity_slots(row).collect();
        let len = range.end - range.start;
        let route = self.route();
        let all = 0..self.shared.geometry.members();
        let reads = self.read_slots(&route, all, range.start, len).await;
        let (mut gone, mut unreadable) = (Vec::new(), SmallVec::<[u32; 4]>::new());
        for (bad, id, error) in reads.failed {
            match id {
                Some(id) if error.kind() == ErrorKind::Offline => gone.push((id, error)),
                _ if !parities.contains(&bad) => unreadable.push(bad),
                _ => {}
            }
        }
        self.fail_members(gone).await?;
        // A member has gone: the next step sees that there is nothing to resync any more.
        if self.shared.state().lacks_data(&self.shared.geometry) {
            return Ok(Outcome::Unreadable);
        }
        if !unreadable.is_empty() {
            if len > self.shared.block as u64 {
                return Ok(Outcome::Unreadable);
            }
            return self
                .resync_torn(&range, &unreadable, &parities, &reads.buffers)
                .await;
        }
        let made = self.parities_of(shape, row, &reads.buffers, len);
        for (slot, made) in parities.into_iter().zip(made) {
            let old = reads.buffers.iter().find(|(other, _)| *other == slot);
            if old.is_some_and(|(_, old)| **old == *made) {
                self.pool.put(made);
                continue;
            }
            let leg = route.legs[slot as usize].iter();
            let target: SmallVec<[(&Leg, u64); 1]> = leg.map(|leg| (leg, range.start)).collect();
            self.rewrite(&target, made.into(), durable).await?;
        }
        for (_, buffer) in reads.buffers {
            self.pool.put(buffer);
        }
        Ok(Outcome::Agree)
    }

    /// The parities that the data of a row has.
    fn parities_of(
        &self,
        shape: &ParityRows,
        row: u64,
        read: &[(u32, Buffer)],
        len: u64,
    ) -> SmallVec<[Buffer; 2]> {
        let data: SmallVec<[(u32, &[u8]); 8]> = read
            .iter()
            .filter(|(slot, _)| shape.data_index(row, *slot).is_some())
            .map(|(slot, buffer)| (*slot, &**buffer))
            .collect();
        let mut made: SmallVec<[Buffer; 2]> = (0..shape.parities())
            .map(|_| self.pool.take(len as usize))
            .collect();
        let mut parities = made.iter_mut().map(|buffer| &mut **buffer);
        if let Some(p) = parities.next() {
            parity::of_row(shape, row, &data, p, parities.next());
        }
        made
    }

    /// A block of data cannot be read where the parities may not belong to it. Two parities that agree on what it was
    /// are believed; otherwise nothing can tell what it was, and neither it nor they can be used until they are written.
    async fn resync_torn(
        &self,
        range: &Range<u64>,
        unreadable: &[u32],
        parities: &[u32],
        read: &[(u32, Buffer)],
    ) -> Result<Outcome> {
        let route = self.route();
        if let ([slot], Some(made)) = (unreadable, self.agreed(range, unreadable, parities, read)) {
            let leg = route.legs[*slot as usize].iter();
            let target: SmallVec<[(&Leg, u64); 1]> = leg.map(|leg| (leg, range.start)).collect();
            self.rewrite(&target, made.into(), true).await?;
            return Ok(Outcome::Agree);
        }
        let lost = unreadable.iter().chain(parities);
        let legs = lost.filter_map(|&slot| route.legs[slot as usize].as_ref());
        let lost: SmallVec<[_; 4]> = legs.map(|leg| (leg.id, range.clone())).collect();
        Ok(match self.mark_lost(&lost).await? {
            true => Outcome::Agree,
            false => Outcome::Unreadable,
        })
    }

    /// The one lost block of data, if each of two parities gives the same.
    fn agreed(
        &self,
        range: &Range<u64>,
        unreadable: &[u32],
        parities: &[u32],
        read: &[(u32, Buffer)],
    ) -> Option<Buffer> {
        let Shape::Parity(shape) = self.shared.geometry.shape() else {
            return None;
        };
        let (&[slot], &[p, q]) = (unreadable, parities) else {
            return None;
        };
        let row = range.start / shape.chunk();
        let made = [p, q].map(|other| {
            let recipe = plan::recipe(shape, row, slot, &[slot, other])?;
            self.add_up(&recipe, read, range.end - range.start)
        });
        match made {
            [Some(by_q), Some(by_p)] if *by_p == *by_q => Some(by_p),
            _ => None,
        }
    }

    /// Reads each piece of the window from the first copy that is there, and writes it to the copies that differ.
    async fn resync_copies(&self, range: Range<u64>, durable: bool) -> Result<Outcome> {
        let mut outcome = Outcome::Agree;
        for piece in pieces(&self.shared.geometry, &range, u64::MAX) {
            if self.resync_piece(piece, durable).await? == Outcome::Unreadable {
                outcome = Outcome::Unreadable;
            }
        }
        Ok(outcome)
    }

    async fn resync_piece(&self, range: Range<u64>, durable: bool) -> Result<Outcome> {
        let route = self.route();
        let len = range.end - range.start;
        let mut copies = copies_at(&self.shared.geometry, &route, range.start);
        let block = self.shared.block as u64;
        // A copy that is there in part answers readers in that part, so it must be compared there.
        if len > block && copies.iter().any(|copy| copy.is_in_part(len, block)) {
            return Ok(Outcome::Unreadable);
        }
        copies.retain(|copy| copy.has(len));
        let places = copies.iter().map(|copy| (copy.slot, copy.offset));
        let reads = self.read_places(&route, places, len).await;
        let (mut gone, mut bad) = (Vec::new(), Vec::new());
        for (slot, id, error) in reads.failed {
            match id {
                Some(id) if error.kind() == ErrorKind::Offline => gone.push((id, error)),
                _ => bad.push(slot),
            }
        }
        self.fail_members(gone).await?;
        // Smaller windows first: another copy's bad block must not cost what the first one has.
        if !bad.is_empty() && len > block {
            return Ok(Outcome::Unreadable);
        }
        let mut buffers = reads.buffers.into_iter();
        let Some((_, first)) = buffers.next() else {
            // It was torn on every copy, and stays unreadable on each until it is written.
            return Ok(Outcome::Agree);
        };
        let mut differ = bad;
        for (slot, other) in buffers {
            if *other != *first {
                differ.push(slot);
            }
            self.pool.put(other);
        }
        copies.retain(|copy| differ.contains(&copy.slot));
        let targets: SmallVec<[(&Leg, u64); 4]> =
            copies.iter().map(|copy| (copy.leg, copy.offset)).collect();
        self.rewrite(&targets, first.into(), durable).await?;
        Ok(Outcome::Agree)
    }

    /// Writes the same data to legs, each at its place; those that do not take it are failed.
    pub(super) async fn rewrite(
        &self,
        targets: &[(&Leg, u64)],
        data: IoVec,
        durable: bool,
    ) -> Result<()> {
        let write = match durable {
            true => Request::write_fua,
            false => Request::write,
        };
        let sent: SmallVec<[_; 4]> = targets
            .iter()
            .map(|(leg, offset)| (leg.id, leg.submit(write(*offset, data.clone()))))
            .collect();
        let mut failed: Vec<(MemberId, Error)> = Vec::new();
        for (id, completion) in sent {
            if let Err(error) = completion.await.result {
                failed.push((id, error));
            }
        }
        if !durable {
            // Counted when it is answered: a flush that is begun from here on holds for it.
            self.shared.core.rewritten.fetch_add(1, Ordering::AcqRel);
        }
        let len = data.len() as u64;
        self.pool.put_vector(data);
        self.fail_members(failed).await?;
        self.healed(targets, len).await
    }
}
