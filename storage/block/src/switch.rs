//! A device whose inner device can be exchanged while it is used.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use crate::{
    Along, BlockDevice, BlockQueue, Completion, Error, ErrorKind, Extent, Info, LocalBoxFuture,
    Request, Result, Spawner, detached,
};

/// A device that passes all to another one, which can be exchanged: whoever uses it notices no more than a short pause.
/// Clones are the same device.
///
/// [`pause`](Self::pause) lets what is under way end and holds back what comes; [`Paused::replace`] puts another device in
/// and returns when no queue of the old one is left. What the device is, but for its size, stays what it was at first.
#[derive(Clone)]
pub struct Switch {
    shared: Arc<Shared>,
}

struct Shared {
    /// But for its size.
    info: Info,
    /// Requests so far.
    requests: AtomicU64,
    state: Mutex<State>,
}

struct State {
    device: Arc<dyn BlockDevice>,
    /// Counts the devices.
    turn: u64,
    /// Nothing passes.
    paused: bool,
    /// Requests that have passed and not ended.
    under_way: u64,
    /// The queues that are open, by number, and whose device they have.
    queues: Vec<(u64, u64)>,
    numbers: u64,
    wakers: Vec<Waker>,
}

impl Switch {
    /// Passes all to `device`.
    pub fn new(device: Arc<dyn BlockDevice>) -> Self {
        let shared = Shared {
            info: device.info(),
            requests: AtomicU64::new(0),
            state: Mutex::new(State {
                device,
                turn: 0,
                paused: false,
                under_way: 0,
                queues: Vec::new(),
                numbers: 0,
                wakers: Vec::new(),
            }),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// The device that it passes all to now.
    pub fn device(&self) -> Arc<dyn BlockDevice> {
        Arc::clone(&self.shared.lock().device)
    }

    /// How many requests it has been given: for who makes way for its users.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }

    /// Holds back what comes and waits until all that is under way has ended. It goes on when the answer is dropped. Who
    /// pauses a device that is paused waits for its turn.
    pub async fn pause(&self) -> Paused {
        self.shared
            .when(|state| {
                let free = !state.paused;
                state.paused = true;
                free
            })
            .await;
        let paused = Paused {
            shared: Arc::clone(&self.shared),
        };
        self.shared.when(|state| state.under_way == 0).await;
        paused
    }
}

impl BlockDevice for Switch {
    fn info(&self) -> Info {
        let size = self.device().info().size;
        let block = u64::from(self.shared.info.logical_block);
        Info {
            size: size - size % block,
            ..self.shared.info.clone()
        }
    }

    fn open(&self, spawner: &Spawner) -> Result<Box<dyn BlockQueue>> {
        let (device, turn) = {
            let state = self.shared.lock();
            (Arc::clone(&state.device), state.turn)
        };
        let inner = device.open(spawner)?;
        drop(device);
        let mut state = self.shared.lock();
        let number = state.numbers;
        state.numbers += 1;
        // If another device was put in meanwhile, the queue follows as every other one.
        state.queues.push((number, turn));
        drop(state);
        let lane = Rc::new(Lane {
            shared: Arc::clone(&self.shared),
            number,
            turn: Cell::new(turn),
            inner: RefCell::new(Some(inner.into())),
            spawner: Rc::clone(spawner),
        });
        spawner.spawn(Box::pin(follow(
            Rc::downgrade(&lane),
            Arc::clone(&self.shared),
        )));
        Ok(Box::new(Queue { lane }))
    }

    fn max_queues(&self) -> usize {
        self.device().max_queues()
    }

    fn set_len(&self, size: u64) -> Result<()> {
        self.device().set_len(size)
    }
}

/// A device that nothing passes, until this is dropped.
pub struct Paused {
    shared: Arc<Shared>,
}

impl Paused {
    /// Whether [`replace`](Self::replace) will take a device that is `new`.
    ///
    /// # Errors
    /// As there.
    pub fn accepts(&self, new: &Info) -> Result<()> {
        let old = &self.shared.info;
        if new.logical_block <= old.logical_block && (!new.read_only || old.read_only) {
            return Ok(());
        }
        let sentence = format!(
            "a disk in blocks of {} bytes cannot be exchanged for one in blocks of {} bytes{}",
            old.logical_block,
            new.logical_block,
            if new.read_only {
                " that takes no writes"
            } else {
                ""
            }
        );
        Err(Error::new(ErrorKind::Invalid, sentence))
    }

    /// Puts `device` in the place of the one that is there, and returns when no queue of that one is open here any more.
    ///
    /// # Errors
    /// `Invalid` if the users of this device could not use the other one: it has larger blocks, or refuses writes and this
    /// one does not. Nothing has changed then.
    pub async fn replace(self, device: Arc<dyn BlockDevice>) -> Result<()> {
        self.accepts(&device.info())?;
        let (turn, old) = {
            let mut state = self.shared.lock();
            state.turn += 1;
            let old = std::mem::replace(&mut state.device, device);
            (state.turn, old)
        };
        drop(old);
        self.shared.wake();
        self.shared
            .when(|state| state.queues.iter().all(|(_, has)| *has == turn))
            .await;
        Ok(())
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        self.shared.lock().paused = false;
        self.shared.wake();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `is_so`, which is asked whenever something has changed.
    fn when(&self, mut is_so: impl FnMut(&mut State) -> bool) -> impl Future<Output = ()> {
        std::future::poll_fn(move |context| {
            let mut state = self.lock();
            if is_so(&mut state) {
                return Poll::Ready(());
            }
            let waker = context.waker();
            if !state.wakers.iter().any(|other| other.will_wake(waker)) {
                state.wakers.push(waker.clone());
            }
            Poll::Pending
        })
    }

    fn wake(&self) {
        let wakers = std::mem::take(&mut self.lock().wakers);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Lets a request of a queue pass that has the device of `turn`.
    fn pass(self: &Arc<Self>, turn: u64) -> Option<Pass> {
        let mut state = self.lock();
        if state.paused || state.turn != turn {
            return None;
        }
        state.under_way += 1;
        Some(Pass {
            shared: Arc::clone(self),
        })
    }
}

/// A request is under way until this is dropped.
struct Pass {
    shared: Arc<Shared>,
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.under_way -= 1;
        let waited_for = state.under_way == 0 && state.paused;
        drop(state);
        if waited_for {
            self.shared.wake();
        }
    }
}

/// What one thread has open.
struct Lane {
    shared: Arc<Shared>,
    number: u64,
    turn: Cell<u64>,
    /// Nothing if the device could not be opened.
    inner: RefCell<Option<Rc<dyn BlockQueue>>>,
    spawner: Spawner,
}

/// Opens each new device for a queue, until the queue is dropped.
async fn follow(lane: Weak<Lane>, shared: Arc<Shared>) {
    loop {
        let mut next = None;
        let found = std::future::poll_fn(|context| {
            let Some(lane) = lane.upgrade() else {
                return Poll::Ready(false);
            };
            let turn = lane.turn.get();
            let changed = shared.when(|state| {
                let changed = state.turn != turn;
                if changed {
                    next = Some((Arc::clone(&state.device), state.turn));
                }
                changed
            });
            std::pin::pin!(changed).poll(context).map(|()| true)
        })
        .await;
        let (true, Some((device, turn)), Some(lane)) = (found, next, lane.upgrade()) else {
            return;
        };
        // The old one goes before the new one is told of.
        let old = lane.inner.borrow_mut().take();
        drop(old);
        let opened = device.open(&lane.spawner).ok().map(Rc::from);
        drop(device);
        *lane.inner.borrow_mut() = opened;
        lane.turn.set(turn);
        {
            let mut state = shared.lock();
            let mut queues = state.queues.iter_mut();
            if let Some((_, has)) = queues.find(|(number, _)| *number == lane.number) {
                *has = turn;
            }
        }
        shared.wake();
    }
}

impl Lane {
    /// Waits until a request may pass.
    async fn wait(&self) -> Pass {
        loop {
            if let Some(pass) = self.shared.pass(self.turn.get()) {
                return pass;
            }
            self.shared
                .when(|state| !state.paused && state.turn == self.turn.get())
                .await;
        }
    }

    fn inner(&self) -> Option<Rc<dyn BlockQueue>> {
        self.inner.borrow().clone()
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        let number = self.number;
        self.shared
            .lock()
            .queues
            .retain(|(other, _)| *other != number);
        // Who follows for it ends, and who waits for it waits no longer.
        self.shared.wake();
    }
}

struct Queue {
    lane: Rc<Lane>,
}

impl BlockQueue for Queue {
    fn submit(&self, request: Request) -> LocalBoxFuture<'static, Completion> {
        self.lane.shared.requests.fetch_add(1, Ordering::Relaxed);
        match self.lane.shared.pass(self.lane.turn.get()) {
            Some(pass) => {
                let Some(inner) = self.lane.inner() else {
                    return Box::pin(std::future::ready(request.failed(gone())));
                };
                let sent = inner.submit(request);
                Box::pin(Along::new(&self.lane.spawner, sent, pass))
            }
            None => self.hold_back(request),
        }
    }

    fn extents(&self, offset: u64, len: u64) -> LocalBoxFuture<'static, Result<Vec<Extent>>> {
        let lane = Rc::clone(&self.lane);
        Box::pin(async move {
            let _pass = lane.wait().await;
            let inner = lane.inner().ok_or_else(gone)?;
            inner.extents(offset, len).await
        })
    }
}

impl Queue {
    /// Submits a request once it may pass, whoever waits for it.
    fn hold_back(&self, request: Request) -> LocalBoxFuture<'static, Completion> {
        let lane = Rc::clone(&self.lane);
        detached(&self.lane.spawner, async move {
            let _pass = lane.wait().await;
            match lane.inner() {
                Some(inner) => inner.submit(request).await,
                None => request.failed(gone()),
            }
        })
    }
}

fn gone() -> Error {
    Error::new(
        ErrorKind::Offline,
        "the disk was exchanged for one that cannot be opened",
    )
}
