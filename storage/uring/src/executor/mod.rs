//! The executor of one thread: its tasks, its turn and its one wait.

mod inbox;
mod join;
mod poll_hook;
mod tasks;
mod timer;

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use weft_block::{LocalBoxFuture, Spawn, Spawner};

use crate::reactor::{Backend, Reactor};
pub(crate) use inbox::Inbox;
pub use join::Task;
use poll_hook::Pollers;
pub use poll_hook::{Found, Glance, Poller, SPIN_LIMIT, poller};
use tasks::Tasks;
use timer::Timers;
pub use timer::{Sleep, sleep, sleep_until};

/// How often pollers are called before the clock is asked whether their time is up: some hundred nanoseconds.
const LOOKS_PER_CLOCK: u32 = 4;

thread_local! {
    static CURRENT: RefCell<Option<Rc<Core>>> = const { RefCell::new(None) };
}

/// Everything that one executor owns. Lives as long as its thread runs it, and a little longer in the hands of queues
/// that outlive it; those find the reactor closed.
pub(crate) struct Core {
    tasks: Tasks,
    timers: RefCell<Timers>,
    pollers: RefCell<Pollers>,
    inbox: Arc<Inbox>,
    reactor: Reactor,
    panics: Cell<u64>,
}

impl Core {
    fn new(backend: Backend) -> io::Result<Rc<Self>> {
        let inbox = Arc::new(Inbox::new()?);
        let reactor = Reactor::new(backend, inbox.clone())?;
        Ok(Rc::new(Self {
            tasks: Tasks::new(inbox.clone()),
            timers: RefCell::default(),
            pollers: RefCell::default(),
            inbox,
            reactor,
            panics: Cell::new(0),
        }))
    }

    /// The executor that runs on this thread now.
    ///
    /// # Panics
    /// Outside one.
    pub(crate) fn current() -> Rc<Self> {
        Self::try_current().expect("called on a thread that runs no weft executor")
    }

    pub(crate) fn try_current() -> Option<Rc<Self>> {
        CURRENT
            .try_with(|current| current.borrow().clone())
            .ok()
            .flatten()
    }

    pub(crate) fn reactor(&self) -> &Reactor {
        &self.reactor
    }

    pub(crate) fn inbox(&self) -> &Arc<Inbox> {
        &self.inbox
    }

    /// Runs turns until `finished` says so.
    fn run(&self, mut finished: impl FnMut() -> bool) -> io::Result<()> {
        while !finished() {
            self.turn()?;
        }
        Ok(())
    }

    /// One turn: poll what is ready, look at what came in, and wait if nothing did.
    fn turn(&self) -> io::Result<()> {
        let panicked = self.tasks.poll_ready();
        self.panics.set(self.panics.get() + panicked);
        self.gather();
        if self.pollers.borrow().any_hot() {
            // Also on a busy turn: a hot poller has its peer's notifications off.
            poll_hook::look(&self.pollers, Glance::Hot);
        }
        // Once a turn: a clock that is read for every completion costs more than what it is read for.
        let mut timeout = self.wake_due();
        if self.anyone_ready() {
            return self.reactor.submit();
        }
        let spun = self.spin()?;
        if spun {
            timeout = self.wake_due();
        }
        if self.anyone_ready() {
            return Ok(());
        }
        if !self.inbox.fall_asleep() {
            return self.reactor.submit();
        }
        let asleep = spun.then(Instant::now);
        let waited = self.reactor.wait(timeout);
        self.inbox.awake();
        waited?;
        if let Some(asleep) = asleep {
            self.pollers.borrow_mut().slept(asleep.elapsed());
        }
        self.gather();
        Ok(())
    }

    fn anyone_ready(&self) -> bool {
        self.tasks.any_ready() || self.inbox.root_is_woken()
    }

    /// Takes what came in without a wait: completions, other threads' wakes and visits.
    fn gather(&self) {
        self.reactor.reap();
        self.inbox
            .collect(|index| self.tasks.make_ready(index), |visit| visit());
    }

    /// Wakes those whose time has come. How long until the next; nothing if nobody waits for a time, and then no clock is
    /// read.
    fn wake_due(&self) -> Option<Duration> {
        let next = self.timers.borrow().next()?;
        let now = Instant::now();
        if next > now {
            return Some(next - now);
        }
        let due = self.timers.borrow_mut().due(now);
        due.into_iter().for_each(Waker::wake);
        Some(Duration::ZERO)
    }

