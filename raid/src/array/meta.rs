//! What is written about the array on its members: superblocks and the bitmap.
//!
//! One task at a time holds [`Meta`]. The rules, each of which a power cut at any instant must respect:
//!
//! - Before the first write to the array the superblocks say that writes may be under way, and before a write to a
//!   chunk its bit is on every member. Both are durable before the data is sent.
//! - The superblocks say that all is at rest, and bits are cleared, only after what was written has been flushed.
//! - A member is out of the others' superblocks, durably, before any write that it missed is acknowledged. The events
//!   are counted on twice then: one step apart a member still passes for current, for the power may go while only some
//!   of the superblocks of one update are written.
//! - The bitmap's events are never behind the superblocks'.
//! - A superblock is written twice, first as a copy in the unused space before the data, so that a cut that tears it
//!   leaves one that can be read. Linux does not look at the copy.
//!
//! md lets the events go back by one when an array changes from dirty to clean, to let spares sleep; here they only
//! grow, which every kernel accepts.

use std::rc::Rc;
use std::sync::atomic::Ordering;

use weft_block::{Error, IoVec, LocalBoxFuture, Request, Result, SECTOR};

use super::Shared;
use super::journal::Journal;
use super::lane::Lane;
use super::ppl::Log;
use super::state::{Dirt, Duty, Member, MemberId, State};
use crate::bitmap::{BitmapImage, HEAD_BYTES};
use crate::level::Level;
use crate::superblock::{CLEAN, Features, Role, SUPER_BYTE, Superblock};

/// What is on disk about the array, held by whoever writes it.
pub(crate) struct Meta {
    pub(crate) events: u64,
    pub(crate) bitmap: Option<BitmapImage>,
}

/// A block for a byte of a member's device.
type Placed = (MemberId, u64, IoVec);

/// How far the events are counted on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// A change of state that a member may miss without harm.
    One,
    /// Members came or went: who missed this is not current any more.
    Two,
}

/// What a pause has to do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Due {
    /// Bits have aged.
    clearable: bool,
    /// Nothing was written since the last pause, and the superblocks do not say so.
    idle: bool,
    /// A member is being rebuilt.
    rebuilding: bool,
    /// The partial parity log or the journal names what has long been done.
    log: bool,
}

impl Due {
    /// Lets time pass.
    pub(crate) fn now(shared: &Shared) -> Self {
        let log = shared.log.as_ref().is_some_and(Log::tick)
            || shared.journal.as_ref().is_some_and(Journal::tick);
        let state = &mut *shared.state();
        let idle = !std::mem::take(&mut state.written) && state.writing == 0;
        Self {
            clearable: state.intent.tick(),
            idle: idle && (state.dirt == Dirt::Dirty || state.unsettled),
            rebuilding: state.rebuilding().is_some(),
            log,
        }
    }

    /// Whether nothing is to be done.
    pub(crate) fn is_nothing(self) -> bool {
        !(self.clearable || self.idle || self.rebuilding || self.log)
    }
}

impl Lane {
    /// Waits until a write to `range` of member space may be sent: the array is dirty on disk and the bits are set.
    pub(crate) async fn record(&self, range: &std::ops::Range<u64>) -> Result<()> {
        let mut meta = self.shared.core.meta.lock().await;
        let (dirty, recorded) = {
            let state = self.shared.state();
            if let Some(refusal) = state.refusal(&self.shared.name) {
                return Err(refusal);
            }
            (state.dirt == Dirt::Dirty, state.intent.is_recorded(range))
        };
        if !dirty {
            self.write_superblocks(&mut meta, Dirt::Dirty, Step::One)
                .await?;
            self.shared.state().dirt = Dirt::Dirty;
        }
        if !recorded {
            self.set_pending_bits(&mut meta).await?;
        }
        Ok(())
    }

    async fn set_pending_bits(&self, meta: &mut Meta) -> Result<()> {
        let pending = self.shared.state().intent.take_pending();
        let result = self.write_bits(meta, &pending, true).await;
        self.shared
            .state()
            .intent
            .recorded(&pending, result.is_ok());
        result
    }

