//! qcow2 images over NBD on a Unix socket, one connection, by fio's nbd engine, against qemu-storage-daemon on the same
//! image: CPU time of the server for each operation, and throughput. Then what a snapshot of a large image takes, and
//! copies beside `qemu-img convert`.
//!
//! `WEFT_BENCH_FOLDER` says where the images lie (by default the system's folder for temporary files),
//! `WEFT_BENCH_SECONDS` how long a turn takes (two seconds).

#[path = "images/copies.rs"]
mod copies;

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use weft_block::{BlockDevice, IoVec, Request};
use weft_export::nbd::server::{Export, Server};
use weft_qcow2::{CreateOptions, Image, OpenOptions, SnapshotName, create};
use weft_tests::bench::{Contest, Measure, NbdServer, Sample, folder};
use weft_tests::{missing_programs, run};
use weft_uring::{Address, FileDevice, Shard, block_on, spawner};

/// Bytes of the disk: more than the processor's caches, little enough to stay in the page cache.
const SIZE: u64 = 512 << 20;

/// Bytes of a disk whose tables do not fit a small cache: they take 128 MiB.
const LARGE: u64 = 1 << 40;

/// Bytes of tables that both keep of the large disk.
const SMALL_CACHE: u64 = 1 << 20;

const RIVAL: &str = "qemu-storage-daemon";

const RIVAL_ARGUMENTS: &str = "--nbd-server addr.type=unix,addr.path=SOCKET \
     --blockdev driver=file,node-name=file,filename=FILE,aio=io_uring \
     --blockdev driver=qcow2,node-name=disk,file=fileCACHE \
     --export type=nbd,id=export,node-name=disk,name=,writable=on";

/// Pattern, block size and depth.
const CASES: [(&str, &str, u32); 8] = [
    ("randread", "4k", 1),
    ("randread", "4k", 32),
    ("randwrite", "4k", 1),
    ("randwrite", "4k", 32),
    ("read", "128k", 8),
    ("write", "128k", 8),
    ("read", "1m", 4),
    ("write", "1m", 4),
];

const MEASURES: [Measure; 2] = [Measure::CpuPerOperation, Measure::KiloOperationsPerSecond];

/// Makes an image anew.
type Prepare<'a> = &'a dyn Fn(&Path) -> Result<()>;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, word, file, socket, cache] = &arguments[..]
        && word == "serve"
    {
        return serve(file, socket, cache.parse()?);
    }
    if let [_, word, source, target, how] = &arguments[..]
        && word == "copy"
    {
        return copies::copy(source, target, how);
    }
    let folder = folder()?;
    println!(
        "NBD, qcow2 with clusters of 64 KiB in the page cache ({}), Unix socket, one connection\n",
        folder.path().display()
    );
    allocated(folder.path())?;
    allocating(folder.path())?;
    large(folder.path())?;
    snapshots(folder.path())?;
    copies::contests(folder.path())
}

/// Both on `image`, which `prepare` makes anew before each turn if it is there to do so.
fn contest(
    title: &str,
    image: &Path,
    (size, cache): (u64, Option<u64>),
    (pattern, block, depth): (&str, &str, u32),
    prepare: Option<Prepare<'_>>,
) -> Result<()> {
    let ours = format!(
        "serve FILE SOCKET {}",
        cache.unwrap_or(weft_qcow2::DEFAULT_CACHE)
    );
    let option = cache.map_or(String::new(), |cache| format!(",l2-cache-size={cache}"));
    let theirs = RIVAL_ARGUMENTS.replace("CACHE", &option);
    let mut contest = Contest::new(title, &MEASURES);
    for (name, program, arguments) in [("weft", "SELF", ours), (RIVAL, RIVAL, theirs)] {
        if program != "SELF" && !missing_programs(&[program]).is_empty() {
            contest.note_missing(name);
            continue;
        }
        contest.add(name, move || {
            if let Some(prepare) = prepare {
                prepare(image)?;
            }
            let folder = image.parent().unwrap_or(Path::new("."));
            let server = NbdServer::start(program, &arguments, folder, image)?;
            server.load(size, pattern, block, depth)
        });
    }
    println!("{}", contest.run()?);
    Ok(())
}

fn allocated(folder: &Path) -> Result<()> {
    let image = folder.join("allocated.qcow2");
    block_on(make_full(&image, SIZE))?;
    for (pattern, block, depth) in CASES {
        let title = format!("{pattern} {block}, depth {depth}, allocated");
        contest(&title, &image, (SIZE, None), (pattern, block, depth), None)?;
    }
    Ok(())
}

