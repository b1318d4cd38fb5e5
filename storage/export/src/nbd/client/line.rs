//! The requests of one connection: which wait to be sent, which wait for their answer. Shared by the queues, which add
//! them, and the driver of the connection, which completes them.
//!
//! A connection that is lost and made again goes on where it was: first the server is told again what it may have
//! forgotten, then everything that it had not answered.

use std::cell::{Cell, RefCell};
use std::collections::{HashSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;

use futures_channel::oneshot;
use slab::Slab;
use weft_block::{Error, ErrorKind, IoVec, Result};

use super::kept::{KEPT_BYTES, Kept, KeptWrite};
use super::pending::{Finished, Pending, Purpose};
use super::seats::{Seat, Seats};
use crate::nbd::pool::Pool;
use crate::nbd::proto::{CommandCode, Errno, Request, command_flag, transmission_flag};
use crate::nbd::session::Joined;

/// One request of the protocol.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub(super) code: CommandCode,
    pub(super) flags: u16,
    pub(super) offset: u64,
    pub(super) len: u32,
}

impl Wanted {
    pub(super) const FLUSH: Self = Self {
        code: CommandCode::Flush,
        flags: 0,
        offset: 0,
        len: 0,
    };

    /// Whether it puts something there. What a server forgets of a trim is nobody's loss.
    fn is_write(&self) -> bool {
        matches!(self.code, CommandCode::Write | CommandCode::WriteZeroes)
    }

    fn is_durable(&self) -> bool {
        self.flags & command_flag::FUA != 0
    }
}

/// What is to be sent.
enum Unsent {
    Request(usize),
    /// Nothing more before everything that was sent is answered.
    Barrier,
    /// The same, and the server knows again what it may have forgotten.
    Settled,
}

#[derive(Default)]
struct State {
    pending: Slab<Pending>,
    unsent: VecDeque<Unsent>,
    /// Writes that find no room among those that are kept, in the order of asking.
    held: VecDeque<usize>,
    /// Requests that were sent and are not answered.
    sent: usize,
    kept: Kept,
    /// What the writes count that will be kept when they are acknowledged.
    to_keep: u64,
    /// A flush of our own is under way.
    flushing: bool,
    /// A flush of our own has failed: the next one that somebody asks for does too.
    owed: Option<Error>,
    serial: u64,
    driver: Option<Waker>,
    closing: bool,
    seat: Option<Seat>,
    /// Why there is no connection any more.
    lost: Option<String>,
}

/// See the module.
pub(super) struct Line {
    name: String,
    joined: Joined,
    /// Whether writes are kept until they are flushed.
    keeps: bool,
    seats: Arc<Seats>,
    pool: Rc<Pool>,
    users: Cell<usize>,
    state: RefCell<State>,
}

/// The server broke the protocol.
pub(super) type Broken = &'static str;

impl Line {
    /// A line to an export; `again` says that it is made again when it is lost.
    pub(super) fn new(name: String, joined: Joined, seats: Arc<Seats>, again: bool) -> Rc<Self> {
        Rc::new(Self {
            name,
            keeps: again && joined.offers(transmission_flag::SEND_FLUSH),
            joined,
            seats,
            pool: Pool::new(),
            users: Cell::new(0),
            state: RefCell::default(),
        })
    }

    pub(super) fn joined(&self) -> &Joined {
        &self.joined
    }

    pub(super) fn seats(&self) -> &Arc<Seats> {
        &self.seats
    }

    /// One queue more uses it.
    pub(super) fn enter(&self) {
        self.users.set(self.users.get() + 1);
    }

    /// One queue less uses it; after the last, no more requests will be added.
    pub(super) fn leave(&self) {
        self.users.set(self.users.get() - 1);
        if self.users.get() == 0 {
            self.state.borrow_mut().closing = true;
            self.wake();
        }
    }

    /// Whether another queue may use it.
    pub(super) fn is_open(&self) -> bool {
        let state = self.state.borrow();
        !state.closing && state.lost.is_none()
    }

