//! Power cuts at any instant, under load, with members failing, beside resync and rebuild: then the oracle.
//!
//! What a level cannot survive is not asked of it: one member of RAID-5 at a time, two of RAID-6, all but one of RAID-1,
//! and an array with parity that crashes while degraded may only refuse to start.

mod answers;
mod corruption;
mod forming;
mod journal;
mod named;
mod reshaping;
mod teeth;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use weft_block::{BlockDevice, ErrorKind, Info, IoVec, Request};
use weft_sim::{
    Delays, Executor, Faults, Faulty, Oracle, PowerCut, PowerSupply, Slow, Workload, for_each_seed,
};

use super::harness::{MIB, Shape, copies_agree, now, options, parity_agrees, shape, shapes, sync};
use crate::level::Level;
use crate::{
    Array, ArrayState, AssembleOptions, Consistency, MemberDevice, MemberState, assemble, create,
};

/// Bytes of data on a disk.
const DATA: u64 = 256 << 10;
const ROUNDS: u64 = 3;

struct World {
    seed: u64,
    random: ChaCha8Rng,
    shape: Shape,
    consistency: Consistency,
    supply: PowerSupply,
    disks: Vec<PowerCut>,
    oracle: Oracle,
    /// The disk of each slot.
    members: Vec<usize>,
    /// A disk that may replace one of them, and the slot once it does.
    extra: Option<(usize, Option<usize>)>,
    /// The disk of the journal.
    journal: Option<usize>,
    /// Of one request.
    most_blocks: u64,
    /// All disks answer in time.
    is_calm: bool,
    /// Where the load goes.
    region: Range<u64>,
    /// Disks acknowledge what they have not made durable.
    has_caches: bool,
    /// Decides on answers and media, in a world that lies about them.
    treachery: Option<ChaCha8Rng>,
}

/// One life of the machine, from power on to power off.
struct Life {
    executor: Executor,
    members: Vec<MemberDevice>,
    faults: Vec<Faults>,
}

impl Life {
    /// Runs to the end, or as long as anybody would wait if some answer may never come.
    fn run<T>(&self, run: impl Future<Output = T>, unanswered: bool) {
        if !unanswered {
            self.executor.block_on(run);
            return;
        }
        let run = std::pin::pin!(run);
        let patience = self.executor.sleep(Duration::from_secs(60));
        self.executor
            .block_on(futures_util::future::select(run, patience));
    }
}

