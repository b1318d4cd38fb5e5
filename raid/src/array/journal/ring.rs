//! The ring of blocks that a log lies in: where it begins, where it goes on, and what of it is still needed. Pure
//! bookkeeping.

use std::collections::VecDeque;

use crate::journal::{BLOCK_SECTORS, SEQ_GAP};

/// A place in the log, and the number of the meta block there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// Blocks from the start of the log.
    pub(super) block: u64,
    pub(super) seq: u64,
}

impl Place {
    /// Sectors from the start of the log.
    pub(super) fn sector(self) -> u64 {
        self.block * BLOCK_SECTORS
    }
}

/// A run of meta blocks that was written at once.
#[derive(Debug)]
struct Batch {
    at: Place,
    /// Changes that are not done.
    pending: usize,
}

/// The log of a running array.
#[derive(Debug)]
pub(super) struct Ring {
    /// Blocks of the log.
    blocks: u64,
    /// Where the next meta block goes.
    head: Place,
    /// The block from which on a crash is made up for, by the superblock of the journal's device.
    tail: u64,
    /// Batches from the tail on, oldest first.
    batches: VecDeque<Batch>,
    /// The number of the oldest of them. Numbers are never used twice.
    oldest: u64,
    /// What is written next does not go on from what lies before: a new beginning comes first.
    pub(super) broken: bool,
    /// Something was logged since the last tick.
    pub(super) used: bool,
}

impl Ring {
    /// An array's log of `blocks` blocks, which goes on at `head` once it has begun anew there.
    pub(super) fn new(blocks: u64, head: Place) -> Self {
        Self {
            blocks,
            head,
            tail: head.block,
            batches: VecDeque::new(),
            oldest: 0,
            broken: true,
            used: false,
        }
    }

    /// The log goes on elsewhere; what is under way belongs to the old one.
    pub(super) fn begin_anew(&mut self, blocks: u64, head: Place) {
        let oldest = self.oldest + self.batches.len() as u64;
        *self = Self {
            oldest,
            ..Self::new(blocks, head)
        };
    }

    pub(super) fn blocks(&self) -> u64 {
        self.blocks
    }

    fn taken(&self) -> u64 {
        (self.head.block + self.blocks - self.tail) % self.blocks
    }

    /// Whether `blocks` more have room, and a new beginning behind them.
    pub(super) fn has_room(&self, blocks: u64) -> bool {
        self.taken() + blocks + 1 < self.blocks
    }

    /// Whether so much is taken that it is time for a new beginning: a quarter, as md has it.
    pub(super) fn is_due(&self) -> bool {
        self.taken() > self.blocks / 4
    }

    /// Whether anything but a beginning is in the log.
    pub(super) fn is_empty(&self) -> bool {
        self.batches.iter().all(|batch| batch.pending == 0) && self.taken() <= 1
    }

    /// Takes `blocks` blocks for a batch of `metas` meta blocks and `pending` changes; its number and its place.
    pub(super) fn append(&mut self, blocks: u64, metas: u64, pending: usize) -> (u64, Place) {
        let at = self.head;
        self.head = Place {
            block: (at.block + blocks) % self.blocks,
            seq: at.seq + metas,
        };
        self.batches.push_back(Batch { at, pending });
        (self.oldest + self.batches.len() as u64 - 1, at)
    }

    /// Takes the block of a new beginning.
    pub(super) fn begin(&mut self, anew: bool) -> (u64, Place) {
        if anew {
            self.head.seq += SEQ_GAP;
        }
        self.append(1, 1, 0)
    }

    /// A change of a batch is done.
    pub(super) fn done(&mut self, number: u64) {
        let Some(index) = number.checked_sub(self.oldest) else {
            return;
        };
        if let Some(batch) = self.batches.get_mut(index as usize) {
            batch.pending -= 1;
        }
    }

    /// Whether nothing from before batch `number` is under way.
    pub(super) fn is_done_before(&self, number: u64) -> bool {
        let before = number.saturating_sub(self.oldest) as usize;
        let mut batches = self.batches.iter().take(before);
        batches.all(|batch| batch.pending == 0)
    }

    /// Where batch `number` is.
    pub(super) fn place_of(&self, number: u64) -> Option<Place> {
        let index = number.checked_sub(self.oldest)?;
        self.batches.get(index as usize).map(|batch| batch.at)
    }

    /// The log begins with batch `number` by everybody's word: what lies before is free.
    pub(super) fn retire(&mut self, number: u64) {
        while self.oldest < number && self.batches.pop_front().is_some() {
            self.oldest += 1;
        }
        if let Some(batch) = self.batches.front() {
            self.tail = batch.at.block;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring() -> Ring {
        let mut ring = Ring::new(40, Place { block: 38, seq: 7 });
        let (number, at) = ring.begin(true);
        let seq = 7 + SEQ_GAP;
        assert_eq!((number, at), (0, Place { block: 38, seq }));
        ring.broken = false;
        ring.retire(number);
        ring
    }

    #[test]
    fn space_is_free_when_all_before_it_is_done() {
        let mut ring = ring();
        assert!(ring.is_empty());
        let (first, at) = ring.append(20, 2, 2);
        assert_eq!(at.block, 39);
        let (second, at) = ring.append(10, 1, 1);
        assert_eq!((at.block, at.seq), (19, 10 + SEQ_GAP));
        assert!(ring.is_due() && ring.has_room(7) && !ring.has_room(8));
        let (begin, at) = ring.begin(false);
        assert_eq!((at.block, at.seq), (29, 11 + SEQ_GAP));
        ring.done(second);
        ring.done(first);
        assert!(!ring.is_done_before(begin));
        ring.done(first);
        assert!(ring.is_done_before(begin));
        ring.retire(begin);
        assert!(ring.is_empty() && ring.has_room(37) && !ring.has_room(38));
    }

    #[test]
    fn what_an_old_log_had_under_way_is_not_the_new_ones() {
        let mut ring = ring();
        let (old, _) = ring.append(3, 1, 1);
        ring.begin_anew(64, Place { block: 0, seq: 1 });
        let (new, _) = ring.append(3, 1, 1);
        assert!(new > old && ring.broken);
        ring.done(old);
        assert!(!ring.is_done_before(new + 1));
        ring.done(new);
        assert!(ring.is_done_before(new + 1));
    }
}
