//! The tasks of one executor, and who is ready.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use slab::Slab;
use weft_block::LocalBoxFuture;

use super::{Core, Inbox};

/// Names a task for ever: slots are used again, serials are not.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct TaskId {
    index: usize,
    serial: u64,
}

struct Slot {
    serial: u64,
    /// Absent while the task is being polled.
    future: Option<LocalBoxFuture<'static, ()>>,
    cancelled: bool,
    call: Arc<Call>,
}

pub(super) struct Tasks {
    inbox: Arc<Inbox>,
    slots: RefCell<Slab<Slot>>,
    ready: RefCell<VecDeque<usize>>,
    /// The queue of the turn before, kept for its memory.
    spare: RefCell<VecDeque<usize>>,
    /// Calls of slots that were freed, for the next tasks: an old waker that comes late wakes a stranger, which futures
    /// must bear.
    calls: RefCell<Vec<Arc<Call>>>,
    serials: Cell<u64>,
}

impl Tasks {
    pub(super) fn new(inbox: Arc<Inbox>) -> Self {
        Self {
            inbox,
            slots: RefCell::default(),
            ready: RefCell::default(),
            spare: RefCell::default(),
            calls: RefCell::default(),
            serials: Cell::new(0),
        }
    }

    /// Takes a task and makes it ready.
    pub(super) fn insert(&self, future: LocalBoxFuture<'static, ()>) -> TaskId {
        let serial = self.serials.get();
        self.serials.set(serial + 1);
        let mut slots = self.slots.borrow_mut();
        let entry = slots.vacant_entry();
        let index = entry.key();
        let call = self.call_for(index);
        call.queued.store(true, Ordering::Relaxed);
        entry.insert(Slot {
            serial,
            future: Some(future),
            cancelled: false,
            call,
        });
        drop(slots);
        self.make_ready(index);
        TaskId { index, serial }
    }

    pub(super) fn make_ready(&self, index: usize) {
        self.ready.borrow_mut().push_back(index);
    }

    pub(super) fn any_ready(&self) -> bool {
        !self.ready.borrow().is_empty()
    }

    /// Polls each task that is ready now once. Gives the number that panicked.
    pub(super) fn poll_ready(&self) -> u64 {
        let mut batch = self.spare.take();
        std::mem::swap(&mut batch, &mut *self.ready.borrow_mut());
        let mut panicked = 0;
        for index in batch.drain(..) {
            panicked += u64::from(!self.poll_one(index));
        }
        self.spare.replace(batch);
        panicked
    }

    /// Drops the task's future at once, or at the end of its poll if it cancels itself.
    pub(super) fn cancel(&self, id: TaskId) {
        let mut slots = self.slots.borrow_mut();
        let Some(slot) = slots
            .get_mut(id.index)
            .filter(|slot| slot.serial == id.serial)
        else {
            return;
        };
        let Some(future) = slot.future.take() else {
            slot.cancelled = true;
            return;
        };
        let slot = slots.remove(id.index);
        drop(slots);
        self.keep_call(slot.call);
        drop(future);
    }

    /// Drops all tasks. False if there was none.
    pub(super) fn drop_all(&self) -> bool {
        let slots = self.slots.take();
        self.ready.borrow_mut().clear();
        !slots.is_empty()
    }

    /// Polls one task. False if it panicked.
    fn poll_one(&self, index: usize) -> bool {
        let taken = self.slots.borrow_mut().get_mut(index).and_then(|slot| {
            slot.call.queued.store(false, Ordering::SeqCst);
            slot.future
                .take()
                .map(|future| (future, Waker::from(slot.call.clone())))
        });
        let Some((mut future, waker)) = taken else {
            return true;
        };
        let mut context = Context::from_waker(&waker);
        // A future that panicked is dropped and never looked at again.
        let polled = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(&mut context)));
        drop(waker);
        let mut slots = self.slots.borrow_mut();
        let pending = matches!(polled, Ok(Poll::Pending));
        let Some(slot) = slots.get_mut(index) else {
            return true;
        };
        if pending && !slot.cancelled {
            slot.future = Some(future);
            return true;
        }
        let slot = slots.remove(index);
        drop(slots);
        self.keep_call(slot.call);
        let dropped = catch_unwind(AssertUnwindSafe(|| drop(future)));
        match polled.map(drop).and(dropped) {
            Ok(()) => true,
            Err(payload) => {
                log_panic(&*payload);
                false
            }
        }
    }

    fn call_for(&self, index: usize) -> Arc<Call> {
        let kept = self.calls.borrow_mut().pop();
        match kept {
            Some(mut call) => match Arc::get_mut(&mut call) {
                Some(call_mut) => {
                    call_mut.index = index;
                    call
                }
                None => Arc::new(Call::new(index, self.inbox.clone())),
            },
            None => Arc::new(Call::new(index, self.inbox.clone())),
        }
    }

    fn keep_call(&self, mut call: Arc<Call>) {
        // One that somebody still holds would wake a stranger; let it go with its holder.
        if Arc::get_mut(&mut call).is_some() {
            self.calls.borrow_mut().push(call);
        }
    }
}

/// What a panic said.
pub(super) fn panic_message(payload: &(dyn std::any::Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

pub(super) fn log_panic(payload: &(dyn std::any::Any + Send)) {
    tracing::error!(message = panic_message(payload), "a task panicked");
}

/// The way to one task, for its wakers.
struct Call {
    index: usize,
    queued: AtomicBool,
    inbox: Arc<Inbox>,
}

impl Call {
    fn new(index: usize, inbox: Arc<Inbox>) -> Self {
        Self {
            index,
            queued: AtomicBool::new(false),
            inbox,
        }
    }
}

impl Wake for Call {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.queued.swap(true, Ordering::SeqCst) {
            return;
        }
        match Core::try_current() {
            Some(core) if Arc::ptr_eq(core.inbox(), &self.inbox) => {
                core.tasks.make_ready(self.index);
            }
            _ => self.inbox.wake(self.index),
        }
    }
}
