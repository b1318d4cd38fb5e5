//! Which clusters of the file are free.

use std::ops::Range;

use weft_block::{Error, ErrorKind, Result};

use super::pages::Kind;
use super::redo::Place;
use super::state::{State, Stop};
use super::tables::word_at;
use crate::format::{MAX_REFCOUNT_TABLE_BYTES, refcount, set_refcount};

/// Where free clusters are looked for.
#[derive(Debug)]
pub(crate) struct Space {
    /// No cluster before this one is free.
    pub(crate) cursor: u64,
    /// From this cluster on the file was never written: it reads as zeroes.
    pub(crate) virgin: u64,
    /// Clusters that the file can have.
    pub(crate) end: u64,
}

/// Clusters that were free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found {
    /// Their first byte.
    pub(crate) host: u64,
    /// How many.
    pub(crate) count: u64,
    /// Whether the file reads as zeroes there.
    pub(crate) virgin: bool,
}

impl State {
    /// The refcount of a cluster.
    pub(crate) fn refcount(&mut self, cluster: u64) -> Result<u64, Stop> {
        let geometry = self.geometry();
        let Some((offset, index)) = self.refcount_place(cluster)? else {
            return Ok(0);
        };
        match self.pages.look(offset) {
            Some((page, _)) => Ok(refcount(geometry, page, index)),
            None => Err(Stop::Page(offset, Kind::Refcounts)),
        }
    }

    /// Sets the refcount of a cluster.
    pub(crate) fn set_refcount(&mut self, cluster: u64, value: u64) -> Result<(), Stop> {
        let geometry = self.geometry();
        let Some((offset, index)) = self.refcount_place(cluster)? else {
            return Err(Stop::Block(cluster / geometry.refcounts_per_block()));
        };
        if !self.pages.has(offset) {
            return Err(Stop::Page(offset, Kind::Refcounts));
        }
        self.need_room(1)?;
        let bits = 1usize << geometry.refcount_order();
        let within = index * bits / 8;
        let (page, _) = self.pages.change(offset + within as u64, bits.div_ceil(8));
        set_refcount(geometry, page, index, value);
        let word = within - within % 8;
        let value = word_at(page, word);
        self.note(&[(Place::Count(offset + word as u64), value)]);
        Ok(())
    }

    /// The page that holds the refcount of a cluster, and the refcount's index in it; nothing where no block is.
    fn refcount_place(&self, cluster: u64) -> Result<Option<(u64, usize)>> {
        let geometry = self.geometry();
        let block = self.refcounts.at(cluster / geometry.refcounts_per_block());
        if block == 0 {
            return Ok(None);
        }
        if block & 0x1ff != 0 || !geometry.is_aligned(block) || block >> 56 != 0 {
            let sentence = format!("the entry {block:#018x} of the refcount table cannot be");
            return Err(Error::new(ErrorKind::Corrupt, sentence));
        }
        let index = cluster % geometry.refcounts_per_block();
        let byte = (index << geometry.refcount_order()) / 8;
        let page = self.pages.page_of(block + byte);
        let first = ((page - block) * 8) >> geometry.refcount_order();
        Ok(Some((page, (index - first) as usize)))
    }

    /// Takes up to `want` free clusters side by side, at least one, and counts them as used once.
    ///
    /// # Errors
    /// `NoSpace` when the file can have no more.
    pub(crate) fn allocate(&mut self, want: u64) -> Result<Found, Stop> {
        let mut start = self.space.cursor;
        while self.within_end(start)? && self.refcount(start)? != 0 {
            start += 1;
            // What was seen as used need not be looked at again, even if the step stops.
            self.space.cursor = start;
        }
        let virgin = start >= self.space.virgin;
        let most = if virgin {
            self.space.end
        } else {
            self.space.end.min(self.space.virgin)
        };
        let mut end = start + 1;
        while end < most && end - start < want && self.is_known_free(end)? {
            end += 1;
        }
        self.take(start..end)
    }

    /// Takes exactly `count` free clusters side by side.
    ///
    /// # Errors
    /// `NoSpace` when the file can have no more.
    pub(crate) fn allocate_exactly(&mut self, count: u64) -> Result<Found, Stop> {
        let mut start = self.space.cursor;
        let mut end = start;
        while end - start < count {
            self.within_end(end)?;
            if self.refcount(end)? != 0 {
                start = end + 1;
            }
            end += 1;
        }
        self.take(start..end)
    }

    /// Whether a cluster is free, where that can be told without reading.
    fn is_known_free(&mut self, cluster: u64) -> Result<bool, Stop> {
        match self.refcount(cluster) {
            Ok(count) => Ok(count == 0 && self.has_refcount(cluster)),
            Err(Stop::Page(..)) => Ok(false),
            Err(stop) => Err(stop),
        }
    }

    fn has_refcount(&self, cluster: u64) -> bool {
        self.refcounts
            .at(cluster / self.geometry().refcounts_per_block())
            != 0
    }

    fn within_end(&self, cluster: u64) -> Result<bool> {
        if cluster < self.space.end {
            return Ok(true);
        }
        Err(full())
    }

