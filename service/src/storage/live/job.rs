//! What is done to an image in the background while it is used: at a pace, in steps, until it is done, given up or fails.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_channel::{mpsc, oneshot};
use futures_util::{FutureExt, StreamExt, select_biased};
use serde::{Deserialize, Serialize};
use weft_block::{LocalBoxFuture, Spawner, Switch, yield_now};
use weft_uring::{ShardHandle, spawner};

use crate::api::{Error, ErrorKind, RaidSync, Result, Sync, SyncAction};
use crate::storage::pace::{LEAST_CEILING, Pace};
use crate::storage::rebuild::Meter;

/// How long a paused job sleeps before it looks again, unless it is woken.
const LONG: Duration = Duration::from_secs(60);

/// What the store keeps of a job.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct JobRecord {
    pub(super) action: SyncAction,
    #[serde(default)]
    pub(super) pace: Pace,
    /// The other DISK that it is about: where a mirror goes, down to which image others go.
    #[serde(default)]
    pub(super) to: Option<String>,
    /// Whether the image itself is left on top by a commit of those below it.
    #[serde(default)]
    pub(super) below: bool,
}

impl JobRecord {
    /// A job of the image `disk` that is to go as it is `wanted`.
    ///
    /// # Errors
    /// `Invalid` for a ceiling under which no step can be done.
    pub(super) fn new(
        action: SyncAction,
        to: Option<&str>,
        disk: &str,
        wanted: &RaidSync,
    ) -> Result<Self> {
        Ok(Self {
            action,
            pace: paced(Pace::default(), disk, wanted)?,
            to: to.map(str::to_owned),
            below: false,
        })
    }
}

/// Work that is done in steps on an image's shard.
pub(super) trait Work {
    /// Does the next `bytes` of it; tells whether all is done.
    fn step<'a>(
        &'a mut self,
        bytes: u64,
        spawner: &'a Spawner,
    ) -> LocalBoxFuture<'a, weft_block::Result<bool>>;

    /// Bytes that are done.
    fn done(&self) -> u64;
}

/// The pace after `wanted`; what that does not say stays as it is.
///
/// # Errors
/// `Invalid` for a ceiling under which no step can be done.
fn paced(mut pace: Pace, disk: &str, wanted: &RaidSync) -> Result<Pace> {
    pace.paused = wanted.paused.unwrap_or(pace.paused);
    pace.floor = wanted.floor_bytes.unwrap_or(pace.floor);
    if let Some(ceiling) = wanted.ceiling_bytes {
        pace.ceiling = Some(ceiling).filter(|bytes| *bytes > 0);
    }
    if pace.ceiling.is_some_and(|bytes| bytes < LEAST_CEILING) {
        let message = format!("{disk}: a ceiling is {LEAST_CEILING} bytes a second at least");
        return Err(Error::new(ErrorKind::Invalid, disk, message));
    }
    Ok(pace)
}

/// A job under way. Its work ends when this is dropped.
pub(super) struct Job {
    pub(super) action: SyncAction,
    record: JobRecord,
    shared: Arc<Shared>,
    wake: mpsc::Sender<()>,
    ended: oneshot::Receiver<()>,
}

struct Shared {
    done: AtomicU64,
    total: u64,
    pace: Mutex<Pace>,
    meter: Mutex<Meter>,
    outcome: Mutex<Option<weft_block::Result<()>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Job {
    /// Starts work of `total` bytes that `make` gives on the shard; `ended` is told when it has come to an end.
    pub(super) fn start<W: Work + 'static>(
        record: JobRecord,
        total: u64,
        switch: &Switch,
        home: &ShardHandle,
        ended: &Arc<tokio::sync::Notify>,
        make: impl FnOnce() -> weft_block::Result<W> + Send + 'static,
    ) -> Self {
        let (wake, woken) = mpsc::channel(1);
        let (end, at_end) = oneshot::channel();
        let shared = Arc::new(Shared {
            done: AtomicU64::new(0),
            total,
            pace: Mutex::new(record.pace),
            meter: Mutex::default(),
            outcome: Mutex::default(),
        });
        let (mine, switch, ended) = (Arc::clone(&shared), switch.clone(), Arc::clone(ended));
        drop(home.run(move || async move {
            // Dropped last, when the work holds nothing any more.
            let _end = end;
            let outcome = match make() {
                Ok(work) => mine.run(work, &switch, woken, &spawner()).await,
                Err(error) => Some(Err(error)),
            };
            *lock(&mine.outcome) = outcome;
            ended.notify_one();
        }));
        Self {
            action: record.action,
            record,
            shared,
            wake,
            ended: at_end,
        }
    }

