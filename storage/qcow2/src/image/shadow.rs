//! Changes that must happen as one: new tables and refcounts beside the old ones, and one sector of the header that makes
//! them count.
//!
//! What is written goes to clusters that neither the old state nor the new one uses, so a cut before the header leaves
//! the old state whole, and one after it the new one, with nothing lost and nothing counted twice. Nobody may be under way
//! meanwhile: the gate is closed.

use std::collections::BTreeMap;
use std::ops::Range;

use weft_block::{Error, ErrorKind, Result};

use super::amend::is_zero;
use super::core::{Halfway, corrupt};
use super::counts::{Counts, own_clusters};
use super::gate::Closed;
use super::lane::Lane;
use super::pages::Write;
use super::space::full;
use super::table::Table;
use super::tables::decode;
use crate::format::{
    Geometry, Header, L1Entry, MAX_L1_BYTES, MAX_REFCOUNT_TABLE_BYTES, Mapping, Version,
    set_refcount,
};

/// Bytes of new tables that are on their way to the file at once.
const IN_FLIGHT: usize = 4 << 20;

/// A new state of an image, as far as it is made.
pub(crate) struct Shadow<'a> {
    lane: &'a Lane,
    _closed: &'a Closed,
    geometry: Geometry,
    /// What the new state's refcounts are like.
    counting: Geometry,
    version: Version,
    /// Entries of zeroes are left out of what is adopted.
    pub(crate) forget_zeroes: bool,
    old: Counts,
    /// Without the refcount table and its blocks.
    pub(crate) new: Counts,
    /// Tables that are written but perhaps not there yet.
    writes: Vec<Write>,
    /// No cluster before this one is free in both states.
    cursor: u64,
    end: u64,
    pub(crate) header: Header,
}

impl<'a> Shadow<'a> {
    /// The state as it is. All of it is in the file: it was published, and what was freed is free.
    ///
    /// # Errors
    /// `Corrupt`, and as reading the file.
    pub(crate) async fn begin(lane: &'a Lane, closed: &'a Closed) -> Result<Self> {
        let table = lane.core.state().refcounts.clone();
        let counts = lane.counts(&table).await?;
        Self::begin_from(lane, closed, counts, &table).await
    }

    /// The state as it is, where `counts` tell what is used.
    ///
    /// # Errors
    /// `ReadOnly`, `Corrupt`.
    pub(crate) async fn begin_from(
        lane: &'a Lane,
        closed: &'a Closed,
        counts: Counts,
        table: &Table,
    ) -> Result<Self> {
        let geometry = lane.core.geometry;
        lane.core.check_changeable()?;
        let (header, end) = {
            let state = lane.core.state();
            state.check_writable()?;
            (state.header.clone(), state.space.end)
        };
        let old = counts;
        let mut new = old.clone();
        for clusters in own_clusters(table, geometry) {
            // A block that lies beyond the file was not counted.
            if clusters.end <= geometry.clusters(lane.core.file_size()) {
                new.remove(clusters)?;
            }
        }
        Ok(Self {
            lane,
            _closed: closed,
            geometry,
            counting: geometry,
            version: header.version,
            forget_zeroes: false,
            old,
            new,
            writes: Vec::new(),
            cursor: 0,
            end,
            header,
        })
    }

    /// The new state's refcounts have another width.
    ///
    /// # Errors
    /// `Invalid` if a cluster is used more often than they count.
    pub(crate) fn count_in(&mut self, geometry: Geometry) -> Result<()> {
        self.counting = geometry;
        self.header.geometry = geometry;
        self.check_counts()
    }

    /// Takes `count` clusters side by side that neither state uses.
    ///
    /// # Errors
    /// `NoSpace`.
    pub(crate) fn take(&mut self, count: u64) -> Result<u64> {
        let is_free = |this: &Self, cluster| this.old.at(cluster) == 0 && this.new.at(cluster) == 0;
        while !is_free(self, self.cursor) {
            self.cursor += 1;
        }
        let mut start = self.cursor;
        let mut end = start;
        while end - start < count {
            if !is_free(self, end) {
                start = end + 1;
            }
            end += 1;
        }
        if end > self.end {
            return Err(full());
        }
        self.new.add(start..end);
        Ok(start << self.geometry.cluster_bits())
    }

