//! vhost-user-blk, 4 KiB random reads by a guestless driver, against qemu-storage-daemon's export.
//!
//! Each backend is a process of its own, driven by the same driver (`weft-vhost-client`) on one queue; what a backend
//! costs is the CPU time of its process.

use std::cell::RefCell;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use weft_block::{BlockDevice, BlockQueue, Completion, Info, LocalBoxFuture, Request, Spawner};
use weft_tests::bench::{Contest, CpuClock, Measure, Sample};
use weft_tests::{Process, missing_programs, temp_dir};
use weft_uring::{FileDevice, OpenOptions, block_on};
use weft_vhost_client::{BlkDriver, Connection, ConnectionOptions, Waiting};
use weft_vhost_user::{BlkBackend, BlkServe};

/// In the environment of a process that is to be our backend: its socket, and the image if there is one.
const SOCKET: &str = "WEFT_BENCH_SOCKET";
const IMAGE: &str = "WEFT_BENCH_IMAGE";
const BLOCK: u32 = 4096;
const SIZE: u64 = 512 << 20;
const TURN: Duration = Duration::from_millis(600);
const LONG: Duration = Duration::from_secs(10);
const RIVAL: &str = "qemu-storage-daemon";

/// A device that answers at once and touches nothing: what is left is the transport.
struct Null;

impl BlockDevice for Null {
    fn info(&self) -> Info {
        Info::new(SIZE, 512)
    }

    fn open(&self, _: &Spawner) -> weft_block::Result<Box<dyn BlockQueue>> {
        Ok(Box::new(Null))
    }
}

impl BlockQueue for Null {
    fn submit(&self, request: Request) -> LocalBoxFuture<'static, Completion> {
        Box::pin(std::future::ready(request.done()))
    }
}

/// Our backend, until it is killed.
fn serve(socket: &Path) -> Result<()> {
    let device: Arc<dyn BlockDevice> = match std::env::var_os(IMAGE) {
        Some(image) => {
            // All backends read one file, so nobody locks it.
            let options = OpenOptions {
                lock: false,
                ..OpenOptions::default()
            };
            let opened = FileDevice::open(PathBuf::from(image), &options);
            Arc::new(opened.map_err(|error| anyhow!(error.sentence()))?)
        }
        None => Arc::new(Null),
    };
    block_on(async {
        let _served = BlkBackend::serve_here(socket, device, BlkServe::default())?;
        std::future::pending::<()>().await;
        Ok(())
    })
}

/// A backend's process and the driver on it.
struct Contestant {
    _process: Process,
    pid: u32,
    _connection: Connection,
    driver: BlkDriver,
    random: u64,
}