impl World {
    fn new(seed: u64, shape: Shape) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let consistency = match random.random_bool(0.8) {
            true => Consistency::default_of(shape.level),
            false if random.random_bool(0.5) => Consistency::Bitmap,
            false => Consistency::Resync,
        };
        let mut world = Self {
            seed,
            random,
            shape,
            consistency,
            supply: PowerSupply::new(seed),
            disks: Vec::new(),
            oracle: Oracle::new(512),
            members: (0..shape.members).collect(),
            extra: None,
            journal: None,
            most_blocks: 80,
            is_calm: false,
            region: 0..u64::MAX,
            has_caches: true,
            treachery: None,
        };
        for _ in 0..shape.members {
            world.new_disk();
        }
        if shape.level.is_redundant() && shape.members > 1 && world.random.random_bool(0.3) {
            world.extra = Some((world.disks.len(), None));
            world.new_disk();
        }
        world
    }

    /// The same with disks that acknowledge nothing but what is durable.
    fn without_caches(mut self) -> Self {
        self.has_caches = false;
        let disks = self.disks.len();
        self.disks.clear();
        (0..disks).for_each(|_| self.new_disk());
        self
    }

    fn new_disk(&mut self) {
        let mut info = Info::new(self.data_start() + DATA, 512);
        info.discard = true;
        info.volatile_cache = self.has_caches;
        self.disks.push(PowerCut::new(&self.supply, info));
    }

    /// Where the data of a disk starts.
    fn data_start(&self) -> u64 {
        match self.consistency {
            Consistency::Ppl => 2 * MIB,
            _ => MIB,
        }
    }

    fn life(&mut self) -> Life {
        let executor = Executor::new(self.random.random());
        let slow = self.random.random_bool(0.3) && !self.is_calm;
        let (mut members, mut faults) = (Vec::new(), Vec::new());
        for (number, disk) in self.disks.iter().enumerate() {
            let faulty = Faulty::new(Arc::new(disk.clone()), self.seed);
            faults.push(faulty.faults());
            let mut device: Arc<dyn BlockDevice> = Arc::new(faulty);
            if slow {
                let mut delays = Delays::up_to(Duration::from_millis(5 + 40 * (number as u64 % 2)));
                if number == 1 {
                    // Long enough that others are read instead.
                    delays.read.end *= 10;
                }
                device = Arc::new(Slow::new(device, &executor.clock(), self.seed, delays));
            }
            members.push(MemberDevice {
                path: format!("disk{number}"),
                device,
            });
        }
        self.delay_answers(&faults);
        Life {
            executor,
            members,
            faults,
        }
    }

    fn create(&mut self) {
        let life = self.life();
        self.create_in(&life);
    }

    fn create_in(&mut self, life: &Life) {
        let mut options = options(self.shape, self.seed);
        // The disks are zeroes, which agree.
        options.assume_clean = self.random.random_bool(0.5);
        options.consistency = self.consistency;
        options.bitmap_chunk = Some(16 << 10);
        let mut members = life.members[..self.shape.members].to_vec();
        if let Some(journal) = self.journal {
            options.member_uuids.push([0x10; 16]);
            members.push(life.members[journal].clone());
        }
        let spawner = life.executor.spawner();
        let array = life.executor.block_on(create(&options, members, &spawner));
        let array = array.expect("it is made");
        if self.random.random_bool(0.5) {
            sync(&life.executor, &array).expect("synced");
        }
        // Without a stop: the next life finds it as it is.
        self.supply.cut();
        self.supply.power_on();
    }

    /// Starts the array, or finds that it rightly refuses.
    fn start(&mut self, life: &Life) -> Option<Array> {
        let replacing = self
            .extra
            .and_then(|(disk, slot)| slot.is_some().then_some(disk));
        let given = self.members.iter().copied().chain(replacing);
        let given = given.chain(self.journal);
        let members = given.map(|index| life.members[index].clone()).collect();
        let options = AssembleOptions {
            name: None,
            force: false,
            now: now(self.seed),
        };
        let spawner = life.executor.spawner();
        match life
            .executor
            .block_on(assemble(members, &options, &spawner))
        {
            Ok(array) => {
                // A cut tears far more sectors than wear out.
                array.set_most_read_errors(u32::MAX);
                let is_guess = |notice: &String| notice.contains("bad-block log of");
                let guessed = array.core.state().notices.iter().any(is_guess);
                if guessed {
                    // What a torn log told of may be less than what counts as lost.
                    self.oracle.allow_read_errors(true);
                }
                Some(array)
            }
            Err(error) => {
                let refused = error.sentence();
                if self.journal.is_some() && error.kind() == ErrorKind::Offline {
                    assert!(refused.contains("cannot start: its journal "), "{refused}");
                    return None;
                }
                assert_eq!(error.kind(), ErrorKind::Degraded, "{refused}");
                assert!(
                    refused.contains("degraded and was not stopped cleanly"),
                    "{refused}"
                );
                assert!(has_parity(self.shape.level));
                None
            }
        }
    }

    /// Load, resync, ticks, perhaps a failing member, until the load is done or the power goes.
    fn live(&mut self, life: &Life, array: &Array, may_fail: bool) {
        let spawner = life.executor.spawner();
        self.supply.cut_after(self.random.random_range(1..400));
        let spared = self.shape.level.is_redundant() && self.shape.members > 1;
        let failures = match self.shape.level {
            _ if !may_fail || !spared => 0,
            Level::Raid6 => self.random.random_range(0..3),
            _ => self.random.random_range(0..2),
        };
        self.begin_replacing(life, array);
        let unanswered = self.swallow_answers(&life.faults);
        for _ in 0..failures {
            let lost = self.members[self.random.random_range(0..self.members.len())];
            let faults = &life.faults[lost];
            let in_sync = array.core.state().intent.resync_count() == 0;
            if self.lose_answers(faults, in_sync) {
                continue;
            }
            match self.random.random_range(0..3) {
                0 => faults.set_offline_after(self.random.random_range(0..150)),
                1 => faults.fail_writes(self.data_start()..self.data_start() + DATA),
                _ => faults.fail_flushes(true),
            }
        }
        let mut load = Workload::new(self.random.random(), 120);
        load.max_blocks = self.most_blocks;
        load.region = self.region.clone();
        self.queue_neighbours(&mut load);
        if matches!(self.shape.level, Level::Raid1 | Level::Raid10) {
            // Legs may keep what was discarded or not, each as it likes.
            load.mix.discard = 0;
        }
        let watched = self.oracle.watch(Arc::new(array.clone()));
        let work = async {
            // An array that has lost its power cannot be opened.
            let _ = load.run(&*watched, &spawner).await;
        };
        let syncing = keep(&self.supply, life, array, 60);
        life.run(futures_util::future::join(work, syncing), unanswered);
    }

    /// Perhaps lets the extra disk replace a member.
    fn begin_replacing(&mut self, life: &Life, array: &Array) {
        let Some((disk, None)) = self.extra else {
            return;
        };
        let slot = self.random.random_range(0..self.members.len());
        if !self.random.random_bool(0.7)
            || array.status().members[slot].state != MemberState::InSync
        {
            return;
        }
        let old = format!("disk{}", self.members[slot]);
        let spawner = life.executor.spawner();
        let begun = array.replace(&old, life.members[disk].clone(), [0x90; 16], &spawner);
        let begun = life.executor.block_on(begun);
        assert!(begun.is_ok() || !self.supply.is_on(), "{begun:?}");
        self.extra = Some((disk, Some(slot)));
    }

    /// Sees whether the extra disk has a slot now, or no part in the array any more.
    fn end_replacing(&mut self, array: &Array) {
        let Some((disk, Some(slot))) = self.extra else {
            return;
        };
        let name = Some(format!("disk{disk}"));
        let members = array.status().members;
        if members[slot].path == name {
            self.members[slot] = disk;
        }
        let goes_on = members
            .iter()
            .any(|member| member.path == name && member.state == MemberState::Rebuilding);
        if self.members[slot] == disk || !goes_on {
            self.extra = None;
        }
    }

    /// The power goes and comes back.
    fn cut(&mut self, array: Array) {
        // A torn block of a row that has lost another one already is more than one parity can make.
        let degraded = !array.core.state().is_whole(&array.geometry());
        let closed = self.consistency == Consistency::Ppl || self.journal.is_some();
        self.supply.set_tearing(!(degraded && closed));
        drop(array);
        self.supply.cut();
        self.oracle.power_cut();
        self.supply.power_on();
    }

    /// After a cut: the array starts or refuses, is made whole, and the oracle is asked.
    fn judge(&mut self) -> bool {
        let life = self.life();
        let Some(array) = self.start(&life) else {
            return false;
        };
        let spawner = life.executor.spawner();
        if self.random.random_bool(0.5) {
            self.verify(&life, &array);
        }
        self.replace_lost(&life, &array);
        // A block that was torn while redundancy was away cannot be rebuilt; it is not the oracle's business.
        let whole = sync(&life.executor, &array).is_ok();
        self.end_replacing(&array);
        self.verify(&life, &array);
        self.oracle.assert_honest();
        life.executor
            .block_on(array.stop(&spawner))
            .expect("it stops");
        let lost = |member: &crate::array::Member| !member.bad.is_empty();
        let lost = array.core.state().members.iter().any(lost);
        if whole && !lost && array.status().sync.is_idle() {
            self.check_rows(&life, &array);
        }
        // A row that has lost a block cannot lose a member as well.
        whole && !lost && array.status().state != ArrayState::Degraded
    }

    fn verify(&self, life: &Life, array: &Array) {
        let watched = self.oracle.watch(Arc::new(array.clone()));
        let queue = watched.open(&life.executor.spawner()).expect("a queue");
        life.executor.block_on(self.oracle.verify(&*queue));
        self.oracle.assert_honest();
    }

    /// Members that were failed or left out come back, or new ones take their place.
    fn replace_lost(&mut self, life: &Life, array: &Array) {
        let spawner = life.executor.spawner();
        for (slot, member) in array.status().members.into_iter().enumerate() {
            if member.path.is_some() || slot >= self.members.len() {
                continue;
            }
            let back = life.members[self.members[slot]].clone();
            life.executor
                .block_on(array.add(back, [slot as u8 + 1; 16], &spawner))
                .expect("added");
        }
    }

    /// Parity and mirrors agree on the medium itself.
    fn check_rows(&self, life: &Life, array: &Array) {
        let size = array.geometry().member_size() as usize;
        let data = |&index: &usize| {
            let queue = self.disks[index]
                .open(&life.executor.spawner())
                .expect("it is on");
            let path = format!("disk{index}");
            let base = {
                let state = array.core.state();
                let mut members = state.members.iter();
                let member = members.find(|member| member.path == path);
                member.map_or(0, crate::array::Member::base)
            };
            let read = queue.submit(Request::read(base, IoVec::zeroed(size)));
            let completion = life.executor.block_on(read);
            completion
                .result
                .is_ok()
                .then(|| completion.buffer.to_buffer().to_vec())
        };
        let data: Option<Vec<Vec<u8>>> = self.members.iter().map(data).collect();
        // A block of a mirror may have been torn on every leg, and stays so until it is written.
        let Some(data) = data else { return };
        match self.shape.level {
            Level::Raid0 => {}
            Level::Raid1 | Level::Raid10 => assert!(copies_agree(array, &data), "copies differ"),
            _ => assert!(parity_agrees(array, &data), "parity differs"),
        }
    }
}

