//! Pages of L2 tables and refcount blocks in memory.
//!
//! A page that was changed stays until it has been written; the others make room for each other, those that were not
//! used lately first. So the cache is as large as the working set and never larger than its limit, except by what waits
//! to be written.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Bytes that a page has at most; one of a smaller cluster is the cluster.
pub(crate) const PAGE: u64 = 4096;

/// What a page is part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    L2,
    Refcounts,
}

/// Bytes that have to reach the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Write {
    pub(crate) offset: u64,
    pub(crate) bytes: Vec<u8>,
}

#[derive(Debug)]
pub(crate) struct Pages {
    /// Bytes of a page.
    page: u64,
    /// Bytes that are written as one.
    block: u64,
    /// Pages that are kept.
    limit: usize,
    /// By the page's first byte in the file.
    places: HashMap<u64, usize, BuildHasherDefault<PageHasher>>,
    slots: Vec<Slot>,
    free: Vec<usize>,
    /// Where the search for room goes on.
    hand: usize,
    /// Changed pages.
    dirty: usize,
    /// Their slots, and some that are clean by now.
    changed: Vec<usize>,
}

#[derive(Debug)]
struct Slot {
    offset: u64,
    kind: Kind,
    bytes: Box<[u8]>,
    /// A bit for each block that was changed and not taken to be written.
    dirty: u64,
    /// Taken to be written and not there yet: the file does not hold it.
    writing: bool,
    /// Looked at since the hand passed.
    used: bool,
    /// Holds a page.
    taken: bool,
}

impl Pages {
    /// A cache of at most `limit` bytes for tables in clusters of `cluster` bytes, on a file with blocks of `block` bytes.
    pub(crate) fn new(limit: u64, cluster: u64, block: u64) -> Self {
        let page = cluster.min(PAGE.max(block));
        Self {
            page,
            block: block.max(page / 64),
            // What one step may need at once is far less.
            limit: ((limit / page) as usize).max(64),
            places: HashMap::default(),
            slots: Vec::new(),
            free: Vec::new(),
            hand: 0,
            dirty: 0,
            changed: Vec::new(),
        }
    }

    /// The first byte of the page that holds the file's byte `offset`.
    pub(crate) fn page_of(&self, offset: u64) -> u64 {
        offset - offset % self.page
    }

    /// Bytes of a page.
    pub(crate) fn page_len(&self) -> usize {
        self.page as usize
    }

    /// Whether so much waits to be written that whoever adds to it should write first.
    pub(crate) fn is_heavy(&self) -> bool {
        self.dirty > self.limit / 2
    }

    /// Whether anything waits to be written.
    pub(crate) fn is_dirty(&self) -> bool {
        self.dirty > 0
    }

    /// The page that holds `offset`, and where in it that is.
    pub(crate) fn look(&mut self, offset: u64) -> Option<(&[u8], usize)> {
        let start = self.page_of(offset);
        let slot = &mut self.slots[*self.places.get(&start)?];
        slot.used = true;
        Some((&slot.bytes, (offset - start) as usize))
    }

    /// Whether the page that holds `offset` is here.
    pub(crate) fn has(&self, offset: u64) -> bool {
        self.places.contains_key(&self.page_of(offset))
    }

    /// The page that holds the `len` bytes at `offset`, which are about to be changed, and where in it they are.
    ///
    /// # Panics
    /// If the page is not here: whoever changes it has looked.
    pub(crate) fn change(&mut self, offset: u64, len: usize) -> (&mut [u8], usize) {
        let start = self.page_of(offset);
        let within = (offset - start) as usize;
        let place = self.places[&start];
        let slot = &mut self.slots[place];
        slot.used = true;
        if slot.dirty == 0 {
            self.dirty += 1;
            self.changed.push(place);
        }
        let last = (within + len - 1) / self.block as usize;
        for block in within / self.block as usize..=last {
            slot.dirty |= 1 << block;
        }
        (&mut slot.bytes, within)
    }

    /// Takes in a page that was read, unless it is here already.
    pub(crate) fn insert(&mut self, offset: u64, kind: Kind, bytes: Box<[u8]>) {
        debug_assert!(offset.is_multiple_of(self.page) && bytes.len() as u64 == self.page);
        if self.places.contains_key(&offset) {
            return;
        }
        let slot = Slot {
            offset,
            kind,
            bytes,
            dirty: 0,
            writing: false,
            used: true,
            taken: true,
        };
        let place = self.room();
        match self.slots.get_mut(place) {
            Some(old) => *old = slot,
            None => self.slots.push(slot),
        }
        self.places.insert(offset, place);
    }

    /// A slot for a new page: a free one, the first that was not used since the hand passed, or one more.
    fn room(&mut self) -> usize {
        if let Some(place) = self.free.pop() {
            return place;
        }
        if self.slots.len() < self.limit {
            return self.slots.len();
        }
        for _ in 0..2 * self.slots.len() {
            let place = self.hand;
            self.hand = (self.hand + 1) % self.slots.len();
            let slot = &mut self.slots[place];
            if slot.dirty == 0 && !slot.writing && !std::mem::take(&mut slot.used) {
                if slot.taken {
                    self.places.remove(&slot.offset);
                }
                return place;
            }
        }
        self.slots.len()
    }

