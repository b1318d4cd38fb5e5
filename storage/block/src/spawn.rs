//! What a layer asks of the executor it runs on: to run its tasks, and to tell how time goes by.

use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use crate::LocalBoxFuture;

/// Runs tasks to their end on the thread that owns the queue.
pub trait Spawn {
    /// Takes `task` and polls it until it is done, whoever else has lost interest.
    fn spawn(&self, task: LocalBoxFuture<'static, ()>);

    /// Time since a moment that stays the same while the process lives. It never goes back, and a simulation moves it as
    /// it likes.
    fn now(&self) -> Duration;

    /// Waits until at least `duration` has passed. Costs nothing while nobody waits.
    fn sleep(&self, duration: Duration) -> LocalBoxFuture<'static, ()>;
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
