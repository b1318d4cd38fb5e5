//! Copies of one instant.

use std::iter::once;
use std::sync::Arc;

use weft_copy::Backup;
use weft_sim::{Executor, Faulty, MemoryDevice, Oracle, conformance, for_each_seed};

use super::kit::{SIZE, contents, disk, load, slow};

#[test]
fn a_backup_is_the_disk_as_it_was() {
    for_each_seed(30, |seed| {
        let (source, target) = (disk(), MemoryDevice::new(SIZE));
        let before = contents(&source);
        let blank = seed % 2 == 0;
        if !blank {
            target.poke(0, &[0xa5; SIZE as usize]);
        }
        let oracle = Oracle::new(512);
        oracle.holds(0, &before);
        let executor = Executor::new(seed);
        executor.block_on(async {
            let spawner = executor.spawner();
            let below = slow(&source, &executor, seed);
            let copy = slow(&target, &executor, seed + 1);
            let grain = [4096, 16 << 10, 64 << 10][(seed % 3) as usize];
            let backup = Backup::new(below, copy, blank, grain, once(0..SIZE)).expect("it can be");
            let device = oracle.watch(Arc::new(backup.clone()));
            let follow =
                async { while !backup.step(48 << 10, &spawner).await.expect("it is copied") {} };
            let load = load(seed, 400);
            let (_, outcome) = futures_util::join!(follow, load.run(&*device, &spawner));
            assert_eq!(outcome.expect("queues open").failed, 0);
            backup.settle(&spawner).await.expect("it is whole");
            assert_eq!(backup.progress(), (SIZE, SIZE));
        });
        oracle.assert_honest();
        assert!(contents(&source) != before, "nothing was written");
        assert!(contents(&target) == before, "it is of another time");
    });
}

#[test]
fn what_was_not_asked_for_is_not_copied() {
    let (source, target) = (disk(), MemoryDevice::new(SIZE));
    let executor = Executor::new(1);
    executor.block_on(async {
        let spawner = executor.spawner();
        let (below, copy) = (Arc::new(source.clone()), Arc::new(target.clone()));
        let ranges = [5000..9000, 70_000..70_001, SIZE..SIZE + 1];
        let backup = Backup::new(below, copy, true, 4096, ranges).expect("it can be");
        load(1, 100).run(&backup, &spawner).await.expect("opens");
        while !backup.step(SIZE, &spawner).await.expect("it is copied") {}
        backup.settle(&spawner).await.expect("it is whole");
        assert_eq!(backup.progress(), (3 * 4096, 3 * 4096));
    });
    let (before, after) = (contents(&disk()), contents(&target));
    for grain in 0..SIZE / 4096 {
        let range = (grain * 4096) as usize..((grain + 1) * 4096) as usize;
        let copied = [1, 2, 17].contains(&grain);
        let expected = if copied {
            &before[range.clone()]
        } else {
            &[0; 4096]
        };
        assert!(after[range] == *expected, "grain {grain}");
    }
}

#[test]
fn a_disk_that_is_backed_up_keeps_the_contract() {
    for steps in [0, 3, 100] {
        let executor = Executor::new(steps);
        executor.block_on(async {
            let spawner = executor.spawner();
            let source = Arc::new(MemoryDevice::new(SIZE));
            let target = Arc::new(MemoryDevice::new(SIZE));
            let backup =
                Backup::new(source, target, true, 64 << 10, once(0..SIZE)).expect("it can be");
            for _ in 0..steps {
                backup.step(64 << 10, &spawner).await.expect("it is copied");
            }
            conformance::check(Arc::new(backup), &spawner).await;
        });
    }
}

#[test]
fn a_target_that_fails_ends_the_backup_and_no_request() {
    for_each_seed(30, |seed| {
        let source = disk();
        let oracle = Oracle::new(512);
        oracle.holds(0, &contents(&source));
        let executor = Executor::new(seed);
        executor.block_on(async {
            let spawner = executor.spawner();
            let faulty = Faulty::new(Arc::new(MemoryDevice::new(SIZE)), seed);
            let faults = faulty.faults();
            let below = slow(&source, &executor, seed);
            let backup = Backup::new(below, Arc::new(faulty), true, 4096, once(0..SIZE));
            let backup = backup.expect("it can be");
            let device = oracle.watch(Arc::new(backup.clone()));
            let follow = async {
                for _ in 0..seed / 2 {
                    backup.step(16 << 10, &spawner).await.expect("it is copied");
                }
                faults.set_offline(true);
            };
            let load = load(seed, 200);
            let (_, outcome) = futures_util::join!(follow, load.run(&*device, &spawner));
            assert_eq!(outcome.expect("queues open").failed, 0);
            let mut stepped = Ok(false);
            while let Ok(false) = stepped {
                stepped = backup.step(SIZE, &spawner).await;
            }
            let ended = stepped.is_err() || backup.settle(&spawner).await.is_err();
            assert!(ended, "the target is gone");
        });
        oracle.assert_honest();
    });
}

/// The last grain of a disk is short if the disk is no whole number of them: it was counted as a whole one.
#[test]
fn a_short_last_grain_is_no_more_than_its_bytes() {
    const ODD: u64 = SIZE + 512;
    let executor = Executor::new(1);
    executor.block_on(async {
        let spawner = executor.spawner();
        for (range, all) in [(0..ODD, ODD), (SIZE..ODD, 512), (0..1, 4096)] {
            let disk = || Arc::new(MemoryDevice::new(ODD));
            let backup = Backup::new(disk(), disk(), true, 4096, once(range)).expect("it can be");
            assert_eq!(backup.progress(), (0, all));
            // Nearly all: the short one waits.
            while !backup.step(4096, &spawner).await.expect("it is copied") {
                let left = backup.progress().1 - backup.progress().0;
                assert_eq!(left % 4096, 512);
            }
            backup.settle(&spawner).await.expect("it is whole");
            assert_eq!(backup.progress(), (all, all));
        }
    });
}

#[test]
fn grains_are_powers_of_two_and_whole_blocks() {
    for grain in [0, 256, 5000] {
        let target = Arc::new(MemoryDevice::new(SIZE));
        let made = Backup::new(Arc::new(disk()), target, true, grain, once(0..SIZE));
        assert!(made.is_err(), "{grain}");
    }
}
