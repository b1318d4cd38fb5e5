//! An image as one thread uses it: queues to what it is made of, and what a step may miss.

use std::rc::Rc;
use std::sync::Arc;

use weft_block::{BlockQueue, Buffer, IoVec, Request, Result, Spawner};

use super::core::{Core, corrupt};
use super::pages::{Kind, Write};
use super::redo::Place;
use super::space::Found;
use super::state::{State, Stop};
use crate::format::L1Entry;

pub(crate) struct Lane {
    pub(crate) core: Arc<Core>,
    file: Box<dyn BlockQueue>,
    data: Option<Box<dyn BlockQueue>>,
    backing: Option<Box<dyn BlockQueue>>,
    pub(crate) spawner: Spawner,
}

impl Lane {
    /// # Errors
    /// As opening a queue of what the image is made of.
    pub(crate) fn open(core: &Arc<Core>, spawner: &Spawner) -> Result<Rc<Self>> {
        let open = |device: &Option<Arc<dyn weft_block::BlockDevice>>| {
            device
                .as_ref()
                .map(|device| device.open(spawner))
                .transpose()
        };
        Ok(Rc::new(Self {
            core: Arc::clone(core),
            file: core.file.open(spawner)?,
            data: open(&core.data_file)?,
            backing: open(&core.backing)?,
            spawner: Rc::clone(spawner),
        }))
    }

    /// The queue to where the disk's data is.
    pub(crate) fn data(&self) -> &dyn BlockQueue {
        self.data.as_deref().unwrap_or(&*self.file)
    }

    /// The queue to the backing file.
    pub(crate) fn backing(&self) -> Option<&dyn BlockQueue> {
        self.backing.as_deref()
    }

    /// Makes a step, and again after each time that it stopped for something that could be had.
    pub(crate) async fn step<T>(
        &self,
        mut step: impl FnMut(&mut State) -> Result<T, Stop>,
    ) -> Result<T> {
        loop {
            let stop = match step(&mut self.core.state()) {
                Ok(done) => return Ok(done),
                Err(stop) => stop,
            };
            self.supply(stop).await?;
        }
    }

    /// Gets what a step has stopped for.
    async fn supply(&self, stop: Stop) -> Result<()> {
        match stop {
            Stop::Failed(error) => Err(error),
            Stop::Page(offset, kind) => self.load(offset, kind).await,
            Stop::Room => self.publish_once().await.map(|_| ()),
            Stop::Block(index) => Box::pin(self.make_block(index)).await,
            // Both make steps of their own.
            Stop::Table(index) => Box::pin(self.own_table(index)).await,
        }
    }

    /// Reads the page that holds the file's byte `offset`.
    async fn load(&self, offset: u64, kind: Kind) -> Result<()> {
        let (start, len) = {
            let state = self.core.state();
            (state.pages.page_of(offset), state.pages.page_len())
        };
        let _guard = self.core.loading.exclusive(start..start + 1).await;
        if self.core.state().pages.has(start) {
            return Ok(());
        }
        if start >= self.core.file_size() {
            return Err(corrupt(format!(
                "a table at {start} lies beyond the end of the file"
            )));
        }
        let bytes = self.read_file(start, len).await?;
        self.core
            .state()
            .pages
            .insert(start, kind, bytes[..].into());
        Ok(())
    }

    /// Reads the file; what is beyond its end reads as zeroes.
    pub(crate) async fn read_file(&self, offset: u64, len: usize) -> Result<Buffer> {
        let whole = IoVec::zeroed(len);
        read_within(&*self.file, self.core.file_size(), offset, whole.clone()).await?;
        Ok(whole.into_buffer())
    }

    /// Writes to the file, whose end is beyond.
    pub(crate) async fn write_file(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let write = Request::write(offset, IoVec::copy_of(bytes));
        self.file.submit(write).await.result
    }

    /// Writes all of `writes` at once, and waits for all of them whatever comes of one.
    pub(crate) async fn write_all(&self, writes: &[Write]) -> Result<()> {
        if let Some(end) = writes
            .iter()
            .map(|write| write.offset + write.bytes.len() as u64)
            .max()
        {
            self.core.grow_file(end)?;
        }
        let sent = writes.iter().map(|write| {
            let request = Request::write(write.offset, IoVec::copy_of(&write.bytes));
            self.file.submit(request)
        });
        let answers = futures_util::future::join_all(sent).await;
        answers.into_iter().try_for_each(|answer| answer.result)
    }