    /// Adds a request; its answer will come. A write that is to be kept is copied at once, and the
    /// copy is what is sent: a guest may change its pages, and the server is to be told the same thing again.
    pub(super) fn ask(&self, wanted: Wanted, buffer: IoVec) -> oneshot::Receiver<Finished> {
        let kept = self.is_kept(&wanted).then(|| match wanted.code {
            CommandCode::Write => KeptWrite::copied(wanted, self.pool.copy(&buffer)),
            _ => KeptWrite::of(wanted, IoVec::empty()),
        });
        self.put(wanted, buffer, kept)
    }

    /// As [`ask`](Self::ask), of a write of zeroes that stay zeroes.
    pub(super) fn ask_zeroes(&self, wanted: Wanted, zeroes: IoVec) -> oneshot::Receiver<Finished> {
        let kept = self.is_kept(&wanted);
        let kept = kept.then(|| KeptWrite::of(wanted, zeroes.clone()));
        self.put(wanted, zeroes, kept)
    }

    /// Whether the server is to be told again of a write. Of one that is durable only beside others: what it writes over
    /// must not come back.
    fn is_kept(&self, wanted: &Wanted) -> bool {
        let forgets = || !wanted.is_durable() || !self.state.borrow().kept.is_empty();
        self.keeps && wanted.is_write() && forgets()
    }

    fn put(
        &self,
        wanted: Wanted,
        buffer: IoVec,
        kept: Option<KeptWrite>,
    ) -> oneshot::Receiver<Finished> {
        let (answer, answered) = oneshot::channel();
        let state = &mut *self.state.borrow_mut();
        let mut pending = Pending::new(wanted, buffer, Purpose::Asked(answer));
        if let Some(why) = &state.lost {
            pending.finish(Err(self.offline(why)));
            return answered;
        }
        if wanted.code == CommandCode::Flush {
            pending.failure = state.owed.take();
            pending.mark = state.kept.mark();
        }
        let cost = kept.as_ref().map(KeptWrite::cost);
        pending.kept = kept;
        let cookie = state.add(pending);
        match cost {
            Some(cost) if !state.held.is_empty() || !state.has_room(cost) => {
                state.held.push_back(cookie);
            }
            Some(cost) => {
                state.to_keep += cost;
                state.unsent.push_back(Unsent::Request(cookie));
            }
            None => state.unsent.push_back(Unsent::Request(cookie)),
        }
        state.flush_in_time();
        wake(state.driver.take());
        answered
    }

    fn wake(&self) {
        let driver = self.state.borrow_mut().driver.take();
        wake(driver);
    }

    /// The driver wants to be woken when there is something to send.
    pub(super) fn listen(&self, waker: &Waker) {
        self.state.borrow_mut().driver = Some(waker.clone());
    }

    /// Whether requests wait for their answers.
    pub(super) fn is_busy(&self) -> bool {
        !self.state.borrow().pending.is_empty()
    }

    /// Whether anything depends on the connection: a request, or a write that the server may have forgotten.
    pub(super) fn is_needed(&self) -> bool {
        let state = self.state.borrow();
        !state.pending.is_empty() || (!state.closing && !state.kept.is_empty())
    }

    /// Whether no request is left and none will come.
    pub(super) fn is_over(&self) -> bool {
        let state = self.state.borrow();
        state.closing && state.pending.is_empty()
    }

    /// The next request to send, with a write's data.
    pub(super) fn next_unsent(&self) -> Option<(Request, IoVec)> {
        let state = &mut *self.state.borrow_mut();
        loop {
            match state.unsent.front()? {
                Unsent::Barrier | Unsent::Settled if state.sent > 0 => return None,
                Unsent::Barrier => {}
                Unsent::Settled => {
                    if let Some(seat) = &mut state.seat {
                        seat.settled();
                    }
                }
                Unsent::Request(cookie) => {
                    let cookie = *cookie;
                    state.unsent.pop_front();
                    state.sent += 1;
                    return Some(state.pending[cookie].to_send(cookie as u64));
                }
            }
            state.unsent.pop_front();
        }
    }

