//! Disks that fail, fill up or are gone, over every engine.
#![allow(clippy::unwrap_used)] // A test says what went wrong by panicking.

mod backends;
#[allow(unsafe_code)] // Loop devices are made by ioctl.
mod loop_device;

use std::fs::File;
use std::path::Path;

use backends::on_each;
use loop_device::LoopDevice;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use weft_block::{BlockDevice, BlockQueue, ErrorKind, IoVec, Request};
use weft_uring::{Backend, Direct, Engine, FileDevice, OpenOptions, spawner};

const MIB: u64 = 1 << 20;

fn engines(backend: Backend) -> &'static [Engine] {
    match backend {
        Backend::Poll => &[Engine::Auto, Engine::Sync],
        _ => &[Engine::Auto, Engine::Sync, Engine::Ring],
    }
}

fn open(path: &Path, engine: Engine, direct: Direct) -> (FileDevice, Box<dyn BlockQueue>) {
    let options = OpenOptions {
        engine,
        direct,
        ..OpenOptions::default()
    };
    let device = FileDevice::open(path, &options).unwrap();
    let queue = device.open(&spawner()).unwrap();
    (device, queue)
}

#[test]
fn a_medium_that_does_not_answer_is_an_io_error() {
    on_each(|backend| async move {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let Some(device) = LoopDevice::over(folder.path(), 2 * MIB, 512) else {
            return;
        };
        let backing = File::options()
            .write(true)
            .open(folder.path().join("loop-512"))
            .unwrap();
        backing.set_len(MIB).unwrap();
        for &engine in engines(backend) {
            let (_device, queue) = open(&device.path, engine, Direct::On);
            let read = queue.submit(Request::read(MIB + 4096, IoVec::zeroed(4096)));
            let error = read.await.result.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Io, "{}", error.sentence());
            let name = device.path.to_str().unwrap();
            assert!(error.to_string().contains(name), "{error}");
            let read = queue.submit(Request::read(4096, IoVec::zeroed(4096)));
            read.await.result.unwrap();
        }
    });
}

#[test]
fn a_full_file_system_is_no_space() {
    // Mounts are this thread's own from here on.
    let Ok(()) = unshare(CloneFlags::CLONE_NEWNS) else {
        eprintln!("left out: this process may not mount");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
    mount::<str, str, str, str>(None, "/", None, private, None).unwrap();
    let (kind, size) = (Some("tmpfs"), Some("size=1m"));
    mount(kind, folder.path(), kind, MsFlags::empty(), size).unwrap();
    on_each(|backend| {
        let path = folder.path().join("disk");
        async move {
            let _ = std::fs::remove_file(&path);
            FileDevice::create(&path, 8 * MIB).unwrap();
            for &engine in engines(backend) {
                let (_device, queue) = open(&path, engine, Direct::Off);
                let write = Request::write(0, IoVec::zeroed(4 * MIB as usize));
                let error = queue.submit(write).await.result.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::NoSpace, "{}", error.sentence());
                let zeroes = Request::write_zeroes(0, 8 * MIB, true);
                queue.submit(zeroes).await.result.unwrap();
                let write = Request::write(0, IoVec::zeroed(4096));
                queue.submit(write).await.result.unwrap();
            }
        }
    });
    nix::mount::umount(folder.path()).unwrap();
}

#[test]
fn a_thread_without_a_ring_does_its_io_synchronously_or_says_why_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    FileDevice::create(&path, MIB).unwrap();
    let executor = weft_sim::Executor::new(1);
    for engine in [Engine::Auto, Engine::Sync] {
        let options = OpenOptions {
            engine,
            ..OpenOptions::default()
        };
        let device = FileDevice::open(&path, &options).unwrap();
        let spawner = executor.spawner();
        let device = std::sync::Arc::new(device);
        executor.block_on(weft_sim::conformance::check(device, &spawner));
    }
    let options = OpenOptions {
        engine: Engine::Ring,
        ..OpenOptions::default()
    };
    let device = FileDevice::open(&path, &options).unwrap();
    let Err(error) = device.open(&executor.spawner()).map(drop) else {
        panic!("there is no ring here");
    };
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("no ring"), "{error}");
}
