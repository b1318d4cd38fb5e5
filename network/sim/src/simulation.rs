//! The virtual clock and its events.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::{Duration, SystemTime};

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// Where the wall clock stands when a simulation starts: 2020-09-13T12:26:40Z.
const WALL_START: Duration = Duration::from_secs(1_600_000_000);

/// A virtual clock, the events to come, and the source of all chance.
///
/// Events of the same instant come in the order in which they were scheduled.
#[derive(Debug)]
pub struct Simulation<E> {
    now: Duration,
    order: BinaryHeap<Reverse<(Duration, u64)>>,
    events: BTreeMap<u64, E>,
    scheduled: u64,
    rng: ChaCha8Rng,
}

impl<E> Simulation<E> {
    /// A clock at zero, and chance that follows from `seed`.
    pub fn new(seed: u64) -> Self {
        Self {
            now: Duration::ZERO,
            order: BinaryHeap::new(),
            events: BTreeMap::new(),
            scheduled: 0,
            rng: ChaCha8Rng::seed_from_u64(seed),
        }
    }

    /// The time since the start.
    pub fn now(&self) -> Duration {
        self.now
    }

    /// The same instant as a wall clock shows it.
    pub fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + WALL_START + self.now
    }

    /// The instant of the simulation at which the wall clock shows `time`; zero for any earlier one.
    pub fn instant_of(time: SystemTime) -> Duration {
        time.duration_since(SystemTime::UNIX_EPOCH + WALL_START)
            .unwrap_or_default()
    }

    /// The source of chance.
    pub fn rng(&mut self) -> &mut ChaCha8Rng {
        &mut self.rng
    }

    /// Lets `event` happen at `at`, or now if that has passed.
    pub fn schedule(&mut self, at: Duration, event: E) {
        self.order.push(Reverse((at.max(self.now), self.scheduled)));
        self.events.insert(self.scheduled, event);
        self.scheduled += 1;
    }

    /// Lets `event` happen after `delay`.
    pub fn schedule_after(&mut self, delay: Duration, event: E) {
        self.schedule(self.now + delay, event);
    }

    /// Moves the clock to the earliest event and gives it; nothing if there is none before `end`, and then the clock
    /// stands at `end`.
    pub fn next(&mut self, end: Duration) -> Option<E> {
        match self.order.peek() {
            Some(&Reverse((at, number))) if at <= end => {
                self.order.pop();
                self.now = at;
                self.events.remove(&number)
            }
            _ => {
                self.now = self.now.max(end);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Impairment, Link};

    #[test]
    fn events_come_in_order_of_time_then_of_scheduling() {
        let mut simulation = Simulation::new(1);
        let second = Duration::from_secs(1);
        simulation.schedule(2 * second, 'c');
        simulation.schedule(second, 'a');
        simulation.schedule(second, 'b');
        simulation.schedule(9 * second, 'z');
        let mut seen = String::new();
        while let Some(event) = simulation.next(5 * second) {
            seen.push(event);
        }
        assert_eq!(seen, "abc");
        assert_eq!(simulation.now(), 5 * second);
        assert_eq!(Simulation::<()>::instant_of(simulation.wall()), 5 * second);
    }

    #[test]
    fn a_seed_replays_a_run() {
        let run = |seed| {
            let mut simulation: Simulation<u32> = Simulation::new(seed);
            let mut link = Link::new(Impairment::bad());
            for n in 0..100 {
                for at in link.carry(100, simulation.now(), simulation.rng()) {
                    simulation.schedule(at, n);
                }
            }
            let mut seen = Vec::new();
            while let Some(n) = simulation.next(Duration::from_secs(60)) {
                seen.push((simulation.now(), n));
            }
            seen
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }
}
