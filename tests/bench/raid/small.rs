//! Small writes to RAID-5 in virtual time: where they wait, apart from what a machine's own disk and CPU do to them.
//!
//! The members are memory behind disks that take so long for a request, one after the other, and answer somewhat later;
//! five of their own, or five files on one. Beside the array stand loads that make the same requests without it: as many
//! in flight as the array has, in no order; and each write's own four in the order that parity needs, with and without a
//! log in between that a member writes as soon as it has written the last.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use anyhow::{Result, anyhow};
use weft_block::{BlockDevice, BlockQueue, IoVec, Request, Spawner};
use weft_raid::level::Level;
use weft_raid::superblock::Timestamp;
use weft_raid::{Array, Consistency, CreateOptions, MemberDevice, create};
use weft_sim::{Executor, MemoryDevice};
use weft_tests::data::Sequence;

use super::disk::{Disk, Speed};
use super::kept::Kept;

/// What its tables are about.
pub(crate) const TITLE: &str = "Small writes";

pub(crate) const MEMBERS: usize = 5;
pub(crate) const MEMBER: u64 = 32 << 20;
pub(crate) const CHUNK: u64 = 64 << 10;
const BLOCK: u64 = 4096;
pub(crate) const DEPTH: u64 = 32;
const LOAD: Duration = Duration::from_millis(500);

type Disks = Vec<Arc<dyn BlockDevice>>;
type Queues = Rc<Vec<Box<dyn BlockQueue>>>;

/// One kind of disks.
pub(crate) struct Kind {
    pub(crate) title: &'static str,
    speed: Speed,
    /// The members lie on one disk.
    is_shared: bool,
}

pub(crate) const KINDS: [Kind; 4] = [
    Kind {
        title: "five disks, 10 us a request and 80 us until it is answered, 100 us a flush",
        speed: Speed::new(10, 80, 100),
        is_shared: false,
    },
    Kind {
        title: "files on one disk, 10 us a request and 80 us until it is answered, 10 us a flush",
        speed: Speed::new(10, 80, 10).with_fua_as_flush(),
        is_shared: true,
    },
    Kind {
        title: "files on one disk, 10 us a request and 80 us until it is answered, 100 us a flush",
        speed: Speed::new(10, 80, 100).with_fua_as_flush(),
        is_shared: true,
    },
    Kind {
        title: "files on one disk, 10 us a request and 80 us until it is answered, 4 ms more for one in a hundred, 10 us a flush",
        speed: Speed::new(10, 80, 10)
            .with_fua_as_flush()
            .with_late(100, 4000),
        is_shared: true,
    },
];

pub(crate) fn told(error: weft_block::Error) -> anyhow::Error {
    anyhow!(error.sentence())
}

pub(crate) fn disks(kind: &Kind, kept: bool) -> Disks {
    let first = Disk::of_speed(Arc::new(MemoryDevice::new(MEMBER)), kind.speed);
    let disks = (0..MEMBERS).map(|_| -> Arc<dyn BlockDevice> {
        let memory: Arc<dyn BlockDevice> = Arc::new(MemoryDevice::new(MEMBER));
        let disk = match kind.is_shared {
            true => first.beside(memory),
            false => Disk::of_speed(memory, kind.speed),
        };
        match kept {
            true => Arc::new(Kept(Arc::new(disk))),
            false => Arc::new(disk),
        }
    });
    disks.collect()
}

/// Thousands of writes a second of so many workers, each of which does `work` again and again.
pub(crate) fn rate<F>(
    executor: &Executor,
    workers: u64,
    work: impl Fn(u64, Duration) -> F,
) -> Result<f64>
where
    F: Future<Output = weft_block::Result<u64>> + 'static,
{
    let begun = executor.spawner().now();
    let tasks: Vec<_> = (0..workers)
        .map(|worker| executor.spawn(work(worker + 1, begun + LOAD)))
        .collect();
    let mut done = 0;
    for task in tasks {
        done += executor.block_on(task).map_err(told)?;
    }
    let elapsed = executor.spawner().now() - begun;
    Ok(done as f64 / elapsed.as_secs_f64() / 1e3)
}

