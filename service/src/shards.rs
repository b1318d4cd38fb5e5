//! The threads that stacks of devices live on. A stack is everything that rests on the same disks: its layers and the
//! sockets that serve it share one shard, so that a request never changes threads.

use std::sync::Mutex;

use weft_uring::{Shard, ShardHandle};

use crate::api::{Error, ErrorKind, Result};

/// More stacks than this share threads: the work is I/O, and the threads wait for it together.
const SHARDS_MAX: usize = 4;

/// The daemon's shards, started as they are needed.
pub struct Shards {
    running: Mutex<Running>,
    limit: usize,
}

struct Running {
    shards: Vec<Shard>,
    placed: usize,
}

impl Shards {
    /// No shard yet.
    pub fn none_yet() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let running = Running {
            shards: Vec::new(),
            placed: 0,
        };
        Self {
            running: Mutex::new(running),
            limit: cores.min(SHARDS_MAX),
        }
    }

    /// A home for a new stack: the shards take turns.
    ///
    /// # Errors
    /// `Io` if the system gives no thread.
    pub fn place(&self) -> Result<ShardHandle> {
        let mut running = self.running.lock().expect("nobody panics while holding it");
        let place = running.placed % self.limit;
        if place >= running.shards.len() {
            let shard = Shard::start(&format!("weft-io-{place}")).map_err(|error| {
                Error::from_io("daemon", "no I/O thread can be started", &error)
            })?;
            running.shards.push(shard);
        }
        running.placed += 1;
        Ok(running.shards[place].handle())
    }
}

/// Runs a future on the shard that `object` lives on.
///
/// # Errors
/// `Io` if the shard has ended, otherwise what the future answers.
pub async fn on<T, F>(
    home: &ShardHandle,
    object: &str,
    make: impl FnOnce() -> F + Send + 'static,
) -> Result<T>
where
    T: Send + 'static,
    F: Future<Output = Result<T, weft_block::Error>> + 'static,
{
    match home.run(make).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(Error::from_block(object, &error)),
        Err(_) => Err(Error::new(
            ErrorKind::Io,
            object,
            format!("the I/O thread of {object} has ended; restart the daemon"),
        )),
    }
}
