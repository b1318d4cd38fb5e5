//! What an array does in the background: it is made whole after a crash or a loss, and laid to rest when nothing is
//! written.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_channel::{mpsc, oneshot};
use futures_util::{FutureExt, StreamExt, select_biased};
use weft_block::{Spawner, yield_now};
use weft_raid::superblock::Timestamp;
use weft_raid::{Array, Progress, Syncer};
use weft_uring::{ShardHandle, spawner};

use super::pace::Pace;

/// How often an array is laid to rest, as md does.
const TICK: Duration = Duration::from_secs(5);
/// How long to wait after a step that failed before the next.
const RETRY: Duration = Duration::from_secs(5);
/// The rate is that of the last samples over this time.
const RATE_WINDOW: Duration = Duration::from_secs(3);
const SAMPLE_PERIOD: Duration = Duration::from_millis(100);

/// The time as superblocks keep it.
pub(super) fn now() -> Timestamp {
    let since = super::unix_time();
    Timestamp::new(since.as_secs(), since.subsec_micros())
}

/// How fast a background action has been of late.
#[derive(Default)]
pub(super) struct Meter {
    /// When, and bytes that were done.
    samples: VecDeque<(Duration, u64)>,
}

impl Meter {
    pub(super) fn note(&mut self, done: u64, at: Duration) {
        let is_new = self.samples.back().is_none_or(|&(last, before)| {
            done < before || at.saturating_sub(last) >= SAMPLE_PERIOD
        });
        if !is_new {
            return;
        }
        if self
            .samples
            .back()
            .is_some_and(|&(_, before)| done < before)
        {
            self.samples.clear();
        }
        self.samples.push_back((at, done));
        while self
            .samples
            .front()
            .is_some_and(|&(first, _)| at.saturating_sub(first) > RATE_WINDOW)
        {
            self.samples.pop_front();
        }
    }

    /// Bytes a second, once it can be told.
    pub(super) fn rate(&self) -> Option<u64> {
        let (&(first, from), &(last, to)) = (self.samples.front()?, self.samples.back()?);
        let micros = u64::try_from(last.saturating_sub(first).as_micros()).ok()?;
        if micros == 0 {
            return None;
        }
        u64::try_from(u128::from(to - from) * 1_000_000 / u128::from(micros)).ok()
    }
}

/// The background work of one array. It ends when this is dropped.
pub struct Upkeep {
    wake: mpsc::Sender<()>,
    meter: Arc<Mutex<Meter>>,
    pace: Arc<Mutex<Pace>>,
    ended: oneshot::Receiver<()>,
}

impl Upkeep {
    /// Starts the work on the array's shard.
    pub(super) fn start(array: &Array, home: &ShardHandle, pace: Pace) -> Self {
        let (upkeep, keeper) = Self::of(array, pace);
        drop(home.run(move || keeper.run(spawner())));
        upkeep
    }

    /// The work, to be run by whoever has an executor.
    pub fn of(array: &Array, pace: Pace) -> (Self, Keeper) {
        let (wake, woken) = mpsc::channel(1);
        let (end, ended) = oneshot::channel();
        let meter = Arc::<Mutex<Meter>>::default();
        let pace = Arc::new(Mutex::new(pace));
        let keeper = Keeper {
            array: array.clone(),
            meter: meter.clone(),
            pace: pace.clone(),
            woken,
            _end: end,
        };
        let upkeep = Self {
            wake,
            meter,
            pace,
            ended,
        };
        (upkeep, keeper)
    }

    /// How fast it may go.
    pub(super) fn pace(&self) -> Pace {
        *self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says how fast it may go from now on.
    pub fn set_pace(&mut self, pace: Pace) {
        *self.pace.lock().unwrap_or_else(PoisonError::into_inner) = pace;
        self.wake();
    }

    /// Says that there may be something to do.
    pub fn wake(&mut self) {
        // A full channel says so already.
        let _ = self.wake.try_send(());
    }

    /// Bytes a second of late.
    pub(super) fn rate(&self) -> Option<u64> {
        self.meter
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .rate()
    }

    /// Ends the work and waits for the step that is under way.
    pub async fn end(self) {
        drop(self.wake);
        let _ = self.ended.await;
    }
}

/// Does the background work of one array.
pub struct Keeper {
    array: Array,
    meter: Arc<Mutex<Meter>>,
    pace: Arc<Mutex<Pace>>,
    woken: mpsc::Receiver<()>,
    /// Dropped when the work has ended.
    _end: oneshot::Sender<()>,
}

/// What a wait came to.
enum Wake {
    Tick,
    Work,
    End,
}

/// What a step came to.
enum Stepped {
    /// Nothing is left to do.
    Done,
    On,
    Failed,
}

impl Keeper {
    /// Works until its upkeep is dropped, by the time of the executor.
    pub async fn run(mut self, spawner: Spawner) {
        loop {
            if !self.make_whole(&spawner).await {
                return;
            }
            match self.wait(TICK, &spawner).await {
                Wake::Tick => self.tick(&spawner).await,
                Wake::Work => {}
                Wake::End => return,
            }
        }
    }

