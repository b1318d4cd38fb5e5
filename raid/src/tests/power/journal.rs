//! The same with a journal, which may fail as well, and what it is good for.

use super::teeth::Hole;
use super::*;

/// Bytes of the journal's disk behind its superblock.
const LOG: u64 = 1 << 20;

impl World {
    /// A world in which changes of the array go to a journal.
    fn journaled(seed: u64, shape: Shape) -> Self {
        let mut world = Self::new(seed, shape);
        world.consistency = Consistency::Journal;
        world.disks.clear();
        let disks = shape.members + usize::from(world.extra.is_some());
        (0..disks).for_each(|_| world.new_disk());
        world.journal = Some(world.disks.len());
        let mut random = ChaCha8Rng::seed_from_u64(!seed);
        // A small one goes round often.
        let blocks = match random.random_bool(0.5) {
            true => crate::journal::least_blocks(shape.members as u32) + random.random_range(0..50),
            false => LOG / 4096,
        };
        let info = Info::new(MIB + blocks * 4096, 512);
        world.disks.push(PowerCut::new(&world.supply, info));
        world
    }
}

fn shapes_with_parity() -> Vec<Shape> {
    shapes()
        .into_iter()
        .filter(|shape| has_parity(shape.level))
        .collect()
}

fn survives_journaled(seed: u64) {
    let all = shapes_with_parity();
    let mut world = World::journaled(seed, all[seed as usize % all.len()]).with_treachery();
    let mut random = ChaCha8Rng::seed_from_u64(seed ^ 0x10);
    world.create();
    let mut whole = true;
    for _ in 0..ROUNDS {
        let life = world.life();
        let Some(array) = world.start(&life) else {
            return;
        };
        if random.random_bool(0.1) {
            let faults = &life.faults[world.disks.len() - 1];
            world.lose_answers(faults, true);
            faults.set_offline_after(random.random_range(0..200));
        }
        world.live(&life, &array, whole && !seed.is_multiple_of(3));
        world.cut(array);
        whole = world.judge();
        if whole {
            whole = world.corrupt();
        }
    }
}

#[test]
fn arrays_with_a_journal_survive_power_cuts_and_lost_members() {
    for_each_seed(60, survives_journaled);
}

/// A crash under small writes with or without the journal, and the loss of as many members at that instant as the level
/// can lose.
fn write_hole(seed: u64, level: Level, logged: bool) -> Hole {
    let mut world = World::journaled(seed, shape(level, 5));
    world.extra = None;
    world.create();
    let life = world.life();
    let Some(array) = world.start(&life) else {
        return Hole::Told;
    };
    sync(&life.executor, &array).expect("synced");
    array.journal_changes(logged);
    world.hole_after(&life, array, |members| {
        members.remove(seed as usize % 5);
        if level == Level::Raid6 && seed.is_multiple_of(2) {
            members.remove(seed as usize % 4);
        }
    })
}

#[test]
fn the_journal_closes_the_write_hole_and_nothing_else_does() {
    for level in [Level::Raid4, Level::Raid5, Level::Raid6] {
        let outcomes =
            |logged: bool| (0..30).map(move |seed| (seed, write_hole(seed, level, logged)));
        let open = outcomes(true).find(|(_, hole)| *hole != Hole::Closed);
        assert_eq!(open, None, "{level} with its journal");
        let without = outcomes(false).filter(|(_, hole)| *hole == Hole::Open);
        let found = without.count();
        assert!(found >= 5, "found {found} times in 30 of {level}");
    }
}
