//! Requests that take several steps.

use futures_channel::oneshot;
use weft_block::{Completion, Error, ErrorKind, IoVec, LocalBoxFuture, Spawner};

/// Runs `work` as a task of its own, to the end whoever waits.
pub(crate) fn spawn(
    spawner: &Spawner,
    work: impl Future<Output = Completion> + 'static,
) -> LocalBoxFuture<'static, Completion> {
    let (sender, receiver) = oneshot::channel();
    spawner.spawn(Box::pin(async move {
        // Nobody listens when the submitter has lost interest.
        let _ = sender.send(work.await);
    }));
    Box::pin(async move {
        receiver.await.unwrap_or_else(|_| Completion {
            result: Err(Error::new(ErrorKind::Offline, "the executor has ended")),
            buffer: IoVec::empty(),
        })
    })
}
