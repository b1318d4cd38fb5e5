//! What an array does in the background: it is made whole after a crash or a loss, and laid to rest when nothing is
//! written.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_channel::mpsc;
use futures_util::{FutureExt, StreamExt, select_biased};
use weft_raid::superblock::Timestamp;
use weft_raid::{Array, Progress, Syncer};
use weft_uring::{ShardHandle, sleep, spawner, yield_now};

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
    samples: VecDeque<(Instant, u64)>,
}

impl Meter {
    fn note(&mut self, done: u64, at: Instant) {
        let is_new = self.samples.back().is_none_or(|&(last, before)| {
            done < before || at.duration_since(last) >= SAMPLE_PERIOD
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
            .is_some_and(|&(first, _)| at.duration_since(first) > RATE_WINDOW)
        {
            self.samples.pop_front();
        }
    }

    /// Bytes a second, once it can be told.
    pub(super) fn rate(&self) -> Option<u64> {
        let (&(first, from), &(last, to)) = (self.samples.front()?, self.samples.back()?);
        let micros = u64::try_from(last.duration_since(first).as_micros()).ok()?;
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
    ended: futures_channel::oneshot::Receiver<()>,
}

impl Upkeep {
    /// Starts the work on the array's shard.
    pub fn start(array: &Array, home: &ShardHandle, pace: Pace) -> Self {
        let (wake, woken) = mpsc::channel(1);
        let meter = Arc::<Mutex<Meter>>::default();
        let pace = Arc::new(Mutex::new(pace));
        let keeper = Keeper {
            array: array.clone(),
            meter: meter.clone(),
            pace: pace.clone(),
            woken,
        };
        let ended = home.run(move || keeper.run());
        Self {
            wake,
            meter,
            pace,
            ended,
        }
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

struct Keeper {
    array: Array,
    meter: Arc<Mutex<Meter>>,
    pace: Arc<Mutex<Pace>>,
    woken: mpsc::Receiver<()>,
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
    async fn run(mut self) {
        loop {
            if !self.make_whole().await {
                return;
            }
            match self.wait(TICK).await {
                Wake::Tick => self.tick().await,
                Wake::Work => {}
                Wake::End => return,
            }
        }
    }

    async fn wait(&mut self, limit: Duration) -> Wake {
        select_biased! {
            woken = self.woken.next() => if woken.is_some() { Wake::Work } else { Wake::End },
            () = sleep(limit).fuse() => Wake::Tick,
        }
    }

    async fn tick(&self) {
        if let Err(error) = self.array.tick(now(), &spawner()).await {
            tracing::warn!(
                array = self.array.name(),
                error = error.sentence(),
                "no rest"
            );
        }
    }

    /// Steps until nothing is left to do; tells whether to go on living.
    async fn make_whole(&mut self) -> bool {
        if self.array.progress().is_idle() {
            return true;
        }
        let syncer = match self.array.syncer(&spawner()) {
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
        let mut ticked = Instant::now();
        let mut requests = self.array.requests();
        // Nobody is known to have been there: as after a pause.
        let mut last_seen = Instant::now();
        let mut busy = false;
        loop {
            let pace = *self.pace.lock().unwrap_or_else(PoisonError::into_inner);
            let rest = match pace.paused {
                true => TICK,
                false => {
                    let quiet = if busy {
                        Duration::ZERO
                    } else {
                        last_seen.elapsed()
                    };
                    let (bytes, begun) = (pace.step(quiet), Instant::now());
                    match self.step(&syncer, bytes).await {
                        Stepped::Done => break,
                        Stepped::On => pace.rest(bytes, begun.elapsed(), busy),
                        Stepped::Failed => RETRY,
                    }
                }
            };
            if ticked.elapsed() >= TICK {
                self.tick().await;
                ticked = Instant::now();
            }
            if !self.rest(rest).await {
                return false;
            }
            let seen = self.array.requests();
            (busy, requests) = (seen != requests, seen);
            if busy {
                last_seen = Instant::now();
            }
        }
        *self.meter.lock().unwrap_or_else(PoisonError::into_inner) = Meter::default();
        // What was made whole is recorded at once, not at the next tick.
        self.tick().await;
        true
    }

    async fn step(&self, syncer: &Syncer, bytes: u64) -> Stepped {
        match syncer.step(bytes).await {
            Ok(progress) if progress.is_idle() => Stepped::Done,
            Ok(progress) => {
                self.note(progress);
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
    async fn rest(&mut self, time: Duration) -> bool {
        if time.is_zero() {
            yield_now().await;
            return !matches!(self.woken.next().now_or_never(), Some(None));
        }
        !matches!(self.wait(time).await, Wake::End)
    }

    fn note(&self, progress: Progress) {
        let mut meter = self.meter.lock().unwrap_or_else(PoisonError::into_inner);
        meter.note(progress.done, Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_last_seconds() {
        let mut meter = Meter::default();
        let start = Instant::now();
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
