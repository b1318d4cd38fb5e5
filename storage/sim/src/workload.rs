//! Seeded requests for a device under test.

use std::cell::RefCell;
use std::ops::Range;

use rand::distr::Distribution;
use rand::distr::weighted::WeightedIndex;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use weft_block::{BlockDevice, BlockQueue, ErrorKind, IoVec, Op, Request, Result, Spawner};

/// How often a range is drawn again when it is taken, before the request is left out.
const DRAWS: usize = 8;

/// The shares of the operations; they need not add up to anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mix {
    /// Reads.
    pub read: u32,
    /// Writes.
    pub write: u32,
    /// Writes with FUA.
    pub fua: u32,
    /// Flushes.
    pub flush: u32,
    /// Discards.
    pub discard: u32,
    /// Write-zeroes.
    pub zeroes: u32,
}

impl Default for Mix {
    fn default() -> Self {
        Self {
            read: 35,
            write: 40,
            fua: 5,
            flush: 8,
            discard: 4,
            zeroes: 8,
        }
    }
}

/// Whether requests in flight may touch the same sectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overlap {
    /// They may; the oracle allows either order, as the contract does.
    Allowed,
    /// A range that is in flight is left alone.
    Serialised,
}

/// A load that follows from its seed and the device's answers. Change the fields after [`new`](Self::new).
#[derive(Debug, Clone)]
pub struct Workload {
    /// Decides operations, ranges and data.
    pub seed: u64,
    /// How many requests are submitted.
    pub requests: usize,
    /// How many are in flight at a time.
    pub depth: usize,
    /// The longest request in logical blocks.
    pub max_blocks: u64,
    /// Bytes of the device that are used; the whole if it is larger than the device.
    pub region: Range<u64>,
    /// Which operations.
    pub mix: Mix,
    /// Whether ranges in flight may overlap.
    pub overlap: Overlap,
    /// How often a request begins where the one before it ended: 0 never, 1 wherever it can.
    pub sequential: f64,
}

/// What came of a load.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Requests that succeeded.
    pub done: usize,
    /// Requests that failed, other than by `Offline`.
    pub failed: usize,
    /// Whether the device went offline, which ends the load.
    pub offline: bool,
}

struct Run {
    random: ChaCha8Rng,
    left: usize,
    writes: u64,
    busy: Vec<Range<u64>>,
    /// Where the request before ended, in blocks.
    last: u64,
    outcome: Outcome,
}

impl Workload {
    /// `requests` requests of up to 16 blocks over the whole device, eight in flight, overlapping.
    pub fn new(seed: u64, requests: usize) -> Self {
        Self {
            seed,
            requests,
            depth: 8,
            max_blocks: 16,
            region: 0..u64::MAX,
            mix: Mix::default(),
            overlap: Overlap::Allowed,
            sequential: 0.0,
        }
    }

    /// Drives `device` over two queues, or one where it has no more, until all requests have completed or it is offline.
    ///
    /// # Errors
    /// As opening a queue.
    pub async fn run(&self, device: &dyn BlockDevice, spawner: &Spawner) -> Result<Outcome> {
        let queues = (0..device.max_queues().min(2))
            .map(|_| device.open(spawner))
            .collect::<Result<Vec<_>>>()?;
        let run = RefCell::new(Run {
            random: ChaCha8Rng::seed_from_u64(self.seed),
            left: self.requests,
            writes: 0,
            busy: Vec::new(),
            last: 0,
            outcome: Outcome::default(),
        });
        let workers = (0..self.depth).map(|number| {
            let queue = &*queues[number % queues.len()];
            self.work(queue, device, &run)
        });
        futures_util::future::join_all(workers).await;
        Ok(run.into_inner().outcome)
    }

    async fn work(&self, queue: &dyn BlockQueue, device: &dyn BlockDevice, run: &RefCell<Run>) {
        loop {
            let request = {
                let run = &mut *run.borrow_mut();
                if run.left == 0 || run.outcome.offline {
                    return;
                }
                run.left -= 1;
                self.draw(run, device)
            };
            let Some(request) = request else { continue };
            let range = request.offset..request.end();
            let completion = queue.submit(request).await;
            let run = &mut *run.borrow_mut();
            if let Some(index) = run.busy.iter().position(|busy| *busy == range) {
                run.busy.swap_remove(index);
            }
            match completion.result {
                Ok(()) => run.outcome.done += 1,
                Err(error) if error.kind() == ErrorKind::Offline => run.outcome.offline = true,
                Err(_) => run.outcome.failed += 1,
            }
        }
    }

    fn draw(&self, run: &mut Run, device: &dyn BlockDevice) -> Option<Request> {
        let info = device.info();
        let op = self.draw_op(&mut run.random);
        if op == Op::Flush {
            return Some(Request::flush());
        }
        let block = u64::from(info.logical_block);
        let blocks = self.region.start / block..self.region.end.min(info.size) / block;
        let range = (0..DRAWS).find_map(|_| {
            let follows = self.sequential > 0.0
                && blocks.contains(&run.last)
                && run.random.random_bool(self.sequential.min(1.0));
            let start = match follows {
                true => run.last,
                false => run.random.random_range(blocks.clone()),
            };
            let most = (blocks.end - start).min(self.max_blocks);
            let len = run.random.random_range(1..=most);
            let range = start * block..(start + len) * block;
            let taken = run
                .busy
                .iter()
                .any(|busy| busy.start < range.end && range.start < busy.end);
            (self.overlap == Overlap::Allowed || !taken).then_some(range)
        })?;
        if self.overlap == Overlap::Serialised {
            run.busy.push(range.clone());
        }
        run.writes += 1;
        run.last = range.end / block;
        let len = range.end - range.start;
        let buffer = match op {
            Op::Read => IoVec::zeroed(len as usize),
            Op::Write { .. } => data(self.seed, run.writes, len),
            Op::Flush | Op::Discard | Op::WriteZeroes { .. } => IoVec::empty(),
        };
        Some(Request {
            op,
            offset: range.start,
            len,
            buffer,
        })
    }

    fn draw_op(&self, random: &mut ChaCha8Rng) -> Op {
        let mix = self.mix;
        let weights = [
            mix.read,
            mix.write,
            mix.fua,
            mix.flush,
            mix.discard,
            mix.zeroes,
        ];
        let index = WeightedIndex::new(weights).map_or(0, |weights| weights.sample(random));
        match index {
            0 => Op::Read,
            1 => Op::Write { fua: false },
            2 => Op::Write { fua: true },
            3 => Op::Flush,
            4 => Op::Discard,
            _ => Op::WriteZeroes {
                unmap: random.random(),
                fua: random.random_bool(0.2),
            },
        }
    }
}

/// Bytes that no other write of the load holds, in any 512 of them.
fn data(seed: u64, write: u64, len: u64) -> IoVec {
    let mut random = ChaCha8Rng::seed_from_u64(seed.rotate_left(32) ^ write);
    let mut buffer = weft_block::Buffer::zeroed(len as usize);
    for sector in buffer.chunks_mut(512) {
        sector.fill(random.random());
        sector[..8].copy_from_slice(&random.random::<u64>().to_le_bytes());
    }
    buffer.into()
}
