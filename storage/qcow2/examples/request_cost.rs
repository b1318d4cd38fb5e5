//! What a request costs in an image, over a file in memory: nanoseconds of CPU. The first line is the file itself.
//!
//! `cargo run --release -p weft-qcow2 --example request_cost`

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use weft_block::{BlockDevice, BlockQueue, IoVec, Request, Switch};
use weft_qcow2::{CreateOptions, Image, OpenOptions, RedoMemory, create};
use weft_sim::{Executor, MemoryDevice};

const SIZE: u64 = 2 << 30;
const CLUSTER: u64 = 64 << 10;
const BLOCK: u64 = 4096;
const REQUESTS: u64 = SIZE / CLUSTER;
const ROUNDS: usize = 25;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Case {
    File,
    Read,
    Write,
    ReadSwitched,
    WriteSwitched,
    Allocate,
    AllocateLogged,
}

const CASES: [(Case, &str); 7] = [
    (Case::File, "read of the file"),
    (Case::Read, "read"),
    (Case::Write, "write"),
    (Case::ReadSwitched, "read, through a switch"),
    (Case::WriteSwitched, "write, through a switch"),
    (Case::Allocate, "write of a new cluster"),
    (Case::AllocateLogged, "the same, with a redo log"),
];

/// CPU time of this process so far.
fn cpu() -> Result<u64, Box<dyn Error>> {
    let text = std::fs::read_to_string("/proc/self/schedstat")?;
    Ok(text.split(' ').next().unwrap_or_default().parse()?)
}

fn redo() -> RedoMemory {
    let words: Vec<_> = (0..RedoMemory::WORDS).map(|_| AtomicU64::new(0)).collect();
    RedoMemory {
        words: Arc::new(words),
        identity: [1, 2],
    }
}

/// A block in each cluster, one after the other.
async fn load(queue: &dyn BlockQueue, is_write: bool) -> weft_block::Result<()> {
    let mut buffer = IoVec::copy_of(&[7; BLOCK as usize]);
    for number in 0..REQUESTS {
        let offset = number * CLUSTER;
        let request = match is_write {
            true => Request::write(offset, buffer),
            false => Request::read(offset, buffer),
        };
        let completion = queue.submit(request).await;
        completion.result?;
        buffer = completion.buffer;
    }
    Ok(())
}

/// Nanoseconds of CPU for a request.
fn turn(case: Case) -> Result<f64, Box<dyn Error>> {
    let executor = Executor::new(1);
    let spawner = executor.spawner();
    let file = Arc::new(MemoryDevice::new(0));
    let (fresh, is_write) = match case {
        Case::File | Case::Read | Case::ReadSwitched => (false, false),
        Case::Write | Case::WriteSwitched => (false, true),
        Case::Allocate | Case::AllocateLogged => (true, true),
    };
    executor.block_on(async {
        create(&*file, &CreateOptions::new(SIZE), &spawner).await?;
        let options = OpenOptions {
            redo: (case == Case::AllocateLogged).then(redo),
            ..OpenOptions::default()
        };
        let image = Image::open(file.clone(), options, &spawner).await?;
        let device: Arc<dyn BlockDevice> = match case {
            Case::ReadSwitched | Case::WriteSwitched => {
                Arc::new(Switch::new(Arc::new(image.clone())))
            }
            _ => Arc::new(image.clone()),
        };
        if !fresh {
            load(&*BlockDevice::open(&image, &spawner)?, true).await?;
        }
        let queue = match case {
            Case::File => file.open(&spawner)?,
            _ => device.open(&spawner)?,
        };
        let before = cpu()?;
        load(&*queue, is_write).await?;
        Ok((cpu()? - before) as f64 / REQUESTS as f64)
    })
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut all = [0.0; CASES.len()];
    for _ in 0..ROUNDS {
        for ((case, _), sum) in CASES.iter().zip(&mut all) {
            *sum += turn(*case)?;
        }
    }
    // The clock of a process goes in steps of milliseconds, so a median says less.
    println!("4 KiB, depth 1: nanoseconds of CPU, the mean of {ROUNDS} rounds");
    for ((_, title), sum) in CASES.iter().zip(all) {
        println!("  {title:<28} {:>7.0}", sum / ROUNDS as f64);
    }
    Ok(())
}
