//! Copies that follow the disk.

use std::ops::Range;
use std::sync::Arc;

use weft_block::{
    BlockDevice, ErrorKind, Extent, ExtentKind, Info, IoVec, LocalBoxFuture, Request, Result,
    Spawner,
};
use weft_copy::{Mirror, Missing};
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

/// What a target below has not.
struct Parts(Vec<Extent>);

impl Missing for Parts {
    fn missing<'a>(
        &'a self,
        range: Range<u64>,
        _: &'a Spawner,
    ) -> LocalBoxFuture<'a, Result<Vec<Extent>>> {
        let of = move |part: &&Extent| range.contains(&part.offset);
        Box::pin(std::future::ready(Ok(self
            .0
            .iter()
            .filter(of)
            .copied()
            .collect())))
    }
}

#[test]
fn a_target_below_gets_what_it_misses_and_what_the_disk_has_taken() {
    let (source, target) = (disk(), MemoryDevice::new(SIZE));
    target.poke(0, &[0xa5; SIZE as usize]);
    let before = contents(&source);
    let executor = Executor::new(1);
    executor.block_on(async {
        let spawner = executor.spawner();
        let faulty = Faulty::new(Arc::new(source), 1);
        let faults = faulty.faults();
        let part = |offset, kind| Extent {
            offset,
            len: 4096,
            kind,
        };
        let missing = Parts(vec![
            part(8192, ExtentKind::Data),
            part(256 << 10, ExtentKind::Zero),
        ]);
        let (disk, below) = (Arc::new(faulty), Arc::new(target.clone()));
        let mirror = Mirror::below(disk, below, Arc::new(missing)).expect("it can be");
        while !mirror.step(64 << 10, &spawner).await.expect("it is copied") {}
        assert!(target.peek(8192, 4096) == before[8192..12288]);
        assert!(target.peek(256 << 10, 4096) == [0; 4096]);
        assert!(target.peek(4096, 4096) == [0xa5; 4096], "it has that");
        let queue = mirror.open(&spawner).expect("opens");
        let write = |at| queue.submit(Request::write(at, IoVec::copy_of(&[7; 4096])));
        write(4096).await.result.expect("it is written");
        assert!(target.peek(4096, 4096) == [7; 4096]);
        // What the disk does not take would be seen through it.
        faults.fail_writes(0..512);
        assert!(write(0).await.result.is_err());
        assert!(target.peek(0, 4096) == [0xa5; 4096]);
        assert!(mirror.settle(&spawner).await.is_err(), "it is over");
    });
}

/// An empty disk of many terabytes was stepped through as if it were full.
#[test]
fn what_holds_no_data_is_passed_over_at_once() {
    const TIB: u64 = 1 << 40;
    let (source, target) = (MemoryDevice::new(TIB), MemoryDevice::new(TIB));
    source.poke(TIB / 2, &[7; 4096]);
    let executor = Executor::new(1);
    executor.block_on(async {
        let spawner = executor.spawner();
        let (disk, copy) = (Arc::new(source), Arc::new(target.clone()));
        let mirror = Mirror::new(disk, copy, true).expect("it can be copied");
        let mut steps = 0;
        while !mirror.step(4096, &spawner).await.expect("it is copied") {
            steps += 1;
        }
        assert!(steps < 20_000, "{steps}");
    });
    assert!(target.peek(TIB / 2, 4096) == [7; 4096]);
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
