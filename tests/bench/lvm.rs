//! Making and removing a logical volume in a group of none, 2,000 and 10,000 volumes on three disks, against LVM2 on loop
//! devices (`lvcreate` and `lvremove` without activation).
//!
//! Ours keeps the group open, as the daemon does, and flushes the disks at each step of a commit, which LVM2 leaves to
//! the loop devices below it. `WEFT_BENCH_FOLDER` says where the files lie (by default the system's folder for temporary
//! files).

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Result, anyhow, ensure};
use weft_lvm::model::{LogicalVolume, Mapping, VolumeGroup, metadata_text};
use weft_lvm::{Amount, Disk, Group, GroupOptions, Host, Id, NewVolume};
use weft_tests::bench::{Contest, Measure, Sample, cpu_of_children, cpu_of_this_thread};
use weft_tests::data::Sequence;
use weft_tests::{Loop, can, missing_programs, run, sparse_file};
use weft_uring::{FileDevice, OpenOptions, block_on, spawner};

const MIB: u64 = 1 << 20;

/// Bytes of a disk: room for ten thousand extents on three of them.
const DISK: u64 = 5 << 30;

/// Volumes made and removed in a turn.
const OURS: u64 = 20;
const THEIRS: u64 = 2;

struct BenchHost(Mutex<Sequence>);

impl Host for BenchHost {
    fn name(&self) -> String {
        "bench".into()
    }

    fn unix_time(&self) -> u64 {
        1_700_000_000
    }

    fn random(&self, bytes: &mut [u8]) {
        let mut sequence = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        bytes.fill_with(|| sequence.draw() as u8);
    }
}

fn told(error: weft_block::Error) -> anyhow::Error {
    anyhow!(error.sentence())
}

/// A group on the files, with so many volumes.
fn filled(paths: &[PathBuf], seed: u64, volumes: usize) -> Result<Group> {
    let disk = |path: &PathBuf| {
        Ok(Disk {
            name: path.display().to_string(),
            device: Arc::new(FileDevice::open(path, &OpenOptions::default()).map_err(told)?),
        })
    };
    let disks = paths.iter().map(disk).collect::<Result<Vec<_>>>()?;
    let options = GroupOptions {
        extent_size: MIB,
        metadata_size: 16 * MIB,
        ..GroupOptions::default()
    };
    let host = Arc::new(BenchHost(Sequence::new(seed).into()));
    let name = format!("bench{seed}");
    block_on(async {
        let spawner = spawner();
        let mut group = Group::create(&name, &disks, &options, host, &spawner).await?;
        if volumes > 0 {
            let first = NewVolume::linear("first", Amount::Bytes(MIB));
            group.create_volume(&first, &spawner).await?;
            let many = multiplied(group.model(), seed, volumes);
            group.restore(&metadata_text(&many), &spawner).await?;
        }
        Ok(group)
    })
    .map_err(told)
}

/// The group's only volume, so many times, side by side.
fn multiplied(model: &VolumeGroup, seed: u64, volumes: usize) -> VolumeGroup {
    let mut many = model.clone();
    let mut sequence = Sequence::new(seed ^ 1);
    let per_disk = many.physical_volumes[0].extent_count;
    for number in 1..volumes as u64 {
        let mut lv = LogicalVolume::clone(&model.logical_volumes[0]);
        lv.name = format!("volume{number}");
        lv.id = Id::from_random(std::array::from_fn(|_| sequence.draw() as u8));
        if let Mapping::Striped { stripes, .. } = &mut lv.segments[0].mapping {
            stripes[0].pv = (number / per_disk) as usize;
            stripes[0].start = number % per_disk;
        }
        many.logical_volumes.push(lv.into());
    }
    many
}

