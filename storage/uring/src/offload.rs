//! System calls that block and that the ring does not know: done on a thread of their own.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use futures_channel::oneshot;

/// The most threads at once. They are made for one call each: what needs them is rare and slow.
const MAX_OFFLOADED: usize = 16;

static RUNNING: AtomicUsize = AtomicUsize::new(0);

/// One of the threads that may run.
struct Place;

impl Place {
    fn take() -> Option<Self> {
        let place = (RUNNING.fetch_add(1, Ordering::Relaxed) < MAX_OFFLOADED).then_some(Self);
        if place.is_none() {
            RUNNING.fetch_sub(1, Ordering::Relaxed);
        }
        place
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        RUNNING.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Runs `work` on another thread, or on this one if there are no more to be had. The work is done whether or not anybody
/// waits for its answer, which is missing only if it panics.
pub(crate) fn offload<T: Send + 'static>(
    work: impl Fn() -> T + Send + Sync + 'static,
) -> oneshot::Receiver<T> {
    let (answer, receiver) = oneshot::channel();
    let work = std::sync::Arc::new(work);
    let Some(place) = Place::take() else {
        let _ = answer.send(work());
        return receiver;
    };
    let theirs = work.clone();
    let run = move || {
        let result = theirs();
        drop(place);
        let _ = answer.send(result);
    };
    match thread::Builder::new()
        .name("weft-offload".into())
        .spawn(run)
    {
        Ok(_) => receiver,
        Err(_) => {
            let (answer, receiver) = oneshot::channel();
            let _ = answer.send(work());
            receiver
        }
    }
}