    /// Writes a table of the new state, soon.
    pub(crate) async fn write(&mut self, offset: u64, bytes: Vec<u8>) -> Result<()> {
        self.writes.push(Write { offset, bytes });
        let waiting: usize = self.writes.iter().map(|write| write.bytes.len()).sum();
        if waiting >= IN_FLIGHT {
            self.send().await
        } else {
            Ok(())
        }
    }

    async fn send(&mut self) -> Result<()> {
        let writes = std::mem::take(&mut self.writes);
        self.lane.write_all(&writes).await
    }

    /// The clusters of an L1 table with all tables and data that it points at.
    pub(crate) async fn tree(&self, l1: &Table) -> Result<Vec<Range<u64>>> {
        let mut tree = vec![self.geometry.cluster_range(l1.offset(), l1.bytes())];
        for entry in tables(l1, self.geometry) {
            let table = entry?.1.table;
            let clusters = self.geometry.cluster_range(table, self.geometry.cluster());
            self.check_place(&clusters)?;
            tree.push(clusters);
            self.data_of(table, |clusters| tree.push(clusters)).await?;
        }
        Ok(tree)
    }

    /// The clusters of data that a table points at.
    async fn data_of(&self, table: u64, mut found: impl FnMut(Range<u64>)) -> Result<()> {
        let bytes = self
            .lane
            .read_file(table, self.geometry.cluster() as usize)
            .await?;
        for entry in bytes.chunks_exact(self.geometry.l2_entry() as usize) {
            let mapping = self.kept(decode(entry, self.version, self.geometry)?);
            let in_file = self.lane.core.data_file.is_none();
            if let Some(clusters) = clusters_of(mapping, self.geometry).filter(|_| in_file) {
                self.check_place(&clusters)?;
                found(clusters);
            }
        }
        Ok(())
    }

    /// What is counted lies in the file; counting what a stranger says would take any amount of memory.
    fn check_place(&self, clusters: &Range<u64>) -> Result<()> {
        if clusters.end <= self.geometry.clusters(self.lane.core.file_size()) {
            return Ok(());
        }
        let sentence = format!(
            "cluster {} lies beyond the end of the file",
            clusters.end - 1
        );
        Err(corrupt(sentence))
    }

    /// Makes the disk of `l1`, whose data is not counted yet, the disk of the new state: with tables of its own, whose
    /// flags say what may be written in place. A disk of `size` bytes has the L1 table for it.
    pub(crate) async fn adopt(&mut self, l1: &Table, size: u64) -> Result<()> {
        if self.geometry.l1_entries(size) > MAX_L1_BYTES / 8 {
            return Err(corrupt(format!(
                "a disk of {size} bytes is larger than one can be"
            )));
        }
        for entry in tables(l1, self.geometry) {
            let mut data = Vec::new();
            let table = entry?.1.table;
            self.check_place(&self.geometry.cluster_range(table, self.geometry.cluster()))?;
            self.data_of(table, |clusters| data.push(clusters)).await?;
            data.into_iter().for_each(|clusters| self.new.add(clusters));
        }
        self.check_counts()?;
        let count = self
            .geometry
            .l1_entries(size)
            .max(last_table(l1) + 1)
            .max(1);
        let mut adopted = Table::parse(0, &vec![0; count as usize * 8], 512);
        for entry in tables(l1, self.geometry) {
            let (index, entry) = entry?;
            let table = self.adopt_table(entry.table).await?;
            let copied = true;
            adopted.set(index, L1Entry { table, copied }.encode());
        }
        let offset = self.take(self.geometry.clusters(count * 8))?;
        let mut bytes = adopted.moved(offset, 0).whole().bytes;
        bytes.resize(self.geometry.round_up(bytes.len() as u64) as usize, 0);
        self.write(offset, bytes).await?;
        (self.header.l1_offset, self.header.l1_entries) = (offset, count as u32);
        self.header.size = size;
        Ok(())
    }