    /// Sets or clears bits in the image and writes the blocks they lie in to every member, durably.
    async fn write_bits(&self, meta: &mut Meta, bits: &[u64], set: bool) -> Result<()> {
        let Some(image) = &mut meta.bitmap else {
            return Ok(());
        };
        let mut spans: Vec<std::ops::Range<usize>> = Vec::new();
        for &bit in bits {
            image.put(bit, set);
            let span = image.span(bit..bit + 1, self.shared.block);
            match spans.last_mut() {
                Some(last) if span.start <= last.end => last.end = last.end.max(span.end),
                _ => spans.push(span),
            }
        }
        let failed = self.write_image(image, &spans).await;
        self.drop_members(meta, failed).await
    }

    /// Writes parts of the bitmap to every member with a slot; returns those that failed.
    async fn write_image(
        &self,
        image: &BitmapImage,
        spans: &[std::ops::Range<usize>],
    ) -> Vec<(MemberId, Error)> {
        let places: Vec<(MemberId, u64)> = {
            let state = self.shared.state();
            let slotted = state
                .members
                .iter()
                .filter(|member| member.duty.slot().is_some());
            slotted
                .filter_map(|member| {
                    let sector = member.superblock.bitmap_sector()?;
                    Some((member.id, sector * SECTOR))
                })
                .collect()
        };
        let mut writes = Vec::new();
        for span in spans {
            let bytes = IoVec::copy_of(&image.bytes()[span.clone()]);
            for &(id, place) in &places {
                let write = Request::write_fua(place + span.start as u64, bytes.clone());
                writes.push((id, self.queue(id).submit(write)));
            }
        }
        settle(writes).await
    }

    /// Counts the events on and writes every superblock, and the bitmap's head before. Members that fail to take
    /// theirs are failed, and the rest is told.
    ///
    /// # Errors
    /// If a member fails without which the data would be lost.
    pub(crate) async fn write_superblocks(
        &self,
        meta: &mut Meta,
        dirt: Dirt,
        step: Step,
    ) -> Result<()> {
        let mut passes = if step == Step::Two { 2 } else { 1 };
        while passes > 0 {
            passes -= 1;
            let failed = self.write_pass(meta, dirt).await;
            if !failed.is_empty() {
                self.take_out(failed)?;
                passes = 2;
            }
        }
        self.shared.core.unrecorded.store(false, Ordering::Release);
        Ok(())
    }

    /// Writes the whole bitmap to a member that gets a slot.
    pub(crate) async fn write_bitmap_to(&self, meta: &Meta, id: MemberId) -> Result<()> {
        let sector = {
            let state = self.shared.state();
            state
                .member(id)
                .and_then(|member| member.superblock.bitmap_sector())
        };
        let (Some(image), Some(sector)) = (&meta.bitmap, sector) else {
            return Ok(());
        };
        let write = Request::write_fua(sector * SECTOR, IoVec::copy_of(image.bytes()));
        self.queue(id).submit(write).await.result
    }

    /// Writes the whole bitmap to every member with a slot; returns those that failed.
    pub(crate) async fn write_bitmap_to_all(&self, meta: &Meta) -> Vec<(MemberId, Error)> {
        let Some(image) = &meta.bitmap else {
            return Vec::new();
        };
        let whole = 0..image.bytes().len();
        self.write_image(image, std::slice::from_ref(&whole)).await
    }

    async fn write_head(&self, meta: &mut Meta, events: u64) -> Vec<(MemberId, Error)> {
        let Some(image) = &mut meta.bitmap else {
            return Vec::new();
        };
        let whole = self.shared.state().is_whole(&self.shared.geometry);
        image.change_head(|head| {
            head.events = events;
            // As long as a member is away, its bits since then are kept, and with them this number.
            if whole {
                head.events_cleared = events;
            }
        });
        let head = 0..HEAD_BYTES
            .next_multiple_of(self.shared.block)
            .min(image.bytes().len());
        self.write_image(image, std::slice::from_ref(&head)).await
    }

