//! Adaptive polling: looking for work for a little while before going to sleep.
//!
//! A notification that crosses threads costs tens of microseconds, nearly all of it in waking up. A queue that shares
//! memory with its peer (a virtqueue) can instead be looked at. While a poller is hot the executor does not sleep
//! but calls it again and again, for a window that grows when the sleep after it was short (looking a little longer would
//! have saved the wake-up) and shrinks when it was long. A peer that never answers while it is looked for (it is slower
//! than the window can get, or waits for the CPU that the looking uses) is not looked for any more, but for now and then.

use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::time::Duration;

use slab::Slab;

use super::Core;

/// The longest time that an executor looks for work before it sleeps. Longer than a wake-up costs, so that looking
/// saves time; short enough that an idle guest costs nothing that can be measured.
pub const SPIN_LIMIT: Duration = Duration::from_micros(50);

/// The shortest window: what is left of it when sleeps are long. It catches a peer that answers at once.
const SPIN_FLOOR: Duration = Duration::from_micros(2);

/// How much longer or shorter the window gets at a time.
const SPIN_STEP: u32 = 4;

/// Windows in vain, one after the other, after which looking does not pay.
const PATIENCE: u32 = 4;

/// Windows in vain after which looking is given another chance.
const ANOTHER_CHANCE: u32 = 64;

/// Why a poller is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Glance {
    /// Look now. Notifications may stay off: another look comes soon, or a [`Park`](Self::Park).
    Hot,
    /// The executor is about to sleep: ask for notifications, then look once more. A poller that finds nothing now
    /// is cold afterwards.
    Park,
}

/// What a poller saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// There was work, and whoever does it was woken (or it was done at once).
    Work,
    /// Nothing yet; keep looking.
    Nothing,
    /// Nothing, and none is expected: do not look again until [`Poller::heat`].
    Cold,
}

type Look = Box<dyn FnMut(Glance) -> Found>;

struct Slot {
    /// Absent while it is being called.
    look: Option<Look>,
    hot: bool,
}

pub(super) struct Pollers {
    slots: Slab<Slot>,
    hot: usize,
    window: Duration,
    /// Windows in vain since the last one that was not.
    vain: u32,
}

impl Default for Pollers {
    fn default() -> Self {
        Self {
            slots: Slab::new(),
            hot: 0,
            window: SPIN_LIMIT,
            vain: 0,
        }
    }
}

impl Pollers {
    pub(super) fn any_hot(&self) -> bool {
        self.hot > 0
    }

    pub(super) fn window(&self) -> Duration {
        self.window
    }

    /// Tells that something came while it was looked for.
    pub(super) fn paid(&mut self) {
        self.vain = 0;
    }

    /// Tells how long the sleep was that followed a window in vain.
    pub(super) fn slept(&mut self, time: Duration) {
        self.vain += 1;
        self.window = if self.vain < PATIENCE {
            next_window(self.window, time)
        } else {
            SPIN_FLOOR
        };
        if self.vain == ANOTHER_CHANCE {
            self.vain = 0;
        }
    }

    fn set_hot(&mut self, key: usize, hot: bool) {
        let Some(slot) = self.slots.get_mut(key) else {
            return;
        };
        match (std::mem::replace(&mut slot.hot, hot), hot) {
            (false, true) => self.hot += 1,
            (true, false) => self.hot -= 1,
            _ => {}
        }
    }
}

fn next_window(window: Duration, slept: Duration) -> Duration {
    let next = if slept < SPIN_LIMIT {
        window * SPIN_STEP
    } else {
        window / SPIN_STEP
    };
    next.clamp(SPIN_FLOOR, SPIN_LIMIT)
}

/// Calls every hot poller once. A poller may register, heat and drop pollers, itself included.
pub(super) fn look(pollers: &RefCell<Pollers>, glance: Glance) {
    let keys: smallvec::SmallVec<[usize; 8]> = pollers
        .borrow()
        .slots
        .iter()
        .filter(|(_, slot)| slot.hot)
        .map(|(key, _)| key)
        .collect();
    for key in keys {
        let taken = pollers
            .borrow_mut()
            .slots
            .get_mut(key)
            .and_then(|slot| slot.look.take());
        let Some(mut look) = taken else { continue };
        let found = look(glance);
        let mut borrowed = pollers.borrow_mut();
        if found == Found::Cold || (found, glance) == (Found::Nothing, Glance::Park) {
            borrowed.set_hot(key, false);
        }
        match borrowed.slots.get_mut(key) {
            Some(slot) => slot.look = Some(look),
            None => {
                drop(borrowed);
                drop(look);
            }
        }
    }
}

/// Registers `look` to be called on this thread while it is hot. It starts cold.
///
/// `look` must be quick and must not block; when it finds work it wakes the task that does it.
///
/// # Panics
/// On a thread without an executor.
pub fn poller(look: impl FnMut(Glance) -> Found + 'static) -> Poller {
    let core = Core::current();
    let key = core.pollers.borrow_mut().slots.insert(Slot {
        look: Some(Box::new(look)),
        hot: false,
    });
    Poller {
        key,
        core: Rc::downgrade(&core),
    }
}

/// A registered poller. Dropping it ends the registration.
#[must_use = "dropping a poller unregisters it"]
pub struct Poller {
    key: usize,
    core: Weak<Core>,
}

impl Poller {
    /// Work came, so more is likely: look for it from now on.
    pub fn heat(&self) {
        if let Some(core) = self.core.upgrade() {
            core.pollers.borrow_mut().set_hot(self.key, true);
        }
    }

    /// Stops looking.
    pub fn cool(&self) {
        if let Some(core) = self.core.upgrade() {
            core.pollers.borrow_mut().set_hot(self.key, false);
        }
    }
}

impl Drop for Poller {
    fn drop(&mut self) {
        let Some(core) = self.core.upgrade() else {
            return;
        };
        let mut pollers = core.pollers.borrow_mut();
        pollers.set_hot(self.key, false);
        let slot = pollers.slots.try_remove(self.key);
        drop(pollers);
        drop(slot);
    }
}

impl std::fmt::Debug for Poller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Poller").field("key", &self.key).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_follows_the_sleeps() {
        let (short, long) = (Duration::from_micros(30), Duration::from_millis(30));
        let mut window = SPIN_LIMIT;
        for _ in 0..5 {
            window = next_window(window, long);
        }
        assert_eq!(window, SPIN_FLOOR);
        for _ in 0..5 {
            window = next_window(window, short);
        }
        assert_eq!(window, SPIN_LIMIT);
    }

    #[test]
    fn a_peer_that_never_answers_in_time_is_hardly_looked_for() {
        let mut pollers = Pollers::default();
        let short = Duration::from_micros(30);
        let mut looked = Duration::ZERO;
        for _ in 0..1000 {
            looked += pollers.window();
            pollers.slept(short);
        }
        assert!(looked < Duration::from_micros(4) * 1000, "{looked:?}");
        pollers.paid();
        for _ in 0..3 {
            pollers.slept(short);
        }
        assert_eq!(pollers.window(), SPIN_LIMIT);
    }
}
