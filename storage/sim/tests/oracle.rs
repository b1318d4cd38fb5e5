//! The oracle believes honest devices through a thousand power cuts, and catches each kind of liar.

use std::sync::Arc;

use weft_block::{BlockDevice, Info};
use weft_sim::{
    Executor, Faults, Faulty, Oracle, Outcome, Overlap, PowerCut, PowerSupply, Rates, Workload,
    for_each_seed,
};

const SIZE: u64 = 64 * 1024;

/// Two loads with a power cut in each; returns what the oracle says of a disk with `fault`.
fn run(seed: u64, volatile: bool, fault: impl Fn(&Faults)) -> Vec<String> {
    let executor = Executor::new(seed);
    let supply = PowerSupply::new(seed);
    let mut info = Info::new(SIZE, if seed.is_multiple_of(3) { 4096 } else { 512 });
    info.volatile_cache = volatile;
    let disk = Arc::new(PowerCut::new(&supply, info.clone()));
    let faulty = Arc::new(Faulty::new(disk, seed));
    fault(&faulty.faults());
    let oracle = Oracle::new(info.logical_block);
    let device = oracle.watch(faulty.clone());
    for round in 0..2 {
        let mut workload = Workload::new(seed ^ (round << 40), 60);
        if seed % 2 == 1 {
            workload.overlap = Overlap::Serialised;
        }
        supply.cut_after(seed % 30);
        load(&executor, &workload, &*device);
        supply.cut();
        executor.run_until_idle();
        oracle.power_cut();
        supply.power_on();
        let queue = device.open(&executor.spawner()).expect("power is on");
        executor.block_on(oracle.verify(&*queue));
    }
    oracle.violations()
}

fn load(executor: &Executor, workload: &Workload, device: &dyn BlockDevice) -> Outcome {
    let outcome = executor.block_on(workload.run(device, &executor.spawner()));
    outcome.expect("queues open")
}

fn is_caught(volatile: bool, fault: impl Fn(&Faults)) -> bool {
    (0..40).any(|seed| !run(seed, volatile, &fault).is_empty())
}

#[test]
fn an_honest_disk_is_believed() {
    for_each_seed(1000, |seed| {
        let violations = run(seed, seed % 5 != 0, |_| ());
        assert!(violations.is_empty(), "{}", violations.join("\n"));
    });
}

#[test]
fn failing_writes_and_flushes_are_not_lies() {
    for_each_seed(200, |seed| {
        let rates = Rates {
            read: 0.0,
            write: 0.1,
            flush: 0.3,
        };
        let violations = run(seed, true, |faults| faults.set_rates(rates));
        assert!(violations.is_empty(), "{}", violations.join("\n"));
    });
}

#[test]
fn a_disk_that_lies_about_flush_is_caught() {
    assert!(is_caught(true, |faults| faults.lie_about_flush(true)));
}

#[test]
fn a_disk_that_lies_about_fua_is_caught() {
    assert!(is_caught(true, |faults| faults.lie_about_fua(true)));
}

#[test]
fn a_disk_that_loses_writes_is_caught() {
    assert!(is_caught(true, |faults| faults.lose_writes(8192..16384)));
}

#[test]
fn silent_corruption_is_caught() {
    assert!(is_caught(true, |faults| faults.corrupt_reads(0..512)));
}

#[test]
fn a_read_error_without_a_cause_is_caught() {
    assert!(is_caught(true, |faults| faults.fail_reads(8192..16384)));
}

#[test]
fn a_run_is_a_function_of_its_seed() {
    let violations = |seed| run(seed, true, |faults| faults.lie_about_flush(true));
    for seed in 0..10 {
        assert_eq!(violations(seed), violations(seed));
    }
}
