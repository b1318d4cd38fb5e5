//! The one thing a layer asks of the executor it runs on.

use std::rc::Rc;

use crate::LocalBoxFuture;

/// Runs tasks to their end on the thread that owns the queue.
pub trait Spawn {
    /// Takes `task` and polls it until it is done, whoever else has lost interest.
    fn spawn(&self, task: LocalBoxFuture<'static, ()>);
}

/// An executor, shared by the queues of its thread.
pub type Spawner = Rc<dyn Spawn>;
