//! Copies that follow the disk.

use std::sync::Arc;

use weft_block::{BlockDevice, ErrorKind, Info, IoVec, Request};
use weft_copy::Mirror;
use weft_sim::{Executor, Faulty, MemoryDevice, Oracle, conformance, for_each_seed};

use super::kit::{Deaf, SIZE, contents, disk, load, slow};

#[test]
fn a_copy_that_has_caught_up_stays_the_same_as_the_disk() {
    for_each_seed(30, |seed| {
        let (source, target) = (disk(), MemoryDevice::new(SIZE + 4096));
        let blank = seed % 2 == 0;
        if !blank {
            target.poke(0, &[0xa5; SIZE as usize]);
        }
        let oracle = Oracle::new(512);
        oracle.holds(0, &contents(&source));
        let executor = Executor::new(seed);
        executor.block_on(async {
            let spawner = executor.spawner();
            let below = slow(&source, &executor, seed);
            let copy = slow(&target, &executor, seed + 1);
            let mirror = Mirror::new(below, copy, blank).expect("it can be copied");
            let device = oracle.watch(Arc::new(mirror.clone()));
            let follow =
                async { while !mirror.step(48 << 10, &spawner).await.expect("it is copied") {} };
            let load = load(seed, 400);
            let (_, outcome) = futures_util::join!(follow, load.run(&*device, &spawner));
            assert_eq!(outcome.expect("queues open").failed, 0);
            mirror.settle(&spawner).await.expect("it is whole");
            // From now on the copy is the disk.
            let device = oracle.watch(Arc::new(target.clone()));
            oracle.verify(&*device.open(&spawner).expect("opens")).await;
        });
        oracle.assert_honest();
        assert!(contents(&source) == contents(&target), "they differ");
    });
}

#[test]
fn both_do_the_same_with_a_discard() {
    let (source, target) = (disk(), MemoryDevice::new(SIZE));
    let executor = Executor::new(1);
    executor.block_on(async {
        let spawner = executor.spawner();
        let deaf = Arc::new(Deaf(source.clone()));
        let mirror = Mirror::new(deaf, Arc::new(target.clone()), true).expect("it can be copied");
        let queue = mirror.open(&spawner).expect("opens");
        // Before it is copied it is the disk's own business.
        let early = queue.submit(Request::discard(0, 4096)).await;
        assert!(mirror.step(SIZE, &spawner).await.expect("it is copied"));
        let late = queue.submit(Request::discard(8192, 4096)).await;
        assert!(early.result.is_ok() && late.result.is_ok());
    });
    assert!(source.peek(0, 4096) == target.peek(0, 4096), "early");
    assert!(source.peek(8192, 4096) == target.peek(8192, 4096), "late");
}

#[test]
fn a_mirror_keeps_the_contract_before_and_after_it_has_caught_up() {
    for steps in [0, 1, 100] {
        let executor = Executor::new(steps);
        executor.block_on(async {
            let spawner = executor.spawner();
            let source = Arc::new(MemoryDevice::new(SIZE));
            let target = Arc::new(MemoryDevice::new(SIZE));
            let mirror = Mirror::new(source, target, true).expect("it can be copied");
            for _ in 0..steps {
                mirror.step(64 << 10, &spawner).await.expect("it is copied");
            }
            conformance::check(Arc::new(mirror), &spawner).await;
        });
    }
}

#[test]
fn a_target_that_fails_ends_the_mirror_and_no_request() {
    for_each_seed(30, |seed| {
        let (source, target) = (disk(), MemoryDevice::new(SIZE));
        let oracle = Oracle::new(512);
        oracle.holds(0, &contents(&source));
        let executor = Executor::new(seed);
        executor.block_on(async {
            let spawner = executor.spawner();
            let faulty = Faulty::new(Arc::new(target), seed);
            let faults = faulty.faults();
            let below = slow(&source, &executor, seed);
            let mirror = Mirror::new(below, Arc::new(faulty), true).expect("it can be copied");
            let device = oracle.watch(Arc::new(mirror.clone()));
            let follow = async {
                for _ in 0..seed {
                    mirror.step(48 << 10, &spawner).await.expect("it is copied");
                }
                faults.set_offline(true);
            };
            let load = load(seed, 200);
            let (_, outcome) = futures_util::join!(follow, load.run(&*device, &spawner));
            assert_eq!(outcome.expect("queues open").failed, 0);
            let stepped = mirror.step(SIZE, &spawner).await;
            let ended = stepped.is_err() || mirror.settle(&spawner).await.is_err();
            assert!(ended, "the target is gone");
        });
        oracle.assert_honest();
    });
}

#[test]
fn a_write_that_the_disk_fails_ends_the_mirror() {
    let executor = Executor::new(1);
    executor.block_on(async {
        let spawner = executor.spawner();
        let faulty = Faulty::new(Arc::new(disk()), 1);
        let faults = faulty.faults();
        let target = Arc::new(MemoryDevice::new(SIZE));
        let mirror = Mirror::new(Arc::new(faulty), target, true).expect("it can be copied");
        mirror.step(SIZE, &spawner).await.expect("it is copied");
        faults.fail_writes(0..512);
        let queue = mirror.open(&spawner).expect("opens");
        let write = Request::write(0, IoVec::copy_of(&[7; 4096]));
        assert!(queue.submit(write).await.result.is_err());
        let told = mirror.trouble().expect("it is over");
        assert_eq!(told.kind(), ErrorKind::Io);
        assert!(mirror.settle(&spawner).await.is_err());
    });
}

#[test]
fn a_copy_that_has_not_caught_up_is_none() {
    let executor = Executor::new(1);
    executor.block_on(async {
        let spawner = executor.spawner();
        let target = Arc::new(MemoryDevice::new(SIZE));
        let mirror = Mirror::new(Arc::new(disk()), target, true).expect("it can be copied");
        assert!(!mirror.step(4096, &spawner).await.expect("it is copied"));
        let refused = mirror.settle(&spawner).await.expect_err("it is not whole");
        assert_eq!(refused.kind(), ErrorKind::Invalid);
        assert_eq!(mirror.progress(), (4096, SIZE));
    });
}

#[test]
fn a_target_must_be_able_to_hold_the_disk() {
    let refused = |info: Info| {
        let target = Arc::new(MemoryDevice::with_info(info));
        Mirror::new(Arc::new(disk()), target, true)
            .err()
            .expect("it is refused")
            .kind()
    };
    assert_eq!(refused(Info::new(SIZE - 512, 512)), ErrorKind::Invalid);
    assert_eq!(refused(Info::new(SIZE, 4096)), ErrorKind::Invalid);
    let read_only = Info {
        read_only: true,
        ..Info::new(SIZE, 512)
    };
    assert_eq!(refused(read_only), ErrorKind::Invalid);
}
