//! The partial parity log of a running array: before a change of a row is sent, the member that holds the row's parity
//! has what its parity can be made of again.
//!
//! Changes are named in batches, with one header on each member that a batch concerns; changes that come meanwhile wait
//! for the next, and the first of them leads it: it writes the headers for all. The rules:
//!
//! - A header replaces the one before, so it is written only when all that that one names is done and durable. Where
//!   members have volatile caches that takes a flush of all of them, and so the next batch waits for all changes. Where
//!   they have none, each log has batches of its own, and goes on as soon as its own are done.
//! - A header is followed by a block of zeroes or the end of the log: md reads on behind a header for a newer one, and
//!   what a guest wrote must not pass for one.
//! - While a resync is to be done parity proves nothing, and the log is off: its headers are zeroes, and a crash resyncs
//!   all. It comes on again while nothing is written.
//! - A header that names only what has long been done is emptied at a pause. Parity is made from the data of an old entry
//!   as it lies on disk then, and that may have gone bad since.

mod replay;
mod turns;

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures_channel::oneshot;
use smallvec::SmallVec;
pub(crate) use turns::Change;
use turns::{Leading, LogState, Turn, Waiting, hand_over, slots_of};
use weft_block::{Buffer, Error, ErrorKind, IoVec, Request, Result, SECTOR, yield_now};

use super::Lane;
use super::meta::settle;
use super::state::MemberId;
use crate::ppl::{APART, Entry, HEADER_BYTES, Header, MOST_ENTRIES, signature};
use crate::superblock::{PplPlace, Superblock};

/// The log of an array.
pub(crate) struct Log {
    signature: u32,
    /// Bytes of partial parity that one header may have, on each member.
    room: u64,
    /// Members have volatile caches: a header is written when nothing is under way.
    together: bool,
    state: Mutex<LogState>,
    /// Only for the test that shows what the log is good for: nothing is logged, and nobody knows.
    #[cfg(test)]
    skip: std::sync::atomic::AtomicBool,
}

/// A change of one row, to be logged.
pub(crate) struct Logged {
    pub(crate) entry: Entry,
    pub(crate) partial: Option<Buffer>,
}

/// The changes of one unit.
type Changes = SmallVec<[Logged; 1]>;

/// What came of a leader's own changes.
enum Led {
    /// They are named; none if nothing is logged any more.
    Named(Option<Change>),
    /// Somebody else turns the log off: they wait until that is done.
    Held(Changes),
}