    /// Where the table is in the new state: where it was, if it is nobody else's and its flags are right; otherwise in a
    /// copy.
    async fn adopt_table(&mut self, table: u64) -> Result<u64> {
        let cluster = self.geometry.cluster();
        let old = self.lane.read_file(table, cluster as usize).await?;
        let mut bytes = old.to_vec();
        for entry in bytes.chunks_exact_mut(self.geometry.l2_entry() as usize) {
            let mapping = self.kept(decode(entry, self.version, self.geometry)?);
            let mapping = self.flagged(mapping);
            let (raw, bitmap) = mapping.encode(self.geometry);
            entry[..8].copy_from_slice(&raw.to_be_bytes());
            if self.geometry.extended_l2() {
                entry[8..].copy_from_slice(&bitmap.to_be_bytes());
            }
        }
        let clusters = self.geometry.cluster_range(table, cluster);
        if bytes == old[..] && self.new.at(clusters.start) == 0 {
            self.new.add(clusters);
            return Ok(table);
        }
        let offset = self.take(1)?;
        self.write(offset, bytes).await?;
        Ok(offset)
    }

    /// What of a mapping the new state has.
    fn kept(&self, mapping: Mapping) -> Mapping {
        match self.forget_zeroes && is_zero(mapping) {
            true => Mapping::UNALLOCATED,
            false => mapping,
        }
    }

    /// The mapping with the flag that its cluster's count gives it.
    fn flagged(&self, mapping: Mapping) -> Mapping {
        match mapping {
            Mapping::Plain {
                host: Some(host),
                data,
                zero,
                ..
            } if self.lane.core.data_file.is_none() => Mapping::Plain {
                host: Some(host),
                copied: self.new.at(host >> self.geometry.cluster_bits()) == 1,
                data,
                zero,
            },
            other => other,
        }
    }

    fn check_counts(&self) -> Result<()> {
        let most = self.counting.max_refcount();
        if u64::from(self.new.largest()) <= most {
            return Ok(());
        }
        let sentence = format!(
            "a cluster would be used more than {most} times, and refcounts of {} bits count no further",
            1u32 << self.counting.refcount_order()
        );
        Err(Error::new(ErrorKind::Invalid, sentence))
    }

    /// Makes the new state the image's.
    ///
    /// # Errors
    /// As writing the file: the old state stays, unless it is the flush of the header that fails, after which nothing is
    /// written until the image is opened again.
    pub(crate) async fn commit(mut self) -> Result<()> {
        let table = self.write_refcounts().await?;
        self.send().await?;
        self.lane.flush_or_fail().await?;
        self.header.refcount_table_offset = table.offset();
        self.header.refcount_table_clusters = self.geometry.clusters(table.bytes()) as u32;
        let head = {
            let state = self.lane.core.state();
            let mut head = state.head.clone();
            self.header.patch(&mut head);
            head
        };
        let l1 = self
            .lane
            .l1_table(self.header.l1_offset, self.header.l1_entries)
            .await?;
        let halfway = Halfway::begin(&self.lane.core);
        self.lane.write_first_block(&head).await?;
        self.install(head, l1, table);
        halfway.over();
        self.discard_freed().await;
        Ok(())
    }

    fn install(&self, head: Vec<u8>, l1: Table, table: Table) {
        let core = &self.lane.core;
        core.set_size(self.header.size);
        let mut state = core.state();
        state.head = head;
        state.header = self.header.clone();
        (state.l1, state.refcounts) = (l1, table);
        state.pages.clear();
        state.unpublished.clear();
        state.space.cursor = 0;
        state.tail = None;
        state.space.virgin = state.space.virgin.max(self.new.len());
    }

    /// Gives the file back what the old state used and the new one does not.
    async fn discard_freed(&self) {
        let bits = self.geometry.cluster_bits();
        let mut cluster = 0;
        let end = self.old.len();
        let freed = |cluster| self.old.at(cluster) > 0 && self.new.at(cluster) == 0;
        while cluster < end {
            let start = cluster;
            while cluster < end && freed(cluster) {
                cluster += 1;
            }
            if cluster > start {
                self.lane
                    .discard_file(start << bits, (cluster - start) << bits)
                    .await;
            }
            cluster += 1;
        }
    }

