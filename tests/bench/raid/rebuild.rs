//! A rebuild: how fast it is when it is alone, and what those notice who use the array meanwhile.
//!
//! The members are memory behind disks of one speed: on one real disk a rebuild's members share what each of them could do
//! alone, and what else the machine does to that disk would be measured with them. The rebuild is driven as the daemon
//! drives it.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use weft_block::{BlockDevice, BlockQueue, IoVec, Request};
use weft_raid::level::Level;
use weft_raid::superblock::Timestamp;
use weft_raid::{Array, Consistency, CreateOptions, MemberDevice, create};
use weft_service::storage::{Pace, Upkeep};
use weft_sim::MemoryDevice;
use weft_tests::bench::{rounds, seconds};
use weft_tests::data::{self, Sequence};
use weft_uring::{Shard, ShardHandle, block_on, sleep, spawn, spawner};

use super::disk::{Disk, sequential_rate};

/// What its tables are about.
pub(crate) const TITLE: &str = "Rebuild";

/// Bytes of a member.
const MEMBER: u64 = 192 << 20;
/// Bytes a second of the disks: one that turns, and one of flash behind a slow interface.
const RATES: [u64; 2] = [100_000_000, 500_000_000];
/// Requests that the foreground has in flight, seven of ten of them reads.
const DEPTH: u64 = 4;
const BLOCK: u64 = 4096;
const POLL: Duration = Duration::from_millis(2);

