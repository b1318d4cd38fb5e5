//! That the simulation would find it, if what protects the data were not there.

use super::*;

/// What comes of a crash under small writes, with a member that does not come back.
#[derive(Debug, PartialEq)]
pub(super) enum Hole {
    Closed,
    Open,
    /// The array does not start: what was being written to the lost member may be wrong.
    Told,
}

/// A crash under small writes of RAID-5, with or without its log, and the loss of a member at that instant.
fn write_hole(seed: u64, logged: bool, has_caches: bool) -> Hole {
    let mut world = World::new(seed, shape(Level::Raid5, 4));
    (world.consistency, world.has_caches) = (Consistency::Ppl, has_caches);
    world.extra = None;
    world.disks.clear();
    (0..4).for_each(|_| world.new_disk());
    world.create();
    let life = world.life();
    let Some(array) = world.start(&life) else {
        return Hole::Told;
    };
    sync(&life.executor, &array).expect("synced");
    array.log_changes(logged);
    world.hole_after(&life, array, |members| {
        members.remove(seed as usize % 4);
    })
}

impl World {
    /// What a crash under small writes does to an array that loses members at that instant.
    pub(super) fn hole_after(
        &mut self,
        life: &Life,
        array: Array,
        lose: impl FnOnce(&mut Vec<usize>),
    ) -> Hole {
        self.most_blocks = 8;
        self.live(life, &array, false);
        drop(array);
        self.supply.set_tearing(false);
        self.supply.cut();
        self.oracle.power_cut();
        self.supply.power_on();
        lose(&mut self.members);
        let life = self.life();
        let Some(array) = self.start(&life) else {
            return Hole::Told;
        };
        let watched = self.oracle.watch(Arc::new(array.clone()));
        let queue = watched.open(&life.executor.spawner()).expect("a queue");
        life.executor.block_on(self.oracle.verify(&*queue));
        match self.oracle.violations().is_empty() {
            true => Hole::Closed,
            false => Hole::Open,
        }
    }
}

/// Without the log it is found in `least` of sixty crashes.
fn log_closes_the_write_hole(has_caches: bool, least: usize) {
    let outcomes = |logged: bool| (0..60).map(move |seed| write_hole(seed, logged, has_caches));
    let with_log: Vec<Hole> = outcomes(true).collect();
    assert_eq!(with_log.iter().position(|hole| *hole == Hole::Open), None);
    let started = with_log.iter().filter(|hole| **hole == Hole::Closed);
    let started = started.count();
    assert!(started >= 40, "{started} of 60: {with_log:?}");
    let without = outcomes(false).filter(|hole| *hole == Hole::Open).count();
    assert!(without >= least, "found {without} times in 60");
}

#[test]
fn the_partial_parity_log_closes_the_write_hole_and_nothing_else_does() {
    log_closes_the_write_hole(true, 10);
}

#[test]
fn the_partial_parity_log_closes_the_write_hole_of_disks_without_caches() {
    // Only what was under way can be half there.
    log_closes_the_write_hole(false, 2);
}

/// Crashes, starts again with or without a resync, then loses each member in turn. Whether the oracle objects.
fn objects(seed: u64, resync: bool) -> bool {
    let shape = shape(
        if seed.is_multiple_of(2) {
            Level::Raid5
        } else {
            Level::Raid1
        },
        3,
    );
    let mut world = World::new(seed, shape);
    world.create();
    let life = world.life();
    let Some(array) = world.start(&life) else {
        return false;
    };
    sync(&life.executor, &array).expect("synced");
    world.live(&life, &array, false);
    // A torn block and a member that is lost later are more than one parity can make.
    world.supply.set_tearing(false);
    drop(array);
    world.supply.cut();
    world.oracle.power_cut();
    world.supply.power_on();
    let life = world.life();
    let Some(array) = world.start(&life) else {
        return false;
    };
    let skip = std::sync::atomic::Ordering::Relaxed;
    array.core.skip_resync.store(!resync, skip);
    let spawner = life.executor.spawner();
    let queue = world
        .oracle
        .watch(Arc::new(array.clone()))
        .open(&spawner)
        .expect("a queue");
    // What is seen first must stay, wherever it is read from later.
    life.executor.block_on(world.oracle.verify(&*queue));
    sync(&life.executor, &array).expect("synced");
    life.faults[0].set_offline(true);
    life.executor.block_on(world.oracle.verify(&*queue));
    !world.oracle.violations().is_empty()
}

#[test]
fn the_oracle_catches_an_array_that_does_not_resync() {
    let seeds = 0..16;
    assert_eq!(seeds.clone().find(|&seed| objects(seed, true)), None);
    let caught = seeds.filter(|&seed| objects(seed, false)).count();
    assert!(caught >= 4, "caught {caught} of 16");
}
