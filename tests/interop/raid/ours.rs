//! Our side.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow};
use weft_block::{BlockDevice, IoVec, Request, Spawner};
use weft_raid::level::{CopiesLayout, Level, ParityLayout};
use weft_raid::superblock::Timestamp;
use weft_raid::{
    Array, AssembleOptions, Consistency, CreateOptions, Growth, MemberDevice, Progress, Scrub,
    assemble, create,
};
use weft_tests::data::{Sequence, bytes};
use weft_uring::{FileDevice, OpenOptions};

pub(crate) const MIB: u64 = 1 << 20;
/// Bytes of a chunk, where nothing else is said.
pub(crate) const CHUNK: u64 = 64 << 10;
const NOW: Timestamp = Timestamp::EPOCH;

/// An array under test: what it is, and its members' files.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) level: Level,
    pub(crate) layout: Option<ParityLayout>,
    /// Of RAID-10, by mdadm's name.
    pub(crate) copies: Option<&'static str>,
    pub(crate) consistency: Consistency,
    /// Bytes.
    pub(crate) chunk: u64,
    pub(crate) paths: Vec<PathBuf>,
}

impl Case {
    /// Files of unequal sizes where the level uses them.
    pub(crate) fn new(
        folder: &Path,
        level: Level,
        layout: Option<ParityLayout>,
        members: usize,
    ) -> Self {
        let number = level.number();
        let name = match layout {
            Some(layout) => format!("r{number}-{}", layout.number()),
            None => format!("r{number}"),
        };
        let path = |member: usize| {
            let size = match level {
                Level::Raid0 => 12 + 4 * member as u64,
                // There are many, and the guest is slow.
                Level::Raid6 => 5,
                _ => 16,
            };
            weft_tests::sparse_file(folder, &format!("{name}-{member}"), size * MIB)
        };
        let paths = (0..members).map(path).collect();
        Self {
            name,
            level,
            layout,
            copies: None,
            consistency: Consistency::Bitmap,
            chunk: CHUNK,
            paths,
        }
    }

    /// RAID-5 with a partial parity log.
    pub(crate) fn logged(folder: &Path, name: &str, layout: ParityLayout, members: usize) -> Self {
        let path =
            |member: usize| weft_tests::sparse_file(folder, &format!("{name}-{member}"), 6 * MIB);
        Self {
            name: name.to_owned(),
            level: Level::Raid5,
            layout: Some(layout),
            copies: None,
            consistency: Consistency::Ppl,
            chunk: CHUNK,
            paths: (0..members).map(path).collect(),
        }
    }

    /// An array whose last disk holds its journal.
    pub(crate) fn journaled(
        folder: &Path,
        level: Level,
        layout: Option<ParityLayout>,
        members: usize,
    ) -> Self {
        let name = format!("journal-{}", level.number());
        let path =
            |member: usize| weft_tests::sparse_file(folder, &format!("{name}-{member}"), 6 * MIB);
        Self {
            level,
            layout,
            copies: None,
            consistency: Consistency::Journal,
            chunk: CHUNK,
            paths: (0..=members).map(path).collect(),
            name,
        }
    }

    /// How many of its disks hold data.
    pub(crate) fn members(&self) -> usize {
        self.paths.len() - usize::from(self.consistency == Consistency::Journal)
    }

    /// RAID-10 of a layout by mdadm's name.
    pub(crate) fn raid10(folder: &Path, layout: &'static str, members: usize) -> Self {
        let name = format!("r10-{layout}-{members}");
        let path =
            |member: usize| weft_tests::sparse_file(folder, &format!("{name}-{member}"), 5 * MIB);
        Self {
            level: Level::Raid10,
            layout: None,
            copies: Some(layout),
            consistency: Consistency::Bitmap,
            chunk: CHUNK,
            paths: (0..members).map(path).collect(),
            name,
        }
    }

    /// The members that are lost when as many are as the level survives: not the first.
    pub(crate) fn lost(&self) -> Range<usize> {
        match self.level {
            Level::Raid0 => 1..1,
            Level::Raid6 => 1..3,
            _ => 1..2,
        }
    }

    /// mdadm's arguments for such an array.
    pub(crate) fn mdadm(&self) -> String {
        let layout = self.copies.or(self.layout.map(ParityLayout::name));
        let layout = layout.map_or(String::new(), |layout| format!(" --layout={layout}"));
        let policy = match (self.level, self.consistency) {
            (Level::Raid0, _) => "",
            (_, Consistency::Ppl) => " --consistency-policy=ppl",
            // Its disk is named by whoever knows it.
            (_, Consistency::Journal) => "",
            _ => " --bitmap=internal",
        };
        let chunk = match self.level {
            Level::Raid1 => "",
            _ => " --chunk=64",
        };
        format!(
            "--level={}{layout}{chunk}{policy} --raid-devices={}",
            self.level.number(),
            self.members()
        )
    }
}

pub(crate) fn told(error: weft_block::Error) -> anyhow::Error {
    anyhow!(error.sentence())
}

