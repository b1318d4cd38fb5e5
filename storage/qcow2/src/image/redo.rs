//! The redo log: what the tables in memory say and the file does not yet, in memory that outlives the process.
//!
//! A process that is killed leaves the file as a power cut would, but whoever uses the disk may live on and rely on all
//! that was acknowledged. Data is in the file by then; entries of tables wait for a flush. So each change of an entry goes
//! into the log before the request that made it is acknowledged, as the word of the file that it is to become, and leaves
//! it when it has been published. Words are absolute: the log may be applied to any state that a publication has reached.
//!
//! That the image is as the log's writer left it, the header says: its dirty bit is set while there is a log, and
//! whoever else opens the image to write it clears that bit first.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use weft_block::Result;

use super::core::{Halfway, corrupt};
use super::lane::Lane;
use super::pages::Kind;
use super::state::{State, Stop};
use super::tables::decode;
use super::write::keeps_place;
use crate::format::{L1Entry, incompatible};

/// Says what the memory is, and that a log is in it.
const MAGIC: u64 = u64::from_be_bytes(*b"qcowredo");

/// Words before the records: the magic, the identity, the ends.
const HEADER: usize = 4;

/// Words of a record: what it is of, and its value.
const RECORD: usize = 2;

/// Records that are left for changes that cannot wait for room.
const RESERVE: u64 = 1024;

/// Memory for the redo log of an image.
#[derive(Clone)]
pub struct RedoMemory {
    /// The words: shared with whoever opens the image when this process has ended. The more there are, the more can be
    /// changed between two flushes.
    pub words: Arc<dyn AsRef<[AtomicU64]> + Send + Sync>,
    /// What tells the file of this image, on this boot of the host, from all others.
    pub identity: [u64; 2],
}

impl RedoMemory {
    /// Words that are enough for most: 128 Ki records, 2 MiB.
    pub const WORDS: usize = HEADER + (128 << 10) * RECORD;
}

/// What a record is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// The byte of the file where the refcount table begins.
    Table,
    /// How many entries the refcount table has.
    TableLen,
    /// An entry of the refcount table.
    Block(u64),
    /// The word at this byte of the file, in a refcount block.
    Count(u64),
    /// An entry of the L1 table.
    L1(u64),
    /// The word at this byte of the file, in an L2 table.
    L2(u64),
}

impl Place {
    fn encode(self) -> u64 {
        match self {
            Self::Table => 0,
            Self::TableLen => 1,
            Self::Block(index) => index << 3 | 2,
            Self::Count(offset) => offset | 3,
            Self::L1(index) => index << 3 | 4,
            Self::L2(offset) => offset | 5,
        }
    }

    fn decode(word: u64) -> Option<Self> {
        let rest = word >> 3;
        match word & 7 {
            0 => Some(Self::Table),
            1 => Some(Self::TableLen),
            2 => Some(Self::Block(rest)),
            3 => Some(Self::Count(rest << 3)),
            4 => Some(Self::L1(rest)),
            5 => Some(Self::L2(rest << 3)),
            _ => None,
        }
    }
}

/// The log of an open image: a ring of records.
pub(crate) struct Redo {
    memory: RedoMemory,
    /// A power of two.
    capacity: u32,
    /// Where the next record goes, counted on and on.
    head: u32,
    /// The oldest that still counts.
    tail: u32,
}

impl std::fmt::Debug for Redo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Redo({}..{} of {})", self.tail, self.head, self.capacity)
    }
}

/// What a log says: the last value of each place.
type Words = BTreeMap<Place, u64>;

impl Redo {
    /// An empty log.
    fn begin(memory: RedoMemory) -> Result<Self> {
        let capacity = capacity(&memory);
        if u64::from(capacity) < 4 * RESERVE {
            return Err(super::core::invalid(
                "the memory for a redo log is too small",
            ));
        }
        let this = Self {
            memory,
            capacity,
            head: 0,
            tail: 0,
        };
        let words = this.words();
        words[0].store(0, Ordering::Release);
        words[1].store(this.memory.identity[0], Ordering::Release);
        words[2].store(this.memory.identity[1], Ordering::Release);
        words[3].store(0, Ordering::Release);
        words[0].store(MAGIC, Ordering::Release);
        Ok(this)
    }

