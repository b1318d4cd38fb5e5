//! What an array does in the background: it is made whole after a crash or a loss, and laid to rest when nothing is
//! written.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_channel::mpsc;
use futures_util::{FutureExt, StreamExt, select_biased};
use weft_raid::superblock::Timestamp;
use weft_raid::{Array, Progress};
use weft_uring::{ShardHandle, sleep, spawner, yield_now};

/// How often an array is laid to rest, as md does.
const TICK: Duration = Duration::from_secs(5);
/// How long to wait after a step that failed before the next.
const RETRY: Duration = Duration::from_secs(5);
/// Bytes of each member in a step. Foreground requests elsewhere go on beside it.
const STEP: u64 = 1 << 20;
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
pub(super) struct Upkeep {
    wake: mpsc::Sender<()>,
    meter: Arc<Mutex<Meter>>,
    ended: futures_channel::oneshot::Receiver<()>,
}

impl Upkeep {
    /// Starts the work on the array's shard.
    pub(super) fn start(array: &Array, home: &ShardHandle) -> Self {
        let (wake, woken) = mpsc::channel(1);
        let meter = Arc::<Mutex<Meter>>::default();
        let keeper = Keeper {
            array: array.clone(),
            meter: meter.clone(),
            woken,
        };
        let ended = home.run(move || keeper.run());
        Self { wake, meter, ended }
    }

    /// Says that there may be something to do.
    pub(super) fn wake(&mut self) {
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
    pub(super) async fn end(self) {
        drop(self.wake);
        let _ = self.ended.await;
    }
}

struct Keeper {
    array: Array,
    meter: Arc<Mutex<Meter>>,
    woken: mpsc::Receiver<()>,
}

/// What a wait came to.
enum Wake {
    Tick,
    Work,
    End,
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
        loop {
            match syncer.step(STEP).await {
                Ok(progress) if progress.is_idle() => break,
                Ok(progress) => self.note(progress),
                Err(error) => {
                    let name = self.array.name();
                    tracing::warn!(
                        array = name,
                        error = error.sentence(),
                        "a rebuild step failed"
                    );
                    if matches!(self.wait(RETRY).await, Wake::End) {
                        return false;
                    }
                }
            }
            if ticked.elapsed() >= TICK {
                self.tick().await;
                ticked = Instant::now();
            }
            if matches!(self.woken.next().now_or_never(), Some(None)) {
                return false;
            }
            yield_now().await;
        }
        *self.meter.lock().unwrap_or_else(PoisonError::into_inner) = Meter::default();
        // What was made whole is recorded at once, not at the next tick.
        self.tick().await;
        true
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
