//! Check and repair.

use std::rc::Rc;

use weft_block::{Error, ErrorKind, Result, Spawner};

use super::Image;
use super::bitmaps::has_bitmaps;
use super::core::Core;
use super::counts::Counts;
use super::lane::Lane;
use super::shadow::{Shadow, clusters_of, tables};
use super::table::Table;
use super::tables::decode;
use crate::format::{BitmapTableEntry, Geometry, Header, L1Entry, Mapping, incompatible};

/// Problems that a report tells in words; all are counted.
const MOST_TOLD: usize = 1000;

/// What a check may mend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repair {
    /// Nothing.
    Nothing,
    /// Clusters that are counted and not used; nothing if anything else is wrong.
    Leaks,
    /// All that can be mended.
    All,
}

/// What a check has found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Contradictions that could lose data, before a repair.
    pub corruptions: u64,
    /// Clusters that are counted more often than they are used, before a repair.
    pub leaks: u64,
    /// Whether all that was found was mended.
    pub repaired: bool,
    /// The first problems in words.
    pub problems: Vec<String>,
    /// Clusters of the disk that have a place.
    pub allocated_clusters: u64,
    /// Clusters of the disk.
    pub total_clusters: u64,
    /// Of the allocated clusters, those that are compressed.
    pub compressed_clusters: u64,
    /// Of the allocated clusters, those that do not lie behind the one before them on the disk.
    pub fragmented_clusters: u64,
    /// The end of the last cluster of the file that is used.
    pub image_end: u64,
}

impl CheckReport {
    /// Whether nothing was found.
    pub fn is_clean(&self) -> bool {
        self.corruptions == 0 && self.leaks == 0
    }
}

impl Image {
    /// Looks at all tables, and mends what `repair` says, as one change. Requests wait meanwhile.
    ///
    /// # Errors
    /// As reading and writing the file; `ReadOnly` for a repair. What is wrong with the image is in the report.
    pub async fn check(&self, repair: Repair, spawner: &Spawner) -> Result<CheckReport> {
        let lane = Lane::open(&self.core, spawner)?;
        let _control = self.core.control.lock().await;
        let closed = self.core.gate.close().await;
        if !self.core.read_only {
            lane.settle().await?;
        }
        let (check, l1, refcounts) = Check::made(&lane).await?;
        let mut report = check.report;
        let wanted = match repair {
            Repair::Nothing => false,
            Repair::Leaks => report.leaks > 0 && report.corruptions == 0,
            Repair::All => !report.is_clean() || check.header.has(lane.core.marks()),
        };
        if wanted {
            let shadow = Shadow::begin_from(&lane, &closed, check.refs, &refcounts).await?;
            // Tables of snapshots and bitmaps may be beyond mending, which only another look tells.
            report.repaired = mend(shadow, &l1, self.core.marks()).await?
                && Check::made(&lane).await?.0.report.corruptions == 0;
        }
        Ok(report)
    }
}

/// What says that an image must be repaired.
const MARKS: u64 = incompatible::DIRTY | incompatible::CORRUPT;

impl Core {
    /// The marks that a repair takes off: the dirty one stays while it stands for our own redo log.
    fn marks(&self) -> u64 {
        match self.state().redo {
            Some(_) => MARKS & !incompatible::DIRTY,
            None => MARKS,
        }
    }
}

/// Whether all could be mended.
async fn mend(mut shadow: Shadow<'_>, l1: &Table, marks: u64) -> Result<bool> {
    let mended = async {
        for clusters in shadow.tree(l1).await? {
            shadow.new.remove(clusters)?;
        }
        let size = shadow.header.size;
        shadow.adopt(l1, size).await
    };
    match mended.await {
        Err(error) if error.kind() == ErrorKind::Corrupt => return Ok(false),
        answer => answer?,
    }
    shadow.header.incompatible &= !marks;
    shadow.commit().await?;
    Ok(true)
}

struct Check<'a> {
    lane: &'a Rc<Lane>,
    header: Header,
    geometry: Geometry,
    /// What the refcounts say.
    counts: Counts,
    /// What is true.
    refs: Counts,
    report: CheckReport,
}

