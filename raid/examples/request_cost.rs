//! What a request costs in the array itself: nanoseconds of CPU beside those of its members, which answer at the next turn
//! and have no medium.
//!
//! `cargo run --release -p weft-raid --example request_cost`, with words that the titles must have.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::error::Error;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use weft_block::{
    BlockDevice, BlockQueue, Completion, Info, IoVec, LocalBoxFuture, Request, Spawn, Spawner,
    yield_now,
};
use weft_raid::level::Level;
use weft_raid::superblock::Timestamp;
use weft_raid::{Consistency, CreateOptions, MemberDevice, create};

const MEMBER: u64 = 64 << 20;
const DEPTH: usize = 32;
const BLOCK: usize = 4096;
const REQUESTS: u64 = 200_000;
const ROUNDS: usize = 9;

/// A disk that has only the blocks of its metadata.
struct Idle(Arc<dyn BlockDevice>);

struct IdleQueue(Box<dyn BlockQueue>);

impl BlockDevice for Idle {
    fn info(&self) -> Info {
        self.0.info()
    }

    fn open(&self, spawner: &Spawner) -> weft_block::Result<Box<dyn BlockQueue>> {
        Ok(Box::new(IdleQueue(self.0.open(spawner)?)))
    }
}

impl BlockQueue for IdleQueue {
    fn submit(&self, request: Request) -> LocalBoxFuture<'static, Completion> {
        if request.len != BLOCK as u64 || request.offset < 2 << 20 {
            return self.0.submit(request);
        }
        Box::pin(async move {
            yield_now().await;
            request.done()
        })
    }
}

type Ready = Arc<Mutex<VecDeque<usize>>>;

/// An executor whose tasks run in turn.
#[derive(Default)]
struct Executor {
    tasks: RefCell<Vec<Option<LocalBoxFuture<'static, ()>>>>,
    free: RefCell<Vec<usize>>,
    wakers: RefCell<Vec<Waker>>,
    ready: Ready,
    sleeping: RefCell<VecDeque<(Instant, Waker)>>,
}

struct Call(usize, Ready);

impl Wake for Call {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let mut ready = self.1.lock().unwrap_or_else(PoisonError::into_inner);
        ready.push_back(self.0);
    }
}

struct Handle(Rc<Executor>);

impl Spawn for Handle {
    fn spawn(&self, task: LocalBoxFuture<'static, ()>) {
        let executor = &self.0;
        let place = executor.free.borrow_mut().pop().unwrap_or_else(|| {
            let place = executor.tasks.borrow().len();
            let call = Call(place, Arc::clone(&executor.ready));
            executor.tasks.borrow_mut().push(None);
            executor
                .wakers
                .borrow_mut()
                .push(Waker::from(Arc::new(call)));
            place
        });
        executor.tasks.borrow_mut()[place] = Some(task);
        executor.wakers.borrow()[place].wake_by_ref();
    }

    fn now(&self) -> Duration {
        static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        START.get_or_init(Instant::now).elapsed()
    }

    fn sleep(&self, duration: Duration) -> LocalBoxFuture<'static, ()> {
        let (executor, until) = (Rc::clone(&self.0), Instant::now() + duration);
        Box::pin(std::future::poll_fn(move |context| {
            if Instant::now() >= until {
                return Poll::Ready(());
            }
            let waker = context.waker().clone();
            executor.sleeping.borrow_mut().push_back((until, waker));
            Poll::Pending
        }))
    }
}

impl Executor {
    /// Runs until `done` says so.
    fn run(&self, done: &Cell<bool>) {
        let mut turns = 0_u64;
        while !done.get() {
            turns += 1;
            if turns.is_multiple_of(1024) {
                let mut sleeping = self.sleeping.borrow_mut();
                sleeping.drain(..).for_each(|(_, waker)| waker.wake());
            }
            let next = {
                let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
                ready.pop_front()
            };
            let Some(place) = next else { continue };
            let Some(mut task) = self.tasks.borrow_mut()[place].take() else {
                continue;
            };
            let waker = self.wakers.borrow()[place].clone();
            match task.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(()) => self.free.borrow_mut().push(place),
                Poll::Pending => self.tasks.borrow_mut()[place] = Some(task),
            }
        }
    }

    fn block_on<T: 'static>(self: &Rc<Self>, future: impl Future<Output = T> + 'static) -> T {
        let (done, output) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(None)));
        let (end, result) = (Rc::clone(&done), Rc::clone(&output));
        Handle(Rc::clone(self)).spawn(Box::pin(async move {
            result.set(Some(future.await));
            end.set(true);
        }));
        self.run(&done);
        output.take().expect("it has ended")
    }
}

/// What is measured.
struct Case {
    title: &'static str,
    /// Nothing but a member, if there is no level.
    level: Option<Level>,
    consistency: Consistency,
    is_write: bool,
}