    fn words(&self) -> &[AtomicU64] {
        (*self.memory.words).as_ref()
    }

    /// There is no log any more.
    fn end(self) {
        self.words()[0].store(0, Ordering::Release);
    }

    /// Records that it takes before some have to leave it.
    fn room(&self) -> u64 {
        u64::from(self.capacity - self.head.wrapping_sub(self.tail))
    }

    /// Adds records as one; tells whether there was room.
    fn push(&mut self, records: &[(Place, u64)]) -> bool {
        if self.room() < records.len() as u64 {
            return false;
        }
        let words = self.words();
        for (number, (place, value)) in (0..).zip(records) {
            let slot = self.head.wrapping_add(number) % self.capacity;
            let at = HEADER + slot as usize * RECORD;
            words[at].store(place.encode(), Ordering::Relaxed);
            words[at + 1].store(*value, Ordering::Relaxed);
        }
        self.head = self.head.wrapping_add(records.len() as u32);
        self.tell_ends();
        true
    }

    /// Both ends in one word, so that they are of one instant.
    fn tell_ends(&self) {
        let ends = u64::from(self.tail) << 32 | u64::from(self.head);
        self.words()[3].store(ends, Ordering::Release);
    }

    /// All records so far end here.
    pub(crate) fn mark(&self) -> u32 {
        self.head
    }

    /// The records before `mark` say what the file holds by now.
    pub(crate) fn release(&mut self, mark: u32) {
        self.tail = mark;
        if self.tail == self.head {
            // From the start again: memory that was never touched need not be there.
            (self.head, self.tail) = (0, 0);
        }
        self.tell_ends();
    }
}

fn capacity(memory: &RedoMemory) -> u32 {
    let records = (*memory.words).as_ref().len().saturating_sub(HEADER) / RECORD;
    let records = u32::try_from(records).unwrap_or(u32::MAX);
    // The largest power of two in it; a count that wraps round stays in step with it.
    records.checked_ilog2().map_or(0, |bits| 1 << bits.min(30))
}

/// What the log in `memory` says, if one of this image is there.
fn read(memory: &RedoMemory) -> Option<Words> {
    let words = (*memory.words).as_ref();
    let capacity = capacity(memory);
    let at = |index: usize| words.get(index).map(|word| word.load(Ordering::Acquire));
    if at(0)? != MAGIC || [at(1)?, at(2)?] != memory.identity {
        return None;
    }
    let ends = at(3)?;
    let (tail, head) = ((ends >> 32) as u32, ends as u32);
    let count = head.wrapping_sub(tail);
    if count > capacity {
        return None;
    }
    let mut found = Words::new();
    for number in 0..count {
        let slot = tail.wrapping_add(number) % capacity;
        let record = HEADER + slot as usize * RECORD;
        found.insert(Place::decode(at(record)?)?, at(record + 1)?);
    }
    Some(found)
}

impl State {
    /// Stops for room unless the log takes `records` more.
    pub(crate) fn need_room(&self, records: u64) -> Result<(), Stop> {
        match &self.redo {
            Some(redo) if redo.room() < records + RESERVE => Err(Stop::Room),
            _ => Ok(()),
        }
    }

    /// Notes what was changed.
    pub(crate) fn note(&mut self, records: &[(Place, u64)]) {
        if let Some(redo) = &mut self.redo
            && !redo.push(records)
        {
            // More in one step than any makes.
            self.fail("its redo log is full".to_owned());
        }
    }

