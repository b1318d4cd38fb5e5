//! What one request costs: processor time per 4 KiB operation on a file, for each engine, interleaved over several
//! rounds, medians. The table behind docs/adr/0002-engine-choice.md.
//!
//! `cargo run --release -p weft-uring --example engine_cost [FILE] [DEPTH]`: the file is made, and removed afterwards.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use nix::time::{ClockId, clock_gettime};
use weft_block::{BlockDevice, IoVec, Request};
use weft_uring::{Direct, Engine, FileDevice, OpenOptions, block_on, spawner};

const SIZE: u64 = 64 << 20;
const BLOCK: usize = 4096;
const ROUNDS: usize = 7;

/// What a round does.
#[derive(Clone, Copy, PartialEq)]
enum Work {
    Read,
    Write,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = PathBuf::from(arguments.next().unwrap_or("engine_cost.disk".into()));
    let depth: usize = arguments.next().map_or(Ok(1), |text| text.parse())?;
    fill(&path)?;
    println!(
        "{} at depth {depth}, us of CPU (process) and of time per {BLOCK} bytes",
        path.display()
    );
    for direct in [Direct::Off, Direct::On] {
        for work in [Work::Read, Work::Write] {
            let engines = [Engine::Sync, Engine::Ring, Engine::Auto];
            let mut rounds: [Vec<(f64, f64)>; 3] = Default::default();
            for _ in 0..ROUNDS {
                for (engine, rounds) in engines.iter().zip(&mut rounds) {
                    rounds.push(round(&path, *engine, direct, work, depth)?);
                }
            }
            for (engine, rounds) in engines.iter().zip(&mut rounds) {
                rounds.sort_by(|a, b| a.0.total_cmp(&b.0));
                let (cpu, wall) = rounds[ROUNDS / 2];
                let (cache, what) = (
                    if direct == Direct::On {
                        "direct"
                    } else {
                        "cached"
                    },
                    if work == Work::Read { "read" } else { "write" },
                );
                println!("{cache} {what:5} {engine:5?} {cpu:7.2} {wall:7.2}");
            }
        }
    }
    std::fs::remove_file(&path)?;
    Ok(())
}

fn fill(path: &Path) -> std::io::Result<()> {
    std::fs::write(path, vec![1; SIZE as usize])?;
    std::fs::File::open(path)?.sync_all()
}

fn round(
    path: &Path,
    engine: Engine,
    direct: Direct,
    work: Work,
    depth: usize,
) -> Result<(f64, f64), Box<dyn std::error::Error>> {
    let options = OpenOptions {
        engine,
        direct,
        ..OpenOptions::default()
    };
    let device = FileDevice::open(path, &options)?;
    let count = match direct {
        Direct::On => 4000,
        _ => 20_000,
    };
    let cpu = processor_time()?;
    let wall = std::time::Instant::now();
    block_on(operations(&device, work, depth, count))?;
    let cpu = processor_time()? - cpu;
    let per = |time: Duration| time.as_secs_f64() * 1e6 / count as f64;
    Ok((per(cpu), per(wall.elapsed())))
}

async fn operations(
    device: &FileDevice,
    work: Work,
    depth: usize,
    count: usize,
) -> Result<(), weft_block::Error> {
    let queue = device.open(&spawner())?;
    let mut running = FuturesUnordered::new();
    let mut place: u64 = 1;
    let mut spare: Vec<IoVec> = (0..depth).map(|_| IoVec::zeroed(BLOCK)).collect();
    for _ in 0..count {
        let buffer = match spare.pop() {
            Some(buffer) => buffer,
            None => {
                let Some(done) = running.next().await else {
                    unreachable!("as many run as are not spare");
                };
                let done: weft_block::Completion = done;
                done.result?;
                done.buffer
            }
        };
        // A full-period sequence over the blocks: no two neighbours, the same for all.
        place = place
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        let offset = (place >> 33) % (SIZE / BLOCK as u64) * BLOCK as u64;
        running.push(queue.submit(match work {
            Work::Read => Request::read(offset, buffer),
            Work::Write => Request::write(offset, buffer),
        }));
    }
    while let Some(done) = running.next().await {
        done.result?;
    }
    Ok(())
}

fn processor_time() -> nix::Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)?.into())
}