    /// A simple reply. Gives the bytes of data that follow it.
    pub(super) fn replied(&self, cookie: u64, error: Option<Errno>) -> Result<u32, Broken> {
        let len = self.with(cookie, |pending| {
            if let Some(errno) = error {
                pending.fail(&self.name, errno, "");
                return Ok(0);
            }
            match pending.wanted.code {
                CommandCode::Read if self.joined.structured => Err("a simple reply to a read"),
                CommandCode::BlockStatus => Err("a simple reply to a block status"),
                CommandCode::Read => Ok(pending.wanted.len),
                _ => Ok(0),
            }
        })?;
        if len == 0 {
            self.finish(cookie)?;
        }
        Ok(len)
    }

    /// Memory for `len` bytes of a read at `offset` on the export, or at its beginning without structured replies.
    pub(super) fn place(
        &self,
        cookie: u64,
        offset: Option<u64>,
        len: u32,
    ) -> Result<IoVec, Broken> {
        self.with(cookie, |pending| pending.place(offset, len))
    }

    /// A part of a read that is zeroes.
    pub(super) fn hole(&self, cookie: u64, offset: u64, len: u32) -> Result<(), Broken> {
        self.with(cookie, |pending| {
            pending.place(Some(offset), len)?.fill(0, len as usize, 0);
            Ok(())
        })
    }

    /// The extents of a context.
    pub(super) fn status(
        &self,
        cookie: u64,
        context: u32,
        extents: Vec<(u32, u32)>,
    ) -> Result<(), Broken> {
        self.with(cookie, |pending| {
            if pending.wanted.code != CommandCode::BlockStatus {
                return Err("a block status that nobody asked for");
            }
            if self.joined.allocation == Some(context) {
                pending.extents = extents;
            }
            Ok(())
        })
    }

    /// An error chunk.
    pub(super) fn failed(&self, cookie: u64, errno: Errno, message: &str) -> Result<(), Broken> {
        self.with(cookie, |pending| {
            pending.fail(&self.name, errno, message);
            Ok(())
        })
    }

    /// The end of a reply.
    pub(super) fn finish(&self, cookie: u64) -> Result<(), Broken> {
        let state = &mut *self.state.borrow_mut();
        let pending = usize::try_from(cookie)
            .ok()
            .and_then(|cookie| state.pending.try_remove(cookie))
            .ok_or("a reply to no request")?;
        state.sent = state.sent.saturating_sub(1);
        if pending.is_short() {
            pending.finish(Err(self.offline("the server left a part of its reply out")));
            return Err("a reply with a part left out");
        }
        if let (Purpose::Again, Some(_)) = (&pending.purpose, &pending.failure) {
            return Err("a write that it had acknowledged is refused when it is told again");
        }
        state.answered(pending);
        state.flush_in_time();
        if state.pending.is_empty() && state.kept.is_empty() {
            self.pool.rest();
        }
        Ok(())
    }

    /// The connection has its seat.
    pub(super) fn sit(&self, seat: Seat) {
        self.state.borrow_mut().seat = Some(seat);
    }

    /// The connection is lost and is to be made again: what was not answered is sent again, after what the server may
    /// have forgotten. False if that cannot be done.
    pub(super) fn begin_again(&self) -> bool {
        let state = &mut *self.state.borrow_mut();
        if !state.seat.as_mut().is_some_and(Seat::lost) {
            return false;
        }
        state.begin_again();
        true
    }

    /// The connection is gone: every request fails, now and later.
    pub(super) fn lose(&self, why: &str) {
        let mut state = self.state.borrow_mut();
        if state.lost.is_some() {
            return;
        }
        let forgotten = std::mem::take(&mut *state);
        state.closing = forgotten.closing;
        state.lost = Some(why.to_string());
        drop(state);
        for (_, pending) in forgotten.pending {
            pending.finish(Err(self.offline(why)));
        }
    }

    fn offline(&self, why: &str) -> Error {
        let message = format!("the connection to {} is lost", self.name);
        Error::new(ErrorKind::Offline, message).with_source(why.to_string())
    }

