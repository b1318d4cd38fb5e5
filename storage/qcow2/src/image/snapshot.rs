//! Internal snapshots. Making one, going back to one and deleting one are each a [`Shadow`]: they happen whole or not at
//! all.

use std::rc::Rc;

use weft_block::{Error, ErrorKind, Result, Spawner};

use super::Image;
use super::core::{corrupt, invalid};
use super::lane::Lane;
use super::shadow::Shadow;
use crate::format::{MAX_SNAPSHOT_TABLE_BYTES, MAX_SNAPSHOTS, SnapshotEntry};

/// Bytes that are read of a snapshot table at first.
const FIRST_READ: u64 = 64 << 10;

/// What a new snapshot is called, and when it was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotName {
    /// Its name; several may have the same.
    pub name: String,
    /// Seconds since 1970.
    pub seconds: u32,
    /// And nanoseconds.
    pub nanoseconds: u32,
}

impl Image {
    /// The snapshots, in the order of the table.
    ///
    /// # Errors
    /// `Corrupt`, and as reading the file.
    pub async fn snapshots(&self, spawner: &Spawner) -> Result<Vec<SnapshotEntry>> {
        Lane::open(&self.core, spawner)?.snapshots().await
    }

    /// Keeps the disk as it is now; the answer is the new snapshot. What was acknowledged before is in it.
    ///
    /// # Errors
    /// `Invalid` if there are as many as there can be, the name is too long, or the image's refcounts count no further;
    /// `Unsupported` with a data file of its own, whose clusters nobody counts; `ReadOnly`; and as writing.
    pub async fn create_snapshot(
        &self,
        name: SnapshotName,
        spawner: &Spawner,
    ) -> Result<SnapshotEntry> {
        let lane = self.for_change(spawner)?;
        lane.exclusively(async |lane, mut shadow| {
            let l1 = lane.core.state().l1.clone();
            let mut entries = lane.snapshots().await?;
            let entry = SnapshotEntry {
                l1_offset: l1.offset(),
                l1_entries: l1.entries().len() as u32,
                id: next_id(&entries),
                name: checked_name(name.name.clone())?,
                seconds: name.seconds,
                nanoseconds: name.nanoseconds,
                vm_clock: 0,
                vm_state: 0,
                size: Some(shadow.header.size),
                instructions: None,
                further: Vec::new(),
            };
            if entries.len() as u32 >= MAX_SNAPSHOTS {
                return Err(invalid(format!(
                    "an image has at most {MAX_SNAPSHOTS} snapshots"
                )));
            }
            // The tables as they are become the snapshot's.
            let size = shadow.header.size;
            shadow.adopt(&l1, size).await?;
            entries.push(entry.clone());
            lane.replace_snapshots(&mut shadow, &entries).await?;
            shadow.commit().await?;
            Ok(entry)
        })
        .await
    }

    /// Makes the disk what it was when the snapshot was made, in size too. The snapshot stays.
    ///
    /// # Errors
    /// `Invalid` if there is no such snapshot or the image's refcounts count no further; `ReadOnly`; and as writing.
    pub async fn apply_snapshot(&self, tag: &str, spawner: &Spawner) -> Result<()> {
        let lane = self.for_change(spawner)?;
        find(&lane.snapshots().await?, tag)?;
        // Any part of the disk may be another after that.
        lane.record(0..self.core.size()).await?;
        lane.exclusively(async |lane, mut shadow| {
            let entry = find(&lane.snapshots().await?, tag)?.clone();
            let active = lane.core.state().l1.clone();
            let l1 = lane.l1_table(entry.l1_offset, entry.l1_entries).await?;
            for clusters in shadow.tree(&active).await? {
                shadow.new.remove(clusters)?;
            }
            let size = entry.size.unwrap_or(shadow.header.size);
            shadow.adopt(&l1, size).await?;
            shadow.commit().await
        })
        .await
    }

    /// Deletes the snapshot; what only it used is free again.
    ///
    /// # Errors
    /// `Invalid` if there is no such snapshot; `ReadOnly`; and as writing.
    pub async fn delete_snapshot(&self, tag: &str, spawner: &Spawner) -> Result<()> {
        let lane = self.for_change(spawner)?;
        lane.exclusively(async |lane, mut shadow| {
            let mut entries = lane.snapshots().await?;
            let entry = find(&entries, tag)?.clone();
            let active = lane.core.state().l1.clone();
            let l1 = lane.l1_table(entry.l1_offset, entry.l1_entries).await?;
            for table in [&l1, &active] {
                for clusters in shadow.tree(table).await? {
                    shadow.new.remove(clusters)?;
                }
            }
            let size = shadow.header.size;
            shadow.adopt(&active, size).await?;
            entries.retain(|other| other.id != entry.id);
            lane.replace_snapshots(&mut shadow, &entries).await?;
            shadow.commit().await
        })
        .await
    }

