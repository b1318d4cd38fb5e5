//! Locks that a panicked thread does not poison, and the one event that ends a machine.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::error::Error;

/// Takes a lock. The data of all our locks is valid between any two statements, so a poisoned one is as good.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why one run of the machine ended.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The guest switched itself off.
    PoweredOff,
    /// The guest asked for a reset, or crashed the CPU (triple fault).
    Reset,
    /// Somebody outside asked for the end.
    Killed,
    /// The machine cannot go on.
    Failed(Error),
}

/// A place for the one event that ends a machine: the first counts.
#[derive(Debug, Default)]
pub(crate) struct StopCell {
    stop: Mutex<Option<Stop>>,
    changed: Condvar,
}

impl StopCell {
    /// Ends the machine, if it has not ended yet.
    pub(crate) fn set(&self, stop: Stop) {
        lock(&self.stop).get_or_insert(stop);
        self.changed.notify_all();
    }

    /// Waits for the end.
    pub(crate) fn wait(&self) -> Stop {
        let mut stop = lock(&self.stop);
        loop {
            match stop.take() {
                Some(stop) => return stop,
                None => {
                    stop = self
                        .changed
                        .wait(stop)
                        .unwrap_or_else(PoisonError::into_inner)
                }
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn take(&self) -> Option<Stop> {
        lock(&self.stop).take()
    }
}
