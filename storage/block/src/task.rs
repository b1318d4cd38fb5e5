//! Requests that go on whoever waits for them.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use futures_channel::oneshot;

use crate::{Completion, Error, ErrorKind, IoVec, LocalBoxFuture, Spawner};

/// Runs `work` as a task of its own, to the end whoever waits for its completion.
pub fn detached(
    spawner: &Spawner,
    work: impl Future<Output = Completion> + 'static,
) -> LocalBoxFuture<'static, Completion> {
    let (sender, receiver) = oneshot::channel();
    spawner.spawn(Box::pin(async move {
        // Nobody listens when the submitter has lost interest.
        let _ = sender.send(work.await);
    }));
    Box::pin(answered(receiver))
}

/// What a task that runs a request answers.
pub async fn answered(receiver: oneshot::Receiver<Completion>) -> Completion {
    receiver.await.unwrap_or_else(|_| Completion {
        result: Err(Error::new(ErrorKind::Offline, "the executor has ended")),
        buffer: IoVec::empty(),
    })
}

/// A request that was passed on, with what is held until it has ended, whoever waits for that. Without a task of its own,
/// unless its submitter loses interest.
pub struct Along<F, K>
where
    F: Future<Output = Completion> + Unpin + 'static,
    K: Unpin + 'static,
{
    sent: Option<(F, K)>,
    spawner: Spawner,
}

impl<F, K> Along<F, K>
where
    F: Future<Output = Completion> + Unpin + 'static,
    K: Unpin + 'static,
{
    /// Holds `kept` until `sent` is answered.
    pub fn new(spawner: &Spawner, sent: F, kept: K) -> Self {
        Self {
            sent: Some((sent, kept)),
            spawner: Rc::clone(spawner),
        }
    }
}

impl<F, K> Future for Along<F, K>
where
    F: Future<Output = Completion> + Unpin + 'static,
    K: Unpin + 'static,
{
    type Output = Completion;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Completion> {
        let Some((sent, _)) = &mut self.sent else {
            return Poll::Pending;
        };
        let completion = ready!(Pin::new(sent).poll(context));
        self.sent = None;
        Poll::Ready(completion)
    }
}

impl<F, K> Drop for Along<F, K>
where
    F: Future<Output = Completion> + Unpin + 'static,
    K: Unpin + 'static,
{
    fn drop(&mut self) {
        if let Some((sent, kept)) = self.sent.take() {
            // Nobody waits for it any more, but it goes on.
            self.spawner.spawn(Box::pin(async move {
                drop(sent.await);
                drop(kept);
            }));
        }
    }
}