pub(crate) async fn array(policy: Consistency, disks: Disks, spawner: &Spawner) -> Result<Array> {
    let mut number = 0_u8;
    let random = || {
        number += 1;
        [number; 16]
    };
    let mut options = CreateOptions::new(Level::Raid5, "bench", MEMBERS, Timestamp::EPOCH, random);
    (options.chunk, options.consistency, options.assume_clean) = (CHUNK, policy, true);
    let members = disks.into_iter().enumerate();
    let members = members.map(|(number, device)| MemberDevice {
        path: format!("disk{number}"),
        device,
    });
    create(&options, members.collect(), spawner)
        .await
        .map_err(told)
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
            let (mut sequence, mut done) = (Sequence::new(worker), 0);
            let data = IoVec::zeroed(BLOCK as usize);
            while spawner.now() < until {
                let offset = sequence.below(blocks) * BLOCK;
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

/// What the disks could do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Reads and writes by turns, `DEPTH` in flight, and four of them a write.
    Raw,
    /// Two reads, then two writes.
    Parity,
    /// Two reads, the log, two writes.
    Logged,
}

fn theirs(kind: &Kind, way: Way) -> Result<f64> {
    let executor = Executor::new(1);
    let spawner = executor.spawner();
    let disks = disks(kind, true);
    let queues: weft_block::Result<_> = disks.iter().map(|disk| disk.open(&spawner)).collect();
    let queues: Queues = Rc::new(queues.map_err(told)?);
    let logs = Rc::new((0..MEMBERS).map(|_| Group::default()).collect::<Vec<_>>());
    let rate = rate(&executor, DEPTH, |worker, until| {
        let (queues, logs) = (Rc::clone(&queues), Rc::clone(&logs));
        let spawner = Rc::clone(&spawner);
        async move {
            let (mut sequence, mut done) = (Sequence::new(worker), 0);
            while spawner.now() < until {
                let data = sequence.below(MEMBERS as u64) as usize;
                let parity = (data + 1 + sequence.below(MEMBERS as u64 - 1) as usize) % MEMBERS;
                let offset = sequence.below(MEMBER / BLOCK) * BLOCK;
                let memory = || IoVec::zeroed(BLOCK as usize);
                let read = |disk: usize| queues[disk].submit(Request::read(offset, memory()));
                let write = |disk: usize| queues[disk].submit(Request::write(offset, memory()));
                if way == Way::Raw {
                    match done % 2 {
                        0 => drop(read(data).await),
                        _ => drop(write(data).await),
                    }
                } else {
                    let reads = [read(data), read(parity)];
                    for sent in reads {
                        drop(sent.await);
                    }
                    if way == Way::Logged {
                        logs[parity].write(&*queues[parity]).await;
                    }
                    let writes = [write(data), write(parity)];
                    for sent in writes {
                        drop(sent.await);
                    }
                }
                done += 1;
            }
            Ok(done)
        }
    })?;
    Ok(if way == Way::Raw { rate / 4.0 } else { rate })
}

/// A log that is written by the first of those that wait, for all of them.
#[derive(Default)]
struct Group {
    asked: Cell<u64>,
    written: Cell<u64>,
    busy: Cell<bool>,
    waiting: RefCell<Vec<Waker>>,
}

impl Group {
    async fn write(&self, queue: &dyn BlockQueue) {
        let own = self.asked.get() + 1;
        self.asked.set(own);
        while self.written.get() < own {
            poll_fn(|context| {
                if !self.busy.get() || self.written.get() >= own {
                    return Poll::Ready(());
                }
                self.waiting.borrow_mut().push(context.waker().clone());
                Poll::Pending
            })
            .await;
            if self.busy.get() || self.written.get() >= own {
                continue;
            }
            self.busy.set(true);
            let all = self.asked.get();
            let blocks = (all - self.written.get() + 2) as usize;
            let header = IoVec::zeroed(blocks * BLOCK as usize);
            drop(queue.submit(Request::write_fua(0, header)).await);
            self.written.set(all);
            self.busy.set(false);
            self.waiting.take().into_iter().for_each(Waker::wake);
        }
    }
}

/// Prints the tables.
pub(crate) fn run() -> Result<()> {
    for kind in &KINDS {
        let raw = theirs(kind, Way::Raw)?;
        println!(
            "{TITLE}, RAID-5 of 5, 4 KiB at random, depth {DEPTH}, {}",
            kind.title
        );
        let line = |name: &str, rate: f64| {
            println!("  {name:<44} {rate:>8.1} k op/s   {:>5.2}x", raw / rate);
        };
        line("four requests in no order, 32 in flight", raw);
        line("two reads, two writes", theirs(kind, Way::Parity)?);
        line("two reads, a log, two writes", theirs(kind, Way::Logged)?);
        line("weft, resync", ours(kind, Consistency::Resync, false)?);
        line("weft, bitmap", ours(kind, Consistency::Bitmap, false)?);
        line("weft, ppl", ours(kind, Consistency::Ppl, false)?);
        line("weft, ppl, no caches", ours(kind, Consistency::Ppl, true)?);
        println!();
    }
    Ok(())
}
