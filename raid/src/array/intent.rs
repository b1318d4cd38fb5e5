//! The write-intent bitmap in memory: which chunks of member space are being written, which may differ between the
//! members, and which bits are on disk. Pure bookkeeping; the array writes the bits.

use std::ops::Range;

use crate::bitmap::{BitmapImage, MOST_CHUNKS};
use crate::geometry::Geometry;

/// Ticks without a write after which a bit is cleared on disk, as md ages its bits twice.
const AGE: u8 = 2;
/// Chunks of an array without a bitmap: its resync still skips what is known to be good.
const CHUNKS_WITHOUT_BITMAP: u64 = 1 << 14;

/// Why bits are kept, for one chunk.
#[derive(Debug, Clone, Copy, Default)]
struct Chunk {
    /// Writes in flight.
    writers: u32,
    /// Ticks since the last write.
    age: u8,
    /// The bit is set on every member.
    on_disk: bool,
    /// The bit is waiting to be written.
    pending: bool,
    /// The members that are in sync may differ: a crash interrupted a write.
    resync: bool,
    /// A resync could not read all of it; it is tried again when something was written there.
    stuck: bool,
    /// A member that is away, or not rebuilt that far, has missed a write.
    missed: bool,
}

/// The chunks of an array.
#[derive(Debug)]
pub(crate) struct Intent {
    /// Bytes of member space in a chunk.
    chunk: u64,
    chunks: Vec<Chunk>,
    /// Whether bits are kept on disk.
    persistent: bool,
    pending: Vec<u64>,
    resync: u64,
}

impl Intent {
    /// The bits of an array as they are on disk.
    pub(crate) fn of(geometry: &Geometry, bitmap: Option<&BitmapImage>) -> Self {
        let size = geometry.sync_size();
        match bitmap {
            Some(image) => {
                let chunk = u64::from(image.head().chunk);
                Self::with_bitmap(size, chunk, |index| image.is_set(index))
            }
            None => Self::without_bitmap(size),
        }
    }

    /// For `size` bytes of member space in chunks of `chunk` bytes that have bits on disk; every bit of `set` is set.
    pub(crate) fn with_bitmap(size: u64, chunk: u64, set: impl Fn(u64) -> bool) -> Self {
        let mut intent = Self::new(size, chunk, true);
        for (index, chunk) in (0..).zip(&mut intent.chunks) {
            chunk.on_disk = set(index);
        }
        intent
    }

    /// For `size` bytes of member space without bits on disk.
    pub(crate) fn without_bitmap(size: u64) -> Self {
        let chunk = (size / CHUNKS_WITHOUT_BITMAP)
            .max(1 << 20)
            .next_power_of_two();
        let mut intent = Self::new(size, chunk, false);
        intent
            .chunks
            .iter_mut()
            .for_each(|chunk| chunk.on_disk = true);
        intent
    }

    fn new(size: u64, chunk: u64, persistent: bool) -> Self {
        let count = size.div_ceil(chunk);
        assert!(count <= MOST_CHUNKS, "the bitmap's head was checked");
        Self {
            chunk,
            chunks: vec![Chunk::default(); count as usize],
            persistent,
            pending: Vec::new(),
            resync: 0,
        }
    }

    /// Whether the bits are kept on disk.
    pub(crate) fn is_persistent(&self) -> bool {
        self.persistent
    }

    fn covered(&self, range: &Range<u64>) -> Range<usize> {
        (range.start / self.chunk) as usize..range.end.div_ceil(self.chunk) as usize
    }

    /// A write of `range` begins. Whether all its bits are on disk already; if not, the write waits until
    /// [`is_recorded`](Self::is_recorded).
    pub(crate) fn begin(&mut self, range: &Range<u64>) -> bool {
        let mut recorded = true;
        for index in self.covered(range) {
            let chunk = &mut self.chunks[index];
            chunk.writers += 1;
            chunk.age = 0;
            if !chunk.on_disk {
                recorded = false;
                if !chunk.pending {
                    chunk.pending = true;
                    self.pending.push(index as u64);
                }
            }
        }
        recorded
    }

