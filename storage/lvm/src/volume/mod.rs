//! A logical volume as a block device.

mod map;
#[cfg(test)]
mod power;
mod queue;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use weft_block::{BlockDevice, BlockQueue, Info, Result, Spawner};

pub(crate) use map::Map;
use queue::Queue;

/// A logical volume: ranges are mapped through its segments onto the physical volumes.
///
/// A request inside one segment (and chunk, if it is striped) goes straight to the device below; others are split, with
/// the parts of one device joined, and no data copied. A flush goes to every physical volume the volume rests on.
/// The size may change while queues are open.
pub struct Volume {
    shared: Arc<Shared>,
}

/// What queues look at.
struct Shared {
    map: Mutex<Arc<Map>>,
    /// Counts the changes of `map`.
    version: AtomicU64,
    /// Cloned by each queue.
    open: Arc<()>,
}

impl Volume {
    pub(crate) fn new(map: Map) -> Self {
        Self {
            shared: Arc::new(Shared {
                map: Mutex::new(Arc::new(map)),
                version: AtomicU64::new(0),
                open: Arc::new(()),
            }),
        }
    }

    /// The name, `VG/LV`.
    pub fn name(&self) -> String {
        self.shared.lock().name.clone()
    }

    /// Whether a queue is open on it.
    pub fn is_in_use(&self) -> bool {
        Arc::strong_count(&self.shared.open) > 1
    }

    /// Lets queues use another map from their next request on.
    pub(crate) fn set_map(&self, map: Map) {
        *self.shared.lock() = Arc::new(map);
        self.shared.version.fetch_add(1, Ordering::Release);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Arc<Map>> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BlockDevice for Volume {
    fn info(&self) -> Info {
        self.shared.lock().info.clone()
    }

    fn open(&self, spawner: &Spawner) -> Result<Box<dyn BlockQueue>> {
        let queue = Queue::open(Arc::clone(&self.shared), spawner)?;
        Ok(Box::new(queue))
    }

    fn max_queues(&self) -> usize {
        let map = Arc::clone(&self.shared.lock());
        let below = map.devices.iter().map(|device| device.max_queues());
        below.min().unwrap_or(usize::MAX)
    }
}