impl Contestant {
    fn start(mut process: Process, socket: &Path) -> Result<Self> {
        let started = Instant::now();
        while UnixStream::connect(socket).is_err() {
            ensure!(process.is_running(), "a backend ended at its start");
            ensure!(started.elapsed() < LONG, "a backend does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        // `setpriv`, through which it was started, has become the backend itself.
        let pid = process.pid();
        let mut connection = Connection::open(socket, ConnectionOptions::default())
            .map_err(|error| anyhow!("connecting to {}: {error}", socket.display()))?;
        let base = connection.data_start();
        let driver = BlkDriver::new(&mut connection, 0, base, 64, BLOCK).map_err(|e| anyhow!(e))?;
        Ok(Self {
            _process: process,
            pid,
            _connection: connection,
            driver,
            random: 0x9e37_79b9_7f4a_7c15,
        })
    }

    fn sector(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random % (SIZE / u64::from(BLOCK))) * u64::from(BLOCK / 512)
    }

    /// Keeps `depth` reads in flight for a turn.
    fn turn(&mut self, depth: usize, waiting: Waiting) -> Result<Sample> {
        self.run(depth, waiting).map_err(|error| anyhow!(error))
    }

    fn run(&mut self, depth: usize, waiting: Waiting) -> Result<Sample, weft_vhost_client::Error> {
        self.driver.refuse_interrupts();
        let cpu = CpuClock::of(self.pid)?;
        let started = Instant::now();
        for slot in 0..depth {
            let sector = self.sector();
            self.driver.read(slot, sector, BLOCK)?;
        }
        self.driver.publish()?;
        let (mut done, mut in_flight, mut rounds) = (0_u64, depth, 0_u32);
        let mut more = true;
        while in_flight > 0 {
            if !self.driver.wait(waiting, LONG)? {
                return Err("a backend does not answer".into());
            }
            rounds += 1;
            if rounds.is_multiple_of(64) {
                more = started.elapsed() < TURN;
            }
            while let Some(completed) = self.driver.take() {
                if completed.status != 0 {
                    return Err("a read failed".into());
                }
                done += 1;
                in_flight -= 1;
                if more {
                    let sector = self.sector();
                    self.driver.read(completed.slot, sector, BLOCK)?;
                    in_flight += 1;
                }
            }
            self.driver.publish()?;
        }
        Ok(Sample {
            operations: done,
            bytes: done * u64::from(BLOCK),
            elapsed: started.elapsed(),
            cpu: cpu.used()?,
        })
    }
}

fn ours(socket: &Path, image: Option<&Path>) -> Result<Contestant> {
    let mut command = Process::command(std::env::current_exe()?);
    command.env(SOCKET, socket).stdout(Stdio::null());
    if let Some(image) = image {
        command.env(IMAGE, image);
    }
    Contestant::start(Process::spawn(command)?, socket)
}

fn rival(socket: &Path, image: Option<&Path>, iothread: bool) -> Result<Contestant> {
    let node = match image {
        Some(image) => format!(
            "driver=file,node-name=disk,aio=io_uring,cache.direct=off,locking=off,filename={}",
            image.display()
        ),
        None => format!("driver=null-co,node-name=disk,size={SIZE},read-zeroes=off"),
    };
    let mut export = format!(
        "type=vhost-user-blk,id=export,node-name=disk,writable=on,addr.type=unix,addr.path={}",
        socket.display()
    );
    let mut command = Process::command(RIVAL);
    if iothread {
        command.args(["--object", "iothread,id=thread"]);
        export.push_str(",iothread=thread");
    }
    command.args(["--blockdev", &node, "--export", &export]);
    command.stdout(Stdio::null());
    Contestant::start(Process::spawn(command)?, socket)
}

/// A file whose pages are all in the cache.
fn cached_image(folder: &Path) -> Result<PathBuf> {
    let path = folder.join("image");
    std::fs::write(&path, vec![7; usize::try_from(SIZE)?]).context("writing the image")?;
    Ok(path)
}

fn main() -> Result<()> {
    if let Some(socket) = std::env::var_os(SOCKET) {
        return serve(Path::new(&socket));
    }
    let folder = temp_dir();
    let image = cached_image(folder.path())?;
    let has_rival = missing_programs(&[RIVAL]).is_empty();
    let at = |name: &str| folder.path().join(name);
    println!("vhost-user-blk: 4 KiB random reads on one queue by a guestless driver\n");
    for (device, image) in [("null", None), ("page-cached file", Some(image.as_path()))] {
        let own = RefCell::new(ours(&at(&format!("own-{}", device.len())), image)?);
        let plain = has_rival
            .then(|| rival(&at(&format!("plain-{}", device.len())), image, false))
            .transpose()?
            .map(RefCell::new);
        let threaded = has_rival
            .then(|| rival(&at(&format!("thread-{}", device.len())), image, true))
            .transpose()?
            .map(RefCell::new);
        for (depth, waiting, how) in [
            (1, Waiting::Interrupt, "interrupts"),
            (32, Waiting::Interrupt, "interrupts"),
            (1, Waiting::Polled, "driver polls"),
            (32, Waiting::Polled, "driver polls"),
        ] {
            let title = format!("{device}, depth {depth}, {how}");
            let measures = [Measure::KiloOperationsPerSecond, Measure::CpuPerOperation];
            let mut contest = Contest::new(&title, &measures);
            contest.add("weft", || own.borrow_mut().turn(depth, waiting));
            for (name, rival) in [
                ("qemu-storage-daemon", &plain),
                ("the same, with an iothread", &threaded),
            ] {
                match rival {
                    Some(rival) => {
                        contest.add(name, move || rival.borrow_mut().turn(depth, waiting));
                    }
                    None => contest.note_missing(name),
                }
            }
            println!("{}", contest.run()?);
        }
    }
    Ok(())
}
