//! Random operations by QEMU and by us in turns on one image: after each turn QEMU finds nothing wrong with it, and both
//! read the same disk and the same snapshots.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;
use weft_block::{BlockDevice, ExtentKind, IoVec, Request};
use weft_qcow2::{Image, OpenOptions, Repair, SnapshotName};
use weft_tests::data::Sequence;
use weft_tests::{require, run, temp_dir};
use weft_uring::{FileDevice, block_on, spawner};

pub(crate) const SECTOR: u64 = 512;
/// Sectors of the disk at first.
pub(crate) const SECTORS: u64 = 6 << 11;

/// What each sector is full of.
pub(crate) type Disk = Vec<u8>;

/// Options of `qemu-img create`, with the format of a backing file if there is one.
pub(crate) type Form = (&'static str, Option<&'static str>);

const FORMS: &[Form] = &[
    ("", None),
    ("", Some("raw")),
    ("", Some("qcow2")),
    ("cluster_size=512", None),
    ("cluster_size=4096", Some("qcow2")),
    ("cluster_size=2M", None),
    ("extended_l2=on", None),
    ("extended_l2=on,cluster_size=128k", Some("raw")),
    ("compat=0.10", None),
    ("compat=0.10", Some("qcow2")),
    ("refcount_bits=1", None),
    ("refcount_bits=2", None),
    ("refcount_bits=64,cluster_size=1024", None),
    ("lazy_refcounts=on", None),
    ("compression_type=zstd", Some("qcow2")),
    ("preallocation=metadata", None),
    ("preallocation=falloc", None),
    ("preallocation=full,cluster_size=16k", None),
];

pub(crate) struct Site {
    pub(crate) folder: TempDir,
    pub(crate) image: PathBuf,
    /// What the backing file holds.
    base: Option<PathBuf>,
    pub(crate) random: Sequence,
    pub(crate) disk: Disk,
    /// Sectors that were discarded in this turn, and not written after that.
    discarded: Vec<bool>,
    pub(crate) snapshots: BTreeMap<String, Disk>,
    next_name: u32,
    /// Snapshots that refcounts have room for.
    pub(crate) most_snapshots: usize,
    /// Whether clusters have at most 64 KiB, lose their place when they are discarded, and can be used often.
    compresses: bool,
}

/// What is done to an image.
#[derive(Debug, Clone)]
pub(crate) enum Act {
    Write {
        start: u64,
        len: u64,
        fill: u8,
    },
    Zero {
        start: u64,
        len: u64,
        unmap: bool,
    },
    Discard {
        start: u64,
        len: u64,
    },
    /// Whole clusters, which QEMU compresses.
    Compress {
        start: u64,
        len: u64,
        fill: u8,
    },
    Flush,
}

impl Site {
    /// A new image; what it rests on has `base_sectors` sectors.
    pub(crate) fn new(seed: u64, (options, backing): Form, base_sectors: u64) -> Result<Self> {
        let folder = temp_dir();
        let image = folder.path().join("image.qcow2");
        let mut disk = vec![0; SECTORS as usize];
        let mut line = vec![
            "create".to_owned(),
            "-q".into(),
            "-f".into(),
            "qcow2".into(),
        ];
        let base = match backing {
            None => None,
            Some(format) => {
                let base = folder.path().join("base");
                let below = make_base(&base, format, base_sectors)?;
                disk[..base_sectors as usize].copy_from_slice(&below);
                line.extend(["-b".into(), text(&base), "-F".into(), format.into()]);
                Some(base)
            }
        };
        if !options.is_empty() {
            line.extend(["-o".into(), options.into()]);
        }
        line.extend([text(&image), (SECTORS * SECTOR).to_string()]);
        run("qemu-img", &line)?;
        Ok(Self {
            folder,
            image,
            base,
            random: Sequence::new(seed),
            disk,
            discarded: Vec::new(),
            snapshots: BTreeMap::new(),
            next_name: 1,
            most_snapshots: match options {
                "refcount_bits=1" => 0,
                "refcount_bits=2" => 2,
                _ => usize::MAX,
            },
            compresses: !["128k", "2M", "0.10", "refcount_bits=2"]
                .iter()
                .any(|word| options.contains(word)),
        })
    }