    /// Lets hot pollers look for work for a bounded time. True if the time was up and they were parked.
    fn spin(&self) -> io::Result<bool> {
        if !self.pollers.borrow().any_hot() {
            return Ok(false);
        }
        let window = self.pollers.borrow().window();
        // The clock costs as much as a look, so it is not asked each time, and not at all if work comes at once.
        let mut started = None;
        for look in 1_u32.. {
            self.reactor.submit()?;
            std::hint::spin_loop();
            poll_hook::look(&self.pollers, Glance::Hot);
            self.gather();
            if self.anyone_ready() {
                self.pollers.borrow_mut().paid();
                return Ok(false);
            }
            if !self.pollers.borrow().any_hot() {
                return Ok(false);
            }
            if look.is_multiple_of(LOOKS_PER_CLOCK) {
                if started.get_or_insert_with(Instant::now).elapsed() >= window {
                    break;
                }
                self.wake_due();
                if self.anyone_ready() {
                    return Ok(false);
                }
            }
        }
        poll_hook::look(&self.pollers, Glance::Park);
        Ok(true)
    }

    fn spawn_boxed(&self, future: LocalBoxFuture<'static, ()>) -> tasks::TaskId {
        self.tasks.insert(future)
    }

    /// Drops every task, then waits until the kernel has let go of all memory.
    fn shut_down(&self) {
        self.inbox.close();
        // A task's destructor may spawn another; each round drops what the last one left.
        while self.tasks.drop_all() {}
        self.reactor.shut_down();
    }
}

impl Spawn for Core {
    fn spawn(&self, task: LocalBoxFuture<'static, ()>) {
        self.spawn_boxed(task);
    }

    fn now(&self) -> Duration {
        timer::since_start()
    }

    fn sleep(&self, duration: Duration) -> LocalBoxFuture<'static, ()> {
        Box::pin(sleep(duration))
    }
}

/// Enters an executor on this thread and leaves it again, whatever happens in between.
pub(crate) struct Entered {
    core: Rc<Core>,
}

impl Entered {
    /// Makes an executor this thread's own.
    ///
    /// # Panics
    /// If one runs here already.
    pub(crate) fn new(backend: Backend) -> io::Result<Self> {
        assert!(
            Core::try_current().is_none(),
            "an executor runs on this thread already"
        );
        let core = Core::new(backend)?;
        CURRENT.with(|current| *current.borrow_mut() = Some(core.clone()));
        Ok(Self { core })
    }

    pub(crate) fn core(&self) -> &Rc<Core> {
        &self.core
    }

    /// Runs until `future` is done.
    pub(crate) fn run_until<F: Future>(&self, future: F) -> io::Result<F::Output> {
        let root = Arc::new(Root {
            inbox: self.core.inbox.clone(),
        });
        let waker = Waker::from(root);
        let mut future = pin!(future);
        let mut output = None;
        self.core.inbox.wake_root();
        self.core.run(|| {
            if self.core.inbox.take_root() {
                let mut context = Context::from_waker(&waker);
                if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
                    output = Some(value);
                }
            }
            output.is_some()
        })?;
        Ok(output.expect("the loop ends with an output"))
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.core.shut_down();
        CURRENT.with(|current| current.borrow_mut().take());
    }
}

/// Wakes the future that an executor was started for.
struct Root {
    inbox: Arc<Inbox>,
}

impl Wake for Root {
    fn wake(self: Arc<Self>) {
        self.inbox.wake_root();
    }
}

/// Runs `future` on an executor of its own on the calling thread, and gives its output.
///
/// Tasks that are still running when it ends are dropped, and operations in flight are waited for.
///
/// # Panics
/// If an executor runs on this thread already, or the kernel gives neither a ring nor an eventfd.
pub fn block_on<F: Future>(future: F) -> F::Output {
    match block_on_with(Backend::Auto, future) {
        Ok(output) => output,
        Err(error) => panic!("the executor cannot wait: {error}"),
    }
}

/// [`block_on`] with a chosen backend.
///
/// # Errors
/// What the kernel says when the backend cannot be had.
///
/// # Panics
/// If an executor runs on this thread already.
pub fn block_on_with<F: Future>(backend: Backend, future: F) -> io::Result<F::Output> {
    Entered::new(backend)?.run_until(future)
}

/// Starts a task on this thread's executor.
///
/// # Panics
/// On a thread without an executor.
pub fn spawn<F>(future: F) -> Task<F::Output>
where
    F: Future + 'static,
    F::Output: 'static,
{
    Task::start(&Core::current(), future)
}

/// This thread's executor, as block layers know it.
///
/// # Panics
/// On a thread without an executor.
pub fn spawner() -> Spawner {
    Core::current()
}

/// How many tasks of this thread's executor ended in a panic.
///
/// # Panics
/// On a thread without an executor.
pub fn panics() -> u64 {
    Core::current().panics.get()
}