impl Log {
    /// The log of an array with these superblocks, which is off; none if they have no log.
    pub(crate) fn of<'a>(
        array: &Superblock,
        members: impl Iterator<Item = &'a Superblock>,
        volatile_cache: bool,
    ) -> Option<Self> {
        let places = members.filter_map(Superblock::ppl);
        let least = places.map(|place| place.sectors * SECTOR).min();
        let room = least.filter(|_| array.features.has_ppl())?;
        Some(Self {
            signature: signature(&array.set_uuid),
            // A block behind it is kept for the zeroes, if there is one to spare.
            room: match room.saturating_sub(2 * HEADER_BYTES as u64) {
                0 => room - HEADER_BYTES as u64,
                room => room,
            },
            together: volatile_cache,
            state: Mutex::new(LogState::new(array.raid_disks as usize, volatile_cache)),
            #[cfg(test)]
            skip: Default::default(),
        })
    }

    fn state(&self) -> MutexGuard<'_, LogState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether changes are logged.
    pub(crate) fn is_on(&self) -> bool {
        self.state().on
    }

    /// Bytes of partial parity that one change may have.
    pub(crate) fn room(&self) -> u64 {
        self.room
    }

    /// Changes that are done. If they are all that were begun, a flush makes them durable.
    pub(crate) fn settled(&self) -> Option<u64> {
        let state = self.state();
        (!state.is_active()).then_some(state.done)
    }

    /// The first `done` changes are durable.
    pub(crate) fn durable(&self, done: u64) {
        let mut state = self.state();
        state.durable = state.durable.max(done);
    }

    /// Time passes. Whether some header names what has long been done.
    pub(crate) fn tick(&self) -> bool {
        let mut state = self.state();
        let mut any = false;
        for age in state.used.iter_mut().flatten() {
            *age = age.saturating_add(1);
            any |= *age > 1;
        }
        any && state.on && !state.is_led() && !state.is_active()
    }

    /// Whoever waits, if changes are logged.
    fn enqueue(&self, changes: Changes) -> Option<oneshot::Receiver<Turn>> {
        let mut state = self.state();
        if !state.on || changes.is_empty() {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        state.waiting.push_back(Waiting { changes, sender });
        Some(receiver)
    }

    /// The next header of each slot that a batch concerns, with the partial parity that belongs behind it.
    fn headers<'a>(
        &self,
        batch: impl Iterator<Item = &'a mut Logged>,
    ) -> BTreeMap<u32, (Header, Vec<Buffer>)> {
        let mut state = self.state();
        state.generation += 1;
        let generation = match self.together {
            true => state.generation,
            false => state.generation | APART,
        };
        let mut headers = BTreeMap::<u32, (Header, Vec<Buffer>)>::new();
        for Logged { entry, partial } in batch {
            let (header, parity) = headers.entry(entry.slot).or_default();
            header.generation = generation;
            header.entries.push(*entry);
            parity.extend(partial.take());
            state.used[entry.slot as usize] = Some(0);
        }
        headers
    }

    /// Of those that may be named now by whoever leads the logs of `slots`, as many as fit beside its `own` changes under
    /// one header on each member.
    fn take_batch(&self, slots: &[u32], own: &Changes) -> Vec<Waiting> {
        let mut state = self.state();
        let mut taken: Vec<(usize, u64)> = vec![(0, 0); state.used.len()];
        let add = |taken: &mut Vec<(usize, u64)>, changes: &Changes| {
            for Logged { entry, .. } in changes {
                let (entries, bytes) = &mut taken[entry.slot as usize];
                (*entries, *bytes) = (*entries + 1, *bytes + u64::from(entry.partial));
            }
        };
        add(&mut taken, own);
        let mut places = Vec::new();
        for place in state.ready(slots) {
            let mut with = taken.clone();
            add(&mut with, &state.waiting[place].changes);
            let fits =
                |&(entries, bytes): &(usize, u64)| entries <= MOST_ENTRIES && bytes <= self.room;
            if !with.iter().all(fits) {
                break;
            }
            taken = with;
            places.push(place);
        }
        let all = std::mem::take(&mut state.waiting).into_iter().enumerate();
        let (batch, left): (Vec<_>, Vec<_>) = all.partition(|(place, _)| places.contains(place));
        state.waiting = left.into_iter().map(|(_, waiting)| waiting).collect();
        batch.into_iter().map(|(_, waiting)| waiting).collect()
    }
}

impl Lane {
    /// Waits until `changes` are in the log. None if nothing is logged: there is no log, or it is off.
    ///
    /// The caller holds the range that is changed and sends nothing of it before this returns.
    pub(crate) async fn log(&self, changes: Changes) -> Result<Option<Change>> {
        let Some(log) = &self.shared.log else {
            return Ok(None);
        };
        #[cfg(test)]
        if log.skip.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let mut changes = changes;
        while let Some(receiver) = log.enqueue(changes) {
            hand_over(&self.shared);
            match receiver.await {
                Ok(Turn::Lead(leading, own)) => match self.lead(log, leading, own).await? {
                    Led::Named(change) => return Ok(change),
                    Led::Held(own) => changes = own,
                },
                Ok(Turn::Go(result)) => return result,
                Err(_) => {
                    let why = "the executor that wrote the partial parity log has ended";
                    return Err(Error::new(ErrorKind::Offline, why));
                }
            }
        }
        Ok(None)
    }

