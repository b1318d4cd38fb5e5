//! Rebuild: a member's data is made from the others and written to it.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::future::join_all;
use smallvec::SmallVec;
use weft_block::{Buffer, Error, ErrorKind, Request, Result};

use super::{has_parity, windows};
use crate::array::copies::{copies_at, pieces};
use crate::array::lane::Lane;
use crate::array::state::Rebuild;
use crate::array::{Duty, MemberId, Meta, Step, done_bytes};
use crate::geometry::Shape;

/// Bytes that are rebuilt between two records of how far it is: what a power cut makes the rebuild do again.
const CHECKPOINT: u64 = 64 << 20;

impl Lane {
    /// Gives free slots to spares.
    pub(crate) async fn enlist_spares(&self) -> Result<()> {
        let wanted = |lane: &Self| {
            let state = lane.shared.state();
            if state.reshaping.is_some() {
                return None;
            }
            let slots = 0..lane.shared.geometry.members();
            let free = slots
                .into_iter()
                .find(|&slot| state.holder(slot).is_none())?;
            let spare = state
                .members
                .iter()
                .find(|member| matches!(member.duty, Duty::Spare))?;
            Some((free, spare.id))
        };
        if self.shared.geometry.tolerates() == 0 || wanted(self).is_none() {
            return Ok(());
        }
        let mut meta = self.shared.core.meta.lock().await;
        let Some((slot, id)) = wanted(self) else {
            return Ok(());
        };
        // Before it has a slot, so that nothing is logged there yet.
        self.write_log_to(id).await?;
        let dirt = {
            let mut state = self.shared.state();
            if let Some(member) = state.member_mut(id) {
                member.duty = Duty::Rebuilding {
                    slot,
                    done: Arc::new(AtomicU64::new(0)),
                    recorded: 0,
                    by_bitmap: false,
                };
            }
            state.dirt
        };
        self.shared.changed();
        self.write_bitmap_to(&meta, id).await?;
        self.write_superblocks(&mut meta, dirt, Step::One).await
    }

    /// Rebuilds up to `most` bytes of the member that is next.
    pub(super) async fn recover_step(&self, most: u64) -> Result<()> {
        let Some(rebuild) = self.shared.state().rebuilding() else {
            return Ok(());
        };
        let (done, by_bitmap) = (&rebuild.done, rebuild.by_bitmap);
        let size = self.shared.geometry.member_size();
        let start = done_bytes(done);
        if start >= size {
            return self.finish(&rebuild).await;
        }
        let has_copies = matches!(self.shared.geometry.shape(), Shape::Copies(_));
        let range = match by_bitmap && !has_copies {
            false => start..size.min(start + most),
            true => {
                let missed = self.shared.state().intent.next_missed(start);
                let next = missed.map_or(size, |chunk| chunk.start.min(size));
                if next > start {
                    return self.skip(start..next, done).await;
                }
                let state = self.shared.state();
                let chunk = state
                    .intent
                    .next_missed(start)
                    .map_or(size, |chunk| chunk.end);
                start..size.min(chunk).min(start + most)
            }
        };
        if has_copies {
            let copied = |window| self.recover_copies(&rebuild, window);
            for result in join_all(windows(&range).map(copied)).await {
                result?;
            }
            if done_bytes(done) == start {
                done.store(range.end, Ordering::Release);
            }
        } else {
            let _guard = self.shared.locks.exclusive(range.clone()).await;
            let parts = windows(&range).map(|window| self.recover_window(&rebuild, window));
            for result in join_all(parts).await {
                result?;
            }
            // Another driver may have been here; the range was held, so nobody else moves it now.
            if done_bytes(done) == start {
                done.store(range.end, Ordering::Release);
            }
        }
        if range.end >= size {
            return self.finish(&rebuild).await;
        }
        let behind = {
            let mut state = self.shared.state();
            let member = state.member_mut(rebuild.id);
            let recorded = member.and_then(|member| member.duty.recorded().copied());
            recorded.map_or(0, |recorded| range.end - recorded.min(range.end))
        };
        if behind >= CHECKPOINT {
            self.checkpoint().await?;
        }
        Ok(())
    }

    /// Passes over a range of which the member has missed nothing.
    async fn skip(&self, range: Range<u64>, done: &AtomicU64) -> Result<()> {
        let _guard = self.shared.locks.exclusive(range.clone()).await;
        let state = self.shared.state();
        let missed = state.intent.next_missed(range.start);
        let end = missed.map_or(range.end, |chunk| chunk.start.min(range.end));
        if done_bytes(done) == range.start {
            done.store(end, Ordering::Release);
        }
        Ok(())
    }

