//! Every engine keeps the block contract, as plain memory does.
#![allow(clippy::unwrap_used)] // A test says what went wrong by panicking.

mod backends;
#[allow(unsafe_code)] // Loop devices are made by ioctl.
mod loop_device;

use std::path::Path;
use std::sync::Arc;

use backends::on_each;
use loop_device::LoopDevice;
use weft_block::{BlockDevice, ErrorKind};
use weft_sim::{MemoryDevice, conformance};
use weft_uring::{Backend, Direct, Engine, FileDevice, OpenOptions, spawner};

const MIB: u64 = 1 << 20;

/// Puts the file or block device at `path` through the suite in every way that this backend has.
async fn check_all(path: &Path, backend: Backend) {
    for engine in [Engine::Auto, Engine::Sync, Engine::Ring] {
        if (engine, backend) == (Engine::Ring, Backend::Poll) {
            continue;
        }
        for direct in [Direct::Off, Direct::On] {
            let options = OpenOptions {
                engine,
                direct,
                ..OpenOptions::default()
            };
            let device = match open_when_free(path, &options) {
                Err(error) if error.kind() == ErrorKind::Unsupported => {
                    eprintln!("left out: {}", error.sentence());
                    continue;
                }
                opened => opened.unwrap(),
            };
            eprintln!("{engine:?} {direct:?} {:?}", device.info());
            conformance::check(Arc::new(device), &spawner()).await;
            let options = OpenOptions {
                read_only: true,
                ..options
            };
            let device = open_when_free(path, &options).unwrap();
            conformance::check_read_only(Arc::new(device), &spawner()).await;
        }
    }
}

/// Opens a device that others may look at for a moment: programs that scan all block devices do.
fn open_when_free(path: &Path, options: &OpenOptions) -> weft_block::Result<FileDevice> {
    for _ in 0..500 {
        match FileDevice::open(path, options) {
            Err(error) if error.kind() == ErrorKind::Busy => {
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            opened => return opened,
        }
    }
    FileDevice::open(path, options)
}

#[test]
fn files_keep_the_contract() {
    on_each(|backend| async move {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let path = folder.path().join("disk");
        FileDevice::create(&path, 4 * MIB).unwrap();
        check_all(&path, backend).await;
    });
}

#[test]
fn files_in_memory_keep_the_contract() {
    on_each(|backend| async move {
        let Ok(folder) = tempfile::tempdir_in("/dev/shm") else {
            return;
        };
        let path = folder.path().join("disk");
        FileDevice::create(&path, 2 * MIB).unwrap();
        check_all(&path, backend).await;
    });
}

#[test]
fn block_devices_keep_the_contract() {
    on_each(|backend| async move {
        // Flushes of a file in memory are quick, and it is the block device that is tested.
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        let folder = folder.unwrap();
        for block_size in [512, 4096] {
            let Some(device) = LoopDevice::over(folder.path(), 2 * MIB, block_size) else {
                return;
            };
            check_all(&device.path, backend).await;
        }
    });
}

#[test]
fn memory_keeps_the_same_contract_on_the_same_executor() {
    on_each(|_| async {
        let device: Arc<dyn BlockDevice> = Arc::new(MemoryDevice::new(4 * MIB));
        conformance::check(device, &spawner()).await;
    });
}

#[test]
fn a_block_device_is_held_exclusively_and_direct_by_default() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let Some(device) = LoopDevice::over(folder.path(), MIB, 4096) else {
        return;
    };
    let first = FileDevice::open(&device.path, &OpenOptions::default()).unwrap();
    assert!(first.is_block_device());
    assert_eq!(first.info().logical_block, 4096);
    assert!(first.info().memory_alignment > 1);
    let error = FileDevice::open(&device.path, &OpenOptions::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert!(error.to_string().contains(device.path.to_str().unwrap()));
    let error = first.resize(2 * MIB).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    drop(first);
    FileDevice::open(&device.path, &OpenOptions::default()).unwrap();
}