fn our_turn(group: &mut Group) -> Result<Sample> {
    let (started, cpu) = (Instant::now(), cpu_of_this_thread()?);
    block_on(async {
        let spawner = spawner();
        for number in 0..OURS {
            let name = format!("new{number}");
            let new = NewVolume::linear(name.as_str(), Amount::Bytes(8 * MIB));
            group.create_volume(&new, &spawner).await?;
            group.remove_volume(&name, &spawner).await?;
        }
        Ok(())
    })
    .map_err(told)?;
    Ok(Sample {
        operations: 2 * OURS,
        bytes: 0,
        elapsed: started.elapsed(),
        cpu: cpu_of_this_thread()? - cpu,
    })
}

/// LVM2 over loop devices, with a configuration of its own.
struct Lvm2 {
    loops: Vec<Loop>,
    system_dir: String,
    group: String,
    made: Cell<u64>,
}

impl Lvm2 {
    fn new(folder: &Path, paths: &[PathBuf], group: String) -> Result<Self> {
        let system_dir = folder.join("lvm");
        std::fs::create_dir_all(&system_dir)?;
        let configuration = "backup { backup = 0\n archive = 0 }\n\
                             activation { udev_sync = 0\n udev_rules = 0 }\n";
        std::fs::write(system_dir.join("lvm.conf"), configuration)?;
        Ok(Self {
            loops: paths
                .iter()
                .map(|path| Loop::attach(path))
                .collect::<Result<_>>()?,
            system_dir: format!("LVM_SYSTEM_DIR={}", system_dir.display()),
            group,
            made: Cell::new(0),
        })
    }

    fn lvm(&self, words: &str) -> Result<()> {
        let devices: Vec<String> = self
            .loops
            .iter()
            .map(|one| one.path().display().to_string())
            .collect();
        let common = format!("--driverloaded n -y --devices {}", devices.join(","));
        let words = words.split_whitespace().chain(common.split_whitespace());
        let environment = [self.system_dir.as_str(), "LVM_SUPPRESS_FD_WARNINGS=1"];
        run("env", environment.into_iter().chain(words)).map(drop)
    }

    fn turn(&self) -> Result<Sample> {
        let (started, cpu) = (Instant::now(), cpu_of_children()?);
        for _ in 0..THEIRS {
            let name = format!(
                "{}/new{}",
                self.group,
                self.made.replace(self.made.get() + 1)
            );
            self.lvm(&format!("lvcreate -an -Zn -Wn -L 8M -n {name}"))?;
            self.lvm(&format!("lvremove {name}"))?;
        }
        Ok(Sample {
            operations: 2 * THEIRS,
            bytes: 0,
            elapsed: started.elapsed(),
            cpu: cpu_of_children()? - cpu,
        })
    }
}

fn main() -> Result<()> {
    let folder = weft_tests::bench::folder()?;
    println!("LVM2 metadata: a logical volume made and removed, on three disks\n");
    for volumes in [0, 2_000, 10_000] {
        let files = |kind: &str| {
            let name = |number| format!("{kind}-{volumes}-{number}");
            [0, 1, 2].map(|number| sparse_file(folder.path(), &name(number), DISK))
        };
        let theirs = files("theirs");
        let rival = match missing_programs(&["lvm", "losetup"]).is_empty() && can::be_root() {
            true => {
                drop(filled(&theirs, 11, volumes)?);
                Some(Lvm2::new(folder.path(), &theirs, "bench11".into())?)
            }
            false => None,
        };
        let mut ours = filled(&files("ours"), 10, volumes)?;
        let title = format!("{volumes} volumes in the group");
        let measures = [Measure::KiloOperationsPerSecond, Measure::CpuPerOperation];
        let mut contest = Contest::new(&title, &measures);
        contest.add("weft", || our_turn(&mut ours));
        match &rival {
            Some(rival) => contest.add("lvm2", || rival.turn()),
            None => contest.note_missing("lvm2 (as root)"),
        }
        let table = contest.run()?;
        ensure!(ours.problems().is_empty(), "{:?}", ours.problems());
        println!("{table}");
    }
    Ok(())
}