/// An array on a shard, with the daemon's upkeep.
struct Site {
    home: ShardHandle,
    array: Array,
    upkeep: Upkeep,
    /// Slot 1's member, which is rebuilt again and again.
    member: MemberDevice,
    _shard: Shard,
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

/// Runs `work` on the shard.
async fn on<T, F>(home: &ShardHandle, work: impl FnOnce() -> F + Send + 'static) -> Result<T>
where
    T: Send + 'static,
    F: Future<Output = weft_block::Result<T>> + 'static,
{
    let answer = home.run(work).await.context("the shard has ended")?;
    answer.map_err(told)
}

impl Site {
    async fn new(level: Level, members: usize, rate: u64) -> Result<Self> {
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
        let shard = Shard::start("bench-raid")?;
        let (home, again) = (shard.handle(), members[1].clone());
        let make = move || async move { create(&options, members, &spawner()).await };
        let array = on(&home, make).await?;
        let upkeep = Upkeep::start(&array, &home, Pace::default());
        Ok(Self {
            home,
            array,
            upkeep,
            member: again,
            _shard: shard,
        })
    }

    /// Fails the member and adds it anew: its rebuild begins, as the pace lets it.
    async fn lose(&mut self) -> Result<()> {
        let (array, member) = (self.array.clone(), self.member.clone());
        let lose = move || async move {
            array.fail(&member.path, &spawner()).await?;
            array.add(member, [99; 16], &spawner()).await
        };
        ensure!(!on(&self.home, lose).await?, "it is rebuilt whole");
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

    async fn whole(&self) {
        while !self.array.progress().is_idle() {
            sleep(POLL).await;
        }
    }

    async fn end(self) -> Result<()> {
        self.upkeep.end().await;
        let array = self.array;
        on(
            &self.home,
            move || async move { array.stop(&spawner()).await },
        )
        .await
    }

    /// The latencies of the foreground for a while, in order.
    async fn latencies(&self, seed: u64) -> Result<Vec<Duration>> {
        let array = self.array.clone();
        let load = move || async move {
            let queue: Rc<dyn BlockQueue> = Rc::from(array.open(&spawner())?);
            let blocks = array.info().size / BLOCK;
            let until = Instant::now() + Duration::from_secs(seconds());
            let workers: Vec<_> = (0..DEPTH)
                .map(|worker| {
                    let sequence = Sequence::new(seed * DEPTH + worker + 1);
                    spawn(work(Rc::clone(&queue), sequence, blocks, until))
                })
                .collect();
            let mut all = Vec::new();
            for worker in workers {
                all.extend(worker.await?);
            }
            all.sort_unstable();
            Ok(all)
        };
        on(&self.home, load).await
    }
}

async fn work(
    queue: Rc<dyn BlockQueue>,
    mut sequence: Sequence,
    blocks: u64,
    until: Instant,
) -> weft_block::Result<Vec<Duration>> {
    let data = IoVec::copy_of(&data::bytes(1, BLOCK as usize));
    let mut latencies = Vec::new();
    while Instant::now() < until {
        let offset = sequence.below(blocks) * BLOCK;
        let request = match sequence.below(10) {
            0..7 => Request::read(offset, data.clone()),
            _ => Request::write(offset, data.clone()),
        };
        let begun = Instant::now();
        queue.submit(request).await.result?;
        latencies.push(begun.elapsed());
    }
    Ok(latencies)
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
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
            let (rebuild, disk) = block_on(rebuilds(level, members, rate))?;
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

/// MB a second of a member's rebuild, and of one disk that is read from its beginning.
async fn rebuilds(level: Level, members: usize, rate: u64) -> Result<(f64, f64)> {
    let (mut rebuilds, mut disks) = (Vec::new(), Vec::new());
    let mut site = Site::new(level, members, rate).await?;
    for round in 0..=rounds()? {
        let begun = Instant::now();
        site.lose().await?;
        site.whole().await;
        let bytes = site.array.geometry().member_size() as f64;
        let rebuild = bytes / begun.elapsed().as_secs_f64();
        let disk = site.member.device.clone();
        let read = move || async move { sequential_rate(&*disk, &spawner()).await };
        let disk = on(&site.home, read).await?;
        if round > 0 {
            rebuilds.push(rebuild / 1e6);
            disks.push(disk / 1e6);
        }
    }
    site.end().await?;
    Ok((median(rebuilds), median(disks)))
}

/// Latencies in milliseconds, half of the requests and 99 of 100 of them.
struct Latencies {
    half: Vec<f64>,
    most: Vec<f64>,
}

impl Latencies {
    fn new() -> Self {
        Self {
            half: Vec::new(),
            most: Vec::new(),
        }
    }

    fn add(&mut self, sorted: &[Duration]) {
        self.half.push(percentile(sorted, 50));
        self.most.push(percentile(sorted, 99));
    }

    fn print(self, what: &str) -> f64 {
        let (half, most) = (median(self.half), median(self.most));
        println!("  {what:<34} {half:>8.2} {most:>8.2}");
        most
    }
}

/// What the foreground notices of a rebuild.
pub(crate) fn beside() -> Result<()> {
    println!(
        "{TITLE} of RAID-5 of 5, disks of {} MB/s, 4 KiB at random, 7 of 10 reads, depth {DEPTH}: milliseconds\n  {:<34} {:>8} {:>8}",
        RATES[0] / 1_000_000,
        "",
        "p50",
        "p99"
    );
    let (mut whole, mut degraded, mut rebuilding) =
        (Latencies::new(), Latencies::new(), Latencies::new());
    let mut rates = Vec::new();
    block_on(async {
        let mut site = Site::new(Level::Raid5, 5, RATES[0]).await?;
        for round in 0..=rounds()? {
            let seed = round as u64 * 3;
            let all = site.latencies(seed).await?;
            site.pause(true);
            site.lose().await?;
            let without = site.latencies(seed + 1).await?;
            site.pause(false);
            let (from, begun) = (site.array.progress().done, Instant::now());
            let beside = site.latencies(seed + 2).await?;
            let progress = site.array.progress();
            ensure!(!progress.is_idle(), "the rebuild was over too soon");
            let rate = (progress.done - from) as f64 / begun.elapsed().as_secs_f64();
            site.whole().await;
            if round > 0 {
                whole.add(&all);
                degraded.add(&without);
                rebuilding.add(&beside);
                rates.push(rate / 1e6);
            }
        }
        site.end().await
    })?;
    whole.print("whole");
    let before = degraded.print("a member lost, the rebuild paused");
    let after = rebuilding.print("the rebuild beside it");
    let ratio = after / before;
    println!(
        "  p99 {ratio:.2}x   mark 2x: {}   the rebuild meanwhile: {:.1} MB/s\n",
        verdict(ratio <= 2.0),
        median(rates)
    );
    Ok(())
}