    /// Shows the disk of a snapshot from now on, to be read only.
    pub(super) async fn look_at_snapshot(&self, tag: &str, spawner: &Spawner) -> Result<()> {
        let lane = Lane::open(&self.core, spawner)?;
        let entry = find(&lane.snapshots().await?, tag)?.clone();
        let l1 = lane.l1_table(entry.l1_offset, entry.l1_entries).await?;
        let mut state = self.core.state();
        let size = entry.size.unwrap_or(state.header.size);
        if (l1.entries().len() as u64) < self.core.geometry.l1_entries(size) {
            return Err(corrupt(format!(
                "the L1 table of snapshot {} is too short",
                entry.id
            )));
        }
        state.l1 = l1;
        self.core.set_size(size);
        Ok(())
    }

    fn for_change(&self, spawner: &Spawner) -> Result<Rc<Lane>> {
        self.core.check_changeable()?;
        if self.core.data_file.is_some() {
            let sentence = "an image with a data file has no snapshots: nobody counts its clusters";
            return Err(Error::new(ErrorKind::Unsupported, sentence));
        }
        Lane::open(&self.core, spawner)
    }
}

impl Lane {
    /// Does what must happen as one, while no request is under way.
    pub(crate) async fn exclusively<T>(
        self: &Rc<Self>,
        work: impl AsyncFnOnce(&Rc<Self>, Shadow<'_>) -> Result<T>,
    ) -> Result<T> {
        let _control = self.core.control.lock().await;
        let closed = self.core.gate.close().await;
        self.settle().await?;
        let shadow = Shadow::begin(self, &closed).await?;
        work(self, shadow).await
    }

    /// The snapshots, in the order of the table.
    pub(crate) async fn snapshots(&self) -> Result<Vec<SnapshotEntry>> {
        let (count, offset) = {
            let state = self.core.state();
            (state.header.snapshots, state.header.snapshots_offset)
        };
        Ok(self.snapshot_table(count, offset).await?.0)
    }

    /// The snapshots of a table, and how many bytes it has.
    pub(crate) async fn snapshot_table(
        &self,
        count: u32,
        offset: u64,
    ) -> Result<(Vec<SnapshotEntry>, usize)> {
        if count == 0 {
            return Ok((Vec::new(), 0));
        }
        let end = self
            .core
            .file_size()
            .saturating_sub(offset)
            .min(MAX_SNAPSHOT_TABLE_BYTES);
        let mut len = FIRST_READ.min(end);
        loop {
            if len == 0 {
                return Err(corrupt(format!(
                    "the snapshot table at {offset} lies beyond the file"
                )));
            }
            let bytes = self.read_file(offset, len as usize).await?;
            match SnapshotEntry::parse_table(&bytes, count, self.core.geometry) {
                Err(error) if error.kind() == ErrorKind::Corrupt && len < end => {
                    len = (len * 4).min(end);
                }
                answer => return answer,
            }
        }
    }

    /// Gives the new state the snapshots `entries`, in a table of its own.
    pub(super) async fn replace_snapshots(
        &self,
        shadow: &mut Shadow<'_>,
        entries: &[SnapshotEntry],
    ) -> Result<()> {
        let geometry = self.core.geometry;
        let (count, offset) = (shadow.header.snapshots, shadow.header.snapshots_offset);
        let (_, len) = self.snapshot_table(count, offset).await?;
        shadow
            .new
            .remove(geometry.cluster_range(offset, len as u64))?;
        let mut bytes = SnapshotEntry::write_table(entries)?;
        shadow.header.snapshots = entries.len() as u32;
        shadow.header.snapshots_offset = 0;
        if !entries.is_empty() {
            let offset = shadow.take(geometry.clusters(bytes.len() as u64))?;
            bytes.resize(geometry.round_up(bytes.len() as u64) as usize, 0);
            shadow.write(offset, bytes).await?;
            shadow.header.snapshots_offset = offset;
        }
        Ok(())
    }
}

/// The snapshot with this id, or else the first with this name.
pub(crate) fn find<'a>(entries: &'a [SnapshotEntry], tag: &str) -> Result<&'a SnapshotEntry> {
    let by_id = entries.iter().find(|entry| entry.id == tag);
    let found = by_id.or_else(|| entries.iter().find(|entry| entry.name == tag));
    found.ok_or_else(|| invalid(format!("the image has no snapshot {tag}")))
}

/// A number that no snapshot has, as QEMU counts them.
fn next_id(entries: &[SnapshotEntry]) -> String {
    let ids = entries
        .iter()
        .filter_map(|entry| entry.id.parse::<u64>().ok());
    ids.max().unwrap_or(0).saturating_add(1).to_string()
}

fn checked_name(name: String) -> Result<String> {
    // QEMU reads no more.
    const MOST: usize = 255;
    if name.len() <= MOST {
        return Ok(name);
    }
    Err(invalid(format!(
        "a snapshot's name has at most {MOST} bytes, not {}",
        name.len()
    )))
}
