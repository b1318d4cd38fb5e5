//! The journal of a running array, in write-through: before a change of a row is sent, all that it writes, data and
//! parities, is on the journal's device, durably.
//!
//! One batch is written at a time, by the first of those that wait; who comes meanwhile waits for the next, and all that
//! wait share one. What was logged goes to the members at once, beside the next batch. The rules:
//!
//! - Everything is logged whole: all that a stripe changes with all its parities, whether their members are there or
//!   not. What is replayed after a crash is then right for whoever holds the slots by then.
//! - Everything is logged: a change that went past the log would be undone by the replay of an older one.
//! - A change is acknowledged when the members have it, and is durable then: the log is. So a flush has nothing to do,
//!   and the members are flushed when the log's space is wanted again, as md does it.
//! - Space is free again when all that was logged in it is on the members and flushed, and the superblocks say that the
//!   log begins behind it, with a block that is there: a *beginning*, a meta block without payloads.
//! - After a crash nobody knows what lies behind the last block that is whole: the log goes on with a beginning whose
//!   number is far ahead, and not before the superblocks name it.
//! - Without its journal an array takes no writes.

mod batch;
mod replay;
mod ring;
mod space;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use futures_channel::oneshot;
use futures_util::future::{Either, select};
use smallvec::SmallVec;
use weft_block::{Buffer, Error, ErrorKind, IoVec, Result, SECTOR, yield_now};

use batch::{Group, Metas};
use ring::{Place, Ring};

use super::state::MemberId;
use super::{Lane, Shared};
use crate::geometry::ParityRows;
use crate::journal::{BLOCK_BYTES, Seed};
use crate::plan::Unit;
use crate::superblock::{Features, Superblock};

/// Blocks of the log that a batch takes at most.
const BATCH_BLOCKS: u64 = 2048;

/// The journal of an array.
pub(crate) struct Journal {
    seed: Seed,
    state: Mutex<JournalState>,
    /// Held by whoever writes to the log.
    writer: futures_util::lock::Mutex<()>,
    /// Only for the test that shows what the journal is good for: nothing is logged, and nobody knows.
    #[cfg(test)]
    skip: std::sync::atomic::AtomicBool,
}

struct JournalState {
    ring: Ring,
    waiting: VecDeque<Waiting>,
    /// Somebody waits to move the beginning of the log.
    reclaiming: bool,
    /// Wait until changes are done, or until the beginning was moved.
    wakers: Vec<Waker>,
}

/// What each slot gets, by slot.
type Columns = SmallVec<[Option<Buffer>; 8]>;

/// The change of one unit, waiting to be logged. Its columns come back with the answer.
struct Waiting {
    groups: Vec<Group>,
    columns: Columns,
    sender: oneshot::Sender<Result<(Entry, Columns)>>,
}

/// A logged change that is under way. Dropped when it is done.
pub(crate) struct Entry {
    shared: Arc<Shared>,
    batch: u64,
}

