//! A deterministic executor on one thread.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use weft_block::{LocalBoxFuture, Spawn, Spawner};

use crate::{Clock, Sleep, Task};

/// Polls in one [`Executor::block_on`] after which a run counts as one that never ends.
const MAX_POLLS: u64 = 200_000_000;

/// The future that `block_on` was given, beside the spawned tasks.
const MAIN: u64 = 0;

/// Runs futures in an order that its seed decides, on a [`Clock`] that moves only when nothing can run.
///
/// Tasks that are ready at the same time are polled in a random order, so a run explores one interleaving and the same
/// seed explores it again. Wakers work from any thread, but nothing waits for another thread: where no task can run and
/// nobody sleeps, that is a deadlock and is said.
pub struct Executor {
    inner: Rc<Inner>,
}

struct Inner {
    seed: u64,
    clock: Clock,
    ready: Arc<Ready>,
    state: RefCell<State>,
}

struct State {
    random: ChaCha8Rng,
    next_id: u64,
    tasks: BTreeMap<u64, LocalBoxFuture<'static, ()>>,
}

#[derive(Default)]
struct Ready {
    ids: Mutex<BTreeSet<u64>>,
}

impl Ready {
    fn with<T>(&self, action: impl FnOnce(&mut BTreeSet<u64>) -> T) -> T {
        action(&mut self.ids.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

struct TaskWaker {
    id: u64,
    ready: Arc<Ready>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.ready.with(|ids| ids.insert(self.id));
    }
}

/// No task can run and none sleeps, yet the awaited future is not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deadlock {
    /// The executor's seed.
    pub seed: u64,
    /// The virtual time at which everything stood still.
    pub at: Duration,
    /// Spawned tasks that wait.
    pub waiting: usize,
}

impl fmt::Display for Deadlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "deadlock at {:?} of virtual time with seed {}: no task can run, {} spawned tasks wait",
            self.at, self.seed, self.waiting
        )
    }
}

impl std::error::Error for Deadlock {}

impl Executor {
    /// An executor whose every choice follows from `seed`.
    pub fn new(seed: u64) -> Self {
        let state = State {
            random: ChaCha8Rng::seed_from_u64(seed),
            next_id: MAIN + 1,
            tasks: BTreeMap::new(),
        };
        Self {
            inner: Rc::new(Inner {
                seed,
                clock: Clock::default(),
                ready: Arc::default(),
                state: RefCell::new(state),
            }),
        }
    }

    /// The seed it was made with.
    pub fn seed(&self) -> u64 {
        self.inner.seed
    }

    /// Its clock.
    pub fn clock(&self) -> Clock {
        self.inner.clock.clone()
    }

    /// Waits for virtual time to pass.
    pub fn sleep(&self, duration: Duration) -> Sleep {
        self.inner.clock.sleep(duration)
    }

    /// What queues are opened with. It does not keep the executor alive: later tasks are dropped unpolled.
    pub fn spawner(&self) -> Spawner {
        Rc::new(Handle(Rc::downgrade(&self.inner)))
    }

    /// Starts a task; it runs while this executor does.
    pub fn spawn<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> Task<T> {
        let (task, body) = Task::wrap(future);
        self.inner.add(Box::pin(body));
        task
    }

    /// Runs `future`, and the spawned tasks beside it, until `future` is done.
    ///
    /// # Panics
    /// With a [`Deadlock`]'s message where nothing can run any more.
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        match self.try_block_on(future) {
            Ok(value) => value,
            Err(deadlock) => panic!("{deadlock}"),
        }
    }

    /// As [`block_on`](Self::block_on), with the deadlock as a value.
    ///
    /// # Errors
    /// The [`Deadlock`].
    pub fn try_block_on<T>(&self, future: impl Future<Output = T>) -> Result<T, Deadlock> {
        let mut main = pin!(future);
        self.inner.ready.with(|ids| ids.insert(MAIN));
        for _ in 0..MAX_POLLS {
            match self.inner.next_ready() {
                Some(MAIN) => {
                    let waker = self.inner.waker(MAIN);
                    let polled = main.as_mut().poll(&mut Context::from_waker(&waker));
                    if let Poll::Ready(value) = polled {
                        return Ok(value);
                    }
                }
                Some(id) => self.inner.poll(id),
                None => return Err(self.inner.deadlock()),
            }
        }
        panic!(
            "no end after {MAX_POLLS} polls with seed {}",
            self.inner.seed
        );
    }

    /// Runs the spawned tasks until none can run and nobody sleeps; returns how many still wait.
    pub fn run_until_idle(&self) -> usize {
        while let Some(id) = self.inner.next_ready() {
            self.inner.poll(id);
        }
        self.inner.state.borrow().tasks.len()
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        // A task's drop may spawn another: take them out first, and again until none is left.
        loop {
            let tasks = std::mem::take(&mut self.inner.state.borrow_mut().tasks);
            if tasks.is_empty() {
                return;
            }
        }
    }
}

