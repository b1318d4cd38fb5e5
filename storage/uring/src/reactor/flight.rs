//! Operations in flight: who owns them, and who waits for them.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use io_uring::squeue;

use super::Ring;

/// What follows a completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Ask for another entry: a transfer was short, or a fallback is next.
    Again,
    /// The operation is over.
    Done,
}

/// Something the ring does, in one step or several.
///
/// # Safety
/// All memory that an entry names must be valid for what the kernel does with it from [`entry`](Self::entry) until
/// [`completed`](Self::completed) has been called for it, provided that the operation is neither moved nor dropped
/// meanwhile. (It sits in an `Rc` that the ring holds.)
pub(crate) unsafe trait Operation {
    /// The next submission. Its user data is set by the ring.
    fn entry(&mut self) -> squeue::Entry;

    /// Decides what a completion means.
    fn completed(&mut self, result: i32, flags: u32) -> Step;

    /// Whether giving it up half way does no harm. A wait may be cancelled, a write may not.
    fn may_be_cancelled(&self) -> bool {
        false
    }
}

/// An operation and whoever waits for it. The ring holds one `Rc` until the kernel has answered, the future another.
pub(crate) struct InFlight<O> {
    operation: RefCell<O>,
    key: Cell<usize>,
    done: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl<O: Operation> InFlight<O> {
    pub(super) fn new(operation: O) -> Self {
        Self {
            operation: RefCell::new(operation),
            key: Cell::new(usize::MAX),
            done: Cell::new(false),
            waker: RefCell::default(),
        }
    }

    pub(super) fn set_key(&self, key: usize) {
        self.key.set(key);
    }

    /// Ends an operation that never reached the kernel. Whatever it wants next is refused too.
    pub(super) fn refuse(&self, result: i32) {
        while self.operation.borrow_mut().completed(result, 0) == Step::Again {}
        self.done.set(true);
    }
}

/// What the ring made of a completion.
pub(super) enum Landed {
    /// Another entry is to be submitted.
    Again,
    /// The operation is over, and this waits for it.
    Done(Option<Waker>),
}

/// An operation in flight, whatever it is.
pub(super) trait Flight {
    fn next_entry(&self) -> squeue::Entry;
    fn land(&self, result: i32, flags: u32) -> Landed;
    fn may_be_cancelled(&self) -> bool;

    /// One if it is work for a disk, none if it is a mere wait.
    fn weight(&self) -> usize {
        usize::from(!self.may_be_cancelled())
    }
}

impl<O: Operation> Flight for InFlight<O> {
    fn next_entry(&self) -> squeue::Entry {
        self.operation.borrow_mut().entry()
    }

    fn land(&self, result: i32, flags: u32) -> Landed {
        match self.operation.borrow_mut().completed(result, flags) {
            Step::Again => Landed::Again,
            Step::Done => {
                self.done.set(true);
                Landed::Done(self.waker.take())
            }
        }
    }

    fn may_be_cancelled(&self) -> bool {
        self.operation.borrow().may_be_cancelled()
    }
}

/// The answer to come. Dropping it leaves the operation to the ring, which runs it to its end.
pub(crate) struct Started<O: Operation> {
    /// Absent once the answer was given.
    flight: Option<Rc<InFlight<O>>>,
    ring: Rc<Ring>,
    cancel_on_drop: bool,
}

impl<O: Operation> Started<O> {
    pub(super) fn new(flight: Rc<InFlight<O>>, ring: Rc<Ring>) -> Self {
        Self {
            flight: Some(flight),
            ring,
            cancel_on_drop: false,
        }
    }

    /// Lets the kernel give up the operation when nobody waits for it any more.
    pub(crate) fn cancelled_on_drop(mut self) -> Self {
        self.cancel_on_drop = true;
        self
    }
}

impl<O: Operation> Unpin for Started<O> {}

impl<O: Operation> Future for Started<O> {
    type Output = O;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<O> {
        let Some(flight) = self.flight.take() else {
            panic!("an operation was awaited after it gave its answer");
        };
        if !flight.done.get() {
            let mut waker = flight.waker.borrow_mut();
            match &mut *waker {
                Some(waker) => waker.clone_from(context.waker()),
                None => *waker = Some(context.waker().clone()),
            }
            drop(waker);
            self.flight = Some(flight);
            return Poll::Pending;
        }
        let Some(flight) = Rc::into_inner(flight) else {
            unreachable!("the ring lets go of an operation before it says that it is done");
        };
        Poll::Ready(flight.operation.into_inner())
    }
}

impl<O: Operation> Drop for Started<O> {
    fn drop(&mut self) {
        if let Some(flight) = self.flight.take().filter(|_| self.cancel_on_drop)
            && !flight.done.get()
        {
            self.ring.cancel(flight.key.get());
        }
    }
}