const CASES: [Case; 7] = {
    const fn case(title: &'static str, level: Option<Level>, is_write: bool) -> Case {
        Case {
            title,
            level,
            consistency: Consistency::Resync,
            is_write,
        }
    }
    [
        case("read of a member", None, false),
        case("read of RAID-0", Some(Level::Raid0), false),
        case("read of RAID-1", Some(Level::Raid1), false),
        case("read of RAID-5", Some(Level::Raid5), false),
        case("read of RAID-6", Some(Level::Raid6), false),
        case("write of RAID-5, resync", Some(Level::Raid5), true),
        Case {
            title: "write of RAID-5, ppl",
            level: Some(Level::Raid5),
            consistency: Consistency::Ppl,
            is_write: true,
        },
    ]
};

/// CPU time of this process so far.
fn cpu() -> Result<u64, Box<dyn Error>> {
    let text = std::fs::read_to_string("/proc/self/schedstat")?;
    Ok(text.split(' ').next().unwrap_or_default().parse()?)
}

/// One request after the other.
async fn load(queue: Rc<dyn BlockQueue>, blocks: u64, is_write: bool, mut seed: u64) {
    let mut buffer = IoVec::zeroed(BLOCK);
    for _ in 0..REQUESTS / DEPTH as u64 {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let offset = seed % blocks * BLOCK as u64;
        let request = match is_write {
            true => Request::write(offset, buffer),
            false => Request::read(offset, buffer),
        };
        let completion = queue.submit(request).await;
        assert!(completion.result.is_ok(), "it is answered");
        buffer = completion.buffer;
    }
}

async fn device(case: &Case, spawner: &Spawner) -> weft_block::Result<Arc<dyn BlockDevice>> {
    let member = |number: usize| MemberDevice {
        path: format!("disk{number}"),
        device: Arc::new(Idle(Arc::new(weft_sim::MemoryDevice::new(MEMBER)))),
    };
    let Some(level) = case.level else {
        return Ok(member(0).device);
    };
    let mut number = 0_u8;
    let random = || {
        number += 1;
        [number; 16]
    };
    let members: Vec<MemberDevice> = (0..5).map(member).collect();
    let mut options = CreateOptions::new(level, "cost", members.len(), Timestamp::EPOCH, random);
    options.consistency = case.consistency;
    options.assume_clean = true;
    Ok(Arc::new(create(&options, members, spawner).await?))
}

/// Nanoseconds of CPU for a request.
fn turn(case: &'static Case) -> Result<f64, Box<dyn Error>> {
    let executor = Rc::new(Executor::default());
    let spawner: Spawner = Rc::new(Handle(Rc::clone(&executor)));
    let own = Rc::clone(&spawner);
    let device = executor.block_on(async move { device(case, &own).await });
    let device = device.map_err(|error| error.sentence())?;
    let queue: Rc<dyn BlockQueue> = Rc::from(device.open(&spawner)?);
    // The first part of a member has what belongs to the array.
    let blocks = device.info().size / BLOCK as u64 - 512;
    let before = cpu()?;
    let own = Rc::clone(&spawner);
    executor.block_on(async move {
        let left = Rc::new(Cell::new(DEPTH));
        let (sender, receiver) = futures_channel::oneshot::channel();
        let sender = Rc::new(Cell::new(Some(sender)));
        for worker in 0..DEPTH as u64 {
            let (left, sender) = (Rc::clone(&left), Rc::clone(&sender));
            let work = load(
                Rc::clone(&queue),
                blocks,
                case.is_write,
                (worker + 1) * 0x9e37_79b9,
            );
            own.spawn(Box::pin(async move {
                work.await;
                left.set(left.get() - 1);
                if left.get() == 0
                    && let Some(sender) = sender.take()
                {
                    let _ = sender.send(());
                }
            }));
        }
        let _ = receiver.await;
    });
    Ok((cpu()? - before) as f64 / REQUESTS as f64)
}

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let wanted = |case: &&Case| words.iter().all(|word| case.title.contains(word.as_str()));
    let cases: Vec<&Case> = CASES.iter().filter(wanted).collect();
    let mut all = vec![Vec::new(); cases.len()];
    for _ in 0..ROUNDS {
        for (case, figures) in cases.iter().zip(&mut all) {
            figures.push(turn(case)?);
        }
    }
    println!(
        "4 KiB, depth {DEPTH}, five members: nanoseconds of CPU, the least and the median of {ROUNDS} rounds"
    );
    for (case, mut figures) in cases.into_iter().zip(all) {
        figures.sort_unstable_by(f64::total_cmp);
        println!(
            "  {:<24} {:>7.0} {:>7.0}",
            case.title,
            figures[0],
            figures[ROUNDS / 2]
        );
    }
    Ok(())
}
