//! Compressed writes: several clusters of the disk in one of the file.
//!
//! Compressed data lies side by side, across the borders of clusters, and each cluster counts all that touch it. What a
//! write leaves free of its last cluster the next one uses, from the next block on: so no block that holds somebody
//! else's data is ever written again.

use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

use futures_channel::oneshot;
use weft_block::{Error, ErrorKind, IoVec, Request, Result, Spawner};

use super::Image;
use super::lane::Lane;
use super::state::{State, Stop};
use crate::compress::compress;
use crate::format::{CompressionType, Geometry, Mapping};

/// Clusters that one write takes at most.
const MOST_CLUSTERS: usize = 256;

/// A cluster of the disk, made as short as it can be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packed {
    /// Compressed.
    Short(Vec<u8>),
    /// As it is, because compression saves nothing.
    Plain(Vec<u8>),
}

impl Packed {
    /// Makes a cluster short. It takes CPU, and may be done on any thread.
    pub fn new(kind: CompressionType, cluster: &[u8]) -> Self {
        compress(kind, cluster).map_or_else(|| Self::Plain(cluster.to_vec()), Self::Short)
    }
}

/// The bytes of a cluster, for requests.
struct Memory {
    short: bool,
    bytes: IoVec,
}

impl From<Packed> for Memory {
    fn from(packed: Packed) -> Self {
        let (short, bytes) = match packed {
            Packed::Short(bytes) => (true, bytes),
            Packed::Plain(bytes) => (false, bytes),
        };
        let bytes = IoVec::from(bytes);
        Self { short, bytes }
    }
}

/// Writes compressed clusters of an image, from one thread. Others may write to it meanwhile.
pub struct Packer {
    lane: Rc<Lane>,
}

impl Image {
    /// A writer of compressed clusters.
    ///
    /// # Errors
    /// `ReadOnly`; `Unsupported` if the image is encrypted or has a data file: the format goes without compression there;
    /// and as opening a queue.
    pub fn packer(&self, spawner: &Spawner) -> Result<Packer> {
        let error = |kind, sentence: &str| Err(Error::new(kind, sentence));
        self.core.check_changeable()?;
        if !self.core.is_plain() || self.core.data_file.is_some() {
            let sentence = "an image that is encrypted or has a data file holds no compressed data";
            return error(ErrorKind::Unsupported, sentence);
        }
        let lane = Lane::open(&self.core, spawner)?;
        Ok(Packer { lane })
    }
}

impl Packer {
    /// Writes clusters side by side, the first at `guest` of the disk. Each was a whole cluster; where the disk ends within
    /// the last one, the rest of that is not looked at. It is durable after a flush, and is done to its end whoever waits.
    ///
    /// # Errors
    /// `Misaligned`, `OutOfRange` or `Invalid` for clusters that are none of this disk, and as a write.
    pub async fn write(&self, guest: u64, clusters: Vec<Packed>) -> Result<()> {
        self.check(guest, &clusters)?;
        let (sender, receiver) = oneshot::channel();
        let lane = Rc::clone(&self.lane);
        self.lane.spawner.spawn(Box::pin(async move {
            let clusters: Vec<Memory> = clusters.into_iter().map(Memory::from).collect();
            let result = lane.write_packed(guest, &clusters).await;
            // Nobody listens when the writer has lost interest.
            let _ = sender.send(result);
        }));
        let ended = || Error::new(ErrorKind::Offline, "the executor has ended");
        receiver.await.unwrap_or_else(|_| Err(ended()))
    }

    fn check(&self, guest: u64, clusters: &[Packed]) -> Result<()> {
        let (geometry, size) = (self.lane.core.geometry, self.lane.core.size());
        if !geometry.is_aligned(guest) {
            let sentence = "compressed clusters are written as a whole";
            return Err(Error::new(ErrorKind::Misaligned, sentence));
        }
        let len = clusters.len() as u64 * geometry.cluster();
        if guest > size || len > geometry.round_up(size) - guest {
            let sentence = "compressed clusters end beyond the disk";
            return Err(Error::new(ErrorKind::OutOfRange, sentence));
        }
        let fits = |packed: &Packed| match packed {
            Packed::Short(bytes) => (1..geometry.cluster()).contains(&(bytes.len() as u64)),
            Packed::Plain(bytes) => bytes.len() as u64 == geometry.cluster(),
        };
        if !clusters.iter().all(fits) {
            let sentence = "what is to be written is no cluster of this image";
            return Err(Error::new(ErrorKind::Invalid, sentence));
        }
        Ok(())
    }
}

