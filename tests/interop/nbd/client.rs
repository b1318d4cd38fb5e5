//! Our client against servers that others made.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use weft_block::{BlockDevice, BlockQueue, ErrorKind, ExtentKind, IoVec, Request};
use weft_export::nbd::client::{NbdDevice, Url};
use weft_sim::conformance;
use weft_tests::{Process, data, require, temp_dir};
use weft_uring::{block_on, sleep, spawner};

use crate::site::MIB;

/// A server of others on a Unix socket.
struct Other {
    program: String,
    arguments: String,
    process: Process,
    folder: tempfile::TempDir,
    name: &'static str,
}

impl Other {
    /// `SOCKET` and `FOLDER` in the arguments stand for its socket and its folder.
    fn start(program: &str, arguments: &str, name: &'static str) -> Result<Self> {
        let folder = temp_dir();
        weft_tests::sparse_file(folder.path(), "disk.img", 64 * MIB);
        Self::in_folder(folder, program, arguments, name)
    }

    fn in_folder(
        folder: tempfile::TempDir,
        program: &str,
        arguments: &str,
        name: &'static str,
    ) -> Result<Self> {
        Ok(Self {
            process: spawn(folder.path(), program, arguments)?,
            program: program.to_string(),
            arguments: arguments.to_string(),
            folder,
            name,
        })
    }

    /// It is killed, and another is started in its place.
    fn restart(&mut self) -> Result<()> {
        self.process.signal(nix::sys::signal::Signal::SIGKILL)?;
        self.process.wait_for(Duration::from_secs(5))?;
        std::fs::remove_file(self.folder.path().join("socket"))?;
        self.process = spawn(self.folder.path(), &self.program, &self.arguments)?;
        Ok(())
    }

    fn url(&self) -> Url {
        self.url_with("")
    }

    fn url_with(&self, query: &str) -> Url {
        let socket = self.folder.path().join("socket");
        let text = format!(
            "nbd+unix:///{}?socket={}{query}",
            self.name,
            socket.display()
        );
        text.parse().unwrap()
    }
}

/// Starts a server and waits until it answers.
fn spawn(folder: &Path, program: &str, arguments: &str) -> Result<Process> {
    let socket = folder.join("socket");
    let place = |word: &str| {
        word.replace("SOCKET", socket.to_str().unwrap())
            .replace("FOLDER", folder.to_str().unwrap())
    };
    let mut command = Process::command(program);
    command.args(arguments.split_whitespace().map(place));
    command.stderr(std::fs::File::create(folder.join("log"))?);
    let mut process = Process::spawn(command)?;
    while !answers(&socket) {
        let told = || std::fs::read_to_string(folder.join("log")).unwrap_or_default();
        ensure!(process.is_running(), "{program} {arguments}: {}", told());
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(process)
}

fn answers(socket: &Path) -> bool {
    socket.exists() && std::os::unix::net::UnixStream::connect(socket).is_ok()
}

async fn open(url: &Url) -> Result<(NbdDevice, Box<dyn BlockQueue>)> {
    let device = NbdDevice::connect(url).await?;
    let queue = device.open(&spawner())?;
    Ok((device, queue))
}

async fn put(queue: &dyn BlockQueue, offset: u64, bytes: &[u8]) -> weft_block::Result<()> {
    let request = Request::write(offset, IoVec::copy_of(bytes));
    queue.submit(request).await.result
}

async fn take(queue: &dyn BlockQueue, offset: u64, len: usize) -> weft_block::Result<Vec<u8>> {
    let completion = queue
        .submit(Request::read(offset, IoVec::zeroed(len)))
        .await;
    completion.result?;
    Ok(completion.buffer.to_buffer().to_vec())
}

#[test]
fn the_contract_holds_over_every_server() -> Result<()> {
    require!("nbdkit", "qemu-nbd");
    let servers = [
        ("nbdkit", "-f -U SOCKET memory 64M", ""),
        ("nbdkit", "-f -U SOCKET file FOLDER/disk.img", ""),
        // Without structured replies, one connection, without FUA, without zeroes.
        ("nbdkit", "-f --no-sr -U SOCKET memory 64M", ""),
        (
            "nbdkit",
            "-f -U SOCKET --filter=multi-conn --filter=fua --filter=nozero memory 64M multi-conn-mode=disable",
            "",
        ),
        // Answers out of order.
        (
            "nbdkit",
            "-f -U SOCKET --filter=delay memory 64M delay-read=3ms delay-write=1ms",
            "",
        ),
        // Blocks of 4096 bytes.
        (
            "nbdkit",
            "-f -U SOCKET --filter=blocksize-policy memory 64M blocksize-minimum=4096 blocksize-preferred=65536 blocksize-maximum=1M blocksize-error-policy=error",
            "",
        ),
        (
            "qemu-nbd",
            "-t -e 8 -f raw -k SOCKET -x disk FOLDER/disk.img",
            "disk",
        ),
        (
            "qemu-nbd",
            "-t -e 8 -f raw -k SOCKET --discard=unmap --detect-zeroes=unmap FOLDER/disk.img",
            "",
        ),
    ];
    for (program, arguments, name) in servers {
        let server = Other::start(program, arguments, name)?;
        block_on(async {
            let device = NbdDevice::connect(&server.url()).await?;
            conformance::check(Arc::new(device), &spawner()).await;
            anyhow::Ok(())
        })
        .with_context(|| format!("{program} {arguments}"))?;
    }
    Ok(())
}

#[test]
fn extents_come_from_the_server() -> Result<()> {
    require!("nbdkit");
    let server = Other::start("nbdkit", "-f -U SOCKET memory 64M", "")?;
    block_on(async {
        let (_device, queue) = open(&server.url()).await?;
        put(&*queue, MIB, &data::bytes(1, 65536)).await?;
        let extents = queue.extents(0, 2 * MIB).await?;
        let kinds: Vec<_> = extents.iter().map(|extent| extent.kind).collect();
        assert_eq!(kinds[..2], [ExtentKind::Hole, ExtentKind::Data]);
        assert_eq!(extents[1].offset, MIB);
        anyhow::Ok(())
    })
}

#[test]
fn errors_of_the_server_arrive_as_theirs() -> Result<()> {
    require!("nbdkit");
    let arguments = "-f -U SOCKET --filter=error memory 64M error-pread=EIO error-pread-rate=100% error-pwrite=ENOSPC error-pwrite-rate=100%";
    let server = Other::start("nbdkit", arguments, "")?;
    block_on(async {
        let (_device, queue) = open(&server.url()).await?;
        let error = take(&*queue, 0, 4096).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io);
        let error = put(&*queue, 0, &[1; 4096]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace);
        // The connection is as good as before.
        queue.submit(Request::flush()).await.result?;
        anyhow::Ok(())
    })
}

