//! How changes reach the file, so that a power cut at any instant leaves an image without a contradiction.
//!
//! Three steps, each durable before the next: what nothing points at yet (refcounts, new tables, and the data that was
//! written before); then the refcount table; then what points at the new: entries of L1 and L2 tables. What was pointed
//! at before is freed after that: its refcounts go down with a later publication. So the worst that a cut leaves is
//! clusters that are counted and not used.

use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

use weft_block::{Error, Result};

use super::core::Halfway;
use super::lane::Lane;
use super::pages::{Kind, Write};
use super::redo::Redo;
use super::state::{State, Stop, Unlinked};

/// Who publishes: one at a time, and for all that have asked before it began.
#[derive(Default)]
pub(crate) struct Turns {
    turn: futures_util::lock::Mutex<()>,
    asked: AtomicU64,
    /// Those up to this number have been served.
    served: AtomicU64,
    /// Held by who frees clusters.
    freeing: futures_util::lock::Mutex<()>,
}

impl Turns {
    /// Keeps clusters from being freed; nothing if some are being freed now.
    pub(crate) fn without_freeing(&self) -> Option<impl Drop> {
        self.freeing.try_lock()
    }
}

/// Changes as they were at one instant.
#[derive(Debug, Default)]
struct Frozen {
    /// What nothing points at yet.
    base: Vec<Write>,
    /// What points at refcount blocks.
    counts: Vec<Write>,
    /// What points at tables and data.
    links: Vec<Write>,
    /// The first block of the file, if it is among `counts`.
    head: Option<Vec<u8>>,
    unpublished: Vec<u64>,
    unlinked: Vec<Unlinked>,
    /// Where the records of all this end in the redo log.
    redo: Option<u32>,
}

impl Frozen {
    fn steps(&self) -> [&[Write]; 3] {
        [&self.base, &self.counts, &self.links]
    }
}

impl Turns {
    /// Keeps all others from writing tables and header.
    pub(crate) async fn alone(&self) -> futures_util::lock::MutexGuard<'_, ()> {
        self.turn.lock().await
    }
}

impl State {
    /// Takes all changes.
    fn freeze(&mut self) -> Result<Frozen> {
        self.check_writable()?;
        let mut frozen = Frozen::default();
        let bits = self.geometry().cluster_bits();
        let unpublished = &self.unpublished;
        frozen.base = self.pages.take(|kind, offset| {
            kind == Kind::Refcounts || unpublished.contains(&(offset >> bits << bits))
        });
        frozen.links = self.pages.take(|_, _| true);
        frozen.links.extend(self.l1.take());
        if std::mem::take(&mut self.refcounts_moved) {
            frozen.base.push(self.refcounts.whole());
            self.header.refcount_table_offset = self.refcounts.offset();
            let clusters = self.geometry().clusters(self.refcounts.bytes());
            self.header.refcount_table_clusters = clusters as u32;
            let head = self.patched_head();
            frozen.counts.push(Write {
                offset: 0,
                bytes: head.clone(),
            });
            frozen.head = Some(head);
        } else {
            frozen.counts = self.refcounts.take();
        }
        frozen.unpublished = std::mem::take(&mut self.unpublished).into_iter().collect();
        frozen.unlinked = std::mem::take(&mut self.unlinked);
        frozen.redo = self.redo.as_ref().map(Redo::mark);
        self.publishing = true;
        Ok(frozen)
    }

    /// All of it is durable.
    fn thaw(&mut self, frozen: Frozen) {
        frozen
            .steps()
            .into_iter()
            .for_each(|step| self.pages.written(step));
        if let Some(head) = frozen.head {
            self.head = head;
        }
        self.freed.extend(frozen.unlinked);
        if let (Some(redo), Some(mark)) = (&mut self.redo, frozen.redo) {
            redo.release(mark);
        }
        self.publishing = false;
    }

    /// Some of it may be in the file.
    fn refreeze(&mut self, frozen: Frozen) {
        self.pages.unwritten(&frozen.base);
        self.pages.unwritten(&frozen.links);
        self.l1.unwritten(&frozen.links);
        self.refcounts_moved |= frozen.head.is_some();
        self.refcounts.unwritten(&frozen.counts);
        self.unpublished.extend(frozen.unpublished);
        let later = std::mem::replace(&mut self.unlinked, frozen.unlinked);
        self.unlinked.extend(later);
        self.publishing = false;
    }
}

impl Lane {
    /// Makes durable what was written and all that the tables in memory say.
    ///
    /// # Errors
    /// As the file's; after a failed flush the image takes no more writes, since nobody knows what was lost.
    pub(crate) async fn publish(self: &Rc<Self>) -> Result<()> {
        if self.publish_once().await? {
            let lane = Rc::clone(self);
            self.spawner.spawn(Box::pin(async move {
                // What could not be freed is counted and not used, which is no harm; a repair finds it.
                let _ = lane.free().await;
            }));
        }
        Ok(())
    }