impl Drop for Entry {
    fn drop(&mut self) {
        let Some(journal) = &self.shared.journal else {
            return;
        };
        let mut state = journal.state();
        state.ring.done(self.batch);
        let wakers = std::mem::take(&mut state.wakers);
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl Journal {
    /// The journal of an array with this superblock, on a device with `sectors` sectors of log; none if it has none.
    pub(crate) fn of(array: &Superblock, sectors: Option<u64>) -> Option<Self> {
        if !array.features.has(Features::JOURNAL) {
            return None;
        }
        let blocks = blocks_of(sectors.unwrap_or(0)).max(1);
        Some(Self {
            seed: Seed::of(&array.set_uuid),
            state: Mutex::new(JournalState {
                ring: Ring::new(blocks, Place { block: 0, seq: 0 }),
                waiting: VecDeque::new(),
                reclaiming: false,
                wakers: Vec::new(),
            }),
            writer: futures_util::lock::Mutex::default(),
            #[cfg(test)]
            skip: Default::default(),
        })
    }

    fn state(&self) -> MutexGuard<'_, JournalState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The log lies on another device from here on, with `sectors` sectors and a beginning of this number at its start.
    pub(crate) fn begin_anew(&self, sectors: u64, seq: u64) {
        let head = Place {
            block: 1,
            seq: seq + 1,
        };
        self.state().ring.begin_anew(blocks_of(sectors), head);
    }

    /// Bytes of each member that one unit may take, so that its change fits into a batch and four of them into the log.
    pub(crate) fn room(&self, rows: &ParityRows) -> u64 {
        let blocks = batch_blocks(self.state().ring.blocks());
        (blocks / u64::from(rows.members() + 1)).max(1) * BLOCK_BYTES as u64
    }

    /// Time passes. Whether the log names what has long been done.
    pub(crate) fn tick(&self) -> bool {
        let mut state = self.state();
        let idle = !std::mem::take(&mut state.ring.used);
        idle && !state.ring.is_empty()
    }

    /// Whether so much is logged that the log is to begin anew, and nobody sees to it.
    fn is_due(&self) -> bool {
        let state = self.state();
        state.ring.is_due() && !state.reclaiming
    }

    fn is_skipped(&self) -> bool {
        #[cfg(test)]
        return self.skip.load(std::sync::atomic::Ordering::Relaxed);
        #[cfg(not(test))]
        false
    }
}

/// Blocks of a log of `sectors` sectors.
fn blocks_of(sectors: u64) -> u64 {
    sectors / (BLOCK_BYTES as u64 / SECTOR)
}

/// Blocks of a batch at most, in a log of `blocks`.
fn batch_blocks(blocks: u64) -> u64 {
    (blocks / 4).min(BATCH_BLOCKS)
}

/// Where the log lies: the member and the first byte of it there.
#[derive(Clone, Copy)]
pub(super) struct Device {
    pub(super) id: MemberId,
    pub(super) base: u64,
}

impl Lane {
    /// Where the journal is.
    ///
    /// # Errors
    /// `ReadOnly` if it has none that works.
    fn journal_device(&self) -> Result<Device> {
        let state = self.shared.state();
        if let Some(member) = state.journal() {
            return Ok(Device {
                id: member.id,
                base: member.base(),
            });
        }
        let why = format!(
            "array {} takes no writes: its journal has failed; give it a new one",
            self.shared.name
        );
        Err(Error::new(ErrorKind::ReadOnly, why))
    }

    /// Whether what was acknowledged is durable in the journal.
    pub(crate) fn is_journaled(&self) -> bool {
        let journal = self.shared.journal.as_ref();
        journal.is_some_and(|journal| !journal.is_skipped())
            && self.shared.state().journal().is_some()
    }

    /// Waits until what a unit changes is in the journal: its columns. No entry if the array has no journal.
    ///
    /// The caller holds the range that is changed and sends nothing of it before this returns.
    ///
    /// # Errors
    /// If the journal does not take it: nothing of it may be sent then.
    pub(crate) async fn journal(
        &self,
        rows: &ParityRows,
        unit: &Unit,
        columns: Columns,
    ) -> Result<(Option<Entry>, Columns)> {
        let journal = self.shared.journal.as_ref();
        let Some(journal) = journal.filter(|journal| !journal.is_skipped()) else {
            return Ok((None, columns));
        };
        let logged = |(entry, columns)| (Some(entry), columns);
        let groups = Group::all_of(rows, unit, &columns, journal.seed);
        let (sender, receiver) = oneshot::channel();
        let waiting = Waiting {
            groups,
            columns,
            sender,
        };
        journal.state().waiting.push_back(waiting);
        let ended = |_| {
            let why = "the executor that wrote the journal has ended";
            Err(Error::new(ErrorKind::Offline, why))
        };
        let (writer, mut receiver) = match select(receiver, journal.writer.lock()).await {
            Either::Left((answer, _)) => return answer.unwrap_or_else(ended).map(logged),
            Either::Right(turn) => turn,
        };
        // Others that are ready now come along.
        yield_now().await;
        loop {
            match receiver.try_recv() {
                Ok(None) => self.write_next(journal).await,
                Ok(Some(answer)) => {
                    drop(writer);
                    return answer.map(logged);
                }
                Err(canceled) => return ended(canceled).map(logged),
            }
        }
    }

    /// Writes the next batch and lets it go. The caller holds the writer's place.
    async fn write_next(&self, journal: &Journal) {
        let batch = {
            let mut state = journal.state();
            let most = batch_blocks(state.ring.blocks());
            let mut blocks = 0;
            let fitting = state.waiting.iter().take_while(|waiting| {
                blocks += waiting
                    .groups
                    .iter()
                    .map(Group::blocks_at_most)
                    .sum::<u64>();
                blocks <= most
            });
            let count = fitting.count().max(1).min(state.waiting.len());
            state.waiting.drain(..count).collect::<Vec<_>>()
        };
        let mut told = Vec::with_capacity(batch.len());
        let mut metas = Metas::default();
        for waiting in batch {
            let columns = waiting.columns.into_iter();
            let columns: SmallVec<[Option<IoVec>; 8]> =
                columns.map(|column| column.map(IoVec::from)).collect();
            for group in waiting.groups {
                metas.add(group, &columns);
            }
            told.push((waiting.sender, columns));
        }
        // If nobody waits any more for an answer, what it would have done counts as given up.
        match self.append(journal, metas, told.len()).await {
            Ok(entries) => {
                for ((sender, columns), entry) in told.into_iter().zip(entries) {
                    // Nobody else holds them any more.
                    let columns = columns.into_iter();
                    let columns = columns.map(|column| column.map(IoVec::into_buffer));
                    drop(sender.send(Ok((entry, columns.collect()))));
                }
            }
            Err(error) => {
                for (sender, _) in told {
                    let error = Error::new(error.kind(), error.sentence());
                    drop(sender.send(Err(error)));
                }
            }
        }
    }

    /// Writes a batch; an entry for each of its changes.
    async fn append(&self, journal: &Journal, metas: Metas, changes: usize) -> Result<Vec<Entry>> {
        self.journal_device()?;
        self.make_room(journal, metas.blocks()).await?;
        let device = self.journal_device()?;
        let (number, at, blocks) = {
            let mut state = journal.state();
            let (blocks, count) = (metas.blocks(), metas.count());
            let (number, at) = state.ring.append(blocks, count, changes);
            // Until it is known that this is there.
            state.ring.broken = true;
            state.ring.used = true;
            (number, at, state.ring.blocks())
        };
        // Whatever becomes of this, they are over some time.
        let entry = |_| Entry {
            shared: Arc::clone(&self.shared),
            batch: number,
        };
        let entries: Vec<Entry> = (0..changes).map(entry).collect();
        let written = metas.place(at, blocks, journal.seed);
        self.write_log_blocks(device, at, blocks, written).await?;
        journal.state().ring.broken = false;
        Ok(entries)
    }

    /// Waits until `is_it` says so, which is asked again whenever a change is done or the log begins anew.
    async fn wait_for(&self, journal: &Journal, is_it: impl Fn(&JournalState) -> bool) {
        std::future::poll_fn(|context| {
            let mut state = journal.state();
            if is_it(&state) {
                return Poll::Ready(());
            }
            state.wakers.push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

#[cfg(test)]
impl super::Array {
    /// Whether the journal is written, which it otherwise seems to be.
    pub(crate) fn journal_changes(&self, logged: bool) {
        let shared = self.shared();
        let journal = shared.journal.as_ref().expect("it has one");
        let skip = std::sync::atomic::Ordering::Relaxed;
        journal.skip.store(!logged, skip);
    }
}