    /// Lets the refcount table be where the log says, and hold what it says.
    fn redo_blocks(&mut self, words: &Words) -> Result<()> {
        if let (Some(&offset), Some(&len)) = (words.get(&Place::Table), words.get(&Place::TableLen))
            && offset != self.refcounts.offset()
        {
            let geometry = self.geometry();
            let fits =
                geometry.is_aligned(offset) && len <= crate::format::MAX_REFCOUNT_TABLE_BYTES / 8;
            if !fits || len < self.refcounts.entries().len() as u64 {
                return Err(contradiction());
            }
            let moved = self.refcounts.moved(offset, len as usize);
            let old = std::mem::replace(&mut self.refcounts, moved);
            self.refcounts_moved = true;
            self.unlink(old.offset(), geometry.clusters(old.bytes()));
        }
        for (place, &value) in words.range(Place::Block(0)..=Place::Block(u64::MAX)) {
            let Place::Block(index) = *place else {
                continue;
            };
            if index >= self.refcounts.entries().len() as u64 {
                return Err(contradiction());
            }
            if self.refcounts.at(index) != value {
                self.refcounts.set(index, value);
                self.unpublished.insert(value);
            }
        }
        Ok(())
    }

    fn redo_count(&mut self, offset: u64, value: u64) -> Result<(), Stop> {
        if !self.pages.has(offset) {
            return Err(Stop::Page(offset, Kind::Refcounts));
        }
        let (page, at) = self.pages.change(offset, 8);
        page[at..at + 8].copy_from_slice(&value.to_be_bytes());
        Ok(())
    }

    fn redo_l1(&mut self, index: u64, value: u64) -> Result<()> {
        if index >= self.l1.entries().len() as u64 {
            return Err(contradiction());
        }
        let geometry = self.geometry();
        let new = L1Entry::decode(value, geometry)?;
        let old = L1Entry::decode(self.l1.at(index), geometry)?;
        if let Some(new) = new.filter(|new| old.is_none_or(|old| old.table != new.table)) {
            self.l1.set(index, value);
            self.unpublished.insert(new.table);
            if let Some(old) = old {
                self.unlink(old.table, 1);
            }
        }
        Ok(())
    }

    /// Lets the L2 entry at the file's byte `entry` hold `words`, as far as they are said.
    fn redo_l2(&mut self, entry: u64, words: [Option<u64>; 2]) -> Result<(), Stop> {
        let (version, geometry) = (self.header.version, self.geometry());
        let Some((page, at)) = self.pages.look(entry) else {
            return Err(Stop::Page(entry, Kind::L2));
        };
        let len = geometry.l2_entry() as usize;
        let before = page[at..at + len].to_vec();
        let mut after = before.clone();
        for (place, word) in after.chunks_exact_mut(8).zip(words) {
            if let Some(word) = word {
                place.copy_from_slice(&word.to_be_bytes());
            }
        }
        if before == after {
            return Ok(());
        }
        let old = decode(&before, version, geometry)?;
        let new = decode(&after, version, geometry)?;
        let (page, at) = self.pages.change(entry, len);
        page[at..at + len].copy_from_slice(&after);
        if !keeps_place(old, new) {
            self.unlink_mapping(old);
        }
        Ok(())
    }
}

impl Lane {
    /// Begins a redo log in `memory`, after what an earlier one there says has been published. The answer is whether the
    /// image is whole: if not, it was not closed, and there is no log of it.
    ///
    /// # Errors
    /// `Corrupt` where log and image contradict each other, and as writing the file.
    pub(crate) async fn redo(self: &Rc<Self>, memory: &RedoMemory) -> Result<bool> {
        let dirty = self.core.header().has(incompatible::DIRTY);
        match read(memory).filter(|_| dirty) {
            Some(words) => self.apply(&words).await?,
            None if dirty => return Ok(false),
            None => {}
        }
        // Empty before the header says that it is there.
        let redo = Redo::begin(memory.clone())?;
        self.mark_dirty(true).await?;
        self.core.state().redo = Some(redo);
        Ok(true)
    }

    /// There is no log from now on. All is published, and no request is under way.
    pub(crate) async fn end_redo(&self) -> Result<()> {
        if self.core.state().redo.is_none() {
            return Ok(());
        }
        self.mark_dirty(false).await?;
        if let Some(redo) = self.core.state().redo.take() {
            redo.end();
        }
        Ok(())
    }

