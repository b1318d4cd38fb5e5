//! Power cuts while an array gets another level, policy, number of legs or size.

use weft_block::{BlockQueue, Result, Spawner};

use super::*;
use crate::level::ParityLayout;
use crate::{Growth, MemberSize};

/// What is to become of an array.
struct Former {
    world: World,
    growth: Growth,
    /// A disk that joins before.
    joins: bool,
    /// The array is made on less than its disks have.
    small: bool,
}

/// A device that shows less than there is.
struct Smaller(Arc<dyn BlockDevice>, u64);

impl BlockDevice for Smaller {
    fn info(&self) -> Info {
        Info {
            size: self.1,
            ..self.0.info()
        }
    }

    fn open(&self, spawner: &Spawner) -> Result<Box<dyn BlockQueue>> {
        self.0.open(spawner)
    }

    fn max_queues(&self) -> usize {
        self.0.max_queues()
    }
}

fn laid_out(level: Level, members: usize, layout: ParityLayout) -> Shape {
    Shape {
        layout: Some(layout),
        ..shape(level, members)
    }
}

impl Former {
    fn new(seed: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let members = 3 + random.random_range(0..3);
        let level = |level: Level| Growth {
            level: Some(level),
            ..Growth::default()
        };
        let legs = |legs| Growth {
            members: Some(legs),
            ..Growth::default()
        };
        let size = Growth {
            size: Some(MemberSize::Max),
            ..Growth::default()
        };
        let policy = Growth {
            consistency: Some(
                [Consistency::Resync, Consistency::Bitmap, Consistency::Ppl]
                    [random.random_range(0..3)],
            ),
            ..Growth::default()
        };
        let small = shape(
            [Level::Raid1, Level::Raid5, Level::Raid6, Level::Raid10][random.random_range(0..4)],
            4,
        );
        let last = ParityLayout::ParityLast;
        let (shape, mut growth, joins) = match seed % 12 {
            0 => (shape(Level::Raid1, 2), level(Level::Raid5), false),
            1 => (shape(Level::Raid5, 2), level(Level::Raid1), false),
            2 => (shape(Level::Raid5, members), level(Level::Raid6), true),
            3 => {
                let six = laid_out(Level::Raid6, members + 1, ParityLayout::LeftSymmetric6);
                (six, level(Level::Raid5), false)
            }
            4 => (shape(Level::Raid0, members), level(Level::Raid5), false),
            5 => (shape(Level::Raid0, members), level(Level::Raid4), false),
            6 => (
                laid_out(Level::Raid5, members, last),
                level(Level::Raid0),
                false,
            ),
            7 => (shape(Level::Raid1, 2), legs(3), true),
            8 => (shape(Level::Raid1, 3), legs(2), false),
            9 => (
                laid_out(Level::Raid5, members, last),
                level(Level::Raid4),
                false,
            ),
            10 => (small, size.clone(), false),
            _ => (shape(Level::Raid5, members), policy, false),
        };
        let mut world = World::new(seed, shape);
        world.extra = None;
        world.disks.truncate(shape.members);
        if joins {
            world.new_disk();
        }
        if growth.consistency == Some(world.consistency) {
            growth.consistency = Some(match world.consistency {
                Consistency::Ppl => Consistency::Bitmap,
                _ => Consistency::Ppl,
            });
        }
        Self {
            world,
            small: growth == size,
            growth,
            joins,
        }
    }

    /// The array, and the disk that is to join it.
    fn create(&mut self) {
        let mut life = self.world.life();
        if self.small {
            for member in &mut life.members {
                let size = member.device.info().size - DATA / 2;
                member.device = Arc::new(Smaller(Arc::clone(&member.device), size));
            }
        }
        self.world.create_in(&life);
    }

    /// It changes beside a load; the power goes at some time.
    fn live(&mut self, life: &Life, array: &Array) {
        let world = &mut self.world;
        let spawner = life.executor.spawner();
        let mut load = Workload::new(world.random.random(), 60);
        // Legs may keep what was discarded or not, each as it likes.
        load.mix.discard = 0;
        let watched = world.oracle.watch(Arc::new(array.clone()));
        let work = async {
            let _ = load.run(&*watched, &spawner).await;
        };
        let delay = Duration::from_micros(world.random.random_range(0..4000));
        let changing = async {
            life.executor.sleep(delay).await;
            let grown = array.grow(&self.growth, &spawner).await;
            assert!(grown.is_ok() || !world.supply.is_on(), "{grown:?}");
            keep(&world.supply, life, array, 20).await;
        };
        let both = futures_util::future::join(work, changing);
        life.executor.block_on(both);
    }

    /// After a cut: it is what it was, or what it was to be.
    fn judge(&mut self) {
        if let Some(level) = self.growth.level {
            // Whichever it is, it may refuse only as the one with parity does.
            if has_parity(level) {
                self.world.shape.level = level;
            }
        }
        let life = self.world.life();
        let Some(array) = self.world.start(&life) else {
            return;
        };
        self.world.verify(&life, &array);
        sync(&life.executor, &array).expect("synced");
        self.world.verify(&life, &array);
        let geometry = array.geometry();
        self.world.shape.level = geometry.level();
        self.world.members.truncate(geometry.members() as usize);
        let whole = array.status().state != ArrayState::Degraded;
        let spawner = life.executor.spawner();
        life.executor
            .block_on(array.stop(&spawner))
            .expect("it stops");
        if whole {
            self.world.check_rows(&life, &array);
        }
    }
}

fn survives(seed: u64) {
    let mut former = Former::new(seed);
    former.create();
    let life = former.world.life();
    let Some(array) = former.world.start(&life) else {
        return;
    };
    sync(&life.executor, &array).expect("synced");
    if former.joins {
        let disk = former.world.disks.len() - 1;
        let spawner = life.executor.spawner();
        let added = array.add(life.members[disk].clone(), [0x50; 16], &spawner);
        life.executor.block_on(added).expect("a spare");
        former.world.members.push(disk);
    }
    let cut = former.world.random.random_range(1..300);
    former.world.supply.cut_after(cut);
    former.live(&life, &array);
    former.world.cut(array);
    former.judge();
}

#[test]
fn forms_change_over_power_cuts() {
    for_each_seed(72, survives);
}

/// Two blocks of a row were marked as lost, and the one that was to be made of them could not be marked as well: the rebuild
/// took it for members that are away.
#[test]
fn blocks_that_are_marked_as_lost_do_not_stop_a_rebuild() {
    survives(194);
}

/// A member had not heard that its slot is none any more, and its own table of roles named it: it passed for corrupt.
#[test]
fn a_member_that_has_not_heard_of_its_end_becomes_a_spare() {
    survives(183);
    survives(426);
}
