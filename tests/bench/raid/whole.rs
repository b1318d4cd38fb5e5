//! Whole rows of RAID-5 in sequence, in virtual time: what a policy costs beside the data and its parity.
//!
//! The disks are those of the small writes. Beside the array stand the same writes to the members, with nothing to wait
//! for.

use std::rc::Rc;

use anyhow::Result;
use weft_block::{BlockDevice, BlockQueue, IoVec, Request};
use weft_raid::Consistency;
use weft_sim::Executor;

use super::small::{CHUNK, DEPTH, KINDS, Kind, MEMBER, MEMBERS, array, disks, rate, told};

/// What its tables are about.
pub(crate) const TITLE: &str = "Whole rows";

const BLOCK: u64 = 1 << 20;
/// Rows of a block, and so chunks of each member.
const ROWS: u64 = BLOCK / CHUNK / (MEMBERS as u64 - 1);

/// The block that a worker writes next, in sequence with those of the others.
fn place(worker: u64, done: u64, blocks: u64) -> u64 {
    (worker - 1 + done * DEPTH) % blocks
}

fn ours(kind: &Kind, policy: Consistency, kept: bool) -> Result<f64> {
    let executor = Executor::new(1);
    let spawner = executor.spawner();
    let array = executor.block_on(array(policy, disks(kind, kept), &spawner))?;
    let queue: Rc<dyn BlockQueue> = Rc::from(array.open(&spawner).map_err(told)?);
    let blocks = array.info().size / BLOCK;
    rate(&executor, DEPTH, |worker, until| {
        let (queue, spawner) = (Rc::clone(&queue), Rc::clone(&spawner));
        async move {
            let (mut done, data) = (0, IoVec::zeroed(BLOCK as usize));
            while spawner.now() < until {
                let offset = place(worker, done, blocks) * BLOCK;
                queue
                    .submit(Request::write(offset, data.clone()))
                    .await
                    .result?;
                done += 1;
            }
            Ok(done)
        }
    })
}

fn raw(kind: &Kind) -> Result<f64> {
    let executor = Executor::new(1);
    let spawner = executor.spawner();
    let disks = disks(kind, true);
    let queues: weft_block::Result<Vec<_>> = disks.iter().map(|disk| disk.open(&spawner)).collect();
    let queues = Rc::new(queues.map_err(told)?);
    let blocks = MEMBER / (ROWS * CHUNK);
    rate(&executor, DEPTH, |worker, until| {
        let (queues, spawner) = (Rc::clone(&queues), Rc::clone(&spawner));
        async move {
            let mut done = 0;
            while spawner.now() < until {
                let offset = place(worker, done, blocks) * ROWS * CHUNK;
                let column = || IoVec::zeroed((ROWS * CHUNK) as usize);
                let sent: Vec<_> = queues
                    .iter()
                    .map(|queue| queue.submit(Request::write(offset, column())))
                    .collect();
                for sent in sent {
                    sent.await.result?;
                }
                done += 1;
            }
            Ok(done)
        }
    })
}

/// Prints the tables.
pub(crate) fn run() -> Result<()> {
    for kind in &KINDS {
        println!(
            "{TITLE}, RAID-5 of {MEMBERS}, 1 MiB in sequence, depth {DEPTH}, {}",
            kind.title
        );
        let raw = raw(kind)?;
        let line = |name: &str, rate: f64| {
            println!("  {name:<44} {rate:>8.2} k op/s   {:>5.2}x", raw / rate);
        };
        line("the data and its parity", raw);
        line("weft, bitmap", ours(kind, Consistency::Bitmap, false)?);
        line("weft, ppl", ours(kind, Consistency::Ppl, false)?);
        line("weft, ppl, no caches", ours(kind, Consistency::Ppl, true)?);
        println!();
    }
    Ok(())
}
