//! A backend that is killed again and again loses no write and repeats none.
//!
//! The backend is this test's own program, started once more with its orders in the environment.

#![allow(clippy::unwrap_used)] // The lint's exception for tests does not reach their helpers.
#![allow(unreachable_pub, missing_docs, dead_code)] // The support module is shared by several tests.

mod support;

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use support::{BLOCK, LONG, Stalling};
use weft_block::ErrorKind;
use weft_uring::{FileDevice, OpenOptions, block_on};
use weft_vhost_client::{BlkDriver, Connection, ConnectionOptions, Waiting};
use weft_vhost_user::{BlkBackend, BlkServe};

const ORDERS: &str = "WEFT_TEST_BACKEND";
const BLOCKS: usize = 24;
const LIVES: usize = 12;
const WRITES_PER_LIFE: usize = 60;

/// Not a test: the backend's whole life, if this process was started to be one.
#[test]
fn backend() {
    let Some(folder) = std::env::var_os(ORDERS) else {
        return;
    };
    let folder = Path::new(&folder);
    let disk = open(&folder.join("disk.img"));
    // Requests overtake each other, and there are always some in flight.
    let slow = Stalling::new(disk, Duration::from_millis(4));
    block_on(async {
        let socket = folder.join("disk.sock");
        let served = BlkBackend::serve_here(socket, Arc::new(slow), BlkServe::default()).unwrap();
        std::future::pending::<()>().await;
        drop(served);
    });
}

/// Opens the disk. The kernel finishes a killed process's requests before it lets go of the lock, which may be a
/// little after its end, and which is what keeps them from overtaking ours.
fn open(path: &Path) -> FileDevice {
    let started = Instant::now();
    loop {
        match FileDevice::open(path, &OpenOptions::default()) {
            Err(error) if error.kind() == ErrorKind::Busy && started.elapsed() < LONG => {
                std::thread::sleep(Duration::from_millis(1));
            }
            opened => return opened.unwrap(),
        }
    }
}

struct Victim(Child);

impl Victim {
    fn start(folder: &Path) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "backend", "--nocapture"])
            .env(ORDERS, folder)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut victim = Self(child);
        let socket = folder.join("disk.sock");
        while UnixStream::connect(&socket).is_err() {
            assert!(victim.0.try_wait().unwrap().is_none(), "the backend ended");
            std::thread::sleep(Duration::from_millis(2));
        }
        victim
    }

    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What block `block` holds after its write number `version`.
fn contents(block: usize, version: u64) -> Vec<u8> {
    let mut bytes = vec![block as u8; BLOCK as usize];
    bytes[..8].copy_from_slice(&version.to_le_bytes());
    bytes[4088..].copy_from_slice(&version.to_le_bytes());
    bytes
}

fn write(driver: &mut BlkDriver, block: usize, version: u64) {
    driver.fill(block, &contents(block, version)).unwrap();
    driver.write(block, block as u64 * 8, BLOCK).unwrap();
}

#[test]
fn writes_survive_their_backends() {
    let folder = tempfile::tempdir().unwrap();
    let image = std::fs::File::create(folder.path().join("disk.img")).unwrap();
    image.set_len(BLOCKS as u64 * u64::from(BLOCK)).unwrap();
    drop(image);
    let socket = folder.path().join("disk.sock");
    let mut victim = Victim::start(folder.path());
    let mut connection = Connection::open(&socket, ConnectionOptions::default()).unwrap();
    let base = connection.data_start();
    let mut driver = BlkDriver::new(&mut connection, 0, base, BLOCKS, BLOCK).unwrap();
    // Every block has one write in flight at all times; its next one goes out when that is answered.
    let mut versions = [1_u64; BLOCKS];
    (0..BLOCKS).for_each(|block| write(&mut driver, block, 1));
    driver.publish().unwrap();
    for _ in 0..LIVES {
        for _ in 0..WRITES_PER_LIFE {
            assert!(driver.wait(Waiting::Interrupt, LONG).unwrap());
            let done = driver.take().unwrap();
            assert_eq!(done.status, 0);
            versions[done.slot] += 1;
            write(&mut driver, done.slot, versions[done.slot]);
            driver.publish().unwrap();
        }
        victim.kill();
        victim = Victim::start(folder.path());
        connection.reconnect(&socket).unwrap();
    }
    for _ in 0..BLOCKS {
        assert!(driver.wait(Waiting::Interrupt, LONG).unwrap());
        assert_eq!(driver.take().unwrap().status, 0);
    }
    drop(connection);
    victim.kill();
    let image = std::fs::read(folder.path().join("disk.img")).unwrap();
    for (block, version) in versions.iter().enumerate() {
        let start = block * BLOCK as usize;
        let found = &image[start..start + BLOCK as usize];
        assert!(
            found == contents(block, *version),
            "block {block} holds write {:?}, not {version}",
            &found[..8]
        );
    }
}