    async fn mark_dirty(&self, dirty: bool) -> Result<()> {
        let _alone = self.core.turns.alone().await;
        let halfway = Halfway::begin(&self.core);
        let head = {
            let state = &mut *self.core.state();
            let before = state.header.incompatible;
            state.header.incompatible &= !incompatible::DIRTY;
            if dirty {
                state.header.incompatible |= incompatible::DIRTY;
            }
            (state.header.incompatible != before).then(|| state.patched_head())
        };
        if let Some(head) = head {
            self.write_first_block(&head).await?;
            self.core.state().head = head;
        }
        halfway.over();
        Ok(())
    }

    async fn apply(&self, words: &Words) -> Result<()> {
        self.core.state().redo_blocks(words)?;
        let mut entries: BTreeMap<u64, [Option<u64>; 2]> = BTreeMap::new();
        let len = self.core.geometry.l2_entry();
        for (&place, &value) in words {
            match place {
                Place::Table | Place::TableLen | Place::Block(_) => {}
                Place::Count(offset) => {
                    self.step(|state| state.redo_count(offset, value)).await?;
                }
                Place::L1(index) => self.core.state().redo_l1(index, value)?,
                Place::L2(offset) => {
                    let within = offset % len;
                    let entry = entries.entry(offset - within).or_default();
                    entry[(within / 8) as usize] = Some(value);
                }
            }
        }
        for (entry, words) in entries {
            self.step(|state| state.redo_l2(entry, words)).await?;
        }
        self.publish_once().await.map(|_| ())
    }
}

fn contradiction() -> weft_block::Error {
    corrupt("the image and its redo log contradict each other")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(records: usize) -> RedoMemory {
        let words: Vec<_> = (0..HEADER + records * RECORD)
            .map(|_| AtomicU64::new(0))
            .collect();
        RedoMemory {
            words: Arc::new(words),
            identity: [1, 2],
        }
    }

    #[test]
    fn a_log_tells_the_last_words_since_the_mark() {
        let memory = memory(4096 + 100);
        let mut redo = Redo::begin(memory.clone()).unwrap();
        assert_eq!(read(&memory), Some(Words::new()));
        for round in 0..10_000 {
            assert!(redo.push(&[(Place::L2(64), round), (Place::L2(72), round + 1)]));
            let mark = redo.mark();
            assert!(redo.push(&[(Place::Count(4096), round), (Place::L1(7), 9)]));
            redo.release(mark);
            let expected = [(Place::Count(4096), round), (Place::L1(7), 9)];
            assert_eq!(read(&memory), Some(Words::from(expected)));
        }
    }

    #[test]
    fn a_full_log_takes_nothing_and_loses_nothing() {
        let memory = memory(4096);
        let mut redo = Redo::begin(memory.clone()).unwrap();
        for number in 0..4096 {
            assert!(redo.push(&[(Place::Block(number), number)]));
        }
        assert!(!redo.push(&[(Place::Block(0), 1)]));
        assert_eq!(redo.room(), 0);
        let words = read(&memory).unwrap();
        assert_eq!((words.len(), words[&Place::Block(0)]), (4096, 0));
    }

    #[test]
    fn a_log_of_another_image_is_none() {
        let memory = memory(4096);
        let redo = Redo::begin(memory.clone()).unwrap();
        let other = RedoMemory {
            identity: [1, 3],
            ..memory.clone()
        };
        assert_eq!(read(&other), None);
        redo.end();
        assert_eq!(read(&memory), None);
    }

    #[test]
    fn places_survive_their_words() {
        for place in [
            Place::Table,
            Place::TableLen,
            Place::Block(5),
            Place::Count(1 << 40),
            Place::L1(9),
            Place::L2(88),
        ] {
            assert_eq!(Place::decode(place.encode()), Some(place));
        }
        assert_eq!(Place::decode(7), None);
    }
}
