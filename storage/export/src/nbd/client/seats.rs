//! What the connections of one device know of each other.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The connections that a device may have, each on a thread of its own, and whether it has been given up.
#[derive(Debug)]
pub(super) struct Seats {
    most: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    taken: usize,
    /// Connections with writes that a server which dies forgets.
    forgettable: usize,
    /// The one connection is lost, and another would see what the server has forgotten.
    settling: bool,
    /// Why the device was given up.
    dead: Option<String>,
}

impl Seats {
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            state: Mutex::default(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the device was given up, if it was.
    pub(super) fn dead(&self) -> Option<String> {
        self.state().dead.clone()
    }

    /// Gives the device up: what the layer above believes to be written may not be.
    pub(super) fn give_up(&self, why: &str) {
        self.state().dead.get_or_insert_with(|| why.to_owned());
    }

    /// A seat for one more connection, if there may be one now.
    pub(super) fn take(self: &Arc<Self>) -> Option<Seat> {
        let mut state = self.state();
        if state.settling || state.taken >= self.most {
            return None;
        }
        state.taken += 1;
        Some(Seat {
            seats: Arc::clone(self),
            forgettable: false,
            settling: false,
        })
    }
}

/// The place of one connection.
#[derive(Debug)]
pub(super) struct Seat {
    seats: Arc<Seats>,
    forgettable: bool,
    settling: bool,
}

impl Seat {
    /// Whether the connection has writes that a server which dies forgets.
    pub(super) fn set_forgettable(&mut self, forgettable: bool) {
        if self.forgettable == forgettable {
            return;
        }
        self.forgettable = forgettable;
        let mut state = self.seats.state();
        match forgettable {
            true => state.forgettable += 1,
            false => state.forgettable -= 1,
        }
    }

    /// The connection is lost. Whether it can be made again as if nothing had been: alone, it tells the server again what
    /// that may have forgotten before anybody looks; beside others nobody may have anything to tell, for nobody knows
    /// what of it has been written over.
    pub(super) fn lost(&mut self) -> bool {
        let mut state = self.seats.state();
        let alone = state.taken == 1;
        if alone {
            state.settling = true;
            self.settling = true;
        }
        state.dead.is_none() && (alone || state.forgettable == 0)
    }

    /// The server knows again what it may have forgotten.
    pub(super) fn settled(&mut self) {
        if std::mem::take(&mut self.settling) {
            self.seats.state().settling = false;
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.set_forgettable(false);
        self.settled();
        self.seats.state().taken -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_looks_before_the_server_knows_again() {
        let seats = Seats::new(2);
        let mut one = seats.take().expect("a seat");
        one.set_forgettable(true);
        assert!(one.lost());
        assert!(seats.take().is_none());
        one.settled();
        let mut two = seats.take().expect("a seat");
        assert!(seats.take().is_none());
        // Two with something to lose: neither can tell what the other has written over.
        assert!(!two.lost());
        one.set_forgettable(false);
        assert!(two.lost());
        drop(two);
        assert!(one.lost());
        drop(one);
        assert!(seats.take().is_some());
    }

    #[test]
    fn a_device_that_was_given_up_stays_so() {
        let seats = Seats::new(1);
        let mut seat = seats.take().expect("a seat");
        seats.give_up("the disk is gone");
        seats.give_up("and so is the server");
        assert!(!seat.lost());
        drop(seat);
        assert_eq!(seats.dead().as_deref(), Some("the disk is gone"));
    }
}