    /// Writes everything once with the next count of events, which is taken up when the first superblock may have it:
    /// a pass that ends before that leaves no member behind by more than the one step that the next pass makes.
    async fn write_pass(&self, meta: &mut Meta, dirt: Dirt) -> Vec<(MemberId, Error)> {
        let events = meta.events + 1;
        let failed = self.write_head(meta, events).await;
        if !failed.is_empty() {
            return failed;
        }
        let (copies, originals) = self.compose_all(events, dirt);
        let failed = self.write_fua(copies).await;
        if !failed.is_empty() {
            return failed;
        }
        meta.events = events;
        self.write_fua(originals).await
    }

    /// The superblocks as they are to be written: where their copies go, and where they go.
    fn compose_all(&self, events: u64, dirt: Dirt) -> (Vec<Placed>, Vec<Placed>) {
        let state = &mut *self.shared.state();
        let roles = roles(state);
        state.roles.clone_from(&roles);
        let resync = resync_offset(&self.shared, state, dirt);
        let (mut copies, mut originals) = (Vec::new(), Vec::new());
        for member in state.members.iter().filter(|member| member.duty.is_live()) {
            let mut superblock = compose(member, &roles, events, resync, state.now);
            if let Some(change) = &state.reshaping {
                superblock.reshape.position = change.position / SECTOR;
            }
            let bytes = IoVec::copy_of(&superblock.to_bytes(self.shared.block));
            if let Some(sector) = self.shared.copy_sector(&superblock) {
                copies.push((member.id, sector * SECTOR, bytes.clone()));
            }
            originals.push((member.id, SUPER_BYTE, bytes));
        }
        (copies, originals)
    }

    async fn write_fua(&self, writes: Vec<Placed>) -> Vec<(MemberId, Error)> {
        let sent = writes.into_iter().map(|(id, at, bytes)| {
            let write = Request::write_fua(at, bytes);
            (id, self.queue(id).submit(write))
        });
        settle(sent.collect()).await
    }

    /// Fails members in memory.
    pub(crate) fn take_out(&self, failed: Vec<(MemberId, Error)>) -> Result<()> {
        let shared = &self.shared;
        for (id, error) in failed {
            let needed = {
                let mut state = shared.state();
                let needed = state.is_needed(&shared.geometry, id);
                if state.fail(&shared.geometry, &shared.name, id, &error.sentence()) {
                    // It may lose what it has not flushed: every bit that is set now is kept for it.
                    state.intent.missed_recorded();
                    shared.core.unrecorded.store(true, Ordering::Release);
                }
                needed
            };
            shared.changed();
            if needed {
                let why = format!(
                    "the last good members of array {} cannot be written",
                    shared.name
                );
                return Err(error.in_context(why));
            }
        }
        Ok(())
    }

    pub(crate) async fn drop_members(
        &self,
        meta: &mut Meta,
        failed: Vec<(MemberId, Error)>,
    ) -> Result<()> {
        if failed.is_empty() {
            return Ok(());
        }
        self.take_out(failed)?;
        let dirt = self.shared.state().dirt;
        self.write_superblocks(meta, dirt, Step::Two).await
    }

    /// Fails members that did not take a write or are gone, and tells the others before it returns.
    ///
    /// # Errors
    /// If the data is lost without one of them: nothing is acknowledged then.
    pub(crate) async fn fail_members(&self, failed: Vec<(MemberId, Error)>) -> Result<()> {
        if failed.is_empty() && !self.shared.core.unrecorded.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut meta = self.shared.core.meta.lock().await;
        let news = {
            let state = self.shared.state();
            let live = |id: MemberId| state.member(id).is_some_and(|member| member.duty.is_live());
            failed
                .into_iter()
                .filter(|(id, _)| live(*id))
                .collect::<Vec<_>>()
        };
        // Who failed them before may not have got to tell the others.
        if news.is_empty() && !self.shared.core.unrecorded.load(Ordering::Acquire) {
            return Ok(());
        }
        self.take_out(news)?;
        let dirt = self.shared.state().dirt;
        self.write_superblocks(&mut meta, dirt, Step::Two).await
    }