    /// Writes the headers of the next batch and lets it go, with the leader's own changes.
    async fn lead(&self, log: &Log, leading: Leading, mut own: Changes) -> Result<Led> {
        // Others that are ready now come along.
        yield_now().await;
        if log.state().lost || self.shared.core.resyncing.load(Ordering::Acquire) {
            return match self.turn_log_off(log, leading).await? {
                true => Ok(Led::Named(None)),
                false => Ok(Led::Held(own)),
            };
        }
        self.make_durable(log).await?;
        let mut batch = log.take_batch(&leading.slots, &own);
        let others = batch.iter_mut().flat_map(|waiting| &mut waiting.changes);
        let headers = log.headers(own.iter_mut().chain(others));
        let result = self.write_batch(log, headers).await;
        if result.is_ok() {
            let mut state = log.state();
            state.begin(&slots_of(&own));
            let others = batch.iter().map(|waiting| slots_of(&waiting.changes));
            others.for_each(|slots| state.begin(&slots));
        }
        drop(leading);
        for Waiting { changes, sender } in batch {
            let turn = match &result {
                Ok(()) => Ok(Some(Change::of(&self.shared, slots_of(&changes)))),
                Err(error) => Err(Error::new(error.kind(), error.sentence())),
            };
            // If nobody waits there any more, what it would have done counts as given up.
            drop(sender.send(Turn::Go(turn)));
        }
        result?;
        let change = Change::of(&self.shared, slots_of(&own));
        Ok(Led::Named(Some(change)))
    }

    /// Turns the log off, and lets all that wait go without it. False if somebody else is at it.
    async fn turn_log_off(&self, log: &Log, mut leading: Leading) -> Result<bool> {
        if !leading.close(log).await {
            return Ok(false);
        }
        self.write_empty(log, Empty::Off).await?;
        // Nobody begins from here on.
        let waiting = {
            let mut state = log.state();
            state.on = false;
            std::mem::take(&mut state.waiting)
        };
        drop(leading);
        for Waiting { sender, .. } in waiting {
            // Whoever has given up meanwhile needs no answer.
            drop(sender.send(Turn::Go(Ok(None))));
        }
        Ok(true)
    }

    /// Makes all changes that are done durable. No logged change is under way.
    async fn make_durable(&self, log: &Log) -> Result<()> {
        let done = {
            let state = log.state();
            (state.done > state.durable).then_some(state.done)
        };
        if let Some(done) = done.filter(|_| self.shared.info.volatile_cache) {
            let failed = self.flush_members().await;
            self.fail_members(failed).await?;
            log.durable(done);
        }
        Ok(())
    }

    /// The logs of the members that are written to, those in waiting too: slot, member and place.
    fn logs(&self) -> Vec<(Option<u32>, MemberId, PplPlace)> {
        let state = self.shared.state();
        let live = state.members.iter().filter(|member| member.duty.is_live());
        live.filter_map(|member| {
            let place = member.superblock.ppl()?;
            Some((member.duty.slot(), member.id, place))
        })
        .collect()
    }

    /// Writes the header of each slot to its members; those that do not take theirs are failed.
    async fn write_batch(
        &self,
        log: &Log,
        headers: BTreeMap<u32, (Header, Vec<Buffer>)>,
    ) -> Result<()> {
        let mut sent = Vec::new();
        for (slot, id, place) in self.logs() {
            let Some((header, parity)) = slot.and_then(|slot| headers.get(&slot)) else {
                continue;
            };
            let bytes = self.gathered(&header.to_bytes(log.signature), parity, place);
            let write = Request::write_fua(place.bytes().start, bytes.into());
            sent.push((id, self.queue(id).submit(write)));
        }
        // The memory of the next changes: fresh memory costs more than all that is done with it here.
        let parity = headers.into_values().flat_map(|(_, parity)| parity);
        parity.for_each(|partial| self.pool.put(partial));
        let mut failed = Vec::new();
        for (id, completion) in sent {
            let completion = completion.await;
            self.pool.put_vector(completion.buffer);
            failed.extend(completion.result.err().map(|error| (id, error)));
        }
        self.fail_members(failed).await
    }

    /// A header, what belongs to it, and zeroes behind it as far as there is room, in one piece.
    fn gathered(&self, header: &[u8], parity: &[Buffer], place: PplPlace) -> Buffer {
        let len = header.len() + parity.iter().map(|partial| partial.len()).sum::<usize>();
        let mut bytes = self.pool.take(len + spare(len as u64, place));
        let mut rest = &mut bytes[..];
        for part in std::iter::once(header).chain(parity.iter().map(|partial| &**partial)) {
            let (now, later) = rest.split_at_mut(part.len());
            now.copy_from_slice(part);
            rest = later;
        }
        rest.fill(0);
        bytes
    }

    /// Writes a header that names nothing to every member; members that do not take theirs are failed.
    async fn write_empty(&self, log: &Log, empty: Empty) -> Result<()> {
        let failed = self.write_headers(log, empty).await;
        self.fail_members(failed).await
    }

