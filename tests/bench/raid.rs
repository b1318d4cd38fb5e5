//! A RAID-5 array over five files on one disk, by direct I/O at depth 32, against what its I/Os cost without it: fio's
//! io_uring on one of the members, doing as many raw I/Os as the array must for the same work. A small write of RAID-5
//! takes four (two reads, two writes), a full-stripe write 1.25 bytes for each. The raw I/Os are never flushed, and the
//! partial parity log is, by every batch: so it is measured on disks that say that they have no volatile cache, too.
//! Then small writes, whole rows and rebuilds, on disks of a given speed.
//!
//! `WEFT_BENCH_FOLDER` says where the files lie (by default the system's folder for temporary files),
//! `WEFT_BENCH_SECONDS` how long a turn takes (two seconds), `WEFT_BENCH_ONLY` which words a table must have in its title
//! (all of them).

#[path = "raid/disk.rs"]
mod disk;
#[path = "raid/kept.rs"]
mod kept;
#[path = "raid/rebuild.rs"]
mod rebuild;
#[path = "raid/small.rs"]
mod small;
#[path = "raid/whole.rs"]
mod whole;

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use weft_block::{BlockDevice, BlockQueue, IoVec, Request};
use weft_raid::level::Level;
use weft_raid::superblock::Timestamp;
use weft_raid::{Array, Consistency, CreateOptions, MemberDevice, create};
use weft_tests::bench::{
    Contest, Measure, Sample, cpu_of_children, cpu_of_this_process, fio, folder, seconds,
};
use weft_uring::{Direct, FileDevice, OpenOptions, block_on, spawn, spawner};

const MEMBERS: usize = 5;
/// Bytes of a member, and of the journal.
const MEMBER: usize = 128 << 20;
const CHUNK: u64 = 64 << 10;

/// One line of the table.
struct Case {
    title: &'static str,
    /// Bytes of a request, and how many are in flight.
    block: u64,
    depth: usize,
    is_write: bool,
    is_random: bool,
    /// fio's words for the same work, and raw I/Os (or bytes, of sequential work) for one of the array.
    raw: &'static [&'static str],
    cost: f64,
}

static CASES: [Case; 3] = [
    Case {
        title: "4 KiB random read, depth 32",
        block: 4096,
        depth: 32,
        is_write: false,
        is_random: true,
        raw: &["--rw=randread", "--bs=4k", "--iodepth=32"],
        cost: 1.0,
    },
    Case {
        title: "4 KiB random write, depth 32",
        block: 4096,
        depth: 32,
        is_write: true,
        is_random: true,
        raw: &["--rw=randrw", "--rwmixread=50", "--bs=4k", "--iodepth=32"],
        cost: 4.0,
    },
    Case {
        title: "1 MiB sequential write, depth 32",
        block: 1 << 20,
        depth: 32,
        is_write: true,
        is_random: false,
        raw: &["--rw=write", "--bs=1m", "--iodepth=32"],
        cost: 1.25,
    },
];

fn main() -> Result<()> {
    let cases: Vec<&Case> = CASES.iter().filter(|case| is_wanted(case.title)).collect();
    if !cases.is_empty() {
        on_files(&cases)?;
    }
    if is_wanted(small::TITLE) {
        small::run()?;
    }
    if is_wanted(whole::TITLE) {
        whole::run()?;
    }
    match is_wanted(rebuild::TITLE) {
        true => rebuild::alone().and_then(|()| rebuild::beside()),
        false => Ok(()),
    }
}