    /// The `len` bytes at `offset` are no table any more: what is known of them, changed or not, is forgotten.
    pub(crate) fn forget(&mut self, offset: u64, len: u64) {
        for start in (offset..offset + len).step_by(self.page as usize) {
            let Some(place) = self.places.remove(&start) else {
                continue;
            };
            let slot = &mut self.slots[place];
            self.dirty -= usize::from(slot.dirty != 0);
            (slot.dirty, slot.writing, slot.taken) = (0, false, false);
            self.free.push(place);
        }
    }

    /// All that is known is forgotten.
    ///
    /// # Panics
    /// If something waits to be written.
    pub(crate) fn clear(&mut self) {
        assert!(!self.is_dirty(), "what was changed was written");
        self.places.clear();
        self.slots.clear();
        self.free.clear();
        self.changed.clear();
        self.hand = 0;
    }

    /// Takes what was changed in the pages that `wanted` picks by kind and first byte. They stay until
    /// [`written`](Self::written) or [`unwritten`](Self::unwritten) tells what became of it.
    pub(crate) fn take(&mut self, wanted: impl Fn(Kind, u64) -> bool) -> Vec<Write> {
        let mut writes = Vec::new();
        for place in std::mem::take(&mut self.changed) {
            let slot = &mut self.slots[place];
            if slot.dirty == 0 {
                continue;
            }
            if !wanted(slot.kind, slot.offset) {
                self.changed.push(place);
                continue;
            }
            let mut block = 0;
            while block < 64 && slot.dirty >> block != 0 {
                block += (slot.dirty >> block).trailing_zeros() as u64;
                let count = u64::from((slot.dirty >> block).trailing_ones());
                let range = (block * self.block) as usize..((block + count) * self.block) as usize;
                writes.push(Write {
                    offset: slot.offset + block * self.block,
                    bytes: slot.bytes[range].to_vec(),
                });
                block += count;
            }
            (slot.dirty, slot.writing) = (0, true);
            self.dirty -= 1;
        }
        writes
    }

    /// The file holds `writes`, durably.
    pub(crate) fn written(&mut self, writes: &[Write]) {
        for write in writes {
            let place = self.places.get(&self.page_of(write.offset));
            if let Some(&place) = place {
                self.slots[place].writing = false;
            }
        }
    }

    /// It is not known what the file holds of `writes`: they wait again.
    pub(crate) fn unwritten(&mut self, writes: &[Write]) {
        for write in writes {
            let block = self.block;
            let Some(&place) = self.places.get(&self.page_of(write.offset)) else {
                continue;
            };
            let slot = &mut self.slots[place];
            if slot.dirty == 0 {
                self.dirty += 1;
                self.changed.push(place);
            }
            let first = (write.offset - slot.offset) / block;
            for block in first..first + write.bytes.len() as u64 / block {
                slot.dirty |= 1 << block;
            }
            slot.writing = false;
        }
    }
}

/// Spreads page numbers; they come from the image's own allocator or a stranger, who gains nothing but a slow image.
#[derive(Debug, Default)]
struct PageHasher(u64);

impl Hasher for PageHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        // Fibonacci hashing; the table takes its bits from both ends.
        let product = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = product ^ product >> 32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(value: u8) -> Box<[u8]> {
        vec![value; PAGE as usize].into()
    }

    #[test]
    fn changes_are_taken_block_by_block() {
        let mut pages = Pages::new(1 << 20, 1 << 16, 512);
        pages.insert(PAGE, Kind::L2, page(0));
        for offset in [PAGE + 8, PAGE + 520, PAGE + 4088] {
            let (bytes, at) = pages.change(offset, 8);
            bytes[at] = 1;
        }
        assert!(pages.take(|kind, _| kind == Kind::Refcounts).is_empty());
        let writes = pages.take(|_, offset| offset == PAGE);
        let places: Vec<_> = writes
            .iter()
            .map(|write| (write.offset, write.bytes.len()))
            .collect();
        assert_eq!(places, [(PAGE, 1024), (PAGE + 3584, 512)]);
        assert!(!pages.is_dirty());
        pages.unwritten(&writes);
        assert_eq!(pages.take(|_, _| true), writes);
        pages.written(&writes);
        assert!(pages.take(|_, _| true).is_empty());
    }

    #[test]
    fn unused_pages_make_room_and_changed_ones_stay() {
        let mut pages = Pages::new(64 * PAGE, 1 << 16, 512);
        pages.insert(0, Kind::L2, page(1));
        pages.change(0, 1);
        for number in 1..1000 {
            assert!(
                pages.look(PAGE * (number - 1)).is_some(),
                "the newest is here"
            );
            pages.insert(PAGE * number, Kind::L2, page(0));
        }
        assert!(pages.has(0));
        assert_eq!(pages.slots.len(), 64);
        assert_eq!(pages.places.len(), 64);
    }

    #[test]
    fn what_is_forgotten_is_not_written() {
        let mut pages = Pages::new(1 << 20, 1 << 16, 512);
        pages.insert(1 << 16, Kind::L2, page(0));
        pages.change(1 << 16, 8);
        pages.forget(1 << 16, 1 << 16);
        assert!(!pages.is_dirty() && pages.take(|_, _| true).is_empty());
        assert!(!pages.has(1 << 16));
    }
}