    /// Sets the refcounts of free clusters to one. Nothing has changed if it stops.
    fn take(&mut self, clusters: Range<u64>) -> Result<Found, Stop> {
        let per_block = self.geometry().refcounts_per_block();
        let bits = self.geometry().cluster_bits();
        self.check_free(clusters.start << bits..clusters.end << bits)?;
        for cluster in clusters.clone() {
            if !self.has_refcount(cluster) {
                return Err(Stop::Block(cluster / per_block));
            }
            self.refcount(cluster)?;
        }
        self.need_room(clusters.end - clusters.start)?;
        for cluster in clusters.clone() {
            self.set_refcount(cluster, 1)?;
        }
        let virgin = clusters.start >= self.space.virgin;
        self.space.virgin = self.space.virgin.max(clusters.end);
        if clusters.start == self.space.cursor {
            self.space.cursor = clusters.end;
        }
        Ok(Found {
            host: clusters.start << self.geometry().cluster_bits(),
            count: clusters.end - clusters.start,
            virgin,
        })
    }

    /// Gives clusters back that were taken and that nothing has ever pointed at.
    pub(crate) fn give_back(&mut self, found: Found) -> Result<(), Stop> {
        let first = found.host >> self.geometry().cluster_bits();
        (first..first + found.count).try_for_each(|cluster| self.release(cluster).map(|_| ()))
    }

    /// One less points at a cluster. The answer is how many are left; a free cluster can be taken at once.
    pub(crate) fn release(&mut self, cluster: u64) -> Result<u64, Stop> {
        let count = self.refcount(cluster)?;
        if count == 0 {
            let sentence =
                format!("cluster {cluster} is free already, and something pointed at it");
            return Err(Error::new(ErrorKind::Corrupt, sentence).into());
        }
        self.set_refcount(cluster, count - 1)?;
        if count == 1 {
            self.space.cursor = self.space.cursor.min(cluster);
            let bits = self.geometry().cluster_bits();
            self.tail.take_if(|tail| *tail >> bits == cluster);
        }
        Ok(count - 1)
    }

    /// The refcount block with `index` begins to be, in a cluster that reads as zeroes and that this block counts, or one
    /// before it.
    pub(crate) fn begin_block(&mut self, index: u64, cluster: u64) -> Result<(), Stop> {
        let geometry = self.geometry();
        let host = cluster << geometry.cluster_bits();
        self.need_room(2)?;
        if self.refcounts.at(index) == 0 {
            // More of its pages than are changed before anything else is read.
            let page = self.pages.page_len();
            for start in (0..geometry.cluster()).step_by(page).take(4) {
                self.pages
                    .insert(host + start, Kind::Refcounts, vec![0; page].into());
            }
            self.refcounts.set(index, host);
            self.note(&[(Place::Block(index), host)]);
            self.unpublished.insert(host);
            self.space.virgin = self.space.virgin.max(cluster + 1);
        }
        if self.refcount(cluster)? == 0 {
            self.set_refcount(cluster, 1)?;
        }
        Ok(())
    }

    /// How the refcount table must be so that there can be a block with `index`: nothing if it is long enough, otherwise
    /// the clusters of the new one, which begin right behind the `blocks` blocks that count them.
    pub(crate) fn longer_table(&self, index: u64) -> Result<Option<Longer>> {
        let geometry = self.geometry();
        let entries = self.refcounts.entries().len() as u64;
        if index < entries {
            return Ok(None);
        }
        let per_cluster = geometry.cluster() / 8;
        let per_block = geometry.refcounts_per_block();
        let mut blocks = 1;
        let clusters = loop {
            let wanted = (index + blocks).max(entries * 3 / 2);
            let clusters = wanted.div_ceil(per_cluster);
            if blocks + clusters <= blocks * per_block {
                break clusters;
            }
            blocks += 1;
        };
        let first = index * per_block;
        let fits = clusters * geometry.cluster() <= MAX_REFCOUNT_TABLE_BYTES;
        if !fits || first + blocks + clusters > self.space.end {
            return Err(full());
        }
        Ok(Some(Longer {
            first_block: index,
            blocks,
            clusters,
        }))
    }
}

/// The error of an image that has no free cluster.
pub(crate) fn full() -> Error {
    Error::new(
        ErrorKind::NoSpace,
        "the image's file is full and cannot grow",
    )
}

/// A refcount table that is to replace one that is too short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Longer {
    /// The index of the first block that counts it.
    pub(crate) first_block: u64,
    /// How many blocks count it.
    pub(crate) blocks: u64,
    /// Its own clusters.
    pub(crate) clusters: u64,
}

impl State {
    /// The refcount table moves to where `longer` says, which nobody uses. The old one's clusters are unlinked.
    pub(crate) fn move_refcounts(&mut self, longer: Longer) -> Result<(), Stop> {
        let geometry = self.geometry();
        let first = longer.first_block * geometry.refcounts_per_block();
        let host = (first + longer.blocks) << geometry.cluster_bits();
        let count = longer.clusters * geometry.cluster() / 8;
        self.need_room(2 + 2 * longer.blocks + longer.clusters)?;
        let old = self.refcounts.moved(self.refcounts.offset(), 0);
        self.refcounts = old.moved(host, count as usize);
        self.note(&[(Place::Table, host), (Place::TableLen, count)]);
        for number in 0..longer.blocks {
            self.begin_block(longer.first_block + number, first + number)?;
        }
        for cluster in first + longer.blocks..first + longer.blocks + longer.clusters {
            self.set_refcount(cluster, 1)?;
        }
        self.space.virgin = self
            .space
            .virgin
            .max(first + longer.blocks + longer.clusters);
        self.refcounts_moved = true;
        self.unlink(old.offset(), geometry.clusters(old.bytes()));
        Ok(())
    }
}