fn on_files(cases: &[&'static Case]) -> Result<()> {
    let folder = folder()?;
    let paths: Vec<PathBuf> = (0..=MEMBERS)
        .map(|member| folder.path().join(format!("member{member}")))
        .collect();
    for (seed, path) in (0..).zip(&paths) {
        std::fs::write(path, weft_tests::data::bytes(seed, MEMBER))?;
    }
    println!(
        "RAID-5, {MEMBERS} files of {} MiB ({}), chunk of 64 KiB, direct I/O\n",
        MEMBER >> 20,
        folder.path().display()
    );
    for &case in cases {
        let measures = [Measure::CpuPerOperation, Measure::KiloOperationsPerSecond];
        let mut contest = Contest::new(case.title, &measures);
        for policy in [Consistency::Ppl, Consistency::Bitmap, Consistency::Journal] {
            let name = format!("weft, {}", policy.name());
            // The journal is the last.
            let disks = MEMBERS + usize::from(policy == Consistency::Journal);
            let paths = &paths[..disks];
            contest.add(&name, move || ours(case, policy, false, paths));
        }
        if case.is_write {
            let paths = &paths[..MEMBERS];
            let kept = move || ours(case, Consistency::Ppl, true, paths);
            contest.add("weft, ppl, no caches", kept);
        }
        contest.add("raw I/Os, fio", || raw(case, &paths[0]));
        println!("{}", contest.run()?);
    }
    Ok(())
}

/// Whether a table is asked for.
fn is_wanted(title: &str) -> bool {
    let words = std::env::var("WEFT_BENCH_ONLY");
    words.map_or(true, |words| title.contains(&words))
}

fn told(error: weft_block::Error) -> anyhow::Error {
    anyhow!(error.sentence())
}

/// One turn of ours: the array and its load on one thread.
fn ours(case: &'static Case, policy: Consistency, kept: bool, paths: &[PathBuf]) -> Result<Sample> {
    block_on(async {
        let array = array(policy, kept, paths).await?;
        let (cpu, begun) = (cpu_of_this_process()?, Instant::now());
        let until = begun + Duration::from_secs(seconds());
        let blocks = array.info().size / case.block;
        let queue: Rc<dyn BlockQueue> = Rc::from(array.open(&spawner()).map_err(told)?);
        let loads: Vec<_> = (0..case.depth as u64)
            .map(|worker| spawn(load(Rc::clone(&queue), case, blocks, worker, until)))
            .collect();
        let mut operations = 0;
        for done in loads {
            operations += done.await?;
        }
        let elapsed = begun.elapsed();
        let cpu = cpu_of_this_process()?.saturating_sub(cpu);
        array.stop(&spawner()).await.map_err(told)?;
        Ok(Sample {
            operations,
            bytes: operations * case.block,
            elapsed,
            cpu,
        })
    })
}

async fn array(policy: Consistency, kept: bool, paths: &[PathBuf]) -> Result<Array> {
    let mut number = 0_u8;
    let random = || {
        number += 1;
        [number; 16]
    };
    let now = Timestamp::EPOCH;
    let mut options = CreateOptions::new(Level::Raid5, "bench", paths.len(), now, random);
    options.chunk = CHUNK;
    options.consistency = policy;
    // What is read does not matter here.
    options.assume_clean = true;
    let open = |path: &PathBuf| {
        let options = OpenOptions {
            direct: Direct::On,
            ..OpenOptions::default()
        };
        let mut device: Arc<dyn BlockDevice> =
            Arc::new(FileDevice::open(path, &options).map_err(told)?);
        if kept {
            device = Arc::new(kept::Kept(device));
        }
        Ok(MemberDevice {
            path: path.display().to_string(),
            device,
        })
    };
    let members: Result<Vec<MemberDevice>> = paths.iter().map(open).collect();
    create(&options, members?, &spawner()).await.map_err(told)
}

/// One request after the other; how many.
async fn load(
    queue: Rc<dyn BlockQueue>,
    case: &Case,
    blocks: u64,
    worker: u64,
    until: Instant,
) -> Result<u64> {
    let mut sequence = weft_tests::data::Sequence::new(worker + 1);
    let data = IoVec::copy_of(&weft_tests::data::bytes(worker, case.block as usize));
    let mut done = 0;
    while Instant::now() < until {
        let place = match case.is_random {
            true => sequence.draw() % blocks,
            false => (worker + done * case.depth as u64) % blocks,
        };
        let offset = place * case.block;
        let request = match case.is_write {
            true => Request::write(offset, data.clone()),
            false => Request::read(offset, data.clone()),
        };
        queue.submit(request).await.result.map_err(told)?;
        done += 1;
    }
    Ok(done)
}

/// One turn of raw I/Os, counted as the array's operations that they would make.
fn raw(case: &Case, path: &Path) -> Result<Sample> {
    let before = cpu_of_children()?;
    let (file, size) = (
        format!("--filename={}", path.display()),
        format!("--size={MEMBER}"),
    );
    let common = [
        "--ioengine=io_uring",
        "--direct=1",
        "--thread",
        &file,
        &size,
    ];
    let job = fio(common.into_iter().chain(case.raw.iter().copied()))?;
    let cpu = cpu_of_children()?.saturating_sub(before);
    let figure = |name: &str| -> u64 {
        ["read", "write"]
            .iter()
            .filter_map(|side| job[side][name].as_u64())
            .sum()
    };
    let scaled = |count: u64| (count as f64 / case.cost) as u64;
    Ok(Sample {
        operations: scaled(figure("total_ios")),
        bytes: scaled(figure("io_bytes")),
        elapsed: Duration::from_millis(job["job_runtime"].as_u64().context("fio tells how long")?),
        cpu,
    })
}
