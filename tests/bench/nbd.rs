//! A page-cached raw file over NBD on a Unix socket, one connection, by fio's nbd engine: CPU time of the server for each
//! operation, and throughput, against nbdkit, qemu-storage-daemon and qemu-nbd.
//!
//! `WEFT_BENCH_FOLDER` says where the file lies (by default the system's folder for temporary files),
//! `WEFT_BENCH_SECONDS` how long a turn takes (two seconds).

use std::sync::Arc;

use anyhow::Result;
use weft_export::nbd::server::{Export, Server};
use weft_tests::bench::{Contest, Measure, NbdServer, folder};
use weft_tests::missing_programs;
use weft_uring::{Address, FileDevice, OpenOptions, Shard, block_on};

/// Bytes of the file: more than the processor's caches, little enough to stay in the page cache.
const SIZE: usize = 512 << 20;

/// A server: its name in the table, its program (`SELF` is this one) and its arguments, in which `FILE` and `SOCKET` stand
/// for those.
const CONTESTANTS: [(&str, &str, &str); 4] = [
    ("weft", "SELF", "serve FILE SOCKET"),
    ("nbdkit", "nbdkit", "-f -U SOCKET file FILE"),
    (
        "qemu-storage-daemon",
        "qemu-storage-daemon",
        "--nbd-server addr.type=unix,addr.path=SOCKET \
         --blockdev driver=file,node-name=disk,filename=FILE,aio=io_uring \
         --export type=nbd,id=export,node-name=disk,name=,writable=on",
    ),
    ("qemu-nbd", "qemu-nbd", "-t -e 8 -f raw -k SOCKET FILE"),
];

/// Pattern, block size and depth.
const CASES: [(&str, &str, u32); 8] = [
    ("randread", "4k", 1),
    ("randread", "4k", 32),
    ("randwrite", "4k", 1),
    ("randwrite", "4k", 32),
    ("randread", "128k", 8),
    ("randwrite", "128k", 8),
    ("randread", "1m", 4),
    ("randwrite", "1m", 4),
];

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, word, file, socket] = &arguments[..]
        && word == "serve"
    {
        return serve(file, socket);
    }
    let folder = folder()?;
    let file = folder.path().join("disk.img");
    std::fs::write(&file, weft_tests::data::bytes(1, SIZE))?;
    println!(
        "NBD, raw file of {} MiB in the page cache ({}), Unix socket, one connection\n",
        SIZE >> 20,
        folder.path().display()
    );
    for (pattern, block, depth) in CASES {
        let title = format!("{pattern} {block}, depth {depth}");
        let measures = [Measure::CpuPerOperation, Measure::KiloOperationsPerSecond];
        let mut contest = Contest::new(&title, &measures);
        for (name, program, arguments) in CONTESTANTS {
            if program != "SELF" && !missing_programs(&[program]).is_empty() {
                contest.note_missing(name);
                continue;
            }
            let (folder, file) = (folder.path(), &file);
            contest.add(name, move || {
                let server = NbdServer::start(program, arguments, folder, file)?;
                server.load(SIZE as u64, pattern, block, depth)
            });
        }
        println!("{}", contest.run()?);
    }
    Ok(())
}

/// Our contestant: what `weft export add` does, in a process of its own.
fn serve(file: &str, socket: &str) -> Result<()> {
    let device = FileDevice::open(file, &OpenOptions::default())?;
    let shard = Shard::start("nbd")?;
    let address = Address::Unix(socket.into());
    let server = block_on(Server::start(&shard.handle(), &[address]))?;
    block_on(server.add("", Export::new(Arc::new(device))))?;
    loop {
        std::thread::park();
    }
}