    /// Whether every bit of `range` is on disk.
    pub(crate) fn is_recorded(&self, range: &Range<u64>) -> bool {
        self.chunks[self.covered(range)]
            .iter()
            .all(|chunk| chunk.on_disk)
    }

    /// The bits that wait to be written. Until [`recorded`](Self::recorded) the caller alone cares for them.
    pub(crate) fn take_pending(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.pending)
    }

    /// The bits `indexes` are on disk now, or they are not and wait again.
    pub(crate) fn recorded(&mut self, indexes: &[u64], done: bool) {
        for &index in indexes {
            let chunk = &mut self.chunks[index as usize];
            chunk.on_disk |= done;
            chunk.pending = !done;
            if !done {
                self.pending.push(index);
            }
        }
    }

    /// A write of `range` ended. `missed` says that not every slot has it, `torn` that the members may differ.
    pub(crate) fn end(&mut self, range: &Range<u64>, missed: bool, torn: bool) {
        for index in self.covered(range) {
            let chunk = &mut self.chunks[index];
            chunk.writers -= 1;
            chunk.age = 0;
            chunk.stuck = false;
            chunk.missed |= missed;
            if torn && !chunk.resync {
                chunk.resync = true;
                self.resync += 1;
            }
        }
    }

    /// Marks the chunks whose members may differ after an unclean stop: from byte `from` on those with a bit on disk,
    /// which without a bitmap are all.
    pub(crate) fn resync_from(&mut self, from: u64) {
        let start = (from / self.chunk).min(self.chunks.len() as u64) as usize;
        for chunk in self.chunks[start..]
            .iter_mut()
            .filter(|chunk| chunk.on_disk)
        {
            self.resync += u64::from(!chunk.resync);
            chunk.resync = true;
        }
    }

    /// Marks the chunks of `range` as such whose members may differ.
    pub(crate) fn doubt(&mut self, range: &Range<u64>) {
        for index in self.covered(range) {
            let chunk = &mut self.chunks[index];
            self.resync += u64::from(!chunk.resync);
            chunk.resync = true;
        }
    }

    /// Marks chunks of which a member that is away has missed something: all with a bit on disk.
    pub(crate) fn missed_recorded(&mut self) {
        for chunk in &mut self.chunks {
            chunk.missed |= chunk.on_disk;
        }
    }

    /// How many chunks have members that may differ.
    pub(crate) fn resync_count(&self) -> u64 {
        self.resync
    }

    /// Whether the members that are in sync may differ somewhere in `range`.
    pub(crate) fn needs_resync(&self, range: &Range<u64>) -> bool {
        self.resync > 0
            && self.chunks[self.covered(range)]
                .iter()
                .any(|chunk| chunk.resync)
    }

    /// The first chunk from byte `from` on whose members may differ.
    pub(crate) fn next_resync(&self, from: u64) -> Option<Range<u64>> {
        if self.resync == 0 {
            return None;
        }
        self.next(from, |chunk| chunk.resync)
    }

    /// The first chunk from byte `from` on that a resync can do something about.
    pub(crate) fn next_resyncable(&self, from: u64) -> Option<Range<u64>> {
        if self.resync == 0 {
            return None;
        }
        self.next(from, |chunk| chunk.resync && !chunk.stuck)
    }

    /// First byte of the chunk that byte `at` lies in.
    pub(crate) fn chunk_start(&self, at: u64) -> u64 {
        at / self.chunk * self.chunk
    }

    /// The resync could not read all of the chunk at byte `at`.
    pub(crate) fn stuck(&mut self, at: u64) {
        self.chunks[(at / self.chunk) as usize].stuck = true;
    }

    /// The first chunk from byte `from` on of which something was missed.
    pub(crate) fn next_missed(&self, from: u64) -> Option<Range<u64>> {
        self.next(from, |chunk| chunk.missed)
    }

    fn next(&self, from: u64, wanted: impl Fn(&Chunk) -> bool) -> Option<Range<u64>> {
        let start = usize::try_from(from / self.chunk).ok()?;
        let rest = self.chunks.get(start..)?;
        let index = (start + rest.iter().position(wanted)?) as u64;
        Some((index * self.chunk).max(from)..(index + 1) * self.chunk)
    }

    /// The members agree again in the chunks that `range` covers wholly, up to the end of member space.
    pub(crate) fn resynced(&mut self, range: &Range<u64>) {
        let end = range.end.div_ceil(self.chunk).min(self.chunks.len() as u64) as usize;
        for chunk in &mut self.chunks[range.start.div_ceil(self.chunk) as usize..end] {
            self.resync -= u64::from(chunk.resync);
            (chunk.resync, chunk.stuck) = (false, false);
        }
    }

    /// No member misses anything any more.
    pub(crate) fn nothing_missed(&mut self) {
        self.chunks
            .iter_mut()
            .for_each(|chunk| chunk.missed = false);
    }

    /// Bytes of member space whose members may differ, at most.
    pub(crate) fn resync_bytes(&self) -> u64 {
        self.resync * self.chunk
    }

    /// Time passes: bits of chunks at rest grow older. Whether some can be cleared now.
    pub(crate) fn tick(&mut self) -> bool {
        let mut any = false;
        for chunk in &mut self.chunks {
            chunk.age = chunk.age.saturating_add(1);
            any |= chunk.clearable(AGE);
        }
        self.persistent && any
    }

    /// The bits that can be cleared; they count as cleared from now on. `all` takes those that are young, too.
    pub(crate) fn take_clearable(&mut self, all: bool) -> Vec<u64> {
        if !self.persistent {
            return Vec::new();
        }
        let age = if all { 0 } else { AGE };
        let mut cleared = Vec::new();
        for (index, chunk) in (0..).zip(&mut self.chunks) {
            if chunk.clearable(age) {
                chunk.on_disk = false;
                cleared.push(index);
            }
        }
        cleared
    }

    /// Clearing the bits failed: they are set on some member, or may be.
    pub(crate) fn not_cleared(&mut self, indexes: &[u64]) {
        for &index in indexes {
            self.chunks[index as usize].on_disk = true;
        }
    }
}