    async fn recover_window(&self, rebuild: &Rebuild, range: Range<u64>) -> Result<()> {
        let len = range.end - range.start;
        let (id, slot) = (rebuild.id, rebuild.slot);
        let route = self.route();
        // The member that is replaced is the first to ask.
        let own = route.legs[slot as usize]
            .as_ref()
            .filter(|_| rebuild.replaces);
        let made = match (has_parity(&self.shared.geometry), own) {
            (true, Some(own)) => self.mend(slot, own.id, range.start, len).await,
            (true, None) => self.make_buffer(slot, range.start, len).await,
            (false, own) => {
                self.copy_buffer(slot, own.is_some(), range.start, len)
                    .await
            }
        };
        let error = match made {
            Ok(made) => return self.recover_write(rebuild, range, made).await,
            Err(error) => error,
        };
        let block = u64::from(self.shared.block as u32);
        if error.kind() == ErrorKind::Io && len > block {
            let middle = range.start + (len / 2).next_multiple_of(block);
            for half in [range.start..middle, middle..range.end] {
                Box::pin(self.recover_window(rebuild, half)).await?;
            }
            return Ok(());
        }
        // A block of another member is lost as well: the rest is worth having.
        if error.kind() == ErrorKind::Io && self.lose(id, slot, &range).await? {
            let lost = format!(
                "the block at byte {} of slot {slot} is lost: it could not be rebuilt ({})",
                range.start,
                error.sentence()
            );
            self.shared.state().note(lost);
            return Ok(());
        }
        let name = &self.shared.name;
        Err(error.in_context(format!(
            "the rebuild of slot {slot} of array {name} stopped at byte {} of its members",
            range.start
        )))
    }

    /// Marks a block of `slot` that cannot be made as lost, with those that it would be made from and that cannot be
    /// read. Whether the logs had room.
    async fn lose(&self, id: MemberId, slot: u32, range: &Range<u64>) -> Result<bool> {
        let geometry = &self.shared.geometry;
        let route = self.route();
        let len = range.end - range.start;
        let sources: SmallVec<[(u32, u64); 8]> = match geometry.shape() {
            Shape::Copies(copies) => copies
                .origin(slot, range.start)
                .map(|origin| copies_at(geometry, &route, origin))
                .into_iter()
                .flatten()
                .map(|copy| (copy.slot, copy.offset))
                .collect(),
            _ => (0..geometry.members())
                .map(|source| (source, range.start))
                .collect(),
        };
        let others = sources
            .iter()
            .copied()
            .filter(|(source, _)| *source != slot);
        let reads = self.read_places(&route, others, len).await;
        let mut lost = vec![(id, range.clone())];
        for (source, failed, _) in reads.failed {
            let place = sources.iter().find(|(other, _)| *other == source);
            if let (Some(failed), Some((_, offset))) = (failed, place) {
                lost.push((failed, *offset..offset + len));
            }
        }
        for (_, buffer) in reads.buffers {
            self.pool.put(buffer);
        }
        self.mark_lost(&lost).await
    }

    async fn recover_write(
        &self,
        rebuild: &Rebuild,
        range: Range<u64>,
        made: Buffer,
    ) -> Result<()> {
        let (id, slot) = (rebuild.id, rebuild.slot);
        let route = self.route();
        let holder = route.legs[slot as usize].as_ref();
        let twin = holder.and_then(|leg| Some(&leg.twin.as_ref()?.leg));
        let leg = [holder, twin]
            .into_iter()
            .flatten()
            .find(|leg| leg.id == id);
        let Some(leg) = leg else {
            let why = format!("the member that was rebuilt into slot {slot} is gone");
            return Err(Error::new(ErrorKind::Offline, why));
        };
        let completion = leg.submit(Request::write(range.start, made.into())).await;
        self.pool.put_vector(completion.buffer);
        if let Err(error) = completion.result {
            let why = error.sentence();
            self.fail_members(vec![(id, error)]).await?;
            let why = format!("the member that was rebuilt into slot {slot} failed: {why}");
            return Err(Error::new(ErrorKind::Offline, why));
        }
        if leg.is_bad(&range) {
            self.clear_lost(&[id], &range).await?;
        }
        Ok(())
    }

    /// Copies what `slot` holds in a range of member space from wherever else it is, chunk by chunk, each held alone.
    async fn recover_copies(&self, rebuild: &Rebuild, range: Range<u64>) -> Result<()> {
        let Shape::Copies(copies) = self.shared.geometry.shape() else {
            return Ok(());
        };
        for piece in pieces(&self.shared.geometry, &range, u64::MAX) {
            // Ends of members hold no copy of anything.
            let Some(origin) = copies.origin(rebuild.slot, piece.start) else {
                continue;
            };
            let held = origin..origin + (piece.end - piece.start);
            let _guard = self.shared.locks.exclusive(held.clone()).await;
            let missed = || {
                let state = self.shared.state();
                let next = state.intent.next_missed(held.start);
                next.is_some_and(|chunk| chunk.start < held.end)
            };
            if !rebuild.by_bitmap || missed() {
                self.recover_window(rebuild, piece).await?;
            }
        }
        Ok(())
    }

