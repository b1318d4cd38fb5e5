//! File devices: what is particular to them. The contract itself is in `conformance.rs`.
#![allow(clippy::unwrap_used)] // A test says what went wrong by panicking.

mod backends;

use backends::on_each;
use weft_block::{BlockDevice, ErrorKind, IoVec, Request};
use weft_uring::{Direct, Engine, FileDevice, OpenOptions, spawner};

const MIB: u64 = 1 << 20;

#[test]
fn data_survives_closing_and_opening() {
    on_each(|_| async {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        let device = FileDevice::create(&path, MIB).unwrap();
        let queue = device.open(&spawner()).unwrap();
        let written = queue.submit(Request::write_fua(4096, IoVec::copy_of(&[7; 512])));
        written.await.result.unwrap();
        queue.submit(Request::flush()).await.result.unwrap();
        drop((queue, device));
        let device = FileDevice::open(&path, &OpenOptions::default()).unwrap();
        let queue = device.open(&spawner()).unwrap();
        let read = queue.submit(Request::read(4096, IoVec::zeroed(1024))).await;
        read.result.unwrap();
        let buffer = read.buffer.into_buffer();
        assert_eq!(buffer[..512], [7; 512]);
        assert_eq!(buffer[512..], [0; 512]);
    });
}

/// The kernel kept the file, and with it the lock, a little longer than the last request on it.
#[test]
fn a_file_is_free_as_soon_as_it_is_closed() {
    on_each(|_| async {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let path = folder.path().join("disk");
        drop(FileDevice::create(&path, MIB).unwrap());
        for round in 0..200 {
            let device = FileDevice::open(&path, &OpenOptions::default());
            let device = device.unwrap_or_else(|error| panic!("round {round}: {error}"));
            let queue = device.open(&spawner()).unwrap();
            let written = queue.submit(Request::write_fua(0, IoVec::copy_of(&[7; 4096])));
            written.await.result.unwrap();
        }
    });
}

#[test]
fn a_second_opener_is_told_that_the_file_is_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    let reading = OpenOptions {
        read_only: true,
        ..OpenOptions::default()
    };
    let writer = FileDevice::create(&path, MIB).unwrap();
    for options in [OpenOptions::default(), reading] {
        let error = FileDevice::open(&path, &options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy);
        assert!(
            error.to_string().contains(path.to_str().unwrap()),
            "{error}"
        );
    }
    drop(writer);
    let readers = [
        FileDevice::open(&path, &reading).unwrap(),
        FileDevice::open(&path, &reading).unwrap(),
    ];
    let error = FileDevice::open(&path, &OpenOptions::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    drop(readers);
    FileDevice::open(&path, &OpenOptions::default()).unwrap();
}

#[test]
fn what_is_no_disk_is_refused_with_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing");
    for path in [folder.path(), &missing, "/dev/null".as_ref()] {
        let error = FileDevice::open(path, &OpenOptions::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.sentence().contains(path.to_str().unwrap()), "{error}");
    }
    let error = FileDevice::create(&missing, 1000).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(!missing.exists());
    std::fs::write(&missing, "here now").unwrap();
    let error = FileDevice::create(&missing, MIB).unwrap_err();
    assert!(error.sentence().contains("exists already"), "{error}");
    assert_eq!(std::fs::read(&missing).unwrap(), b"here now");
}

#[test]
fn a_file_that_grew_is_larger_after_a_refresh() {
    on_each(|_| async {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        let device = FileDevice::create(&path, MIB).unwrap();
        let queue = device.open(&spawner()).unwrap();
        let beyond = || queue.submit(Request::read(MIB, IoVec::zeroed(512)));
        assert_eq!(
            beyond().await.result.unwrap_err().kind(),
            ErrorKind::OutOfRange
        );
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.set_len(2 * MIB + 100).unwrap();
        assert_eq!(device.info().size, MIB);
        assert_eq!(device.refresh().unwrap(), 2 * MIB);
        beyond().await.result.unwrap();
        assert_eq!(device.resize(4 * MIB).unwrap(), 4 * MIB);
        assert_eq!(device.info().size, 4 * MIB);
    });
}

#[test]
fn a_file_that_shrank_answers_with_an_error() {
    on_each(|_| async {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        let device = FileDevice::create(&path, MIB).unwrap();
        let queue = device.open(&spawner()).unwrap();
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.set_len(4096).unwrap();
        let read = queue.submit(Request::read(0, IoVec::zeroed(8192))).await;
        let error = read.result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io);
        assert!(
            error.to_string().contains("ends before the device"),
            "{error}"
        );
    });
}

/// As an image ends that QEMU has just made.
#[test]
fn a_last_block_that_is_cut_short_is_filled_for_who_asks_for_it() {
    on_each(|_| async {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let path = folder.path().join("image");
        for (engine, direct) in [
            (Engine::Auto, Direct::Off),
            (Engine::Sync, Direct::Off),
            (Engine::Auto, Direct::On),
        ] {
            std::fs::write(&path, vec![0x5a; 8192 + 8]).unwrap();
            let options = OpenOptions {
                engine,
                direct,
                fill_last_block: true,
                ..OpenOptions::default()
            };
            let device = match FileDevice::open(&path, &options) {
                Err(error) if error.kind() == ErrorKind::Unsupported => continue,
                opened => opened.unwrap(),
            };
            let block = u64::from(device.info().logical_block);
            assert_eq!(device.info().size, 8192 + block);
            let queue = device.open(&spawner()).unwrap();
            for start in [0, 8192] {
                let len = (8192 + block - start) as usize;
                let read = queue.submit(Request::read(start, IoVec::copy_of(&vec![1; len])));
                let read = read.await;
                read.result.unwrap();
                let bytes = read.buffer.into_buffer();
                let there = (8200 - start) as usize;
                assert!(bytes[..there].iter().all(|byte| *byte == 0x5a));
                assert!(bytes[there..].iter().all(|byte| *byte == 0));
            }
            // Looked at, it is as it was; given its size, it has it.
            assert_eq!(std::fs::metadata(&path).unwrap().len(), 8200);
            device.set_len(device.info().size).unwrap();
            assert_eq!(std::fs::metadata(&path).unwrap().len(), 8192 + block);
            drop((queue, device));

            std::fs::write(&path, vec![0x5a; 8200]).unwrap();
            let others = OpenOptions {
                fill_last_block: false,
                ..options
            };
            let device = FileDevice::open(&path, &others).unwrap();
            assert_eq!(device.info().size, 8192);
        }
    });
}