#[test]
fn errors_now_and_then_hit_their_requests_alone() -> Result<()> {
    require!("nbdkit");
    let arguments = "-f -U SOCKET --filter=error --filter=delay memory 64M error=EIO error-rate=20% delay-read=2ms";
    let server = Other::start("nbdkit", arguments, "")?;
    block_on(async {
        let (_device, queue) = open(&server.url()).await?;
        let mut failed = 0;
        for round in 0..20 {
            let reads: Vec<_> = (0..32)
                .map(|at| queue.submit(Request::read(at * 4096, IoVec::zeroed(4096))))
                .collect();
            for read in reads {
                match read.await.result {
                    Ok(()) => {}
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::Io, "round {round}");
                        failed += 1;
                    }
                }
            }
        }
        assert!((1..640).contains(&failed), "{failed} of 640");
        anyhow::Ok(())
    })
}

#[test]
fn a_server_that_dies_is_offline() -> Result<()> {
    require!("nbdkit");
    let arguments = "-f -U SOCKET --filter=delay memory 64M delay-read=20";
    let mut server = Other::start("nbdkit", arguments, "")?;
    block_on(async {
        let (device, queue) = open(&server.url_with("&reconnect-delay=1")).await?;
        put(&*queue, 0, &[1; 4096]).await?;
        let read = queue.submit(Request::read(0, IoVec::zeroed(4096)));
        sleep(Duration::from_millis(50)).await;
        server.process.signal(nix::sys::signal::Signal::SIGKILL)?;
        assert_eq!(read.await.result.unwrap_err().kind(), ErrorKind::Offline);
        server.process.wait_for(Duration::from_secs(5))?;
        let error = put(&*queue, 0, &[1; 4096]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Offline);
        let given_up = device.open(&spawner()).err();
        assert_eq!(given_up.map(|error| error.kind()), Some(ErrorKind::Offline));
        anyhow::Ok(())
    })
}

/// Writes with a flush now and then, while the server is killed again and again.
async fn write_through(server: &mut Other, queue: &dyn BlockQueue) -> Result<()> {
    for round in 0..6 {
        for place in 0..40 {
            put(queue, place * 65536, &data::bytes(round + place, 65536)).await?;
            if place == 20 {
                queue.submit(Request::flush()).await.result?;
            }
            if place == 30 + round {
                server.restart()?;
            }
        }
        for place in 0..40 {
            let found = take(queue, place * 65536, 65536).await?;
            ensure!(found == data::bytes(round + place, 65536), "block {place}");
        }
    }
    Ok(())
}

#[test]
fn servers_that_are_killed_and_started_anew_are_not_noticed() -> Result<()> {
    require!("nbdkit", "qemu-nbd", "qemu-img");
    let servers = [
        ("nbdkit", "-f -U SOCKET file FOLDER/disk.img", ""),
        // One connection; what is not flushed is lost with it.
        ("qemu-nbd", "-t -f raw -k SOCKET FOLDER/disk.img", ""),
        (
            "qemu-nbd",
            "-t -e 8 -f qcow2 --cache=writeback -k SOCKET -x disk FOLDER/disk.qcow2",
            "disk",
        ),
    ];
    for (program, arguments, name) in servers {
        let folder = temp_dir();
        weft_tests::sparse_file(folder.path(), "disk.img", 64 * MIB);
        let image = folder.path().join("disk.qcow2");
        let image = image.to_str().context("the path is text")?;
        weft_tests::run("qemu-img", ["create", "-q", "-f", "qcow2", image, "64M"])?;
        let mut server = Other::in_folder(folder, program, arguments, name)?;
        block_on(async {
            let (device, queue) = open(&server.url()).await?;
            // As a member of an array, which has several.
            let another = device.open(&spawner())?;
            write_through(&mut server, &*queue).await?;
            another.submit(Request::flush()).await.result?;
            anyhow::Ok(())
        })
        .with_context(|| format!("{program} {arguments}"))?;
    }
    Ok(())
}

#[test]
fn a_tls_only_server_is_told_as_such() -> Result<()> {
    require!("nbdkit", "certtool", "psktool");
    let folder = temp_dir();
    let keys = folder.path().join("keys.psk");
    let keys = keys.to_str().context("the path is text")?;
    weft_tests::run("psktool", ["-u", "weft", "-p", keys])?;
    let arguments = format!("-f -U SOCKET --tls=require --tls-psk={keys} memory 1M");
    let server = Other::start("nbdkit", &arguments, "")?;
    let error = block_on(NbdDevice::connect(&server.url())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.sentence().contains("TLS"), "{}", error.sentence());
    Ok(())
}