    pub(crate) fn draw(&mut self) -> Act {
        let sectors = self.disk.len() as u64;
        let start = self.random.below(sectors);
        // Every other range is whole clusters of 64 KiB.
        let (start, len) = match self.random.below(2) {
            0 => (start, 1 + self.random.below((sectors - start).min(400))),
            _ => (start / 128 * 128, 128 * (1 + self.random.below(4))),
        };
        let len = len.min(sectors - start);
        match self.random.below(10) {
            0..=5 => Act::Write {
                start,
                len,
                fill: 1 + self.random.below(250) as u8,
            },
            6 => Act::Zero {
                start,
                len,
                unmap: self.random.below(2) == 0,
            },
            7 | 8 => Act::Discard { start, len },
            _ => Act::Flush,
        }
    }

    /// What QEMU alone does from time to time.
    fn draw_theirs(&mut self) -> Act {
        if !self.compresses || self.random.below(4) > 0 {
            return self.draw();
        }
        let clusters = self.disk.len() as u64 / 128;
        let start = self.random.below(clusters);
        Act::Compress {
            start: start * 128,
            len: 128 * (1 + self.random.below((clusters - start).min(4))),
            fill: 1 + self.random.below(250) as u8,
        }
    }

    /// What the disk is full of after `act`; a discard is known by what is read afterwards.
    pub(crate) fn note(&mut self, act: &Act) {
        match *act {
            Act::Write { start, len, fill } | Act::Compress { start, len, fill } => {
                self.fill(start, len, fill);
            }
            Act::Zero { start, len, .. } => self.fill(start, len, 0),
            Act::Discard { start, len } => {
                self.discarded.resize(self.disk.len(), false);
                self.discarded[start as usize..(start + len) as usize].fill(true);
            }
            Act::Flush => {}
        }
    }

    fn fill(&mut self, start: u64, len: u64, value: u8) {
        self.discarded.resize(self.disk.len(), false);
        self.discarded[start as usize..(start + len) as usize].fill(false);
        self.disk[start as usize..(start + len) as usize].fill(value);
    }

    /// QEMU does a few things.
    pub(crate) fn theirs(&mut self) -> Result<()> {
        let mut line = vec!["-f".to_owned(), "qcow2".into(), "-d".into(), "unmap".into()];
        for _ in 0..1 + self.random.below(8) {
            let act = self.draw_theirs();
            self.note(&act);
            let command = match act {
                Act::Write { start, len, fill } => {
                    format!("write -P {fill} {} {}", start * SECTOR, len * SECTOR)
                }
                Act::Zero { start, len, unmap } => {
                    let unmap = if unmap { "-u " } else { "" };
                    format!("write -z {unmap}{} {}", start * SECTOR, len * SECTOR)
                }
                Act::Discard { start, len } => {
                    format!("discard {} {}", start * SECTOR, len * SECTOR)
                }
                Act::Compress { start, len, fill } => {
                    // QEMU compresses nothing into a cluster that has a place.
                    line.extend([
                        "-c".into(),
                        format!("discard {} {}", start * SECTOR, len * SECTOR),
                    ]);
                    format!("write -c -P {fill} {} {}", start * SECTOR, len * SECTOR)
                }
                Act::Flush => "flush".into(),
            };
            line.extend(["-c".into(), command]);
        }
        line.push(text(&self.image));
        run("qemu-io", &line)?;
        self.learn()
    }