#[test]
fn a_volatile_file_with_room_in_advance_reads_as_any_other() {
    use std::os::unix::fs::MetadataExt;
    on_each(|_| async {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let path = folder.path().join("copy");
        let options = OpenOptions {
            volatile: true,
            takes_room: true,
            ..OpenOptions::default()
        };
        let device = FileDevice::create_with(&path, 0, &options).unwrap();
        device.set_len(MIB).unwrap();
        assert_eq!(device.info().size, MIB);
        assert!(std::fs::metadata(&path).unwrap().blocks() * 512 >= MIB);
        let queue = device.open(&spawner()).unwrap();
        let write = |at, byte| Request::write(at, IoVec::copy_of(&[byte; 4096]));
        let fua = |at, byte| Request::write_fua(at, IoVec::copy_of(&[byte; 4096]));
        for request in [write(0, 1), fua(8192, 2), Request::flush()] {
            queue.submit(request).await.result.unwrap();
        }
        let read = queue.submit(Request::read(0, IoVec::zeroed(16384))).await;
        let bytes = read.buffer.into_buffer();
        let at = |at: usize| &bytes[at..at + 4096];
        assert!(at(0) == [1; 4096] && at(8192) == [2; 4096]);
        assert!(at(4096) == [0; 4096] && at(12288) == [0; 4096]);
        // It is as long as it is told to be, and no longer.
        device.set_len(8192).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 8192);
    });
}

#[test]
fn requests_whose_futures_are_dropped_are_done_all_the_same() {
    on_each(|_| async {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        for engine in [Engine::Auto, Engine::Sync] {
            let options = OpenOptions {
                engine,
                ..OpenOptions::default()
            };
            let _ = std::fs::remove_file(&path);
            let device = FileDevice::create_with(&path, MIB, &options).unwrap();
            let queue = device.open(&spawner()).unwrap();
            for block in 0..16 {
                let data = IoVec::copy_of(&[block as u8 + 1; 4096]);
                drop(queue.submit(Request::write(block * 4096, data)));
            }
            queue.submit(Request::flush()).await.result.unwrap();
            weft_uring::sleep(std::time::Duration::from_millis(20)).await;
            let bytes = std::fs::read(&path).unwrap();
            for block in 0..16usize {
                assert_eq!(bytes[block * 4096 + 5], block as u8 + 1);
            }
        }
    });
}

#[test]
fn memory_lives_until_the_kernel_has_answered_and_no_longer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    let options = OpenOptions {
        engine: Engine::Ring,
        ..OpenOptions::default()
    };
    let device = FileDevice::create_with(&path, MIB, &options).unwrap();
    let run = weft_uring::block_on_with(weft_uring::Backend::Ring, async {
        let queue = device.open(&spawner()).unwrap();
        let memory = IoVec::zeroed(MIB as usize);
        drop(queue.submit(Request::read(0, memory.clone())));
        drop(queue);
        assert!(!memory.is_alone(), "the request in flight holds its memory");
        while !memory.is_alone() {
            weft_uring::yield_now().await;
        }
    });
    if let Err(error) = run {
        eprintln!("left out: no io_uring here ({error})");
    }
}

#[test]
fn an_executor_that_ends_waits_for_its_disk_requests() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    let device = FileDevice::create(&path, 64 * MIB).unwrap();
    let queue = weft_uring::block_on(async {
        let queue = device.open(&spawner()).unwrap();
        for part in 0..64 {
            let data = IoVec::copy_of(&vec![part as u8 + 1; MIB as usize]);
            drop(queue.submit(Request::write(part * MIB, data)));
        }
        queue
    });
    let bytes = std::fs::read(&path).unwrap();
    assert!((0..64).all(|part| bytes[part << 20] == part as u8 + 1));
    let late = queue.submit(Request::write(0, IoVec::zeroed(512)));
    let answer = weft_uring::block_on(late);
    assert_eq!(answer.result.unwrap_err().kind(), ErrorKind::Offline);
}

#[test]
fn direct_io_takes_any_memory() {
    on_each(|_| async {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let path = folder.path().join("disk");
        FileDevice::create(&path, MIB).unwrap();
        let options = OpenOptions {
            direct: Direct::On,
            ..OpenOptions::default()
        };
        let device = match FileDevice::open(&path, &options) {
            Err(error) if error.kind() == ErrorKind::Unsupported => return,
            opened => opened.unwrap(),
        };
        let block = device.info().logical_block as usize;
        let queue = device.open(&spawner()).unwrap();
        let whole: Vec<u8> = (0..block + 3).map(|n| n as u8).collect();
        let odd = IoVec::copy_of(&whole).slice(3, block);
        queue.submit(Request::write(0, odd)).await.result.unwrap();
        let odd = IoVec::zeroed(block + 1).slice(1, block);
        let read = queue.submit(Request::read(0, odd)).await;
        read.result.unwrap();
        assert_eq!(&*read.buffer.to_buffer(), &whole[3..]);
    });
}