impl Chunk {
    fn clearable(&self, age: u8) -> bool {
        self.on_disk && self.writers == 0 && !self.resync && !self.missed && self.age >= age
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_waits_for_its_bits_and_they_age() {
        let mut intent = Intent::with_bitmap(100, 10, |_| false);
        assert!(!intent.begin(&(5..25)));
        assert_eq!(intent.take_pending(), [0, 1, 2]);
        assert!(!intent.begin(&(9..10)) && intent.take_pending().is_empty());
        intent.recorded(&[0, 1, 2], true);
        assert!(intent.is_recorded(&(5..25)) && intent.begin(&(20..21)));
        intent.end(&(5..25), false, false);
        intent.end(&(9..10), true, false);
        assert!(!intent.tick() && intent.tick());
        assert_eq!(
            intent.take_clearable(false),
            [1],
            "0 was missed, 2 is being written"
        );
        intent.nothing_missed();
        intent.end(&(20..21), false, false);
        assert_eq!(intent.take_clearable(true), [0, 2]);
        assert!(!intent.begin(&(0..1)));
    }

    #[test]
    fn dirty_chunks_are_found_and_forgotten() {
        let mut intent = Intent::with_bitmap(95, 10, |index| index == 3 || index == 9);
        intent.resync_from(0);
        assert_eq!(intent.resync_count(), 2);
        assert!(intent.needs_resync(&(25..31)) && !intent.needs_resync(&(0..30)));
        assert_eq!(intent.next_resync(33), Some(33..40));
        intent.resynced(&(30..40));
        assert_eq!(intent.next_resync(0), Some(90..100));
        intent.resynced(&(90..95));
        assert_eq!((intent.next_resync(0), intent.resync_count()), (None, 0));
    }
}
