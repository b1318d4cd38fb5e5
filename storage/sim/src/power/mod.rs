//! Power that can be cut, for several disks at the same instant.

mod cache;
mod disk;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use cache::Cache;
pub use disk::PowerCut;

/// What feeds the [`PowerCut`] disks of a machine. Clones are the same supply.
///
/// After a cut every request fails with `Offline`, those in flight too, and queues that are open then stay offline for
/// good. [`power_on`](Self::power_on) decides the fate of what was not durable and lets new queues be opened.
#[derive(Clone)]
pub struct PowerSupply {
    state: Arc<Mutex<State>>,
}

struct State {
    random: ChaCha8Rng,
    powered: bool,
    /// How often the power came on: a queue of an earlier time is dead.
    generation: u64,
    steps: u64,
    cut_at: Option<u64>,
    tearing: bool,
    caches: Vec<Weak<Mutex<Cache>>>,
}

/// How the sectors of one disk fare in one cut.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fate {
    /// Chance that a sector written since it was last durable shows one of its newer values.
    pub(crate) kept: f64,
    /// Chance that it becomes unreadable, tried first.
    pub(crate) torn: f64,
}

impl PowerSupply {
    /// A supply that is on; what a cut spares follows from `seed`.
    pub fn new(seed: u64) -> Self {
        let state = State {
            random: ChaCha8Rng::seed_from_u64(seed),
            powered: true,
            generation: 0,
            steps: 0,
            cut_at: None,
            tearing: true,
            caches: Vec::new(),
        };
        Self {
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// Cuts the power now.
    pub fn cut(&self) {
        self.lock().powered = false;
    }

    /// Cuts the power when `steps` more writes, discards, write-zeroes and flushes have been submitted, on whichever
    /// disk: the next one after them is still in flight at that instant. Zero cuts at the very next one.
    pub fn cut_after(&self, steps: u64) {
        let mut state = self.lock();
        state.cut_at = Some(state.steps + steps);
    }

    /// Whether the power is on.
    pub fn is_on(&self) -> bool {
        self.lock().powered
    }

    /// Writes, discards, write-zeroes and flushes submitted so far: the instants at which a cut makes a difference.
    pub fn steps(&self) -> u64 {
        self.lock().steps
    }

    /// Whether sectors can be torn (they can, unless told otherwise). A torn sector is unreadable until it is written.
    pub fn set_tearing(&self, tearing: bool) {
        self.lock().tearing = tearing;
    }

    /// The process that uses the disks is gone, and they are not: what they have completed stays, what was in flight may
    /// be there. New queues can be opened.
    pub fn restart(&self) {
        let state = &mut *self.lock();
        let caches: Vec<_> = state.caches.iter().filter_map(Weak::upgrade).collect();
        for cache in caches {
            lock(&cache).land(&mut state.random);
        }
        state.powered = true;
        state.cut_at = None;
        state.generation += 1;
    }

    /// Lets the disks run again with what survived. Without a cut before, it makes one.
    pub fn power_on(&self) {
        let state = &mut *self.lock();
        let caches: Vec<_> = state.caches.iter().filter_map(Weak::upgrade).collect();
        for cache in caches {
            let fate = state.fate();
            lock(&cache).settle(fate, &mut state.random);
        }
        state.powered = true;
        state.cut_at = None;
        state.generation += 1;
    }

    /// The generation of a queue that is opened now, if there is power.
    fn generation(&self) -> Option<u64> {
        let state = self.lock();
        state.powered.then_some(state.generation)
    }

    fn is_alive(&self, generation: u64) -> bool {
        self.generation() == Some(generation)
    }

    /// Counts a step and cuts the power if it is the one.
    fn step(&self) {
        let mut state = self.lock();
        if state.cut_at.is_some_and(|at| at <= state.steps) {
            state.powered = false;
        }
        state.steps += 1;
    }

    fn add(&self, cache: &Arc<Mutex<Cache>>) {
        self.lock().caches.push(Arc::downgrade(cache));
    }

    fn choose(&self, below: u32) -> u32 {
        self.lock().random.random_range(0..below)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl State {
    /// Extremes happen as often as mixtures: everything lost, everything kept, all torn.
    fn fate(&mut self) -> Fate {
        let (kept, torn) = match self.random.random_range(0..6) {
            0 => (0.0, 0.0),
            1 => (1.0, 0.0),
            2 => (0.5, 0.0),
            3 => (0.0, 1.0),
            4 => (0.5, 0.1),
            _ => (0.8, 0.3),
        };
        let torn = if self.tearing { torn } else { 0.0 };
        Fate { kept, torn }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