    /// We do a few things, several at a time where they do not touch.
    pub(crate) fn ours(&mut self) -> Result<()> {
        let acts: Vec<_> = (0..1 + self.random.below(8)).map(|_| self.draw()).collect();
        acts.iter().for_each(|act| self.note(act));
        self.with_image(async |image| {
            let queue = image.open(&spawner())?;
            for act in acts {
                let request = match act {
                    Act::Write { start, len, fill } => {
                        let data = vec![fill; (len * SECTOR) as usize];
                        Request::write(start * SECTOR, IoVec::copy_of(&data))
                    }
                    Act::Zero { start, len, unmap } => {
                        Request::write_zeroes(start * SECTOR, len * SECTOR, unmap)
                    }
                    Act::Discard { start, len } => Request::discard(start * SECTOR, len * SECTOR),
                    Act::Compress { .. } | Act::Flush => Request::flush(),
                };
                let act = format!("{request:?}");
                queue.submit(request).await.result.context(act)?;
            }
            Ok(())
        })?;
        self.learn()
    }

    /// What was discarded, and not written after that, is what it was, or zeroes.
    fn learn(&mut self) -> Result<()> {
        let found = self.read_ours(None)?;
        let discarded = std::mem::take(&mut self.discarded);
        for ((known, found), discarded) in self.disk.iter_mut().zip(found).zip(discarded) {
            if discarded && found == 0 {
                *known = 0;
            }
        }
        Ok(())
    }

    /// One of both makes, applies or deletes a snapshot.
    pub(crate) fn snapshot(&mut self) -> Result<()> {
        let ours = self.random.below(2) == 0;
        let known: Vec<_> = self.snapshots.keys().cloned().collect();
        let action = self.random.below(if known.is_empty() { 1 } else { 3 });
        let picked = known
            .get(self.random.below(known.len().max(1) as u64) as usize)
            .cloned();
        match (action, picked) {
            (1, Some(name)) => {
                self.snapshot_command("-a", &name, ours)?;
                self.disk = self.snapshots[&name].clone();
            }
            (2, Some(name)) => {
                self.snapshot_command("-d", &name, ours)?;
                self.snapshots.remove(&name);
            }
            _ => {
                let name = format!("s{}", self.next_name);
                self.next_name += 1;
                self.snapshot_command("-c", &name, ours)?;
                self.snapshots.insert(name, self.disk.clone());
            }
        }
        Ok(())
    }

    fn snapshot_command(&self, flag: &str, name: &str, ours: bool) -> Result<()> {
        if !ours {
            run(
                "qemu-img",
                ["snapshot", "-q", flag, name, &text(&self.image)],
            )?;
            return Ok(());
        }
        self.with_image(async |image| {
            match flag {
                "-a" => image.apply_snapshot(name, &spawner()).await?,
                "-d" => image.delete_snapshot(name, &spawner()).await?,
                _ => {
                    let name = SnapshotName {
                        name: name.into(),
                        seconds: 1_700_000_000,
                        nanoseconds: 0,
                    };
                    image.create_snapshot(name, &spawner()).await?;
                }
            }
            Ok(())
        })
    }

    /// One of both makes the disk longer or shorter.
    pub(crate) fn resize(&mut self) -> Result<()> {
        // QEMU does not resize an image with snapshots in version 2.
        if !self.snapshots.is_empty() {
            return Ok(());
        }
        let sectors = SECTORS / 2 + self.random.below(SECTORS);
        // QEMU shows again what was in the last cluster behind a shorter end.
        let sectors = match self.random.below(2) {
            0 => sectors / 4096 * 4096,
            _ => sectors,
        };
        let old = self.disk.len() as u64;
        let whole = |sectors: u64| sectors.is_multiple_of(4096);
        if whole(sectors) && whole(old) && self.random.below(2) == 0 {
            let size = (sectors * SECTOR).to_string();
            run(
                "qemu-img",
                [
                    "resize",
                    "-q",
                    "-f",
                    "qcow2",
                    "--shrink",
                    &text(&self.image),
                    &size,
                ],
            )?;
        } else {
            self.with_image(async |image| Ok(image.resize(sectors * SECTOR, &spawner()).await?))?;
        }
        self.disk.resize(sectors as usize, 0);
        Ok(())
    }

