//! Power cuts while the shape changes: at its beginning, between and in its steps, and at its end.

use super::*;
use crate::level::ParityLayout;
use crate::{Growth, SyncAction};

/// A world whose array is to be changed.
struct Reshaped {
    world: World,
    growth: Growth,
    /// Disks that join.
    joining: Vec<usize>,
}

impl Reshaped {
    fn new(seed: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let level = [Level::Raid5, Level::Raid6, Level::Raid4][random.random_range(0..3)];
        let least = if level == Level::Raid6 { 4 } else { 2 };
        let before = least + random.random_range(0..3_usize);
        let mut growth = Growth::default();
        let more = match random.random_bool(0.6) {
            true => random.random_range(1..3),
            false => 0,
        };
        if more > 0 {
            growth.members = Some((before + more) as u32);
        }
        if random.random_bool(0.4) {
            growth.chunk = Some([4, 8, 32, 64][random.random_range(0..4)] << 10);
        }
        if level != Level::Raid4 && (growth == Growth::default() || random.random_bool(0.3)) {
            growth.layout = ParityLayout::of(level).nth(random.random_range(0..6));
        }
        if growth == Growth::default() || growth.layout == Some(ParityLayout::LeftSymmetric) {
            (growth.layout, growth.chunk) = (None, Some(8 << 10));
        }
        let mut world = World::new(seed, shape(level, before));
        world.extra = None;
        world.disks.truncate(before);
        (0..more).for_each(|_| world.new_disk());
        Self {
            world,
            growth,
            joining: (before..before + more).collect(),
        }
    }

    /// Begins the change, under the threat of a cut.
    fn begin(&mut self, life: &Life, array: &Array) {
        let spawner = life.executor.spawner();
        let begun = life.executor.block_on(async {
            for &disk in &self.joining {
                let member = life.members[disk].clone();
                array.add(member, [disk as u8 + 50; 16], &spawner).await?;
            }
            array.grow(&self.growth, &spawner).await
        });
        assert!(begun.is_ok() || !self.world.supply.is_on(), "{begun:?}");
        self.world.members.append(&mut self.joining);
    }

    /// What was begun goes on, beside a load, until it is done or the power goes.
    fn live(&mut self, life: &Life, array: &Array, may_fail: bool) {
        let world = &mut self.world;
        let spawner = life.executor.spawner();
        if may_fail && world.random.random_bool(0.4) {
            let lost = world.members[world.random.random_range(0..world.members.len())];
            let faults = &life.faults[lost];
            let after = world.random.random_range(0..200);
            if !world.lose_answers(faults, false) {
                faults.set_offline_after(after);
            }
        }
        let unanswered = world.swallow_answers(&life.faults);
        let mut load = Workload::new(world.random.random(), 60);
        load.max_blocks = 40;
        let watched = world.oracle.watch(Arc::new(array.clone()));
        let work = async {
            let _ = load.run(&*watched, &spawner).await;
        };
        let syncing = keep(&world.supply, life, array, 40);
        life.run(futures_util::future::join(work, syncing), unanswered);
    }

    /// The array starts, what was begun is brought to its end, and the oracle is asked. Whether it is whole.
    fn judge(&mut self) -> bool {
        let life = self.world.life();
        let Some(array) = self.world.start(&life) else {
            return false;
        };
        if self.world.random.random_bool(0.5) {
            self.world.verify(&life, &array);
        }
        let mut whole = sync(&life.executor, &array).is_ok();
        if whole {
            assert_ne!(array.progress().action, SyncAction::Reshape);
            self.world.replace_lost(&life, &array);
            whole = sync(&life.executor, &array).is_ok();
        }
        self.world.verify(&life, &array);
        let spawner = life.executor.spawner();
        life.executor
            .block_on(array.stop(&spawner))
            .expect("it stops");
        let whole = whole && array.status().state != ArrayState::Degraded;
        let is_lost = |member: &crate::array::Member| !member.bad.is_empty();
        let lost = array.core.state().members.iter().any(is_lost);
        if whole && !lost {
            self.world.check_rows(&life, &array);
        }
        whole
    }
}

fn survives(seed: u64, treacherous: bool) {
    let mut reshaped = Reshaped::new(seed);
    if treacherous {
        reshaped.world = reshaped.world.with_treachery();
    }
    reshaped.world.create();
    let life = reshaped.world.life();
    let Some(array) = reshaped.world.start(&life) else {
        return;
    };
    sync(&life.executor, &array).expect("synced");
    let load = Workload::new(seed, 40);
    let watched = reshaped.world.oracle.watch(Arc::new(array.clone()));
    let spawner = life.executor.spawner();
    life.executor
        .block_on(async { load.run(&*watched, &spawner).await })
        .expect("it is on");
    sync(&life.executor, &array).expect("synced");
    let cut = reshaped.world.random.random_range(1..500);
    reshaped.world.supply.cut_after(cut);
    reshaped.begin(&life, &array);
    reshaped.live(&life, &array, !seed.is_multiple_of(3));
    drop(watched);
    reshaped.world.cut(array);
    for _ in 0..2 {
        let life = reshaped.world.life();
        let Some(array) = reshaped.world.start(&life) else {
            return;
        };
        let cut = reshaped.world.random.random_range(1..300);
        reshaped.world.supply.cut_after(cut);
        reshaped.live(&life, &array, false);
        reshaped.world.cut(array);
    }
    reshaped.judge();
}

#[test]
fn shapes_change_over_power_cuts() {
    for_each_seed(60, |seed| survives(seed, true));
}

/// The last chunk could not be read in part, and a write to it let it be tried again: from where the resync had ended, so
/// that it passed for done.
#[test]
fn a_chunk_that_is_tried_again_is_resynced_from_its_start() {
    survives(634, false);
}