    /// Flushes every member that holds data; fails those that cannot.
    pub(crate) async fn flush_members(&self) -> Vec<(MemberId, Error)> {
        let ids: Vec<MemberId> = {
            let state = self.shared.state();
            let slotted = state
                .members
                .iter()
                .filter(|member| member.duty.slot().is_some());
            slotted.map(|member| member.id).collect()
        };
        let flushes = ids
            .into_iter()
            .map(|id| (id, self.queue(id).submit(Request::flush())));
        settle(flushes.collect()).await
    }

    /// Clears the bits of chunks at rest: flushes first, so that what they stood for is on every member.
    async fn clear_bits(&self, meta: &mut Meta, all: bool) -> Result<()> {
        let bits = {
            let mut state = self.shared.state();
            // While a member is away, the bits say what it has missed.
            match state.is_whole(&self.shared.geometry) {
                true => state.intent.take_clearable(all),
                false => Vec::new(),
            }
        };
        if bits.is_empty() {
            return Ok(());
        }
        let failed = self.flush_members().await;
        let mut result = if failed.is_empty() {
            self.write_bits(meta, &bits, false).await
        } else {
            self.drop_members(meta, failed).await
        };
        // A member may have gone while the bits were on their way: it may have missed what they stood for.
        if result.is_ok() && !self.shared.state().is_whole(&self.shared.geometry) {
            result = self.write_bits(meta, &bits, true).await;
            let mut state = self.shared.state();
            state.intent.not_cleared(&bits);
            state.intent.missed_recorded();
            return result;
        }
        if result.is_err() {
            self.shared.state().intent.not_cleared(&bits);
        }
        result
    }

    /// The first thing a started array writes: every copy of the bitmap the same, and superblocks that say who takes
    /// part. Whoever does not is not current any more.
    pub(crate) async fn publish_start(&self, bitmap: bool, torn_logs: &[MemberId]) -> Result<()> {
        let mut meta = self.shared.core.meta.lock().await;
        self.write_logs(&mut meta, torn_logs).await?;
        if bitmap {
            // Its events may be those of a bitmap that was read: never ahead of what is written next.
            let failed = self.write_bitmap_to_all(&meta).await;
            self.drop_members(&mut meta, failed).await?;
        }
        self.write_superblocks(&mut meta, Dirt::Clean, Step::Two)
            .await
    }

    /// A pause: clears bits that have aged, and marks the array clean if nothing was written since the last tick.
    pub(crate) async fn rest(self: &Rc<Self>, due: Due) -> Result<()> {
        let Due {
            clearable, idle, ..
        } = due;
        if due.rebuilding {
            self.checkpoint().await?;
        }
        if due.log {
            self.empty_journal().await?;
            self.empty_log().await?;
        }
        if !clearable && !idle {
            return Ok(());
        }
        let mut meta = self.shared.core.meta.lock().await;
        if self.shared.state().refusal(&self.shared.name).is_some() {
            return Ok(());
        }
        if clearable {
            self.clear_bits(&mut meta, false).await?;
        }
        let idle = {
            let mut state = self.shared.state();
            let idle = idle && state.writing == 0 && !state.written;
            if idle {
                // From here on a write waits for `meta` and makes the array dirty again.
                state.dirt = Dirt::Clean;
                state.unsettled = false;
            }
            idle
        };
        if idle {
            self.come_to_rest(&mut meta).await?;
        }
        Ok(())
    }

    /// Flushes and writes clean superblocks. Nothing may be in flight.
    pub(crate) async fn come_to_rest(&self, meta: &mut Meta) -> Result<()> {
        let failed = self.flush_members().await;
        if !failed.is_empty() {
            self.shared.state().dirt = Dirt::Dirty;
            return self.drop_members(meta, failed).await;
        }
        self.write_superblocks(meta, Dirt::Clean, Step::One).await
    }