/// What a daemon does: resync, rebuild and ticks, for so many turns or until the power goes.
async fn keep(supply: &PowerSupply, life: &Life, array: &Array, turns: u64) {
    let spawner = life.executor.spawner();
    let Ok(syncer) = array.syncer(&spawner) else {
        return;
    };
    for turn in 0..turns {
        if syncer.step(64 << 10).await.is_err() && !supply.is_on() {
            return;
        }
        life.executor.sleep(Duration::from_millis(1)).await;
        if turn % 8 == 7 {
            let _ = array.tick(now(turn), &spawner).await;
        }
    }
}

fn has_parity(level: Level) -> bool {
    matches!(level, Level::Raid4 | Level::Raid5 | Level::Raid6)
}

fn survives(seed: u64) {
    let all = shapes();
    World::treacherous(seed, all[seed as usize % all.len()]).survive();
}

/// Without treachery.
fn survives_as(seed: u64, shape: Shape) {
    World::new(seed, shape).survive();
}

impl World {
    fn survive(&mut self) {
        self.create();
        let mut whole = true;
        for _ in 0..ROUNDS {
            let life = self.life();
            let Some(array) = self.start(&life) else {
                return;
            };
            self.live(&life, &array, whole && !self.seed.is_multiple_of(3));
            self.cut(array);
            whole = self.judge();
            if whole {
                whole = self.corrupt();
            }
        }
    }
}