    /// As [`publish`](Self::publish), without freeing what nothing points at any more; tells whether there is any.
    pub(crate) async fn publish_once(&self) -> Result<bool> {
        let turns = &self.core.turns;
        let number = turns.asked.fetch_add(1, Ordering::SeqCst) + 1;
        let _turn = turns.turn.lock().await;
        if turns.served.load(Ordering::SeqCst) >= number {
            return Ok(false);
        }
        let all = turns.asked.load(Ordering::SeqCst);
        let frees = self.publish_now().await?;
        turns.served.store(all, Ordering::SeqCst);
        Ok(frees)
    }

    /// Makes durable what was written: by a flush alone where no table has changed.
    pub(crate) async fn flush(self: &Rc<Self>) -> Result<()> {
        let tables = {
            let state = self.core.state();
            state.check_writable()?;
            state.is_dirty() || state.publishing
        };
        if tables {
            return self.publish().await;
        }
        self.flush_or_fail().await
    }

    async fn publish_now(&self) -> Result<bool> {
        let frozen = self.core.state().freeze()?;
        let halfway = Halfway::begin(&self.core);
        let done = self.write_steps(&frozen).await;
        halfway.over();
        let mut state = self.core.state();
        match done {
            Ok(()) => state.thaw(frozen),
            Err(error) => {
                state.refreeze(frozen);
                return Err(error);
            }
        }
        Ok(!state.freed.is_empty())
    }

    async fn write_steps(&self, frozen: &Frozen) -> Result<()> {
        self.write_all(&frozen.base).await?;
        self.flush_or_fail().await?;
        for step in [&frozen.counts, &frozen.links] {
            if !step.is_empty() {
                self.write_all(step).await?;
                self.flush_or_fail().await?;
            }
        }
        Ok(())
    }

    /// Flushes; if that fails, ends all writing.
    pub(crate) async fn flush_or_fail(&self) -> Result<()> {
        let flushed = self.flush_files().await;
        if let Err(error) = &flushed {
            let reason = format!("a flush of its file failed: {}", error.sentence());
            self.core.state().fail(reason);
        }
        flushed
    }

    /// Frees what nothing points at any more, once no request that was under way then can still use it.
    pub(crate) async fn free(&self) -> Result<()> {
        let _turn = self.core.turns.freeing.lock().await;
        let freed = std::mem::take(&mut self.core.state().freed);
        if freed.is_empty() {
            return Ok(());
        }
        self.core.gate.settled().await;
        for unlinked in joined(freed) {
            self.free_run(unlinked).await?;
        }
        Ok(())
    }

    /// Lets go of clusters side by side: those that nobody else points at are discarded, and only then free.
    async fn free_run(&self, unlinked: Unlinked) -> Result<()> {
        let bits = self.core.geometry.cluster_bits();
        let end = unlinked.cluster + unlinked.count;
        let mut cluster = unlinked.cluster;
        while cluster < end {
            let last = end.min(cluster + FREED_AT_ONCE);
            let alone = self.step(|state| state.alone(cluster..last)).await?;
            if alone.end > alone.start {
                let (first, count) = (alone.start, alone.end - alone.start);
                self.discard_file(first << bits, count << bits).await;
            }
            // Those before the first that is alone, or those that are.
            let last = if alone.start > cluster {
                alone.start
            } else {
                alone.end
            };
            while cluster < last {
                self.step(|state| state.release(cluster)).await?;
                cluster += 1;
            }
        }
        Ok(())
    }
}

/// Clusters that are looked at in one step.
const FREED_AT_ONCE: u64 = 1024;

impl State {
    /// The first clusters side by side in `range` that have one user; empty at the range's end if none has.
    fn alone(&mut self, range: std::ops::Range<u64>) -> Result<std::ops::Range<u64>, Stop> {
        let mut start = range.start;
        while start < range.end && self.refcount(start)? != 1 {
            start += 1;
        }
        let mut end = start;
        while end < range.end && self.refcount(end)? == 1 {
            end += 1;
        }
        Ok(start..end)
    }
}

/// In order, neighbours as one; what is there twice stays there twice.
fn joined(mut freed: Vec<Unlinked>) -> Vec<Unlinked> {
    freed.sort_unstable_by_key(|unlinked| unlinked.cluster);
    let mut joined: Vec<Unlinked> = Vec::new();
    for next in freed {
        match joined.last_mut() {
            Some(last) if last.cluster + last.count == next.cluster => last.count += next.count,
            _ => joined.push(next),
        }
    }
    joined
}

/// For a step that cannot stop.
impl From<Stop> for Error {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Failed(error) => error,
            stop => super::core::corrupt(format!("a step stopped for {stop:?}")),
        }
    }
}
