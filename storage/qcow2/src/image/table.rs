//! A table that is whole in memory: the L1 table, the refcount table.

use std::collections::BTreeSet;

use super::pages::Write;

/// Entries of 64 bits that lie at `offset` in the file, and which of its blocks were changed.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    offset: u64,
    entries: Vec<u64>,
    /// Bytes that are written as one.
    block: u64,
    dirty: BTreeSet<u64>,
}

impl Table {
    /// The table that `bytes` are, at `offset`.
    pub(crate) fn parse(offset: u64, bytes: &[u8], block: u64) -> Self {
        let entries = bytes.chunks_exact(8).map(|entry| {
            let mut raw = [0; 8];
            raw.copy_from_slice(entry);
            u64::from_be_bytes(raw)
        });
        Self {
            offset,
            entries: entries.collect(),
            block,
            dirty: BTreeSet::new(),
        }
    }

    /// Its first byte in the file.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// Bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.entries.len() as u64 * 8
    }

    pub(crate) fn entries(&self) -> &[u64] {
        &self.entries
    }

    /// The entry, zero where the table ends before it.
    pub(crate) fn at(&self, index: u64) -> u64 {
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        self.entries.get(index).copied().unwrap_or(0)
    }

    /// # Panics
    /// If the table ends before `index`.
    pub(crate) fn set(&mut self, index: u64, value: u64) {
        self.entries[index as usize] = value;
        self.dirty.insert(index * 8 / self.block);
    }

    /// The table elsewhere, with more entries; as it must be written.
    pub(crate) fn moved(&self, offset: u64, count: usize) -> Self {
        let mut entries = self.entries.clone();
        entries.resize(count.max(entries.len()), 0);
        Self {
            offset,
            entries,
            block: self.block,
            dirty: BTreeSet::new(),
        }
    }

    /// The same table, written in blocks of `block` bytes.
    pub(crate) fn in_blocks_of(self, block: u64) -> Self {
        Self { block, ..self }
    }

    pub(crate) fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// The whole of it, filled up to whole blocks.
    pub(crate) fn whole(&mut self) -> Write {
        self.dirty.clear();
        let mut bytes: Vec<u8> = self
            .entries
            .iter()
            .flat_map(|entry| entry.to_be_bytes())
            .collect();
        bytes.resize(bytes.len().next_multiple_of(self.block as usize), 0);
        Write {
            offset: self.offset,
            bytes,
        }
    }

    /// Takes the blocks that were changed.
    pub(crate) fn take(&mut self) -> Vec<Write> {
        let per_block = (self.block / 8) as usize;
        let dirty = std::mem::take(&mut self.dirty);
        let write = |block: u64| {
            let first = block as usize * per_block;
            let entries = self.entries[first..].iter().take(per_block);
            let mut bytes: Vec<u8> = entries.flat_map(|entry| entry.to_be_bytes()).collect();
            bytes.resize(self.block as usize, 0);
            Write {
                offset: self.offset + block * self.block,
                bytes,
            }
        };
        dirty.into_iter().map(write).collect()
    }

    /// It is not known what the file holds of `writes`: they wait again.
    pub(crate) fn unwritten(&mut self, writes: &[Write]) {
        for write in writes {
            let within = write.offset.wrapping_sub(self.offset);
            if within < self.bytes() {
                self.dirty.insert(within / self.block);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_blocks_are_taken_once() {
        let mut table = Table::parse(1 << 16, &[0; 8 * 100], 512);
        table.set(1, 7);
        table.set(99, 8);
        let writes = table.take();
        let places: Vec<_> = writes.iter().map(|write| write.offset).collect();
        assert_eq!(places, [1 << 16, (1 << 16) + 512]);
        assert_eq!(writes[0].bytes[8..16], [0, 0, 0, 0, 0, 0, 0, 7]);
        assert!(writes.iter().all(|write| write.bytes.len() == 512));
        assert!(table.take().is_empty());
        table.unwritten(&writes);
        assert_eq!(table.take(), writes);
    }
}