fn members(paths: &[PathBuf]) -> Result<Vec<MemberDevice>> {
    let open = |path: &PathBuf| {
        let device = FileDevice::open(path, &OpenOptions::default()).map_err(told)?;
        Ok(MemberDevice {
            path: path.display().to_string(),
            device: Arc::new(device),
        })
    };
    paths.iter().map(open).collect()
}

/// A running array of ours, for one task on this thread.
pub(crate) struct Ours {
    pub(crate) array: Array,
    pub(crate) spawner: Spawner,
}

/// Makes the case's array, makes it whole, and does `work` with it.
pub(crate) fn created<T>(case: &Case, work: impl AsyncFnOnce(&Ours) -> Result<T>) -> Result<T> {
    weft_uring::block_on(async {
        let spawner = weft_uring::spawner();
        // No two arrays of one guest have the same identity.
        let seed = case
            .name
            .bytes()
            .fold(u64::from(std::process::id()), |seed, byte| {
                seed.wrapping_mul(31).wrapping_add(u64::from(byte))
            });
        let mut sequence = Sequence::new(seed);
        let name = format!("weft:{}", case.name);
        let mut random = || std::array::from_fn(|_| sequence.draw() as u8);
        let mut options = CreateOptions::new(case.level, &name, case.paths.len(), NOW, &mut random);
        options.layout = case.layout;
        options.copies = case.copies.and_then(CopiesLayout::from_name);
        options.consistency = case.consistency;
        options.chunk = case.chunk;
        let array = create(&options, members(&case.paths)?, &spawner)
            .await
            .map_err(told)?;
        let ours = Ours { array, spawner };
        ours.sync().await?;
        work(&ours).await
    })
}

/// Starts the array of some of the case's members, and does `work` with it.
pub(crate) fn assembled<T>(
    paths: &[PathBuf],
    work: impl AsyncFnOnce(&Ours) -> Result<T>,
) -> Result<T> {
    weft_uring::block_on(async {
        let spawner = weft_uring::spawner();
        let options = AssembleOptions {
            now: NOW,
            ..AssembleOptions::default()
        };
        let array = assemble(members(paths)?, &options, &spawner)
            .await
            .map_err(told)?;
        work(&Ours { array, spawner }).await
    })
}

impl Ours {
    pub(crate) async fn sync(&self) -> Result<()> {
        let syncer = self.array.syncer(&self.spawner).map_err(told)?;
        while !syncer.step(1 << 20).await.map_err(told)?.is_idle() {}
        Ok(())
    }

    /// Compares all members; how many blocks do not agree.
    pub(crate) async fn mismatches(&self) -> Result<u64> {
        self.array.scrub(Scrub::Check).map_err(told)?;
        self.sync().await?;
        let report = self.array.scrub_report();
        report
            .map(|report| report.mismatches)
            .context("a check leaves a report")
    }

    pub(crate) async fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        let queue = self.array.open(&self.spawner).map_err(told)?;
        let write = Request::write(offset, IoVec::copy_of(data));
        queue.submit(write).await.result.map_err(told)
    }

    pub(crate) async fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>> {
        let queue = self.array.open(&self.spawner).map_err(told)?;
        let read = Request::read(offset, IoVec::zeroed(len));
        let completion = queue.submit(read).await;
        completion.result.map_err(told)?;
        Ok(completion.buffer.to_buffer().to_vec())
    }

    /// Fills the array with the bytes of `seed`.
    pub(crate) async fn fill(&self, seed: u64) -> Result<()> {
        self.write(0, &bytes(seed, self.size())).await
    }

    pub(crate) fn size(&self) -> usize {
        self.array.info().size as usize
    }

    pub(crate) async fn add(&self, path: &Path, uuid: [u8; 16]) -> Result<bool> {
        let member = members(&[path.to_path_buf()])?.remove(0);
        self.array
            .add(member, uuid, &self.spawner)
            .await
            .map_err(told)
    }

    /// Does some of what is to be done in the background.
    pub(crate) async fn step(&self) -> Result<Progress> {
        self.step_by(1 << 20).await
    }

    /// Does up to `most` bytes of each member of it.
    pub(crate) async fn step_by(&self, most: u64) -> Result<Progress> {
        let syncer = self.array.syncer(&self.spawner).map_err(told)?;
        syncer.step(most).await.map_err(told)
    }

    pub(crate) async fn grow(&self, growth: &Growth) -> Result<()> {
        let begun = self.array.grow(growth, &self.spawner);
        begun.await.map_err(told)
    }

    pub(crate) async fn fail(&self, path: &Path) -> Result<()> {
        let path = path.to_str().context("the path is text")?;
        let failed = self.array.fail(path, &self.spawner);
        failed.await.map_err(told)
    }

    pub(crate) async fn replace(&self, old: &str, new: &Path) -> Result<()> {
        let member = members(&[new.to_path_buf()])?.remove(0);
        let begun = self.array.replace(old, member, [7; 16], &self.spawner);
        begun.await.map_err(told)
    }

    pub(crate) async fn stop(&self) -> Result<()> {
        self.array.stop(&self.spawner).await.map_err(told)
    }
}