    /// What it came to, told once, when it has ended by itself.
    pub(super) fn outcome(&self) -> Option<weft_block::Result<()>> {
        lock(&self.shared.outcome).take()
    }

    /// Ends it and waits for the step that is under way.
    pub(super) async fn end(self) {
        drop(self.wake);
        let _ = self.ended.await;
    }

    /// What the store keeps of it.
    pub(super) fn record(&self) -> JobRecord {
        JobRecord {
            pace: *lock(&self.shared.pace),
            ..self.record.clone()
        }
    }

    /// Says how it is to go on.
    ///
    /// # Errors
    /// `Invalid` for a ceiling under which no step can be done.
    pub(super) fn set_pace(&mut self, disk: &str, wanted: &RaidSync) -> Result<()> {
        let pace = paced(*lock(&self.shared.pace), disk, wanted)?;
        *lock(&self.shared.pace) = pace;
        // A full channel says so already.
        let _ = self.wake.try_send(());
        Ok(())
    }

    /// How far it is.
    pub(super) fn describe(&self) -> Sync {
        let (shared, pace) = (&self.shared, *lock(&self.shared.pace));
        let done = shared.done.load(Ordering::Relaxed);
        let rate = lock(&shared.meter).rate();
        let left = shared.total.saturating_sub(done);
        Sync {
            action: self.action,
            done_bytes: done,
            total_bytes: shared.total,
            rate_bytes: rate,
            seconds_left: rate
                .filter(|rate| *rate > 0)
                .map(|rate| left.div_ceil(rate)),
            paused: pace.paused,
            floor_bytes: pace.floor,
            ceiling_bytes: pace.ceiling,
        }
    }
}

impl Shared {
    /// Steps until all is done; nothing if somebody has ended it.
    async fn run(
        &self,
        mut work: impl Work,
        switch: &Switch,
        mut woken: mpsc::Receiver<()>,
        spawner: &Spawner,
    ) -> Option<weft_block::Result<()>> {
        let mut requests = switch.requests();
        let (mut last_seen, mut busy) = (spawner.now(), false);
        loop {
            let pace = *lock(&self.pace);
            let rest = if pace.paused {
                LONG
            } else {
                let begun = spawner.now();
                let quiet = match busy {
                    true => Duration::ZERO,
                    false => begun - last_seen,
                };
                let bytes = pace.step(quiet);
                match work.step(bytes, spawner).await {
                    Ok(true) => return Some(Ok(())),
                    Ok(false) => {}
                    Err(error) => return Some(Err(error)),
                }
                self.done.store(work.done(), Ordering::Relaxed);
                lock(&self.meter).note(work.done(), spawner.now());
                pace.rest(bytes, spawner.now() - begun, busy)
            };
            if !rested(rest, &mut woken, spawner).await {
                return None;
            }
            let seen = switch.requests();
            (busy, requests) = (seen != requests, seen);
            if busy {
                last_seen = spawner.now();
            }
        }
    }
}

/// Lets others go first; tells whether to go on. Somebody who wakes it ends the rest.
async fn rested(time: Duration, woken: &mut mpsc::Receiver<()>, spawner: &Spawner) -> bool {
    if time.is_zero() {
        yield_now().await;
        return !matches!(woken.next().now_or_never(), Some(None));
    }
    select_biased! {
        woken = woken.next() => woken.is_some(),
        () = spawner.sleep(time).fuse() => true,
    }
}