    /// Zeroes a part of the file, whose end is beyond.
    pub(crate) async fn zero_file(&self, offset: u64, len: u64) -> Result<()> {
        let zeroes = Request::write_zeroes(offset, len, false);
        self.file.submit(zeroes).await.result
    }

    /// Gives a part of the file back to whoever it comes from. A hint.
    pub(crate) async fn discard_file(&self, offset: u64, len: u64) {
        let _ = self.file.submit(Request::discard(offset, len)).await;
    }

    /// Makes all that was written durable.
    pub(crate) async fn flush_files(&self) -> Result<()> {
        if let Some(data) = &self.data {
            data.submit(Request::flush()).await.result?;
        }
        self.file.submit(Request::flush()).await.result
    }

    /// Takes clusters of the file by `take`, which the file then has.
    pub(crate) async fn allocate(
        &self,
        take: impl FnMut(&mut State) -> Result<Found, Stop>,
    ) -> Result<Found> {
        let found = self.step(take).await?;
        let end = found.host + found.count * self.core.geometry.cluster();
        if let Err(error) = self.core.grow_file(end) {
            self.give_back(found).await?;
            return Err(error);
        }
        Ok(found)
    }

    /// Gives clusters back that nothing has ever pointed at.
    pub(crate) async fn give_back(&self, found: Found) -> Result<()> {
        self.step(|state| state.give_back(found)).await
    }

    /// Makes the L2 table with `index`, or a copy of it that may be changed.
    async fn own_table(&self, index: u64) -> Result<()> {
        let _guard = self.core.tables.exclusive(index..index + 1).await;
        let (geometry, raw, entries) = {
            let state = self.core.state();
            (
                state.geometry(),
                state.l1.at(index),
                state.l1.entries().len() as u64,
            )
        };
        if index >= entries {
            return Err(corrupt(format!("the L1 table has no entry {index}")));
        }
        let old = match L1Entry::decode(raw, geometry)? {
            Some(entry) if entry.copied => return Ok(()),
            old => old,
        };
        let found = self.allocate(|state| state.allocate(1)).await?;
        if let Err(error) = self.fill_table(found, old).await {
            self.give_back(found).await?;
            return Err(error);
        }
        let mut state = self.core.state();
        let entry = L1Entry {
            table: found.host,
            copied: true,
        };
        state.l1.set(index, entry.encode());
        state.note(&[(Place::L1(index), entry.encode())]);
        state.unpublished.insert(found.host);
        if let Some(old) = old {
            state.unlink(old.table, 1);
            state.pages.forget(old.table, geometry.cluster());
        }
        Ok(())
    }

    /// Puts into a new table what it begins with.
    async fn fill_table(&self, found: Found, old: Option<L1Entry>) -> Result<()> {
        let cluster = self.core.geometry.cluster();
        match old {
            Some(old) => {
                let bytes = self.read_file(old.table, cluster as usize).await?;
                self.write_file(found.host, &bytes).await
            }
            None if found.virgin => Ok(()),
            None => self.zero_file(found.host, cluster).await,
        }
    }

    /// Makes the refcount block with `index`, and a longer refcount table where that has no entry for it.
    async fn make_block(&self, index: u64) -> Result<()> {
        let _guard = self.core.blocks.lock().await;
        let geometry = self.core.geometry;
        let first = index * geometry.refcounts_per_block();
        let (longer, virgin) = {
            let state = self.core.state();
            if state.refcounts.at(index) != 0 {
                return Ok(());
            }
            if first >= state.space.end {
                return Err(super::space::full());
            }
            (state.longer_table(index)?, first >= state.space.virgin)
        };
        let count = longer.map_or(1, |longer| longer.blocks + longer.clusters);
        let (host, len) = (
            first << geometry.cluster_bits(),
            count << geometry.cluster_bits(),
        );
        self.core.state().check_free(host..host + len)?;
        self.core.grow_file(host + len)?;
        if !virgin {
            self.zero_file(host, len).await?;
        }
        self.step(|state| match longer {
            Some(longer) if state.refcounts.at(index) == 0 => state.move_refcounts(longer),
            _ => state.begin_block(index, first),
        })
        .await
    }
}

/// Reads from a device of `size` bytes; what is beyond its end reads as zeroes.
pub(crate) async fn read_within(
    queue: &dyn BlockQueue,
    size: u64,
    offset: u64,
    mut part: IoVec,
) -> Result<()> {
    let len = part.len();
    let there = size.saturating_sub(offset).min(len as u64) as usize;
    part.fill(there, len - there, 0);
    if there == 0 {
        return Ok(());
    }
    let read = Request::read(offset, part.slice(0, there));
    queue.submit(read).await.result
}