#[test]
fn arrays_survive_power_cuts_and_lost_members() {
    for_each_seed(104, survives);
}

/// The logs of RAID-5 are written apart from each other where nothing has to be flushed.
fn survives_without_caches(seed: u64) {
    let all = shapes().into_iter();
    let all: Vec<Shape> = all.filter(|shape| shape.level == Level::Raid5).collect();
    World::treacherous(seed, all[seed as usize % all.len()])
        .without_caches()
        .survive();
}

#[test]
fn arrays_on_disks_without_caches_survive_power_cuts_and_lost_members() {
    for_each_seed(60, survives_without_caches);
}

/// Two crashes in a row: the second comes under load, before the resync of the first is done.
fn survives_twice(seed: u64) {
    let all = shapes();
    survives_twice_as(seed, all[seed as usize % all.len()]);
}

fn survives_twice_as(seed: u64, shape: Shape) {
    let mut world = World::treacherous(seed, shape);
    world.extra = None;
    world.disks.truncate(world.shape.members);
    world.create();
    for _ in 0..3 {
        let life = world.life();
        let Some(array) = world.start(&life) else {
            return;
        };
        world.live(&life, &array, false);
        world.cut(array);
    }
    world.judge();
}

#[test]
fn arrays_survive_a_power_cut_before_the_last_one_is_mended() {
    for_each_seed(60, survives_twice);
}