    fn with_image<T>(&self, work: impl AsyncFnOnce(&Image) -> Result<T>) -> Result<T> {
        block_on(async {
            let image = self.open(None).await?;
            let done = work(&image).await?;
            image.close(&spawner()).await?;
            Ok(done)
        })
    }

    async fn open(&self, snapshot: Option<&str>) -> Result<Image> {
        let backing = match &self.base {
            None => None,
            Some(base) => Some(open_base(base).await?),
        };
        let options = OpenOptions {
            backing,
            snapshot: snapshot.map(Into::into),
            ..OpenOptions::default()
        };
        let file = Arc::new(FileDevice::open(&self.image, &file_options())?);
        Ok(Image::open(file, options, &spawner()).await?)
    }

    fn read_ours(&self, snapshot: Option<&str>) -> Result<Disk> {
        block_on(async {
            let image = self.open(snapshot).await?;
            let queue = image.open(&spawner())?;
            let len = image.info().size as usize;
            let answer = queue.submit(Request::read(0, IoVec::zeroed(len))).await;
            answer.result?;
            fills(&answer.buffer.to_buffer())
        })
    }

    fn read_theirs(&self, snapshot: Option<&str>) -> Result<Disk> {
        let raw = self.folder.path().join("raw");
        let mut line = vec![
            "convert".to_owned(),
            "-f".into(),
            "qcow2".into(),
            "-O".into(),
            "raw".into(),
        ];
        if let Some(name) = snapshot {
            line.extend(["-l".into(), name.into()]);
        }
        line.extend([text(&self.image), text(&raw)]);
        run("qemu-img", &line)?;
        fills(&std::fs::read(raw)?)
    }

    /// Both find the image whole, and read the same in it.
    pub(crate) fn judge(&self) -> Result<()> {
        run(
            "qemu-img",
            ["check", "-q", "-f", "qcow2", &text(&self.image)],
        )
        .context("QEMU checks it")?;
        let report =
            self.with_image(async |image| Ok(image.check(Repair::Nothing, &spawner()).await?))?;
        ensure!(report.is_clean(), "our check: {:#?}", report.problems);
        self.compare(None, &self.disk)?;
        for (name, disk) in &self.snapshots {
            self.compare(Some(name), disk)
                .with_context(|| format!("snapshot {name}"))?;
        }
        self.judge_map()
    }

    fn compare(&self, snapshot: Option<&str>, disk: &Disk) -> Result<()> {
        for (who, found) in [
            ("we", self.read_ours(snapshot)?),
            ("QEMU", self.read_theirs(snapshot)?),
        ] {
            ensure!(
                found.len() == disk.len(),
                "{who} see {} sectors",
                found.len()
            );
            let other = found
                .iter()
                .zip(disk)
                .position(|(found, expected)| found != expected);
            if let Some(sector) = other {
                let (found, expected) = (found[sector], disk[sector]);
                anyhow::bail!("{who} read {found} in sector {sector}, and {expected} was written");
            }
        }
        Ok(())
    }

    /// Both say of the same sectors that they hold data.
    fn judge_map(&self) -> Result<()> {
        let map = run(
            "qemu-img",
            ["map", "-f", "qcow2", "--output=json", &text(&self.image)],
        )?;
        let map: Vec<serde_json::Value> = serde_json::from_str(&map)?;
        let mut theirs = vec![false; self.disk.len()];
        for entry in map
            .iter()
            .filter(|entry| entry["data"] == true && entry["depth"] == 0)
        {
            let number = |name: &str| entry[name].as_u64().unwrap_or(0).div_ceil(SECTOR) as usize;
            theirs[number("start")..number("start") + number("length")].fill(true);
        }
        let mut ours = vec![false; self.disk.len()];
        block_on(async {
            // What is behind the image is not asked here.
            let file = FileDevice::open(&self.image, &file_options())?;
            let options = OpenOptions {
                without_backing: true,
                read_only: true,
                ..OpenOptions::default()
            };
            let image = Image::open(Arc::new(file), options, &spawner()).await?;
            let queue = image.open(&spawner())?;
            for extent in queue.extents(0, image.info().size).await? {
                let range = extent.offset / SECTOR..(extent.offset + extent.len) / SECTOR;
                let data = extent.kind == ExtentKind::Data;
                ours[range.start as usize..range.end as usize].fill(data);
            }
            anyhow::Ok(())
        })?;
        ensure!(ours == theirs, "the maps differ");
        Ok(())
    }
}