/// A part of the file, of which each cluster is counted once for us.
#[derive(Debug, Clone)]
struct Room {
    bytes: Range<u64>,
}

/// Where data was put, and what counts it.
#[derive(Debug, Default)]
struct Placed {
    /// First byte and bytes of each.
    data: Vec<(u64, u64)>,
    /// How many of them touch each cluster of the room.
    users: BTreeMap<u64, u64>,
    /// Where the next could be.
    end: u64,
}

impl Room {
    /// Puts as much as fits in, side by side; no cluster gets more than `most` users. `before` has those that a first
    /// cluster had already.
    fn place(&self, lens: &[u64], geometry: Geometry, most: u64, before: u64) -> Placed {
        let bits = geometry.cluster_bits();
        let mut placed = Placed {
            end: self.bytes.start,
            ..Placed::default()
        };
        let clusters = self.bytes.start >> bits..self.bytes.end >> bits;
        placed.users.extend(clusters.map(|cluster| (cluster, 0)));
        if let Some(users) = placed.users.get_mut(&(self.bytes.start >> bits)) {
            *users = before;
        }
        for len in lens {
            let full = placed
                .users
                .get(&(placed.end >> bits))
                .is_some_and(|users| *users >= most);
            if full {
                placed.end = geometry.round_up(placed.end + 1);
            }
            // Its sectors count, not its bytes alone; they end in the same cluster.
            let touched = placed.end >> bits..((placed.end + len - 1) >> bits) + 1;
            if placed.end + len > self.bytes.end || most < 2 && touched.end - touched.start > 1 {
                break;
            }
            for cluster in touched {
                *placed.users.entry(cluster).or_default() += 1;
            }
            placed.data.push((placed.end, *len));
            placed.end += len;
        }
        if let Some(users) = placed.users.get_mut(&(self.bytes.start >> bits)) {
            *users -= before;
        }
        placed
    }
}

impl State {
    /// Takes the rest of the cluster that was written last, and counts it once more.
    fn claim_tail(&mut self) -> Result<Option<(Room, u64)>, Stop> {
        let geometry = self.geometry();
        let Some(tail) = self.tail else {
            return Ok(None);
        };
        let cluster = tail >> geometry.cluster_bits();
        let users = self.refcount(cluster)?;
        self.tail = None;
        if users >= geometry.max_refcount() {
            return Ok(None);
        }
        self.set_refcount(cluster, users + 1)?;
        let bytes = tail..geometry.round_up(tail);
        Ok(Some((Room { bytes }, users)))
    }

    /// The clusters at `guest` are at `placed` from now on, and the clusters there are counted for that, in place of the
    /// once that they were taken with.
    fn settle(
        &mut self,
        guest: u64,
        old: &[Mapping],
        placed: &Placed,
        block: u64,
    ) -> Result<(), Stop> {
        let geometry = self.geometry();
        let bits = geometry.cluster_bits();
        // All that may stop, before anything changes.
        for cluster in placed.users.keys() {
            self.refcount(*cluster)?;
        }
        for index in 0..old.len() as u64 {
            self.changeable(guest + index * geometry.cluster())?;
        }
        for (cluster, users) in &placed.users {
            match users {
                0 => drop(self.release(*cluster)?),
                users => {
                    let counted = self.refcount(*cluster)?;
                    self.set_refcount(*cluster, counted - 1 + users)?;
                }
            }
        }
        let new = placed.data.iter().map(|(host, len)| Mapping::Compressed {
            host: *host,
            len: (host + len).next_multiple_of(512) - host,
        });
        self.relink(guest, old, &new.collect::<Vec<_>>())?;
        let tail = placed.end.next_multiple_of(block);
        let in_use = placed
            .users
            .get(&(tail >> bits))
            .is_some_and(|users| *users > 0);
        if in_use && !geometry.is_aligned(tail) {
            self.tail = Some(tail);
        }
        Ok(())
    }
}

impl Lane {
    async fn write_packed(self: &Rc<Self>, guest: u64, clusters: &[Memory]) -> Result<()> {
        let geometry = self.core.geometry;
        let _pass = self.core.gate.wait().await;
        self.core.state().check_writable()?;
        let end = guest + clusters.len() as u64 * geometry.cluster();
        self.record(guest..end.min(self.core.size())).await?;
        {
            let _places = self.core.places.exclusive(guest..end).await;
            let mut at = guest;
            let is_same = |one: &Memory, other: &Memory| one.short == other.short;
            for run in clusters
                .chunk_by(is_same)
                .flat_map(|run| run.chunks(MOST_CLUSTERS))
            {
                self.write_alike(at, run).await?;
                at += run.len() as u64 * geometry.cluster();
            }
        }
        self.after_change(false).await
    }

