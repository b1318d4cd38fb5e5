//! A rebuild: how fast it is when it is alone, and what those notice who use the array meanwhile.
//!
//! The members are memory behind disks of one speed: on one real disk a rebuild's members share what each of them could do
//! alone. All of it runs in virtual time, driven as the daemon drives it: what is measured is what the disks are asked for
//! and when, the same on every machine, and not what the work takes of a CPU.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use weft_block::{BlockDevice, BlockQueue, IoVec, Request, Spawner};
use weft_raid::level::Level;
use weft_raid::superblock::Timestamp;
use weft_raid::{Array, Consistency, CreateOptions, MemberDevice, create};
use weft_service::storage::{Pace, Upkeep};
use weft_sim::{Executor, MemoryDevice};
use weft_tests::data::{self, Sequence};

use super::disk::{Disk, sequential_rate};

/// What its tables are about.
pub(crate) const TITLE: &str = "Rebuild";

/// Bytes of a member.
const MEMBER: u64 = 192 << 20;
/// Bytes a second of the disks: one that turns, and one of flash behind a slow interface.
const RATES: [u64; 2] = [100_000_000, 500_000_000];
/// Requests that the foreground has in flight, seven of ten of them reads.
const DEPTHS: [u64; 2] = [1, 4];
const BLOCK: u64 = 4096;
const POLL: Duration = Duration::from_millis(2);
/// How long the foreground is measured.
const LOAD: Duration = Duration::from_secs(3);
/// After which nobody is expected any more.
const QUIET: Duration = Duration::from_secs(2);

/// An array with the daemon's upkeep.
struct Site {
    executor: Executor,
    array: Array,
    upkeep: Upkeep,
    /// Slot 1's member, which is rebuilt again and again.
    member: MemberDevice,
}

fn told(error: weft_block::Error) -> anyhow::Error {
    anyhow!(error.sentence())
}

fn member(number: usize, rate: u64) -> MemberDevice {
    MemberDevice {
        path: format!("disk{number}"),
        device: Arc::new(Disk::over(Arc::new(MemoryDevice::new(MEMBER)), rate)),
    }
}

impl Site {
    fn new(level: Level, members: usize, rate: u64) -> Result<Self> {
        let numbers = 0..members;
        let members: Vec<MemberDevice> = numbers.map(|number| member(number, rate)).collect();
        let mut number = 0_u8;
        let random = || {
            number += 1;
            [number; 16]
        };
        let mut options =
            CreateOptions::new(level, "bench", members.len(), Timestamp::EPOCH, random);
        // Without a bitmap, which would know that nothing was missed.
        options.consistency = match level {
            Level::Raid5 => Consistency::Ppl,
            _ => Consistency::Resync,
        };
        options.assume_clean = true;
        let executor = Executor::new(1);
        let (spawner, again) = (executor.spawner(), members[1].clone());
        let array = executor.block_on(create(&options, members, &spawner));
        let array = array.map_err(told)?;
        let (upkeep, keeper) = Upkeep::of(&array, Pace::default());
        let work = keeper.run(Rc::clone(&spawner));
        spawner.spawn(Box::pin(work));
        Ok(Self {
            executor,
            array,
            upkeep,
            member: again,
        })
    }

    fn now(&self) -> Duration {
        self.executor.spawner().now()
    }

    /// Fails the member and adds it anew: its rebuild begins, as the pace lets it.
    fn lose(&mut self) -> Result<()> {
        let (array, member, spawner) = (&self.array, self.member.clone(), self.executor.spawner());
        let lose = async {
            array.fail(&member.path, &spawner).await?;
            array.add(member.clone(), [99; 16], &spawner).await
        };
        let caught_up = self.executor.block_on(lose).map_err(told)?;
        ensure!(!caught_up, "it is rebuilt whole");
        self.upkeep.wake();
        Ok(())
    }

    fn pause(&mut self, paused: bool) {
        let pace = Pace {
            paused,
            ..Pace::default()
        };
        self.upkeep.set_pace(pace);
    }

    /// Waits until the rebuild is over.
    fn whole(&self) {
        self.executor.block_on(async {
            while !self.array.progress().is_idle() {
                self.executor.sleep(POLL).await;
            }
        });
    }

