//! The one thing a layer asks of the executor it runs on.

use std::rc::Rc;
use std::task::Poll;

use crate::LocalBoxFuture;

/// Runs tasks to their end on the thread that owns the queue.
pub trait Spawn {
    /// Takes `task` and polls it until it is done, whoever else has lost interest.
    fn spawn(&self, task: LocalBoxFuture<'static, ()>);
}

/// An executor, shared by the queues of its thread.
pub type Spawner = Rc<dyn Spawn>;

/// Lets every other ready task of the executor run first.
pub fn yield_now() -> impl Future<Output = ()> {
    let mut yielded = false;
    std::future::poll_fn(move |context| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
}
