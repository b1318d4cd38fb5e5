//! Shards: a thread, its executor, and handles to it for everybody else.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;

use futures_channel::oneshot;

use crate::executor::{Entered, Inbox};
use crate::{Backend, spawn};

/// An OS thread with an executor. Dropping it ends the executor and joins the thread.
///
/// When it ends, its tasks are dropped and operations in flight are waited for.
#[derive(Debug)]
pub struct Shard {
    handle: ShardHandle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// A way to send work to a [`Shard`]. It may outlive the shard; what is sent then is answered with an error.
#[derive(Clone)]
pub struct ShardHandle {
    name: Arc<str>,
    inbox: Arc<Inbox>,
}

impl Shard {
    /// Starts a thread called `name` (the kernel shows the first 15 bytes of it).
    ///
    /// # Errors
    /// When the kernel gives no thread, no ring and no descriptor for one.
    pub fn start(name: &str) -> io::Result<Self> {
        Self::start_with(name, Backend::Auto)
    }

    /// [`start`](Self::start) with a chosen backend.
    ///
    /// # Errors
    /// As [`start`](Self::start), and when the backend cannot be had.
    pub fn start_with(name: &str, backend: Backend) -> io::Result<Self> {
        let (stop, stopped) = oneshot::channel();
        let (tell, told) = mpsc::sync_channel(1);
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || live(backend, &tell, stopped))?;
        let inbox = match told.recv() {
            Ok(Ok(inbox)) => inbox,
            Ok(Err(error)) => return Err(error),
            Err(_) => return Err(io::Error::other("the shard's thread died at its start")),
        };
        Ok(Self {
            handle: ShardHandle {
                name: name.into(),
                inbox,
            },
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// A way to send work here.
    pub fn handle(&self) -> ShardHandle {
        self.handle.clone()
    }
}

impl Drop for Shard {
    fn drop(&mut self) {
        drop(self.stop.take());
        let Some(thread) = self.thread.take() else {
            return;
        };
        if thread.thread().id() == std::thread::current().id() {
            // The shard was dropped by one of its own tasks: it ends after this turn, and cannot wait for itself.
            return;
        }
        if thread.join().is_err() {
            tracing::error!(shard = &*self.handle.name, "a shard's thread panicked");
        }
    }
}

/// A shard's thread from its start to its end.
fn live(
    backend: Backend,
    tell: &mpsc::SyncSender<io::Result<Arc<Inbox>>>,
    stopped: oneshot::Receiver<()>,
) {
    let entered = match Entered::new(backend) {
        Ok(entered) => entered,
        Err(error) => {
            let _ = tell.send(Err(error));
            return;
        }
    };
    let _ = tell.send(Ok(entered.core().inbox().clone()));
    // The sender is never used, only dropped.
    if let Err(error) = entered.run_until(stopped).map(drop) {
        tracing::error!(%error, "a shard cannot wait and ends");
    }
}

impl ShardHandle {
    /// The name that the shard was started with.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs a future on the shard. `make` crosses to the shard's thread and makes it there, so that it need not be `Send`.
    ///
    /// The answer is `Canceled` if the shard has ended, ends first, is too far behind (4,096 requests wait), or if the
    /// future panicked. Dropping the receiver does not stop the future.
    pub fn run<M, F>(&self, make: M) -> oneshot::Receiver<F::Output>
    where
        M: FnOnce() -> F + Send + 'static,
        F: Future + 'static,
        F::Output: Send + 'static,
    {
        let (answer, receiver) = oneshot::channel();
        let visit = move || {
            spawn(async move {
                // All that the future holds is let go before anybody hears of its end.
                let value = make().await;
                // Nobody may be listening any more.
                let _ = answer.send(value);
            })
            .detach();
        };
        if !self.inbox.visit(Box::new(visit)) {
            tracing::debug!(shard = &*self.name, "a shard refused a request");
        }
        receiver
    }
}

impl std::fmt::Debug for ShardHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ShardHandle").field(&self.name).finish()
    }
}
