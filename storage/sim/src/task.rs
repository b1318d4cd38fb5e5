//! A handle on a spawned task.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_channel::oneshot;

/// The result of a task that [`Executor::spawn`](crate::Executor::spawn) started. Dropping it detaches the task.
#[derive(Debug)]
pub struct Task<T> {
    result: oneshot::Receiver<T>,
}

impl<T: 'static> Task<T> {
    /// Wraps `future` so that its output arrives here.
    pub(crate) fn wrap(
        future: impl Future<Output = T> + 'static,
    ) -> (Self, impl Future<Output = ()> + 'static) {
        let (sender, result) = oneshot::channel();
        let body = async move {
            // Nobody listens when the task was detached.
            let _ = sender.send(future.await);
        };
        (Self { result }, body)
    }
}

impl<T> Future for Task<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        Pin::new(&mut self.result)
            .poll(context)
            .map(|result| result.expect("the executor is gone and its tasks with it"))
    }
}
