//! Members that take their time.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use weft_block::{BlockDevice, BlockQueue, Info, IoVec, Request};
use weft_sim::{
    Delays, Executor, Faults, Faulty, MemoryDevice, Oracle, Slow, Workload, for_each_seed,
};

use super::harness::{MIB, Shape, options, pattern, shape, shapes};
use crate::level::Level;
use crate::{Array, MemberDevice, MemberState, create};

/// Longer than anybody may have to wait for a read that others can answer: the bound, twice the tick, and once more for
/// each further member that turns out to be slow.
const AT_MOST: Duration = Duration::from_millis(40);
const HANGS: Duration = Duration::from_secs(7);

/// An array of disks whose reads take as long as they are told to.
struct Slowed {
    executor: Executor,
    slow: Vec<Arc<Slow>>,
    faults: Vec<Faults>,
    array: Array,
    data: Vec<u8>,
}

fn reads(time: Range) -> Delays {
    Delays {
        read: time,
        ..Delays::up_to(Duration::ZERO)
    }
}

type Range = std::ops::Range<Duration>;

fn exactly(time: Duration) -> Range {
    time..time + Duration::from_nanos(1)
}

const FAST: Duration = Duration::from_micros(100);

impl Slowed {
    /// With data on it.
    fn new(shape: Shape, seed: u64) -> Self {
        let mut slowed = Self::empty(shape, seed);
        slowed.data = pattern(slowed.array.info().size as usize, seed);
        let write = Request::write(0, IoVec::copy_of(&slowed.data));
        let written = slowed.executor.block_on(slowed.queue().submit(write));
        written.result.expect("it is written");
        slowed
    }

    fn empty(shape: Shape, seed: u64) -> Self {
        let executor = Executor::new(seed);
        let (mut slow, mut faults, mut members) = (Vec::new(), Vec::new(), Vec::new());
        for number in 0..shape.members {
            let memory = Arc::new(MemoryDevice::with_info(Info::new(2 * MIB, 512)));
            let faulty = Faulty::new(memory, seed);
            faults.push(faulty.faults());
            let device = Slow::new(
                Arc::new(faulty),
                &executor.clock(),
                seed,
                reads(exactly(FAST)),
            );
            slow.push(Arc::new(device));
            members.push(MemberDevice {
                path: format!("disk{number}"),
                device: slow[number].clone(),
            });
        }
        let mut options = options(shape, seed);
        options.assume_clean = true;
        let spawner = executor.spawner();
        let made = create(&options, members, &spawner);
        let array = executor.block_on(made).expect("the array is made");
        Self {
            executor,
            slow,
            faults,
            array,
            data: Vec::new(),
        }
    }

    fn queue(&self) -> Box<dyn BlockQueue> {
        let queue = self.array.open(&self.executor.spawner());
        queue.expect("it opens")
    }

    /// Reads, compares, and tells how long it took.
    async fn read(&self, queue: &dyn BlockQueue, offset: u64, len: usize) -> Duration {
        let begun = self.executor.clock().now();
        let read = queue.submit(Request::read(offset, IoVec::zeroed(len)));
        let completion = read.await;
        completion.result.expect("it is read");
        let took = self.executor.clock().now() - begun;
        let (start, bytes) = (offset as usize, completion.buffer.to_buffer());
        assert!(bytes[..] == self.data[start..start + len], "at {offset}");
        took
    }

    fn member_state(&self, path: &str) -> MemberState {
        let members = self.array.status().members;
        let mut members = members.into_iter();
        let member = members.find(|member| member.path.as_deref() == Some(path));
        member.expect("a member").state
    }
}

fn redundant() -> impl Iterator<Item = Shape> {
    let shapes = shapes().into_iter();
    shapes.filter(|shape| shape.level.is_redundant() && shape.members > 1)
}

#[test]
fn members_that_hang_do_not_stall_reads_that_others_can_answer() {
    for (seed, shape) in (0..).zip(redundant()) {
        let slowed = Slowed::new(shape, seed);
        let tolerates = slowed.array.geometry().tolerates() as usize;
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let first = random.random_range(0..shape.members);
        for member in (0..tolerates).map(|next| (first + next) % shape.members) {
            slowed.slow[member].set_delays(reads(exactly(HANGS)));
        }
        let queue = slowed.queue();
        slowed.executor.block_on(async {
            for round in 0..4 {
                let blocks = slowed.data.len() as u64 / 4096;
                let places: Vec<u64> = (0..16).map(|_| random.random_range(0..blocks)).collect();
                let reads = places
                    .iter()
                    .map(|place| slowed.read(&*queue, place * 4096, 4096));
                let slowest = join_all(reads).await.into_iter().max();
                let slowest = slowest.expect("there are some");
                let bound = AT_MOST * tolerates as u32;
                assert!(slowest <= bound, "{shape:?}, round {round}: {slowest:?}");
            }
            // More than is copied, from members that are known by now.
            let took = slowed.read(&*queue, 0, 256 << 10).await;
            assert!(took <= AT_MOST * tolerates as u32, "{shape:?}: {took:?}");
        });
    }
}

