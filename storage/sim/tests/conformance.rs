//! The simulated devices keep the contract, and the suite notices those that do not.

use std::sync::Arc;
use std::time::Duration;

use weft_block::{BlockDevice, Info};
use weft_sim::{
    Delays, Executor, Faults, Faulty, MemoryDevice, Oracle, PowerCut, PowerSupply, Slow,
    conformance,
};

const SIZE: u64 = 1 << 20;

fn check(executor: &Executor, device: impl BlockDevice + 'static) {
    executor.block_on(conformance::check(Arc::new(device), &executor.spawner()));
}

#[test]
fn memory() {
    for block in [512, 4096] {
        check(
            &Executor::new(1),
            MemoryDevice::with_info(Info::new(SIZE, block)),
        );
    }
    check(&Executor::new(1), MemoryDevice::new(conformance::MIN_SIZE));
}

#[test]
fn read_only_memory() {
    let mut info = Info::new(SIZE, 512);
    info.read_only = true;
    let executor = Executor::new(1);
    let device = Arc::new(MemoryDevice::with_info(info));
    executor.block_on(conformance::check_read_only(device, &executor.spawner()));
}

#[test]
fn power_cut() {
    for block in [512, 4096] {
        let supply = PowerSupply::new(2);
        check(
            &Executor::new(2),
            PowerCut::new(&supply, Info::new(SIZE, block)),
        );
    }
}

#[test]
fn faulty_slow_and_watched() {
    let executor = Executor::new(3);
    let memory = Arc::new(MemoryDevice::new(SIZE));
    let faulty = Arc::new(Faulty::new(memory, 3));
    let delays = Delays::up_to(Duration::from_millis(3));
    let slow = Arc::new(Slow::new(faulty, &executor.clock(), 3, delays));
    let oracle = Oracle::new(512);
    let device = oracle.watch(slow);
    executor.block_on(conformance::check(device, &executor.spawner()));
    oracle.assert_honest();
}

fn check_broken(fault: impl FnOnce(&Faults)) {
    let executor = Executor::new(4);
    let faulty = Faulty::new(Arc::new(MemoryDevice::new(SIZE)), 4);
    fault(&faulty.faults());
    check(&executor, faulty);
}

#[test]
#[should_panic(expected = "holds what was written")]
fn a_lost_write_is_noticed() {
    check_broken(|faults| faults.lose_writes(0..512));
}

#[test]
#[should_panic(expected = "failed: the simulated medium fails")]
fn a_failing_flush_is_noticed() {
    check_broken(|faults| faults.fail_flushes(true));
}
