//! The log's space: written from its head on, and free again behind a new beginning.

use std::rc::Rc;

use smallvec::SmallVec;
use weft_block::{Error, ErrorKind, IoVec, Request, Result};

use super::batch::Metas;
use super::ring::Place;
use super::{Device, Journal, Lane};
use crate::array::InFlight;
use crate::array::meta::settle;
use crate::array::state::Run;
use crate::array::{Shared, Step};
use crate::journal::BLOCK_BYTES;

/// Whoever sees to it that the log begins anew. Dropped, the next may.
struct Reclaiming<'a> {
    shared: &'a Shared,
    /// The batch that the log is to begin with.
    number: u64,
    /// Nothing leads there from what lies before.
    anew: bool,
}

impl Drop for Reclaiming<'_> {
    fn drop(&mut self) {
        let Some(journal) = &self.shared.journal else {
            return;
        };
        let mut state = journal.state();
        state.reclaiming = false;
        let wakers = std::mem::take(&mut state.wakers);
        drop(state);
        wakers.into_iter().for_each(std::task::Waker::wake);
    }
}

impl Lane {
    /// Writes blocks of the log durably. A journal that does not take them is failed, and what it alone had made durable
    /// is made durable on the members.
    pub(super) async fn write_log_blocks(
        &self,
        device: Device,
        at: Place,
        ring: u64,
        blocks: IoVec,
    ) -> Result<()> {
        let place = |block: u64| device.base + block * BLOCK_BYTES as u64;
        let to_the_end = ((ring - at.block) as usize * BLOCK_BYTES).min(blocks.len());
        let queue = self.queue(device.id);
        let mut sent: SmallVec<[_; 2]> = SmallVec::new();
        let first = blocks.slice(0, to_the_end);
        sent.push(queue.submit(Request::write_fua(place(at.block), first)));
        if to_the_end < blocks.len() {
            let rest = blocks.slice(to_the_end, blocks.len() - to_the_end);
            sent.push(queue.submit(Request::write_fua(place(0), rest)));
        }
        drop(blocks);
        let sent = sent.into_iter().map(|sent| (device.id, sent)).collect();
        let failed = settle(sent).await;
        let Some((_, error)) = failed.first() else {
            return Ok(());
        };
        let why = format!("array {}: its journal has failed", self.shared.name);
        let told = Error::new(error.kind(), error.sentence()).in_context(why);
        self.fail_members(failed).await?;
        let failed = self.flush_members().await;
        self.fail_members(failed).await?;
        Err(told)
    }

    /// Waits until the log has room for `blocks` more, and goes on from what is there. The caller holds the writer's
    /// place.
    pub(super) async fn make_room(&self, journal: &Journal, blocks: u64) -> Result<()> {
        loop {
            let (ready, reclaiming) = {
                let state = journal.state();
                let ready = state.ring.has_room(blocks) && !state.ring.broken;
                (ready, state.reclaiming)
            };
            if ready {
                return Ok(());
            }
            if reclaiming {
                self.wait_for(journal, |state| !state.reclaiming).await;
            } else {
                let beginning = self.write_beginning(journal).await?;
                self.move_tail(journal, beginning).await?;
            }
        }
    }

    /// Writes a beginning at the head of the log. The caller holds the writer's place, and nobody else is at it.
    async fn write_beginning(&self, journal: &Journal) -> Result<Reclaiming<'_>> {
        let device = self.journal_device()?;
        let (anew, number, at, blocks) = {
            let mut state = journal.state();
            state.reclaiming = true;
            // Until it is known that the beginning is there.
            let anew = std::mem::replace(&mut state.ring.broken, true);
            let (number, at) = state.ring.begin(anew);
            (anew, number, at, state.ring.blocks())
        };
        let reclaiming = Reclaiming {
            shared: &self.shared,
            number,
            anew,
        };
        let written = Metas::beginning().place(at, blocks, journal.seed);
        self.write_log_blocks(device, at, blocks, written).await?;
        journal.state().ring.broken = anew;
        Ok(reclaiming)
    }

    /// Makes the log begin with a beginning: waits until what is logged before it is on the members, flushes them and
    /// writes the superblocks.
    async fn move_tail(&self, journal: &Journal, beginning: Reclaiming<'_>) -> Result<()> {
        let number = beginning.number;
        self.wait_for(journal, |state| state.ring.is_done_before(number))
            .await;
        let failed = self.flush_members().await;
        self.fail_members(failed).await?;
        let mut meta = self.shared.core.meta.lock().await;
        let tail = journal.state().ring.place_of(number);
        let dirt = {
            let mut state = self.shared.state();
            if matches!(state.run, Run::Failed(_)) {
                let refusal = state.refusal(&self.shared.name);
                return Err(refusal.unwrap_or_else(|| Error::new(ErrorKind::Offline, "it failed")));
            }
            let id = state.journal().map(|member| member.id);
            if let (Some(member), Some(tail)) = (id.and_then(|id| state.member_mut(id)), tail) {
                member.superblock.recovery_offset = tail.sector();
            }
            state.dirt
        };
        self.write_superblocks(&mut meta, dirt, Step::One).await?;
        drop(meta);
        self.journal_device()?;
        let mut state = journal.state();
        state.ring.retire(number);
        if beginning.anew {
            state.ring.broken = false;
        }
        drop(state);
        Ok(())
    }

    /// Makes the log begin anew, if it is time for that, beside whatever else is done.
    pub(crate) fn reclaim_beside(self: &Rc<Self>) {
        let due = |journal: &Journal| journal.is_due();
        if !self.shared.journal.as_ref().is_some_and(due) {
            return;
        }
        let lane = Rc::clone(self);
        let in_flight = InFlight::new(&self.shared.core);
        self.spawner.spawn(Box::pin(async move {
            // Whoever needs the space finds out by himself why there is none.
            let _ = lane.reclaim(Journal::is_due).await;
            drop(in_flight);
        }));
    }

    /// Empties the log: everything that was logged is on the members, durably, and the log says so.
    pub(crate) async fn empty_journal(&self) -> Result<()> {
        let is_used = |journal: &Journal| {
            let state = journal.state();
            !state.ring.is_empty() && !state.reclaiming
        };
        match self.is_journaled() {
            true => self.reclaim(is_used).await,
            false => Ok(()),
        }
    }

    /// Lets the log begin anew behind all that it has.
    pub(crate) async fn begin_journal_anew(&self) -> Result<()> {
        self.reclaim(|_| true).await
    }

    async fn reclaim(&self, is_wanted: impl Fn(&Journal) -> bool) -> Result<()> {
        let Some(journal) = &self.shared.journal else {
            return Ok(());
        };
        let writer = journal.writer.lock().await;
        if !is_wanted(journal) {
            return Ok(());
        }
        let beginning = self.write_beginning(journal).await?;
        drop(writer);
        self.move_tail(journal, beginning).await
    }
}
