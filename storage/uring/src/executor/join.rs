//! Handles of tasks.

use std::any::Any;
use std::cell::RefCell;
use std::future::Future;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use futures_util::FutureExt;

use super::tasks::TaskId;
use super::{Core, tasks};

/// A task that was started. Awaiting it gives its output; dropping the handle lets it run on by itself.
///
/// If the task panicked, awaiting it raises the panic again.
#[must_use = "dropping the handle detaches the task; say so with `detach`"]
pub struct Task<T> {
    shared: Rc<Shared<T>>,
    id: TaskId,
    core: Weak<Core>,
}

struct Shared<T> {
    state: RefCell<State<T>>,
}

enum State<T> {
    Running(Option<Waker>),
    Done(T),
    Panicked(Box<dyn Any + Send>),
    Taken,
}

impl<T: 'static> Task<T> {
    pub(super) fn start(core: &Rc<Core>, future: impl Future<Output = T> + 'static) -> Self {
        let shared = Rc::new(Shared {
            state: RefCell::new(State::Running(None)),
        });
        let id = core.spawn_boxed(Box::pin(run(future, shared.clone(), Rc::downgrade(core))));
        Self {
            shared,
            id,
            core: Rc::downgrade(core),
        }
    }
}

impl<T> Task<T> {
    /// Lets the task run to its end by itself.
    pub fn detach(self) {}

    /// Drops the task's future now (or, if the task cancels itself, at the end of its current step). Operations it had
    /// in flight end as their own contracts say.
    pub fn cancel(self) {
        if let Some(core) = self.core.upgrade() {
            core.tasks.cancel(self.id);
        }
    }

    /// Whether the task has ended.
    pub fn is_finished(&self) -> bool {
        !matches!(*self.shared.state.borrow(), State::Running(_))
    }
}

/// The whole life of a task with a handle.
async fn run<T>(future: impl Future<Output = T>, shared: Rc<Shared<T>>, core: Weak<Core>) {
    let end = match AssertUnwindSafe(future).catch_unwind().await {
        Ok(output) => State::Done(output),
        Err(payload) => {
            tasks::log_panic(&*payload);
            if let Some(core) = core.upgrade() {
                core.panics.set(core.panics.get() + 1);
            }
            State::Panicked(payload)
        }
    };
    if let State::Running(Some(waker)) = shared.state.replace(end) {
        waker.wake();
    }
}

impl<T> Future for Task<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let mut state = self.shared.state.borrow_mut();
        match std::mem::replace(&mut *state, State::Taken) {
            State::Done(output) => Poll::Ready(output),
            State::Panicked(payload) => {
                drop(state);
                resume_unwind(payload)
            }
            State::Running(_) => {
                *state = State::Running(Some(context.waker().clone()));
                Poll::Pending
            }
            State::Taken => panic!("a task was awaited after it gave its output"),
        }
    }
}

impl<T> std::fmt::Debug for Task<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Task")
            .field("finished", &self.is_finished())
            .finish()
    }
}