    /// What `slot` holds in a range of member space, from its `own` member or whichever other copies there are. The range
    /// is held.
    async fn copy_buffer(&self, slot: u32, own: bool, offset: u64, len: u64) -> Result<Buffer> {
        let origin = match self.shared.geometry.shape() {
            Shape::Copies(copies) => copies.origin(slot, offset),
            _ => Some(offset),
        };
        let route = self.route();
        let copies = origin.map(|origin| copies_at(&self.shared.geometry, &route, origin));
        let mut copies = copies.unwrap_or_default();
        copies.retain(|copy| own || copy.slot != slot);
        copies.sort_by_key(|copy| copy.slot != slot);
        let mut last = Error::new(ErrorKind::Offline, "no copy is left to copy from");
        for copy in copies {
            let place = [(copy.slot, copy.offset)].into_iter();
            let reads = self.read_places(&route, place, len).await;
            if let Some((_, buffer)) = reads.buffers.into_iter().next() {
                return Ok(buffer);
            }
            for (_, id, error) in reads.failed {
                match id {
                    Some(id) if error.kind() == ErrorKind::Offline => {
                        self.fail_members(vec![(id, error)]).await?;
                    }
                    Some(_) => last = error,
                    None => {}
                }
            }
        }
        let block = u64::from(self.shared.block as u32);
        if len <= block {
            return Err(last);
        }
        let mut made = self.pool.take(len as usize);
        let half = (len / 2).next_multiple_of(block);
        for (at, len) in [(0, half), (half, len - half)] {
            let part = Box::pin(self.copy_buffer(slot, own, offset + at, len)).await?;
            made[at as usize..(at + len) as usize].copy_from_slice(&part);
            self.pool.put(part);
        }
        Ok(made)
    }

    /// Records how far the rebuild is, once that is durable.
    pub(crate) async fn checkpoint(&self) -> Result<()> {
        let Some(Rebuild { id, done, .. }) = self.shared.state().rebuilding() else {
            return Ok(());
        };
        let reached = done_bytes(&done);
        let is_news = |lane: &Self| {
            let mut state = lane.shared.state();
            let member = state.member_mut(id);
            let recorded = member.and_then(|member| member.duty.recorded().copied());
            recorded.is_some_and(|recorded| recorded < reached)
        };
        if !is_news(self) {
            return Ok(());
        }
        if let Err(error) = self.queue(id).submit(Request::flush()).await.result {
            return self.fail_members(vec![(id, error)]).await;
        }
        let mut meta = self.shared.core.meta.lock().await;
        let dirt = {
            let mut state = self.shared.state();
            if let Some(recorded) = state
                .member_mut(id)
                .and_then(|member| member.duty.recorded())
            {
                *recorded = reached;
            }
            state.dirt
        };
        self.write_superblocks(&mut meta, dirt, Step::One).await
    }

    /// The member's data is all there: it becomes a full member once that is durable.
    async fn finish(&self, rebuild: &Rebuild) -> Result<()> {
        let (id, slot) = (rebuild.id, rebuild.slot);
        if rebuild.replaces {
            // Its own superblock says so first: from then on it can stand alone.
            self.checkpoint().await?;
        } else if let Err(error) = self.queue(id).submit(Request::flush()).await.result {
            return self.fail_members(vec![(id, error)]).await;
        }
        // From one superblock to the next, either of the two may be the one that counts after a crash: nothing is
        // written that only the new one has.
        let _quiet = match rebuild.replaces {
            true => Some(self.shared.locks.exclusive(0..u64::MAX).await),
            false => None,
        };
        let mut meta = self.shared.core.meta.lock().await;
        let dirt = {
            let mut state = self.shared.state();
            let size = self.shared.geometry.member_size();
            let member = state.member_mut(id);
            let is_whole = member.is_some_and(|member| match &member.duty {
                Duty::Rebuilding { .. } => !rebuild.replaces,
                Duty::Replacing { recorded, .. } => *recorded >= size,
                _ => false,
            });
            if !is_whole {
                return Ok(());
            }
            let replaced = state.holder(slot).map(|member| member.id);
            if let Some(old) = replaced
                .filter(|old| *old != id)
                .and_then(|old| state.member_mut(old))
            {
                let why = "it was replaced".to_owned();
                let slot = Some(slot);
                old.duty = Duty::Faulty { slot, why };
            }
            if let Some(member) = state.member_mut(id) {
                member.duty = Duty::InSync(slot);
            }
            state.dirt
        };
        self.shared.changed();
        let step = if rebuild.replaces {
            Step::Two
        } else {
            Step::One
        };
        self.write_superblocks(&mut meta, dirt, step).await?;
        let mut state = self.shared.state();
        if state.is_whole(&self.shared.geometry) {
            state.intent.nothing_missed();
        }
        Ok(())
    }

    /// Gives a spare the slot of a member that is there: it is copied, and takes the slot when it is whole.
    ///
    /// # Errors
    /// As its writes.
    pub(crate) async fn replace(&self, meta: &mut Meta, slot: u32, id: MemberId) -> Result<()> {
        // Before it has the slot, so that nothing is written there yet.
        self.write_log_to(id).await?;
        self.write_bitmap_to(meta, id).await?;
        let dirt = {
            let mut state = self.shared.state();
            if let Some(member) = state.member_mut(id) {
                member.duty = Duty::Replacing {
                    slot,
                    done: Arc::new(AtomicU64::new(0)),
                    recorded: 0,
                };
            }
            state.dirt
        };
        self.shared.changed();
        self.write_superblocks(meta, dirt, Step::One).await
    }
}
