//! An image that is made another way after it was made: its version, its refcounts, its flags.

use std::rc::Rc;

use weft_block::{Error, ErrorKind, IoVec, Request, Result, Spawner};

use super::Image;
use super::bitmaps::has_bitmaps;
use super::core::invalid;
use super::lane::Lane;
use super::map::Place;
use super::shadow::tables;
use super::table::Table;
use super::tables::decode;
use crate::format::{
    Geometry, Header, MAX_NAME, Mapping, SnapshotEntry, Version, autoclear, compatible,
    incompatible,
};

/// Bytes of zeroes that are written at once.
const ZEROES: u64 = 1 << 20;

/// Bytes of the disk whose parts are asked for at once.
const REACH: u64 = 1 << 30;

/// What of an image is to be another way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Amendment {
    /// Its version.
    Version(Version),
    /// log2 of the bits of its refcounts: 0 to 6.
    RefcountOrder(u32),
    /// Whether others may write refcounts late.
    LazyRefcounts(bool),
    /// The name of its data file, which is moved or renamed by whoever asks; empty for none.
    DataFile(String),
    /// Whether the data file reads as the disk does. It can only be let go of.
    RawDataFile(bool),
}

impl Amendment {
    /// The header of an image with `header` after this; the same where nothing is to be done.
    ///
    /// # Errors
    /// `Invalid` or `Unsupported` if such an image cannot be this way.
    pub fn applied(&self, header: &Header) -> Result<Header> {
        let mut new = header.clone();
        let v3 = header.version == Version::V3;
        match self {
            Self::Version(Version::V3) => new.version = Version::V3,
            Self::Version(Version::V2) if v3 => return of_version_2(new),
            Self::Version(Version::V2) => {}
            Self::RefcountOrder(order) => {
                let old = header.geometry;
                new.geometry = Geometry::new(old.cluster_bits(), *order, old.extended_l2())?;
                if !v3 && *order != 4 {
                    return Err(invalid(
                        "an image of version 2 (compat=0.10) has refcounts of 16 bits",
                    ));
                }
            }
            Self::LazyRefcounts(true) if !v3 => {
                return Err(invalid(
                    "an image of version 2 (compat=0.10) has no lazy refcounts",
                ));
            }
            Self::LazyRefcounts(true) => new.compatible |= compatible::LAZY_REFCOUNTS,
            Self::LazyRefcounts(false) => new.compatible &= !compatible::LAZY_REFCOUNTS,
            Self::DataFile(_) if !header.has(incompatible::DATA_FILE) => {
                return Err(invalid(
                    "the image has its data in itself, and cannot get a data file",
                ));
            }
            Self::DataFile(name) if name.len() > MAX_NAME => {
                return Err(invalid(format!(
                    "the name of a data file has at most {MAX_NAME} bytes"
                )));
            }
            Self::DataFile(name) => {
                new.extensions.data_file = Some(name.clone()).filter(|name| !name.is_empty());
            }
            Self::RawDataFile(true) if !header.raw_data_file() => {
                return Err(invalid(
                    "what a data file holds is the disk from the beginning or never",
                ));
            }
            Self::RawDataFile(true) => {}
            Self::RawDataFile(false) => new.autoclear &= !autoclear::RAW_DATA_FILE,
        }
        Ok(new)
    }
}

/// The header as one of version 2, if all that it says can be said there.
fn of_version_2(mut header: Header) -> Result<Header> {
    let reason = match header.incompatible & !incompatible::DIRTY {
        bits if bits & incompatible::DATA_FILE != 0 => "a data file of its own",
        bits if bits & incompatible::EXTENDED_L2 != 0 => "extended L2 entries",
        bits if bits & incompatible::COMPRESSION != 0 => "clusters compressed with zstd",
        bits if bits != 0 => "contradictions that have to be repaired first",
        _ if header.geometry.refcount_order() != 4 => "refcounts of another width than 16 bits",
        _ if has_bitmaps(&header) => "bitmaps, which have to be removed first",
        _ => "",
    };
    if !reason.is_empty() {
        let sentence = format!("version 2 (compat=0.10) cannot say what this image has: {reason}");
        return Err(Error::new(ErrorKind::Unsupported, sentence));
    }
    header.version = Version::V2;
    (header.incompatible, header.compatible, header.autoclear) = (0, 0, 0);
    header.extensions.bitmaps = None;
    header.further.clear();
    Ok(header)
}

impl Image {
    /// Makes the image another way. Its disk and its snapshots stay what they are, and a cut leaves it the old or the new
    /// way. It takes no more writes after that, through no clone, until it is opened again. Nobody may be using it.
    ///
    /// To become one of version 2, which has no entries of zeroes, the disk lets go of those that it has, and writes zeroes
    /// where something would show from below.
    ///
    /// # Errors
    /// As [`Amendment::applied`]; `Unsupported` if a snapshot holds what version 2 cannot say; `Invalid` without the backing
    /// file where zeroes must be written, with a redo log, or if a cluster is used more often than smaller refcounts count;
    /// `ReadOnly`, `NoSpace`, and as writing: the image is as it was then.
    pub async fn amend(self, amendment: &Amendment, spawner: &Spawner) -> Result<()> {
        self.core.check_changeable()?;
        let old = self.header();
        let new = amendment.applied(&old)?;
        if new == old {
            return Ok(());
        }
        if self.core.state().redo.is_some() {
            return Err(invalid(
                "an image with a redo log is in use, and stays as it is",
            ));
        }
        let lane = Lane::open(&self.core, spawner)?;
        match amendment {
            Amendment::RefcountOrder(_) => lane.recount(new.geometry).await?,
            Amendment::Version(Version::V2) => {
                lane.check_snapshots().await?;
                self.write_zeroes_over_backing(spawner).await?;
                lane.forget_zeroes().await?;
            }
            Amendment::Version(Version::V3) => lane.size_snapshots().await?,
            _ => {}
        }
        if !matches!(amendment, Amendment::RefcountOrder(_)) {
            let _control = self.core.control.lock().await;
            let closed = self.core.gate.close().await;
            lane.settle().await?;
            let place = lane.core.header();
            lane.change_header(|header| {
                *header = Header {
                    l1_offset: place.l1_offset,
                    l1_entries: place.l1_entries,
                    refcount_table_offset: place.refcount_table_offset,
                    refcount_table_clusters: place.refcount_table_clusters,
                    snapshots_offset: place.snapshots_offset,
                    ..new
                }
            })
            .await?;
            lane.end_writing();
            drop(closed);
        }
        Ok(())
    }

