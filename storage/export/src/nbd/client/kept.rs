//! Writes that the server has acknowledged and may forget: kept until a flush covers them, so that a server that died and
//! came back can be told again.

use std::collections::VecDeque;

use weft_block::IoVec;

use super::line::Wanted;
use crate::nbd::pool::Payload;

/// Bytes of writes that one connection keeps at most, with those whose acknowledgement is awaited: what a fast disk
/// takes in a moment. When half of it is full, the connection flushes by itself.
pub(super) const KEPT_BYTES: u64 = 64 << 20;

/// Bytes that a write counts beside its data.
const WRITE_HEAD: u64 = 128;

/// A write as it was sent.
pub(super) struct KeptWrite {
    pub(super) wanted: Wanted,
    /// Goes before its memory does, which is used again.
    pub(super) data: IoVec,
    memory: Option<Payload>,
}

impl KeptWrite {
    /// Zeroes, or data that does not change.
    pub(super) fn of(wanted: Wanted, data: IoVec) -> Self {
        Self {
            wanted,
            data,
            memory: None,
        }
    }

    /// A copy of what a caller may change.
    pub(super) fn copied(wanted: Wanted, memory: Payload) -> Self {
        Self {
            wanted,
            data: memory.whole(),
            memory: Some(memory),
        }
    }

    /// Bytes that it counts.
    pub(super) fn cost(&self) -> u64 {
        WRITE_HEAD
            + self
                .memory
                .as_ref()
                .map_or(0, |memory| memory.held() as u64)
    }

    fn end(&self) -> u64 {
        self.wanted.offset + u64::from(self.wanted.len)
    }
}

/// How many writes had been acknowledged at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Mark(u64);

/// Acknowledged writes that no flush covers yet, in the order of their acknowledgements.
#[derive(Default)]
pub(super) struct Kept {
    writes: VecDeque<KeptWrite>,
    /// How many were dropped before the first of them.
    dropped: u64,
    bytes: u64,
}

impl Kept {
    pub(super) fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// Bytes that they count.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// A write was acknowledged.
    pub(super) fn push(&mut self, write: KeptWrite) {
        self.bytes += write.cost();
        self.writes.push_back(write);
    }

    /// A flush that is asked for now covers the writes before this.
    pub(super) fn mark(&self) -> Mark {
        Mark(self.dropped + self.writes.len() as u64)
    }

    /// A flush has succeeded that covers the writes before `mark`.
    pub(super) fn durable(&mut self, mark: Mark) {
        while self.dropped < mark.0
            && let Some(write) = self.writes.pop_front()
        {
            self.dropped += 1;
            self.bytes -= write.cost();
        }
    }

    /// All of them in batches that are sent one after the other: no two of a batch overlap, and of two that do the one that
    /// was acknowledged later comes later.
    pub(super) fn batches(&self) -> Vec<Vec<(Wanted, IoVec)>> {
        let mut batches: Vec<Vec<_>> = Vec::new();
        let mut ends = std::collections::BTreeMap::new();
        for write in &self.writes {
            let before = ends.range(..write.end()).next_back();
            let clear = before.is_none_or(|(_, end)| *end <= write.wanted.offset);
            if !clear || batches.is_empty() {
                ends.clear();
                batches.push(Vec::new());
            }
            ends.insert(write.wanted.offset, write.end());
            if let Some(batch) = batches.last_mut() {
                batch.push((write.wanted, write.data.clone()));
            }
        }
        batches
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nbd::pool::Pool;
    use crate::nbd::proto::CommandCode;

    fn write(offset: u64, len: u32) -> KeptWrite {
        let wanted = Wanted {
            code: CommandCode::Write,
            flags: 0,
            offset,
            len,
        };
        KeptWrite::copied(wanted, Pool::new().take(len as usize))
    }

    fn kept(places: &[(u64, u32)]) -> Kept {
        let mut kept = Kept::default();
        for &(offset, len) in places {
            kept.push(write(offset, len));
        }
        kept
    }

    #[test]
    fn a_flush_covers_what_was_acknowledged_before_it_was_asked_for() {
        let mut kept = kept(&[(0, 512), (512, 512)]);
        let mark = kept.mark();
        kept.push(write(1024, 512));
        kept.durable(mark);
        assert_eq!(kept.writes.len(), 1);
        assert_eq!(kept.bytes(), 4096 + WRITE_HEAD);
        // A flush that was asked for earlier and answered later takes nothing more.
        kept.durable(Mark(1));
        assert_eq!(kept.writes.len(), 1);
        kept.durable(kept.mark());
        assert!(kept.is_empty() && kept.bytes() == 0);
    }

    #[test]
    fn what_overlaps_is_told_again_in_the_order_it_was_acknowledged_in() {
        let kept = kept(&[
            (4096, 4096),
            (0, 4096),
            (8192, 512),
            (6144, 512),
            (0, 512),
            (512, 512),
            (256, 512),
        ]);
        let batches = kept.batches();
        let places: Vec<Vec<u64>> = batches
            .iter()
            .map(|batch| batch.iter().map(|(wanted, _)| wanted.offset).collect())
            .collect();
        assert_eq!(places, [vec![4096, 0, 8192], vec![6144, 0, 512], vec![256]]);
    }
}