impl Inner {
    fn add(&self, task: LocalBoxFuture<'static, ()>) {
        let mut state = self.state.borrow_mut();
        let id = state.next_id;
        state.next_id += 1;
        state.tasks.insert(id, task);
        self.ready.with(|ids| ids.insert(id));
    }

    /// One of the ready tasks, by chance; time moves on where there is none.
    fn next_ready(&self) -> Option<u64> {
        loop {
            let mut state = self.state.borrow_mut();
            let chosen = self.ready.with(|ids| {
                if ids.is_empty() {
                    return None;
                }
                let index = state.random.random_range(0..ids.len());
                let id = ids.iter().nth(index).copied()?;
                ids.remove(&id);
                Some(id)
            });
            drop(state);
            if chosen.is_some() {
                return chosen;
            }
            if !self.clock.advance() {
                return None;
            }
        }
    }

    fn poll(&self, id: u64) {
        let Some(mut task) = self.state.borrow_mut().tasks.remove(&id) else {
            return;
        };
        let waker = self.waker(id);
        if task
            .as_mut()
            .poll(&mut Context::from_waker(&waker))
            .is_pending()
        {
            self.state.borrow_mut().tasks.insert(id, task);
        }
    }

    fn waker(&self, id: u64) -> Waker {
        let ready = Arc::clone(&self.ready);
        Waker::from(Arc::new(TaskWaker { id, ready }))
    }

    fn deadlock(&self) -> Deadlock {
        Deadlock {
            seed: self.seed,
            at: self.clock.now(),
            waiting: self.state.borrow().tasks.len(),
        }
    }
}

struct Handle(Weak<Inner>);

impl Spawn for Handle {
    fn spawn(&self, task: LocalBoxFuture<'static, ()>) {
        if let Some(inner) = self.0.upgrade() {
            inner.add(task);
        }
    }

    fn now(&self) -> Duration {
        let inner = self.0.upgrade();
        inner.map_or(Duration::ZERO, |inner| inner.clock.now())
    }

    fn sleep(&self, duration: Duration) -> LocalBoxFuture<'static, ()> {
        match self.0.upgrade() {
            Some(inner) => Box::pin(inner.clock.sleep(duration)),
            // Nobody polls it any more.
            None => Box::pin(std::future::pending()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yield_now;

    fn order_of(seed: u64) -> Vec<usize> {
        let executor = Executor::new(seed);
        let order = Rc::new(RefCell::new(Vec::new()));
        let tasks: Vec<_> = (0..8)
            .map(|number| {
                let order = Rc::clone(&order);
                executor.spawn(async move {
                    yield_now().await;
                    order.borrow_mut().push(number);
                })
            })
            .collect();
        executor.block_on(async {
            for task in tasks {
                task.await;
            }
        });
        order.take()
    }

    #[test]
    fn a_seed_decides_the_order() {
        assert_eq!(order_of(1), order_of(1));
        assert!((2..10).any(|seed| order_of(seed) != order_of(1)));
    }

    #[test]
    fn virtual_time_moves_only_when_nothing_runs() {
        let executor = Executor::new(0);
        let clock = executor.clock();
        let long = executor.spawn({
            let clock = clock.clone();
            async move {
                clock.sleep(Duration::from_secs(3600)).await;
                clock.now()
            }
        });
        executor.block_on(async {
            clock.sleep(Duration::from_millis(5)).await;
            assert_eq!(clock.now(), Duration::from_millis(5));
            assert_eq!(long.await, Duration::from_secs(3600));
        });
    }

    #[test]
    fn a_deadlock_is_said() {
        let executor = Executor::new(9);
        let (_sender, receiver) = futures_channel::oneshot::channel::<()>();
        let _waits = executor.spawn(std::future::pending::<()>());
        let deadlock = executor.try_block_on(receiver).expect_err("nobody sends");
        assert_eq!(deadlock.waiting, 1);
        assert!(deadlock.to_string().contains("seed 9"));
    }
}