impl<'a> Check<'a> {
    /// Looks at all tables; tells also which L1 table and which refcount table those were.
    async fn made(lane: &'a Rc<Lane>) -> Result<(Self, Table, Table)> {
        let (header, l1, refcounts) = {
            let state = lane.core.state();
            (
                state.header.clone(),
                state.l1.clone(),
                state.refcounts.clone(),
            )
        };
        let mut check = Self::new(lane, header, &refcounts).await?;
        check.walk(&l1, &refcounts).await?;
        check.compare();
        Ok((check, l1, refcounts))
    }

    async fn new(lane: &'a Rc<Lane>, header: Header, refcounts: &Table) -> Result<Self> {
        let mut report = CheckReport {
            total_clusters: header.geometry.clusters(header.size),
            ..CheckReport::default()
        };
        let counts = match lane.counts(refcounts).await {
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                tell(&mut report, error.sentence());
                Counts::default()
            }
            answer => answer?,
        };
        Ok(Self {
            lane,
            geometry: header.geometry,
            header,
            counts,
            refs: Counts::default(),
            report,
        })
    }

    async fn walk(&mut self, l1: &Table, refcounts: &Table) -> Result<()> {
        self.used("the header", 0, 1);
        self.used("the refcount table", refcounts.offset(), refcounts.bytes());
        for &block in refcounts.entries().iter().filter(|&&block| block != 0) {
            self.used("a refcount block", block, self.geometry.cluster());
        }
        self.walk_l1("the disk", l1, true).await?;
        self.walk_snapshots().await?;
        self.walk_bitmaps().await?;
        if let Some(area) = self.header.extensions.encryption {
            self.used("the encryption header", area.offset, area.len);
        }
        Ok(())
    }

    async fn walk_snapshots(&mut self) -> Result<()> {
        let (count, offset) = (self.header.snapshots, self.header.snapshots_offset);
        let (entries, len) = match self.lane.snapshot_table(count, offset).await {
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                tell(&mut self.report, error.sentence());
                return Ok(());
            }
            answer => answer?,
        };
        self.used("the snapshot table", offset, len as u64);
        for entry in entries {
            let what = format!("snapshot {}", entry.id);
            match self.lane.l1_table(entry.l1_offset, entry.l1_entries).await {
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    tell(&mut self.report, error.sentence());
                }
                l1 => self.walk_l1(&what, &l1?, false).await?,
            }
        }
        Ok(())
    }

    async fn walk_bitmaps(&mut self) -> Result<()> {
        let bitmaps = self.header.extensions.bitmaps;
        let Some(bitmaps) = bitmaps.filter(|_| has_bitmaps(&self.header)) else {
            return Ok(());
        };
        let directory = bitmaps.directory;
        self.used("the bitmap directory", directory.offset, directory.len);
        let entries = match self.lane.bitmap_directory(&self.header, bitmaps).await {
            Err(error) if is_about_contents(&error) => {
                tell(&mut self.report, error.sentence());
                return Ok(());
            }
            answer => answer?,
        };
        for entry in entries {
            let len = u64::from(entry.table_entries) * 8;
            if !self.used("the table of a bitmap", entry.table_offset, len) {
                continue;
            }
            for &raw in self.lane.bitmap_table(&entry).await?.entries() {
                match BitmapTableEntry::decode(raw, self.geometry) {
                    Ok(BitmapTableEntry::At(offset)) => {
                        self.used("a bitmap", offset, self.geometry.cluster());
                    }
                    Ok(_) => {}
                    Err(error) => tell(&mut self.report, error.sentence()),
                }
            }
        }
        Ok(())
    }

    /// Looks at an L1 table and all that it points at. Only the disk's own flags are kept right.
    async fn walk_l1(&mut self, what: &str, l1: &Table, active: bool) -> Result<()> {
        self.used("an L1 table", l1.offset(), l1.bytes());
        for entry in tables(l1, self.geometry) {
            let entry = match entry {
                Ok((_, entry)) => entry,
                Err(error) => {
                    tell(&mut self.report, format!("{what}: {}", error.sentence()));
                    continue;
                }
            };
            let there = self.used("an L2 table", entry.table, self.geometry.cluster());
            self.check_flag(what, "L2 table", entry, active);
            if there {
                self.walk_l2(what, entry.table, active).await?;
            }
        }
        Ok(())
    }

    async fn walk_l2(&mut self, what: &str, table: u64, active: bool) -> Result<()> {
        // The first cluster of a table begins a new run, as in QEMU's count.
        let mut last = None;
        let bytes = self
            .lane
            .read_file(table, self.geometry.cluster() as usize)
            .await?;
        for entry in bytes.chunks_exact(self.geometry.l2_entry() as usize) {
            let mapping = match decode(entry, self.header.version, self.geometry) {
                Ok(mapping) => mapping,
                Err(error) => {
                    tell(&mut self.report, format!("{what}: {}", error.sentence()));
                    continue;
                }
            };
            if active {
                self.count(mapping, &mut last);
            }
            let Some(clusters) = clusters_of(mapping, self.geometry) else {
                continue;
            };
            if self.lane.core.data_file.is_some() {
                continue;
            }
            let bits = self.geometry.cluster_bits();
            let (offset, len) = (
                clusters.start << bits,
                (clusters.end - clusters.start) << bits,
            );
            self.used("data", offset, len);
            if let Mapping::Plain {
                host: Some(table),
                copied,
                ..
            } = mapping
            {
                self.check_flag(what, "data", L1Entry { table, copied }, active);
            }
        }
        Ok(())
    }

    /// Counts what the report tells of the disk's clusters.
    fn count(&mut self, mapping: Mapping, last: &mut Option<u64>) {
        let host = match mapping {
            Mapping::Compressed { .. } => {
                self.report.compressed_clusters += 1;
                // Nobody expects these side by side.
                self.report.fragmented_clusters += 1;
                self.report.allocated_clusters += 1;
                return;
            }
            Mapping::Plain {
                host: Some(host), ..
            } => {
                let follows = last.is_none_or(|last| last + self.geometry.cluster() == host);
                self.report.fragmented_clusters += u64::from(!follows);
                host
            }
            Mapping::Plain { host: None, .. } => return,
        };
        *last = Some(host);
        self.report.allocated_clusters += 1;
    }

    /// Says that `len` bytes at `offset` are used once more. The answer is whether the file has them.
    fn used(&mut self, what: &str, offset: u64, len: u64) -> bool {
        let end = self.geometry.round_up(self.lane.core.file_size());
        if offset.saturating_add(len) > end || !self.geometry.is_aligned(offset) {
            let problem = format!("{what} cannot be at {offset} of a file of {end} bytes");
            tell(&mut self.report, problem);
            return false;
        }
        self.refs.add(self.geometry.cluster_range(offset, len));
        true
    }

    fn check_flag(&mut self, whose: &str, what: &str, entry: L1Entry, active: bool) {
        let count = self.counts.at(entry.table >> self.geometry.cluster_bits());
        if active && entry.copied != (count == 1) {
            let problem = format!(
                "{whose}: {what} at {} has a refcount of {count}, and its entry says {}",
                entry.table,
                if entry.copied { "one" } else { "another" }
            );
            tell(&mut self.report, problem);
        }
    }

    /// Compares what is counted with what is used.
    fn compare(&mut self) {
        let bits = self.geometry.cluster_bits();
        self.report.image_end = self.refs.len().max(self.counts.len()) << bits;
        for cluster in 0..self.refs.len().max(self.counts.len()) {
            let (counted, used) = (self.counts.at(cluster), self.refs.at(cluster));
            let problem =
                || format!("cluster {cluster} is counted {counted} times and used {used} times");
            if counted < used {
                tell(&mut self.report, problem());
            } else if counted > used {
                self.report.leaks += 1;
                if self.report.problems.len() < MOST_TOLD {
                    self.report.problems.push(problem());
                }
            }
        }
    }
}

/// Whether it tells of what the file holds, and not of reading it.
fn is_about_contents(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported)
}

/// Adds a corruption.
fn tell(report: &mut CheckReport, problem: String) {
    report.corruptions += 1;
    if report.problems.len() < MOST_TOLD {
        report.problems.push(problem);
    }
}