fn allocating(folder: &Path) -> Result<()> {
    let image = folder.join("empty.qcow2");
    // More than can be written in a turn.
    let size = 16 * SIZE;
    let prepare = move |image: &Path| {
        if image.exists() {
            std::fs::remove_file(image)?;
        }
        block_on(make(image, size)).map(|_| ())
    };
    for (pattern, block, depth) in [
        ("randwrite", "4k", 32),
        ("write", "64k", 8),
        ("write", "1m", 4),
    ] {
        let title = format!("{pattern} {block}, depth {depth}, allocating");
        contest(
            &title,
            &image,
            (size, None),
            (pattern, block, depth),
            Some(&prepare),
        )?;
    }
    Ok(())
}

/// Reads all over a disk whose tables are there, and its data is not.
fn large(folder: &Path) -> Result<()> {
    let image = folder.join("large.qcow2");
    if missing_programs(&["qemu-img"]).is_empty() {
        let options = "preallocation=metadata";
        let line = ["create", "-q", "-f", "qcow2", "-o", options];
        let place = image.display().to_string();
        run(
            "qemu-img",
            line.into_iter().chain([place.as_str(), &LARGE.to_string()]),
        )?;
        for (what, cache) in [
            ("cache of 1 MiB each", Some(SMALL_CACHE)),
            ("caches as they are", None),
        ] {
            let title = format!("randread 4k, depth 32, 1 TiB, {what}");
            contest(&title, &image, (LARGE, cache), ("randread", "4k", 32), None)?;
        }
        std::fs::remove_file(image)?;
    }
    Ok(())
}

/// A snapshot of a disk of 1 TiB with 4 GiB in it, by us and by qemu-img, each a program or a call as it is used.
fn snapshots(folder: &Path) -> Result<()> {
    let image = folder.join("snapshots.qcow2");
    block_on(async {
        let image = make(&image, LARGE).await?;
        // A write in every 128 KiB of the first 4 GiB.
        let queue = image.open(&spawner())?;
        for place in 0..32_768u64 {
            let write = Request::write(place << 17, IoVec::copy_of(&[7; 4096]));
            queue.submit(write).await.result?;
        }
        anyhow::Ok(image.close(&spawner()).await?)
    })?;
    let mut contest = Contest::new("a snapshot of 1 TiB", &[Measure::KiloOperationsPerSecond]);
    let mut number = 0;
    contest.add("weft", || {
        number += 1;
        let begun = Instant::now();
        block_on(snapshot(&image, &format!("weft-{number}")))?;
        Ok(one(begun))
    });
    if missing_programs(&["qemu-img"]).is_empty() {
        contest.add("qemu-img", || {
            let begun = Instant::now();
            run(
                "qemu-img",
                ["snapshot", "-c", "theirs", &image.display().to_string()],
            )?;
            Ok(one(begun))
        });
    }
    println!("{}", contest.run()?);
    Ok(())
}

fn one(begun: Instant) -> Sample {
    Sample {
        operations: 1,
        elapsed: begun.elapsed(),
        ..Sample::default()
    }
}

async fn snapshot(image: &Path, name: &str) -> Result<()> {
    let file = FileDevice::open(image, &weft_uring::OpenOptions::default())?;
    let image = Image::open(Arc::new(file), OpenOptions::default(), &spawner()).await?;
    let name = SnapshotName {
        name: name.into(),
        seconds: 0,
        nanoseconds: 0,
    };
    image.create_snapshot(name, &spawner()).await?;
    Ok(image.close(&spawner()).await?)
}

async fn make(path: &Path, size: u64) -> Result<Image> {
    let file: Arc<dyn BlockDevice> = Arc::new(FileDevice::create(path, 0)?);
    create(&*file, &CreateOptions::new(size), &spawner()).await?;
    Ok(Image::open(file, OpenOptions::default(), &spawner()).await?)
}

async fn make_full(path: &Path, size: u64) -> Result<()> {
    let image = make(path, size).await?;
    let queue = image.open(&spawner())?;
    let data = IoVec::copy_of(&weft_tests::data::bytes(1, 1 << 20));
    for offset in (0..size).step_by(1 << 20) {
        queue
            .submit(Request::write(offset, data.clone()))
            .await
            .result?;
    }
    Ok(image.close(&spawner()).await?)
}

/// Our contestant: what `weft export add` does, in a process of its own.
fn serve(file: &str, socket: &str, cache: u64) -> Result<()> {
    let file = FileDevice::open(file, &weft_uring::OpenOptions::default())?;
    let shard = Shard::start("nbd")?;
    let address = Address::Unix(socket.into());
    let server = block_on(Server::start(&shard.handle(), &[address]))?;
    let options = OpenOptions {
        cache,
        ..OpenOptions::default()
    };
    let image = block_on(async { Image::open(Arc::new(file), options, &spawner()).await })?;
    block_on(server.add("", Export::new(Arc::new(image))))?;
    loop {
        std::thread::park();
    }
}