    /// Writes a header that names nothing to every member; returns those that failed.
    async fn write_headers(&self, log: &Log, empty: Empty) -> Vec<(MemberId, Error)> {
        log.state().used.fill(None);
        let logs = self.logs().into_iter();
        let sent = logs.map(|(_, id, place)| {
            let write = written(empty.block(log), place);
            (id, self.queue(id).submit(write))
        });
        settle(sent.collect()).await
    }

    /// Makes a log that the superblocks do not tell of yet say that it is off; returns the members that failed.
    pub(crate) async fn prepare_log(&self) -> Vec<(MemberId, Error)> {
        match &self.shared.log {
            Some(log) => self.write_headers(log, Empty::Off).await,
            None => Vec::new(),
        }
    }

    /// Writes a header that names nothing to a member that is about to get a slot.
    pub(crate) async fn write_log_to(&self, id: MemberId) -> Result<()> {
        let Some(log) = &self.shared.log else {
            return Ok(());
        };
        let place = {
            let state = self.shared.state();
            state.member(id).and_then(|member| member.superblock.ppl())
        };
        let Some(place) = place else { return Ok(()) };
        let empty = if log.is_on() { Empty::On } else { Empty::Off };
        let write = written(empty.block(log), place);
        self.queue(id).submit(write).await.result
    }

    /// Empties the headers, if nothing is under way.
    pub(crate) async fn empty_log(&self) -> Result<()> {
        let Some(log) = &self.shared.log else {
            return Ok(());
        };
        let Some(_leading) = Leading::of_all(&self.shared, log) else {
            return Ok(());
        };
        self.make_durable(log).await?;
        self.write_empty(log, Empty::On).await
    }

    /// Turns the log on if nothing is to be resynced, while nothing is written.
    pub(crate) async fn turn_log_on(&self) -> Result<()> {
        let Some(log) = &self.shared.log else {
            return Ok(());
        };
        let is_due = || !log.is_on() && self.shared.state().intent.resync_count() == 0;
        if !is_due() {
            return Ok(());
        }
        let _guard = self.shared.locks.exclusive(0..u64::MAX).await;
        if !is_due() {
            return Ok(());
        }
        // What the resync and writes without the log have changed counts as done.
        let failed = self.flush_members().await;
        self.fail_members(failed).await?;
        self.write_empty(log, Empty::On).await?;
        let mut state = log.state();
        (state.on, state.lost) = (true, false);
        Ok(())
    }

    /// What a log says at the start of the array: nothing is under way, or nothing is logged.
    pub(crate) async fn begin_log(&self) -> Result<()> {
        match &self.shared.log {
            Some(log) if self.shared.state().intent.resync_count() > 0 => {
                self.write_empty(log, Empty::Off).await
            }
            _ => self.turn_log_on().await,
        }
    }
}

#[cfg(test)]
impl super::Array {
    /// Whether the log is written, which it otherwise seems to be.
    pub(crate) fn log_changes(&self, logged: bool) {
        let shared = self.shared();
        let log = shared.log.as_ref().expect("it has one");
        log.skip.store(!logged, Ordering::Relaxed);
    }
}

/// A header that names nothing.
#[derive(Debug, Clone, Copy)]
enum Empty {
    /// Of a log that is on.
    On,
    /// Of one that is off.
    Off,
}

impl Empty {
    fn block(self, log: &Log) -> IoVec {
        match self {
            Self::On => IoVec::copy_of(&Header::default().to_bytes(log.signature)),
            Self::Off => IoVec::zeroed(HEADER_BYTES),
        }
    }
}

/// The write of a header that names nothing, and zeroes behind it as far as there is room.
fn written(header: IoVec, place: PplPlace) -> Request {
    let zeroes = IoVec::zeroed(spare(header.len() as u64, place));
    Request::write_fua(place.bytes().start, IoVec::join([header, zeroes]))
}

/// Zeroes that fit behind the first `len` bytes of a log, a block of them at most.
fn spare(len: u64, place: PplPlace) -> usize {
    let bytes = place.bytes();
    let spare = (bytes.end - bytes.start).saturating_sub(len);
    spare.min(HEADER_BYTES as u64) as usize
}
