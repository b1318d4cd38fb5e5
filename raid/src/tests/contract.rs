//! The block contract, for every level and layout, whole and degraded, against a flat model.

use std::sync::Arc;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use weft_block::BlockDevice;
use weft_sim::{Oracle, Workload, conformance};

use super::harness::*;
use crate::level::Level;
use crate::{Array, ArrayState};

#[test]
fn every_level_keeps_the_block_contract() {
    for shape in shapes() {
        let rig = Rig::new(1, shape.members);
        let array = rig.create(&options(shape, 1));
        rig.run(conformance::check(
            Arc::new(array.clone()),
            &rig.executor.spawner(),
        ));
        rig.sync(&array).expect("synced");
        rig.run(conformance::check(
            Arc::new(array.clone()),
            &rig.executor.spawner(),
        ));
        let all: Vec<usize> = (0..shape.members).collect();
        if !array.info().discard {
            assert!(rig.is_consistent(&array, &all), "{shape:?}");
        }
    }
}

#[test]
fn degraded_arrays_keep_the_block_contract() {
    for shape in shapes() {
        if !shape.level.is_redundant() || shape.members < 2 {
            continue;
        }
        for lost in [0, shape.members - 1] {
            let rig = Rig::new(2, shape.members);
            let array = rig.create(&options(shape, 2));
            rig.sync(&array).expect("synced");
            rig.faults[lost].set_offline(true);
            rig.run(conformance::check(
                Arc::new(array.clone()),
                &rig.executor.spawner(),
            ));
            assert_eq!(array.status().state, ArrayState::Degraded, "{shape:?}");
        }
    }
}

/// Random writes and reads against a plain vector, while members come and go.
fn against_a_model(shape: Shape, seed: u64) {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let rig = Rig::new(seed, shape.members);
    let array = rig.create(&options(shape, seed));
    let size = array.info().size as usize;
    let mut model = vec![0; size];
    let check = |array: &Array, model: &[u8], what: &str| {
        let read = rig.read(array, 0, size).expect("it reads");
        let first = read.iter().zip(model).position(|(is, was)| is != was);
        assert_eq!(first, None, "{what} of {shape:?} with seed {seed}");
    };
    let change = |array: &Array, model: &mut [u8], random: &mut ChaCha8Rng| {
        for _ in 0..12 {
            let start = random.random_range(0..size / 512);
            let blocks = random.random_range(1..=(size / 512 - start).min(400));
            let data = pattern(blocks * 512, random.random());
            rig.write(array, start as u64 * 512, &data)
                .expect("it writes");
            model[start * 512..][..data.len()].copy_from_slice(&data);
        }
    };
    change(&array, &mut model, &mut random);
    check(&array, &model, "before the resync");
    rig.sync(&array).expect("synced");
    check(&array, &model, "after the resync");
    // As many as the level can lose, one after the other, in any order.
    let first = random.random_range(0..shape.members);
    for turn in 0..array.geometry().tolerates() as usize {
        let lost = (first + turn * random.random_range(1..shape.members)) % shape.members;
        let path = format!("disk{lost}");
        if rig.run(array.fail(&path, &rig.executor.spawner())).is_err() {
            // It has failed before.
            continue;
        }
        check(&array, &model, "degraded");
        change(&array, &mut model, &mut random);
        check(&array, &model, "written while degraded");
    }
    rig.stop(&array);
    let all: Vec<usize> = (0..shape.members).collect();
    let array = rig.assemble(&all).expect("it starts again");
    check(&array, &model, "assembled again");
}

#[test]
fn what_was_written_is_read_whatever_is_away() {
    for (seed, shape) in (10..).zip(shapes()) {
        against_a_model(shape, seed);
        against_a_model(shape, seed + 1000);
    }
}

#[test]
fn zones_of_unequal_members_hold_data() {
    let mut rig = Rig::new(5, 1);
    rig.add_disk(4 * MIB);
    rig.add_disk(7 * MIB + 5 * 512);
    let array = rig.create(&options(shape(Level::Raid0, 3), 5));
    assert_eq!(array.info().size, MIB + 3 * MIB + 6 * MIB);
    rig.run(conformance::check(
        Arc::new(array.clone()),
        &rig.executor.spawner(),
    ));
    rig.stop(&array);
    assert!(rig.assemble(&[0, 1, 2]).is_ok());
}

#[test]
fn two_queues_and_an_oracle_agree() {
    for shape in shapes() {
        let rig = Rig::new(3, shape.members);
        let array = rig.create(&options(shape, 3));
        let oracle = Oracle::new(512);
        let watched = oracle.watch(Arc::new(array.clone()));
        let spawner = rig.executor.spawner();
        let mut load = Workload::new(3, 400);
        load.max_blocks = 200;
        rig.run(load.run(&*watched, &spawner)).expect("it runs");
        rig.sync(&array).expect("synced");
        let queue = watched.open(&spawner).expect("a queue");
        rig.run(oracle.verify(&*queue));
        oracle.assert_honest();
    }
}

#[test]
fn small_writes_cost_two_reads_and_two_writes() {
    let rig = Rig::new(4, 5);
    let mut options = options(shape(Level::Raid5, 5), 4);
    options.assume_clean = true;
    let array = rig.create(&options);
    let count = || {
        rig.faults
            .iter()
            .map(weft_sim::Faults::requests)
            .sum::<u64>()
    };
    rig.write(&array, 0, &pattern(4096, 1)).expect("it writes");
    let before = count();
    rig.write(&array, 4096, &pattern(4096, 2))
        .expect("it writes");
    assert_eq!(count() - before, 4);
    let row = array.geometry().row_bytes() as usize;
    let before = count();
    rig.write(&array, 0, &pattern(4 * row, 3))
        .expect("it writes");
    assert_eq!(
        count() - before,
        5,
        "whole rows are one write for each member"
    );
    let before = count();
    rig.read(&array, 0, 4 * row).expect("it reads");
    assert!(count() - before <= 8, "a long read is few requests");
}