    /// Writes clusters that are all short, or all plain.
    async fn write_alike(&self, guest: u64, run: &[Memory]) -> Result<()> {
        let cluster = self.core.geometry.cluster();
        if run.first().is_some_and(|memory| !memory.short) {
            // What is beyond the disk's end has its place in the cluster too.
            let whole = IoVec::join(run.iter().map(|memory| memory.bytes.clone()));
            return self.write(guest, &whole, false).await;
        }
        let mut done = 0;
        while done < run.len() {
            done += self
                .write_short(guest + done as u64 * cluster, &run[done..])
                .await?;
        }
        Ok(())
    }

    /// Writes as many of the clusters as fit where room is found first; tells how many.
    async fn write_short(&self, guest: u64, clusters: &[Memory]) -> Result<usize> {
        let geometry = self.core.geometry;
        let block = u64::from(self.core.file.info().logical_block);
        let lens: Vec<u64> = clusters
            .iter()
            .map(|memory| memory.bytes.len() as u64)
            .collect();
        let (room, before) = self.find_room(&lens).await?;
        let placed = room.place(&lens, geometry, geometry.max_refcount(), before);
        let (_, limit) = Mapping::compressed_limits(geometry);
        let written = if room.bytes.end > limit {
            let sentence = "the image's file is too long for compressed data";
            Err(Error::new(ErrorKind::NoSpace, sentence))
        } else {
            self.write_placed(&placed, clusters, block).await
        };
        let settled = match written {
            Ok(()) => self.relink_placed(guest, &placed, block).await,
            Err(error) => Err(error),
        };
        if let Err(error) = settled {
            for cluster in placed.users.keys() {
                self.step(|state| state.release(*cluster)).await?;
            }
            return Err(error);
        }
        Ok(placed.data.len())
    }

    async fn relink_placed(&self, guest: u64, placed: &Placed, block: u64) -> Result<()> {
        let cluster = self.core.geometry.cluster();
        let mut old = Vec::with_capacity(placed.data.len());
        for index in 0..placed.data.len() as u64 {
            let mapping = self.step(|state| state.mapping(guest + index * cluster));
            old.push(mapping.await?);
        }
        self.step(|state| state.settle(guest, &old, placed, block))
            .await
    }

    /// Room for some of what is so long: what is left of the last cluster, if the first fits there, or new clusters. Tells
    /// how often the first cluster was counted before.
    async fn find_room(&self, lens: &[u64]) -> Result<(Room, u64)> {
        let geometry = self.core.geometry;
        // Nobody must free the cluster of the tail between looking at it and counting it.
        if let Some(_guard) = self.core.turns.without_freeing()
            && let Some((room, users)) = self.step(|state| state.claim_tail()).await?
        {
            if lens[0] <= room.bytes.end - room.bytes.start {
                return Ok((room, users));
            }
            let cluster = room.bytes.start >> geometry.cluster_bits();
            self.step(|state| state.release(cluster)).await?;
        }
        let wanted = if geometry.max_refcount() < 2 {
            lens.len() as u64
        } else {
            geometry.clusters(lens.iter().sum())
        };
        let found = self.allocate(|state| state.allocate(wanted)).await?;
        let bytes = found.host..found.host + found.count * geometry.cluster();
        Ok((Room { bytes }, 0))
    }

    /// Writes the data to its place, up to the end of a block.
    async fn write_placed(&self, placed: &Placed, clusters: &[Memory], block: u64) -> Result<()> {
        let Some((start, _)) = placed.data.first() else {
            return Ok(());
        };
        let mut at = *start;
        let mut parts = Vec::with_capacity(placed.data.len() + 1);
        let gap = |at: u64, end: u64| IoVec::zeroed((end - at) as usize);
        for ((host, len), memory) in placed.data.iter().zip(clusters) {
            // Where a cluster has as many users as can be counted, the rest of it stays free.
            parts.push(gap(at, *host));
            parts.push(memory.bytes.clone());
            at = host + len;
        }
        parts.push(gap(at, placed.end.next_multiple_of(block)));
        let write = Request::write(*start, IoVec::join(parts));
        self.data().submit(write).await.result
    }
}