    /// Writes refcounts for all that the new state uses, themselves too.
    async fn write_refcounts(&mut self) -> Result<Table> {
        let per_block = self.counting.refcounts_per_block();
        let mut blocks: BTreeMap<u64, u64> = BTreeMap::new();
        let mut clusters = 1;
        let offset = loop {
            self.take_blocks(&mut blocks)?;
            let offset = self.take(clusters)?;
            self.take_blocks(&mut blocks)?;
            let entries = blocks.last_key_value().map_or(0, |(&last, _)| last + 1);
            if entries <= clusters * self.geometry.cluster() / 8 {
                break offset;
            }
            self.new.remove(
                self.geometry
                    .cluster_range(offset, clusters * self.geometry.cluster()),
            )?;
            clusters = self.geometry.clusters(entries * 8) + 1;
            if clusters * self.geometry.cluster() > MAX_REFCOUNT_TABLE_BYTES {
                return Err(full());
            }
        };
        let mut table = Table::parse(
            offset,
            &vec![0; (clusters * self.geometry.cluster()) as usize],
            512,
        );
        for (index, host) in blocks {
            let mut bytes = vec![0; self.geometry.cluster() as usize];
            for within in 0..per_block {
                let count = u64::from(self.new.at(index * per_block + within));
                if count > 0 {
                    set_refcount(self.counting, &mut bytes, within as usize, count);
                }
            }
            self.write(host, bytes).await?;
            table.set(index, host);
        }
        let whole = table.whole();
        self.write(whole.offset, whole.bytes).await?;
        let block = u64::from(self.lane.core.file.info().logical_block);
        Ok(table.in_blocks_of(block))
    }

    /// Takes a cluster for each refcount block that is needed and not among `blocks`.
    fn take_blocks(&mut self, blocks: &mut BTreeMap<u64, u64>) -> Result<()> {
        let per_block = self.counting.refcounts_per_block();
        let mut index = 0;
        while index * per_block < self.new.len() {
            let used = self.new.any(index * per_block..(index + 1) * per_block);
            if used && !blocks.contains_key(&index) {
                blocks.insert(index, self.take(1)?);
                // It may lie where no block was needed until now.
                index = 0;
                continue;
            }
            index += 1;
        }
        Ok(())
    }
}

impl Lane {
    /// The L1 table at `offset`.
    pub(crate) async fn l1_table(&self, offset: u64, entries: u32) -> Result<Table> {
        let block = u64::from(self.core.file.info().logical_block);
        let len = u64::from(entries) * 8;
        if offset + len > self.core.file_size().next_multiple_of(1 << 21) {
            return Err(corrupt(format!(
                "the L1 table of {len} bytes at {offset} leaves the file"
            )));
        }
        let bytes = self
            .read_file(offset, len.next_multiple_of(block) as usize)
            .await?;
        Ok(Table::parse(offset, &bytes[..len as usize], block))
    }

    /// Publishes and frees all that waits, so that the file alone tells the whole state.
    pub(crate) async fn settle(self: &std::rc::Rc<Self>) -> Result<()> {
        self.publish().await?;
        self.free().await?;
        self.publish().await
    }
}

/// The L2 tables that an L1 table points at, with their indices.
pub(crate) fn tables(
    l1: &Table,
    geometry: Geometry,
) -> impl Iterator<Item = Result<(u64, L1Entry)>> {
    let entries = l1.entries().iter().enumerate();
    entries.filter_map(move |(index, &raw)| match L1Entry::decode(raw, geometry) {
        Ok(entry) => entry.map(|entry| Ok((index as u64, entry))),
        Err(error) => Some(Err(error)),
    })
}

/// The index of the last entry that points at a table, zero if none does.
fn last_table(l1: &Table) -> u64 {
    l1.entries()
        .iter()
        .rposition(|&entry| entry != 0)
        .unwrap_or(0) as u64
}

/// The clusters of the file that a mapping points at.
pub(crate) fn clusters_of(mapping: Mapping, geometry: Geometry) -> Option<Range<u64>> {
    match mapping {
        Mapping::Compressed { host, len } => Some(geometry.cluster_range(host, len)),
        Mapping::Plain { host, .. } => {
            host.map(|host| geometry.cluster_range(host, geometry.cluster()))
        }
    }
}