    fn with<T>(
        &self,
        cookie: u64,
        action: impl FnOnce(&mut Pending) -> Result<T, Broken>,
    ) -> Result<T, Broken> {
        let mut state = self.state.borrow_mut();
        let pending = usize::try_from(cookie)
            .ok()
            .and_then(|cookie| state.pending.get_mut(cookie))
            .ok_or("a reply to no request")?;
        action(pending)
    }
}

fn wake(driver: Option<Waker>) {
    if let Some(driver) = driver {
        driver.wake();
    }
}

impl State {
    fn add(&mut self, mut pending: Pending) -> usize {
        self.serial += 1;
        pending.serial = self.serial;
        self.pending.insert(pending)
    }

    /// Whether a write that counts `cost` can be kept; a single one always can.
    fn has_room(&self, cost: u64) -> bool {
        let full = self.kept.bytes() + self.to_keep;
        full == 0 || full + cost <= KEPT_BYTES
    }

    /// Flushes before there is no room for writes that are to be kept.
    fn flush_in_time(&mut self) {
        let half_full = self.kept.bytes() + self.to_keep > KEPT_BYTES / 2;
        let wanted = half_full || !self.held.is_empty();
        if !wanted || self.flushing || self.kept.is_empty() {
            return;
        }
        self.flushing = true;
        let mut flush = Pending::new(Wanted::FLUSH, IoVec::empty(), Purpose::Room);
        flush.mark = self.kept.mark();
        let cookie = self.add(flush);
        self.unsent.push_back(Unsent::Request(cookie));
    }

    /// A request has its whole answer.
    fn answered(&mut self, mut pending: Pending) {
        let is_done = pending.failure.is_none();
        if let Some(write) = pending.kept.take() {
            self.to_keep -= write.cost();
            if is_done {
                self.kept.push(write);
            }
        }
        match (&pending.purpose, pending.wanted.code) {
            (Purpose::Room, _) => {
                self.flushing = false;
                // Kept or not, a later flush does not make up for one that failed.
                self.kept.durable(pending.mark);
                self.owed = self.owed.take().or(pending.failure.take());
            }
            (_, CommandCode::Flush) if is_done => self.kept.durable(pending.mark),
            _ => {}
        }
        let forgettable = !self.kept.is_empty();
        if let Some(seat) = &mut self.seat {
            seat.set_forgettable(forgettable);
        }
        self.release();
        pending.finish(Ok(()));
    }

    /// Lets those go that were held and find room now.
    fn release(&mut self) {
        while let Some(&cookie) = self.held.front() {
            let write = self.pending[cookie].kept.as_ref();
            let cost = write.map_or(0, KeptWrite::cost);
            if !self.has_room(cost) {
                return;
            }
            self.held.pop_front();
            self.to_keep += cost;
            self.unsent.push_back(Unsent::Request(cookie));
        }
    }

    fn begin_again(&mut self) {
        self.unsent.clear();
        (self.sent, self.flushing) = (0, false);
        self.pending
            .retain(|_, pending| matches!(pending.purpose, Purpose::Asked(_)));
        let held: HashSet<usize> = self.held.iter().copied().collect();
        let mut asked: Vec<(u64, usize)> = Vec::with_capacity(self.pending.len());
        for (cookie, pending) in &mut self.pending {
            pending.forget_answer();
            if !held.contains(&cookie) {
                asked.push((pending.serial, cookie));
            }
        }
        asked.sort_unstable();
        for batch in self.kept.batches() {
            for (wanted, data) in batch {
                let again = Pending::new(wanted, data, Purpose::Again);
                let cookie = self.add(again);
                self.unsent.push_back(Unsent::Request(cookie));
            }
            self.unsent.push_back(Unsent::Barrier);
        }
        self.unsent.push_back(Unsent::Settled);
        let asked = asked.into_iter();
        self.unsent
            .extend(asked.map(|(_, cookie)| Unsent::Request(cookie)));
        self.flush_in_time();
    }
}
