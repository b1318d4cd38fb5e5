//! Read errors.

use super::harness::*;
use crate::ArrayState;
use crate::level::Level;

#[test]
fn a_bad_sector_is_answered_from_redundancy_and_rewritten() {
    for (seed, shape) in (0..).zip(shapes()) {
        if !shape.level.is_redundant() || shape.members < 2 {
            continue;
        }
        let rig = Rig::new(seed, shape.members);
        let array = rig.create(&options(shape, seed));
        rig.sync(&array).expect("synced");
        let data = pattern(MIB as usize, seed);
        rig.write(&array, 0, &data).expect("it writes");
        for disk in &rig.faults[..2] {
            disk.bad_sectors(MIB + 4096..MIB + 5120);
        }
        // A second member's bad sectors lie elsewhere.
        rig.faults[1].bad_sectors(MIB + 40_960..MIB + 41_984);
        if shape.level == Level::Raid1 && shape.members == 2 {
            rig.faults[1].clear();
        } else if shape.level != Level::Raid1 {
            rig.faults[0].clear();
            rig.faults[0].bad_sectors(MIB + 90_112..MIB + 90_624);
        }
        for _ in 0..3 {
            assert_eq!(
                rig.read(&array, 0, data.len()).expect("it reads"),
                data,
                "{shape:?}"
            );
        }
        assert_eq!(array.status().state, ArrayState::Active, "{shape:?}");
        rig.stop(&array);
    }
}

#[test]
fn a_bad_sector_under_a_small_write_costs_nothing() {
    let rig = Rig::new(3, 5);
    let array = rig.create(&options(shape(Level::Raid5, 5), 3));
    rig.sync(&array).expect("synced");
    let mut data = pattern(4 * CHUNK as usize, 1);
    rig.write(&array, 0, &data).expect("it writes");
    for disk in 0..5 {
        rig.faults[disk].bad_sectors(MIB..MIB + 512);
        let patch = pattern(512, 50 + disk as u64);
        rig.write(&array, CHUNK, &patch).expect("it writes");
        data[CHUNK as usize..][..512].copy_from_slice(&patch);
        assert_eq!(rig.read(&array, 0, data.len()).expect("it reads"), data);
        rig.faults[disk].clear();
    }
}

#[test]
fn a_rebuild_that_cannot_read_says_where() {
    let rig = Rig::new(4, 4);
    let spawner = rig.executor.spawner();
    let array = rig.create(&options(shape(Level::Raid5, 3), 4));
    rig.sync(&array).expect("synced");
    rig.run(array.fail("disk0", &spawner)).expect("it fails");
    rig.run(array.add(rig.members[3].clone(), [1; 16], &spawner))
        .expect("added");
    rig.faults[1].bad_sectors(MIB + 700 * 512..MIB + 701 * 512);
    let error = rig.sync(&array).expect_err("it cannot be read");
    assert!(
        error
            .sentence()
            .contains("the rebuild of slot 0 of array tank stopped")
    );
    assert_eq!(array.status().state, ArrayState::Degraded);
}