#[test]
fn a_member_that_is_fast_again_is_read_again() {
    let slowed = Slowed::new(shape(Level::Raid5, 4), 3);
    slowed.slow[1].set_delays(reads(exactly(HANGS)));
    let queue = slowed.queue();
    slowed.executor.block_on(async {
        for place in 0..64 {
            slowed.read(&*queue, place * 4096, 4096).await;
        }
        slowed.slow[1].set_delays(reads(exactly(FAST)));
        slowed.executor.sleep(2 * HANGS).await;
        let before = slowed.faults[1].requests();
        for place in 0..64 {
            let took = slowed.read(&*queue, place * 4096, 4096).await;
            assert!(took < AT_MOST, "{took:?}");
        }
        assert!(slowed.faults[1].requests() > before);
    });
}

#[test]
fn an_array_that_is_slow_as_a_whole_makes_no_reads_of_its_own() {
    for level in [Level::Raid1, Level::Raid5, Level::Raid6] {
        let slowed = Slowed::new(shape(level, 4), 5);
        for slow in &slowed.slow {
            slow.set_delays(reads(exactly(Duration::from_millis(200))));
        }
        let requests = || -> u64 { slowed.faults.iter().map(Faults::requests).sum() };
        let queue = slowed.queue();
        let rounds = async |count: u64| {
            let before = requests();
            for _ in 0..count {
                let reads = (0..16).map(|place| slowed.read(&*queue, place * 65536, 4096));
                join_all(reads).await;
            }
            requests() - before - count * 16
        };
        slowed.executor.block_on(async {
            // What is usual has to be learnt.
            let learning = rounds(30).await;
            assert!(learning <= 480, "{level}: {learning}");
            assert_eq!(rounds(30).await, 0, "{level}");
        });
    }
}

#[test]
fn a_late_answer_that_is_a_loss_fails_its_member() {
    let slowed = Slowed::new(shape(Level::Raid5, 4), 7);
    let queue = slowed.queue();
    slowed.slow[2].set_delays(reads(exactly(HANGS)));
    slowed.executor.block_on(async {
        for place in 0..64 {
            let took = slowed.read(&*queue, place * 16384, 4096).await;
            assert!(took <= AT_MOST, "{took:?}");
        }
        assert_eq!(slowed.member_state("disk2"), MemberState::InSync);
        slowed.faults[2].set_offline(true);
        slowed.executor.sleep(HANGS).await;
    });
    slowed.executor.run_until_idle();
    assert_eq!(slowed.member_state("disk2"), MemberState::Faulty);
}

#[test]
fn a_mirror_reads_from_the_leg_that_is_faster() {
    let slowed = Slowed::new(shape(Level::Raid1, 2), 9);
    slowed.slow[0].set_delays(reads(exactly(FAST * 50)));
    let queue = slowed.queue();
    let read = async |count: u64| {
        let before = slowed.faults[0].requests();
        let mut random = ChaCha8Rng::seed_from_u64(count);
        for _ in 0..count {
            let blocks = slowed.data.len() as u64 / 4096;
            let place = random.random_range(0..blocks);
            slowed.read(&*queue, place * 4096, 4096).await;
        }
        slowed.faults[0].requests() - before
    };
    slowed.executor.block_on(async {
        read(100).await;
        assert!(read(640).await <= 10, "only to try it");
        slowed.slow[0].set_delays(reads(exactly(FAST)));
        read(6400).await;
        let share = read(640).await;
        assert!((200..440).contains(&share), "{share} of 640");
    });
}

#[test]
fn the_oracle_agrees_with_reads_that_are_made_of_others() {
    for_each_seed(20, |seed| {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let shapes: Vec<Shape> = redundant().collect();
        let shape = shapes[random.random_range(0..shapes.len())];
        let slowed = Slowed::empty(shape, seed);
        let tolerates = slowed.array.geometry().tolerates() as usize;
        let first = random.random_range(0..shape.members);
        for next in 0..tolerates {
            let member = (first + next) % shape.members;
            slowed.slow[member].set_delays(Delays {
                read: Duration::ZERO..Duration::from_millis(300),
                write: Duration::ZERO..Duration::from_millis(20),
                flush: Duration::ZERO..Duration::from_millis(5),
            });
        }
        let oracle = Oracle::new(512);
        let watched = oracle.watch(Arc::new(slowed.array.clone()));
        let spawner = slowed.executor.spawner();
        let load = Workload::new(seed, 400);
        let run = load.run(&*watched, &spawner);
        slowed.executor.block_on(run).expect("it runs");
        let queue = watched.open(&spawner).expect("a queue");
        slowed.executor.block_on(oracle.verify(&*queue));
        oracle.assert_honest();
    });
}