    /// The latencies of the foreground for a while, in order.
    fn latencies(&self, depth: u64, seed: u64) -> Result<Vec<Duration>> {
        let spawner = self.executor.spawner();
        let queue: Rc<dyn BlockQueue> = Rc::from(self.array.open(&spawner).map_err(told)?);
        let blocks = self.array.info().size / BLOCK;
        let workers: Vec<_> = (0..depth)
            .map(|worker| {
                let sequence = Sequence::new(seed * depth + worker + 1);
                let work = work(Rc::clone(&queue), sequence, blocks, Rc::clone(&spawner));
                self.executor.spawn(work)
            })
            .collect();
        let mut all = Vec::new();
        for worker in workers {
            all.extend(self.executor.block_on(worker).map_err(told)?);
        }
        all.sort_unstable();
        Ok(all)
    }
}

async fn work(
    queue: Rc<dyn BlockQueue>,
    mut sequence: Sequence,
    blocks: u64,
    spawner: Spawner,
) -> weft_block::Result<Vec<Duration>> {
    let data = IoVec::copy_of(&data::bytes(1, BLOCK as usize));
    let mut latencies = Vec::new();
    let until = spawner.now() + LOAD;
    while spawner.now() < until {
        let offset = sequence.below(blocks) * BLOCK;
        let request = match sequence.below(10) {
            0..7 => Request::read(offset, data.clone()),
            _ => Request::write(offset, data.clone()),
        };
        let begun = spawner.now();
        queue.submit(request).await.result?;
        latencies.push(spawner.now() - begun);
    }
    Ok(latencies)
}

fn percentile(sorted: &[Duration], percent: usize) -> f64 {
    let place = (sorted.len() * percent / 100).min(sorted.len() - 1);
    sorted[place].as_secs_f64() * 1e3
}

fn verdict(good: bool) -> &'static str {
    if good { "met" } else { "missed" }
}

/// A rebuild with nobody beside it.
pub(crate) fn alone() -> Result<()> {
    for rate in RATES {
        println!(
            "{TITLE}, disks of {} MB/s, nobody beside it: MB/s of each member",
            rate / 1_000_000
        );
        for (level, members) in [(Level::Raid1, 2), (Level::Raid5, 5), (Level::Raid6, 5)] {
            let mut site = Site::new(level, members, rate)?;
            site.pause(true);
            site.lose()?;
            site.executor.block_on(site.executor.sleep(QUIET));
            let begun = site.now();
            site.pause(false);
            site.whole();
            let bytes = site.array.geometry().member_size() as f64;
            let rebuild = bytes / (site.now() - begun).as_secs_f64() / 1e6;
            let spawner = site.executor.spawner();
            let disk = sequential_rate(&*site.member.device, &spawner);
            let disk = site.executor.block_on(disk).map_err(told)? / 1e6;
            let share = rebuild / disk;
            println!(
                "  {level} of {members:<2} {rebuild:>8.1}   one disk, sequential {disk:>6.1}   {:>3.0} %   mark 90 %: {}",
                share * 100.0,
                verdict(share >= 0.9)
            );
        }
        println!();
    }
    Ok(())
}

/// What the foreground notices of a rebuild.
pub(crate) fn beside() -> Result<()> {
    for (rate, depth) in RATES
        .into_iter()
        .flat_map(|rate| DEPTHS.map(|depth| (rate, depth)))
    {
        println!(
            "{TITLE} of RAID-5 of 5, disks of {} MB/s, 4 KiB at random, 7 of 10 reads, depth {depth}: milliseconds\n  {:<34} {:>8} {:>8}",
            rate / 1_000_000,
            "",
            "p50",
            "p99"
        );
        let mut site = Site::new(Level::Raid5, 5, rate)?;
        let whole = site.latencies(depth, 1)?;
        site.pause(true);
        site.lose()?;
        let degraded = site.latencies(depth, 2)?;
        site.pause(false);
        let (from, begun) = (site.array.progress().done, site.now());
        let beside = site.latencies(depth, 3)?;
        let progress = site.array.progress();
        ensure!(!progress.is_idle(), "the rebuild was over too soon");
        let rate = (progress.done - from) as f64 / (site.now() - begun).as_secs_f64();
        print("whole", &whole);
        let before = print("a member lost, the rebuild paused", &degraded);
        let after = print("the rebuild beside it", &beside);
        let ratio = after / before;
        println!(
            "  p99 {ratio:.2}x   mark 2x: {}   the rebuild meanwhile: {:.1} MB/s\n",
            verdict(ratio <= 2.0),
            rate / 1e6
        );
    }
    Ok(())
}

/// Prints the latencies of half of the requests and of 99 of 100 of them; the latter.
fn print(what: &str, sorted: &[Duration]) -> f64 {
    let (half, most) = (percentile(sorted, 50), percentile(sorted, 99));
    println!("  {what:<34} {half:>8.2} {most:>8.2}");
    most
}