    /// Writes zeroes where entries say them and the backing file would show without.
    async fn write_zeroes_over_backing(&self, spawner: &Spawner) -> Result<()> {
        let header = self.header();
        if header.backing_path.is_some() && self.core.backing.is_none() {
            return Err(invalid(
                "the image needs its backing file to become one of version 2, and it was not given",
            ));
        }
        let queue = self.core_queue(spawner)?;
        let end = self.core.backing_size().min(self.core.info().size);
        let mut at = 0;
        while at < end {
            let stop = end.min(at + REACH);
            for part in self.parts(at, stop - at, spawner).await? {
                if !matches!(part.place, Place::Zero(_)) {
                    continue;
                }
                for start in (0..part.len).step_by(ZEROES as usize) {
                    let zeroes = IoVec::zeroed(ZEROES.min(part.len - start) as usize);
                    let write = Request::write(part.offset + start, zeroes);
                    queue.submit(write).await.result?;
                }
            }
            at = stop;
        }
        queue.submit(Request::flush()).await.result
    }

    fn core_queue(&self, spawner: &Spawner) -> Result<Box<dyn weft_block::BlockQueue>> {
        weft_block::BlockDevice::open(self, spawner)
    }
}

impl Lane {
    /// Refcounts of another width, all at once.
    async fn recount(self: &Rc<Self>, geometry: Geometry) -> Result<()> {
        self.exclusively(async |lane, mut shadow| {
            shadow.count_in(geometry)?;
            shadow.commit().await?;
            lane.end_writing();
            Ok(())
        })
        .await
    }

    /// Whoever has the image in memory knows it as it was.
    fn end_writing(&self) {
        let reason = "it was made another way";
        self.core.state().fail(reason.to_owned());
    }

    /// Snapshots of version 3 tell how large their disk is.
    async fn size_snapshots(self: &Rc<Self>) -> Result<()> {
        let has_size = |entry: &SnapshotEntry| entry.size.is_some();
        if self.snapshots().await?.iter().all(has_size) {
            return Ok(());
        }
        self.exclusively(async |lane, mut shadow| {
            let mut entries = lane.snapshots().await?;
            for entry in &mut entries {
                // Before they told it the disk never had another size.
                entry.size.get_or_insert(shadow.header.size);
            }
            lane.replace_snapshots(&mut shadow, &entries).await?;
            shadow.commit().await
        })
        .await
    }

    /// Whether version 2 can say what the snapshots are.
    async fn check_snapshots(&self) -> Result<()> {
        let size = self.core.size();
        for entry in self.snapshots().await? {
            let l1 = self.l1_table(entry.l1_offset, entry.l1_entries).await?;
            let problem = match entry.size {
                Some(other) if other != size => "has another size than the disk now",
                _ if self.has_zeroes(&l1).await? => "has clusters of zeroes",
                _ => continue,
            };
            let sentence = format!(
                "snapshot {} {problem}, which version 2 (compat=0.10) cannot say: delete it first",
                entry.name
            );
            return Err(Error::new(ErrorKind::Unsupported, sentence));
        }
        Ok(())
    }

    /// Whether entries under an L1 table say that their clusters read as zeroes.
    async fn has_zeroes(&self, l1: &Table) -> Result<bool> {
        let (geometry, version) = (self.core.geometry, self.core.version);
        for entry in tables(l1, geometry) {
            let table = entry?.1.table;
            let bytes = self.read_file(table, geometry.cluster() as usize).await?;
            for entry in bytes.chunks_exact(geometry.l2_entry() as usize) {
                if is_zero(decode(entry, version, geometry)?) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Entries of zeroes, behind which nothing shows, become none.
    async fn forget_zeroes(self: &Rc<Self>) -> Result<()> {
        let l1 = self.core.state().l1.clone();
        // All that was changed is there.
        self.settle().await?;
        if !self.has_zeroes(&l1).await? {
            return Ok(());
        }
        self.exclusively(async |lane, mut shadow| {
            let active = lane.core.state().l1.clone();
            for clusters in shadow.tree(&active).await? {
                shadow.new.remove(clusters)?;
            }
            shadow.forget_zeroes = true;
            let size = shadow.header.size;
            shadow.adopt(&active, size).await?;
            shadow.commit().await
        })
        .await
    }
}

/// Whether all of a cluster reads as zeroes, with a place or without.
pub(super) fn is_zero(mapping: Mapping) -> bool {
    matches!(mapping, Mapping::Plain { zero: u32::MAX, .. })
}