/// Makes a backing file; tells what its sectors are full of.
fn make_base(base: &Path, format: &str, sectors: u64) -> Result<Disk> {
    let disk: Disk = (0..sectors)
        .map(|sector| (sector % 200) as u8 + 1)
        .collect();
    let bytes: Vec<u8> = disk
        .iter()
        .flat_map(|&fill| [fill; SECTOR as usize])
        .collect();
    std::fs::write(base, &bytes)?;
    if format == "qcow2" {
        let raw = base.with_extension("raw");
        std::fs::rename(base, &raw)?;
        run(
            "qemu-img",
            [
                "convert",
                "-q",
                "-f",
                "raw",
                "-O",
                "qcow2",
                &text(&raw),
                &text(base),
            ],
        )?;
    }
    Ok(disk)
}

async fn open_base(base: &Path) -> Result<Arc<dyn BlockDevice>> {
    let options = weft_uring::OpenOptions {
        read_only: true,
        ..file_options()
    };
    let file: Arc<dyn BlockDevice> = Arc::new(FileDevice::open(base, &options)?);
    let opened = Image::open(Arc::clone(&file), OpenOptions::default(), &spawner()).await;
    Ok(opened.map_or(file, |image| Arc::new(image) as Arc<dyn BlockDevice>))
}

/// An image of QEMU's may end anywhere.
fn file_options() -> weft_uring::OpenOptions {
    weft_uring::OpenOptions {
        fill_last_block: true,
        ..weft_uring::OpenOptions::default()
    }
}

/// What each sector is full of.
pub(crate) fn fills(bytes: &[u8]) -> Result<Disk> {
    let fill = |sector: &[u8]| {
        ensure!(
            sector.iter().all(|&byte| byte == sector[0]),
            "a sector is torn"
        );
        Ok(sector[0])
    };
    bytes.chunks(SECTOR as usize).map(fill).collect()
}

pub(crate) fn text(path: &Path) -> String {
    path.display().to_string()
}

fn run_seed(seed: u64) -> Result<()> {
    let form = FORMS[seed as usize % FORMS.len()];
    let mut site = Site::new(seed, form, SECTORS / 2)?;
    for turn in 0..8 {
        let choice = site.random.below(10);
        match choice {
            0..=3 => site.ours(),
            4..=6 => site.theirs(),
            7 | 8 if site.snapshots.len() < site.most_snapshots => site.snapshot(),
            _ => site.resize(),
        }
        .and_then(|()| site.judge())
        .with_context(|| format!("turn {turn}, choice {choice}"))?;
    }
    Ok(())
}

/// The seeds that are asked for, or as many as there are forms.
pub(crate) fn seeds(forms: usize) -> Result<std::ops::Range<u64>> {
    Ok(match std::env::var("WEFT_SEEDS") {
        Ok(seeds) => match seeds.split_once("..") {
            Some((first, last)) => first.parse()?..last.parse()?,
            None => 0..seeds.parse()?,
        },
        Err(_) => 0..forms as u64,
    })
}

#[test]
fn turns_of_both_leave_one_image() -> Result<()> {
    require!("qemu-img", "qemu-io");
    for seed in seeds(FORMS.len())? {
        run_seed(seed)
            .with_context(|| format!("seed {seed}, {:?}", FORMS[seed as usize % FORMS.len()]))?;
    }
    Ok(())
}
