//! The volatile cache of one disk.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use weft_block::{Error, ErrorKind, Info, IoVec};

use super::Fate;
use crate::SparseImage;

/// Completed writes at the instant a flush was submitted: sector, and the newest version that it must make durable.
pub(super) type Horizon = Vec<(u64, u64)>;

pub(super) struct Cache {
    pub(super) info: Info,
    /// What the size is at least after a cut.
    durable_size: u64,
    durable: SparseImage,
    /// By sector (of the logical block size), oldest first: what was written since the sector was last durable.
    pending: BTreeMap<u64, Vec<Version>>,
    torn: BTreeSet<u64>,
    next_version: u64,
}

struct Version {
    id: u64,
    completed: bool,
    /// Nothing for zeroes.
    data: Option<Box<[u8]>>,
}

impl Cache {
    pub(super) fn new(info: Info, durable: SparseImage) -> Self {
        Self {
            durable_size: info.size,
            info,
            durable,
            pending: BTreeMap::new(),
            torn: BTreeSet::new(),
            next_version: 0,
        }
    }

    /// Puts `data` (or zeroes) into the cache, in flight; returns the version's number.
    pub(super) fn write(&mut self, offset: u64, len: u64, data: Option<&IoVec>) -> u64 {
        let block = self.block();
        let id = self.next_version;
        self.next_version += 1;
        for sector in self.sectors(offset, len) {
            let data = data.map(|data| {
                let mut bytes = vec![0; block as usize].into_boxed_slice();
                data.copy_out((sector * block - offset) as usize, &mut bytes);
                bytes
            });
            self.pending.entry(sector).or_default().push(Version {
                id,
                completed: false,
                data,
            });
        }
        id
    }

    /// The write `id` is complete; with `durable` it is on the medium too.
    pub(super) fn complete(&mut self, offset: u64, len: u64, id: u64, durable: bool) {
        if durable {
            let end = (offset + len).min(self.info.size);
            self.durable_size = self.durable_size.max(end);
        }
        for sector in self.sectors(offset, len) {
            let versions = self.pending.get_mut(&sector).into_iter().flatten();
            for version in versions.filter(|version| version.id == id) {
                version.completed = true;
            }
            if durable {
                self.harden(sector, id);
            }
        }
    }

    /// What a flush that is submitted now must make durable.
    pub(super) fn horizon(&self) -> Horizon {
        self.pending
            .iter()
            .filter_map(|(&sector, versions)| {
                let newest = versions.iter().rev().find(|version| version.completed)?;
                Some((sector, newest.id))
            })
            .collect()
    }

    /// Changes the size: growth is as volatile as a write, what is cut off is gone at once.
    pub(super) fn set_len(&mut self, size: u64) {
        self.info.size = size;
        if size < self.durable_size || !self.info.volatile_cache {
            self.durable_size = size;
        }
        self.forget_from(size);
    }

    /// What is beyond `size` was never there.
    fn forget_from(&mut self, size: u64) {
        self.durable.truncate(size);
        let first = size / self.block();
        self.pending.split_off(&first);
        self.torn.split_off(&first);
    }

    /// Makes the versions of `horizon` durable, and `size`.
    pub(super) fn flush(&mut self, horizon: &Horizon, size: u64) {
        self.durable_size = size.min(self.info.size);
        for &(sector, id) in horizon {
            self.harden(sector, id);
        }
    }

    /// Reads what a running disk shows: the newest version of each sector.
    pub(super) fn read(&self, offset: u64, into: &mut IoVec) -> Result<(), Error> {
        let block = self.block();
        self.durable.read_vector(offset, into);
        for sector in self.sectors(offset, into.len() as u64) {
            let place = (sector * block - offset) as usize;
            match self
                .pending
                .get(&sector)
                .and_then(|versions| versions.last())
            {
                Some(Version {
                    data: Some(data), ..
                }) => into.copy_in(place, data),
                Some(Version { data: None, .. }) => into.fill(place, block as usize, 0),
                None if self.torn.contains(&sector) => return Err(torn(sector)),
                None => {}
            }
        }
        Ok(())
    }

    /// Decides after a cut what each sector holds.
    pub(super) fn settle(&mut self, fate: Fate, random: &mut ChaCha8Rng) {
        if self.durable_size < self.info.size && !random.random_bool(fate.kept) {
            self.info.size = self.durable_size;
            self.forget_from(self.durable_size);
        }
        self.durable_size = self.info.size;
        for (sector, versions) in std::mem::take(&mut self.pending) {
            if random.random_bool(fate.torn) {
                self.torn.insert(sector);
            } else if random.random_bool(fate.kept) {
                // The newest is the likeliest, but any of them may have been the last to reach the medium.
                let newest = versions.len() - 1;
                let index = random.random_range(0..=newest * 2).min(newest);
                self.put(sector, versions[index].data.as_deref());
            }
        }
    }

    /// Decides what becomes of writes in flight when their process is gone. What is complete is still in the cache.
    pub(super) fn land(&mut self, random: &mut ChaCha8Rng) {
        for versions in self.pending.values_mut() {
            versions.retain_mut(|version| {
                let lands = version.completed || random.random_bool(0.5);
                version.completed = true;
                lands
            });
        }
        self.pending.retain(|_, versions| !versions.is_empty());
    }

    /// What is on the medium, torn sectors as they were before.
    pub(super) fn durable(&self) -> &SparseImage {
        &self.durable
    }

    /// Changes the medium itself.
    pub(super) fn poke(&mut self, offset: u64, bytes: &[u8]) {
        self.durable.write(offset, bytes);
        for sector in self.sectors(offset, bytes.len() as u64) {
            self.torn.remove(&sector);
            self.pending.remove(&sector);
        }
    }

    pub(super) fn sectors(&self, offset: u64, len: u64) -> Range<u64> {
        let block = self.block();
        offset / block..(offset + len).div_ceil(block)
    }

    pub(super) fn block(&self) -> u64 {
        u64::from(self.info.logical_block)
    }

    /// Moves the version `id` of a sector to the medium and forgets it and the older ones.
    fn harden(&mut self, sector: u64, id: u64) {
        let Some(versions) = self.pending.get_mut(&sector) else {
            return;
        };
        // A later write that is durable already has taken its place otherwise.
        if let Some(index) = versions.iter().position(|version| version.id == id) {
            let data = versions.drain(..=index).next_back();
            let empty = versions.is_empty();
            if let Some(version) = data {
                self.put(sector, version.data.as_deref());
            }
            if empty {
                self.pending.remove(&sector);
            }
        }
    }

    fn put(&mut self, sector: u64, data: Option<&[u8]>) {
        let block = self.block();
        match data {
            Some(data) => self.durable.write(sector * block, data),
            None => self.durable.zero(sector * block, block, false),
        }
        self.torn.remove(&sector);
    }
}

fn torn(sector: u64) -> Error {
    Error::new(
        ErrorKind::Io,
        format!("sector {sector} was torn by a power cut"),
    )
}
