//! A device that is exchanged for another under its users.

use std::sync::Arc;
use std::time::Duration;

use weft_block::{BlockDevice, ErrorKind, Info, IoVec, Request, Switch};
use weft_sim::{
    Delays, Executor, MemoryDevice, Oracle, Slow, Workload, conformance, for_each_seed,
};

const SIZE: u64 = 1 << 20;
const MOST: Duration = Duration::from_millis(3);

fn slow(executor: &Executor, memory: &Arc<MemoryDevice>) -> Arc<dyn BlockDevice> {
    let (clock, seed) = (executor.clock(), executor.seed());
    let memory = Arc::clone(memory);
    Arc::new(Slow::new(memory, &clock, seed, Delays::up_to(MOST)))
}

#[test]
fn it_keeps_the_contract_of_what_is_behind_it() {
    let executor = Executor::new(1);
    let memory = Arc::new(MemoryDevice::new(SIZE));
    let switch = Arc::new(Switch::new(slow(&executor, &memory)));
    executor.block_on(conformance::check(switch, &executor.spawner()));
}

#[test]
fn nobody_notices_the_exchange_and_the_old_device_is_free_of_it() {
    for_each_seed(40, |seed| {
        let executor = Executor::new(seed);
        let oracle = Oracle::new(512);
        let mut memory = Arc::new(MemoryDevice::new(SIZE));
        let switch = Switch::new(slow(&executor, &memory));
        let device = oracle.watch(Arc::new(switch.clone()));
        let (spawner, user) = (executor.spawner(), Arc::clone(&device));
        let load = Workload::new(seed, 300);
        let used = executor.spawn(async move { load.run(&*user, &spawner).await });
        // A queue that nobody uses must follow too.
        let idle = device.open(&executor.spawner()).unwrap();
        executor.block_on(async {
            for _ in 0..10 {
                executor.sleep(MOST).await;
                let paused = switch.pause().await;
                let next = Arc::new(MemoryDevice::new(SIZE));
                next.poke(0, &memory.peek(0, SIZE as usize));
                // What is still under way would be lost, and what comes too early.
                memory.poke(0, &vec![0xee; SIZE as usize]);
                paused.replace(slow(&executor, &next)).await.unwrap();
                let old = std::mem::replace(&mut memory, next);
                assert_eq!(Arc::strong_count(&old), 1, "somebody still has it");
            }
            let outcome = used.await.unwrap();
            assert_eq!(outcome.failed, 0);
        });
        let read = Request::read(0, IoVec::zeroed(SIZE as usize));
        executor.block_on(async { idle.submit(read).await.result.unwrap() });
        oracle.assert_honest();
    });
}

#[test]
fn an_exchange_that_the_users_would_notice_is_refused() {
    let executor = Executor::new(1);
    let switch = Switch::new(Arc::new(MemoryDevice::with_info(Info::new(SIZE, 512))));
    let mut read_only = Info::new(SIZE, 512);
    read_only.read_only = true;
    let queue = switch.open(&executor.spawner()).unwrap();
    executor.block_on(async {
        for info in [Info::new(SIZE, 4096), read_only] {
            let paused = switch.pause().await;
            let other = Arc::new(MemoryDevice::with_info(info));
            let refused = paused.replace(other).await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Invalid);
        }
        let write = Request::write(0, IoVec::zeroed(512));
        queue.submit(write).await.result.unwrap();
    });
}

#[test]
fn a_pause_that_is_given_up_holds_nobody_back() {
    let executor = Executor::new(1);
    let switch = Switch::new(Arc::new(MemoryDevice::new(SIZE)));
    let queue = switch.open(&executor.spawner()).unwrap();
    executor.block_on(async {
        let paused = switch.pause().await;
        let waits = queue.submit(Request::write(0, IoVec::copy_of(&[7; 512])));
        // Dropped before it passes, it is done all the same.
        drop(waits);
        drop(paused);
    });
    executor.run_until_idle();
    executor.block_on(async {
        drop(switch.pause().await);
        let read = queue.submit(Request::read(0, IoVec::zeroed(512))).await;
        assert_eq!(&read.buffer.into_buffer()[..], &[7; 512]);
    });
}