    /// The end: clears every bit that can be, and marks the array clean.
    pub(crate) async fn lay_down(&self) -> Result<()> {
        if self.shared.geometry.level() == Level::Raid0 {
            return Ok(());
        }
        let mut meta = self.shared.core.meta.lock().await;
        self.clear_bits(&mut meta, true).await?;
        self.shared.state().dirt = Dirt::Clean;
        self.come_to_rest(&mut meta).await
    }
}

/// Waits for requests that are under way; returns those that failed.
pub(crate) async fn settle(
    sent: Vec<(MemberId, LocalBoxFuture<'static, weft_block::Completion>)>,
) -> Vec<(MemberId, Error)> {
    let mut failed = Vec::new();
    for (id, completion) in sent {
        if let Err(error) = completion.await.result {
            failed.push((id, error));
        }
    }
    failed
}

/// The role of every device number: what members here do, and of those not here only that they were failed.
fn roles(state: &State) -> Vec<Role> {
    let mut roles: Vec<Role> = state
        .roles
        .iter()
        .map(|role| match role {
            Role::Active(_) => Role::Spare,
            other => *other,
        })
        .collect();
    for member in &state.members {
        let number = member.superblock.dev_number as usize;
        if let Some(role) = roles.get_mut(number) {
            *role = match &member.duty {
                Duty::InSync(slot)
                | Duty::Rebuilding { slot, .. }
                | Duty::Replacing { slot, .. } => Role::Active(*slot as u16),
                Duty::Spare => Role::Spare,
                Duty::Journal => Role::Journal,
                Duty::Faulty { .. } => Role::Faulty,
            };
        }
    }
    roles
}

/// Sectors known to be in sync, as md says it: nothing while writes may be under way, unless the journal has them.
fn resync_offset(shared: &Shared, state: &State, dirt: Dirt) -> u64 {
    let journaled = shared.journal.is_some() && state.journal().is_some();
    match (shared.geometry.level(), dirt) {
        (Level::Raid0, _) => CLEAN,
        (_, Dirt::Dirty) if !journaled => 0,
        (_, _) => match state.intent.next_resync(0) {
            Some(range) => range.start / SECTOR,
            None => CLEAN,
        },
    }
}

/// The superblock of a member as it is to be written.
fn compose(
    member: &Member,
    roles: &[Role],
    events: u64,
    resync_offset: u64,
    now: crate::superblock::Timestamp,
) -> Superblock {
    let mut superblock = member.superblock.clone();
    superblock.roles = roles.to_vec();
    superblock.events = events;
    superblock.resync_offset = resync_offset;
    superblock.utime = now;
    let own = Features::RECOVERY_OFFSET
        .with(Features::RECOVERY_BITMAP)
        .with(Features::REPLACEMENT);
    superblock.features = superblock.features.without(own);
    superblock.features = match member.bad.is_empty() {
        true => superblock.features.without(Features::BAD_BLOCKS),
        false => superblock.features.with(Features::BAD_BLOCKS),
    };
    superblock.recovery_offset = 0;
    match &member.duty {
        Duty::Journal => superblock.recovery_offset = member.superblock.recovery_offset,
        Duty::Rebuilding {
            recorded,
            by_bitmap,
            ..
        } => {
            superblock.features = superblock.features.with(Features::RECOVERY_OFFSET);
            superblock.recovery_offset = recorded / SECTOR;
            if *by_bitmap && superblock.features.has(Features::BITMAP) {
                superblock.features = superblock.features.with(Features::RECOVERY_BITMAP);
            }
        }
        Duty::Replacing { recorded, .. } => {
            let own = Features::RECOVERY_OFFSET.with(Features::REPLACEMENT);
            superblock.features = superblock.features.with(own);
            superblock.recovery_offset = recorded / SECTOR;
        }
        _ => {}
    }
    superblock
}