    async fn wait(&mut self, limit: Duration, spawner: &Spawner) -> Wake {
        select_biased! {
            woken = self.woken.next() => if woken.is_some() { Wake::Work } else { Wake::End },
            () = spawner.sleep(limit).fuse() => Wake::Tick,
        }
    }

    async fn tick(&self, spawner: &Spawner) {
        if let Err(error) = self.array.tick(now(), spawner).await {
            tracing::warn!(
                array = self.array.name(),
                error = error.sentence(),
                "no rest"
            );
        }
    }

    /// Steps until nothing is left to do; tells whether to go on living.
    async fn make_whole(&mut self, spawner: &Spawner) -> bool {
        if self.array.progress().is_idle() {
            return true;
        }
        let syncer = match self.array.syncer(spawner) {
            Ok(syncer) => syncer,
            Err(error) => {
                tracing::warn!(
                    array = self.array.name(),
                    error = error.sentence(),
                    "no resync"
                );
                return true;
            }
        };
        let mut ticked = spawner.now();
        let mut requests = self.array.requests();
        // Nobody is known to have been there: as after a pause.
        let mut last_seen = spawner.now();
        let mut busy = false;
        loop {
            let pace = *self.pace.lock().unwrap_or_else(PoisonError::into_inner);
            let rest = match pace.paused {
                true => TICK,
                false => {
                    let begun = spawner.now();
                    let quiet = match busy {
                        true => Duration::ZERO,
                        false => begun - last_seen,
                    };
                    let bytes = pace.step(quiet);
                    match self.step(&syncer, bytes, spawner).await {
                        Stepped::Done => break,
                        Stepped::On => pace.rest(bytes, spawner.now() - begun, busy),
                        Stepped::Failed => RETRY,
                    }
                }
            };
            if spawner.now() - ticked >= TICK {
                self.tick(spawner).await;
                ticked = spawner.now();
            }
            if !self.rest(rest, spawner).await {
                return false;
            }
            let seen = self.array.requests();
            (busy, requests) = (seen != requests, seen);
            if busy {
                last_seen = spawner.now();
            }
        }
        *self.meter.lock().unwrap_or_else(PoisonError::into_inner) = Meter::default();
        // What was made whole is recorded at once, not at the next tick.
        self.tick(spawner).await;
        true
    }

    async fn step(&self, syncer: &Syncer, bytes: u64, spawner: &Spawner) -> Stepped {
        match syncer.step(bytes).await {
            Ok(progress) if progress.is_idle() => Stepped::Done,
            Ok(progress) => {
                self.note(progress, spawner.now());
                Stepped::On
            }
            Err(error) => {
                tracing::warn!(
                    array = self.array.name(),
                    error = error.sentence(),
                    "a rebuild step failed"
                );
                Stepped::Failed
            }
        }
    }

    /// Lets others go first; tells whether to go on living. Somebody who wakes it ends the rest.
    async fn rest(&mut self, time: Duration, spawner: &Spawner) -> bool {
        if time.is_zero() {
            yield_now().await;
            return !matches!(self.woken.next().now_or_never(), Some(None));
        }
        !matches!(self.wait(time, spawner).await, Wake::End)
    }

    fn note(&self, progress: Progress, at: Duration) {
        let mut meter = self.meter.lock().unwrap_or_else(PoisonError::into_inner);
        meter.note(progress.done, at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_last_seconds() {
        let mut meter = Meter::default();
        let start = Duration::from_secs(100);
        assert_eq!(meter.rate(), None);
        for second in 0..10 {
            let done = if second < 5 {
                second * 10
            } else {
                50 + (second - 5) * 1000
            };
            meter.note(done, start + Duration::from_secs(second));
        }
        assert_eq!(meter.rate(), Some(1000));
        meter.note(0, start + Duration::from_secs(11));
        assert_eq!(meter.rate(), None, "another action has begun");
    }
}
