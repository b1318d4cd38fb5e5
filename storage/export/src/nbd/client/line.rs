//! The requests of one queue: which wait to be sent, which wait for their answer. Shared by the queue, which adds them,
//! and the driver of its connection, which completes them.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::Waker;

use futures_channel::oneshot;
use slab::Slab;
use weft_block::{Error, ErrorKind, IoVec, Result};

use crate::nbd::proto::{CommandCode, Errno, Request};
use crate::nbd::session::Joined;

/// One request of the protocol.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub(super) code: CommandCode,
    pub(super) flags: u16,
    pub(super) offset: u64,
    pub(super) len: u32,
}

/// How it ended.
pub(super) struct Finished {
    pub(super) result: Result<()>,
    pub(super) buffer: IoVec,
    /// Bytes and flags of each extent, from the offset that was asked about.
    pub(super) extents: Vec<(u32, u32)>,
}

struct Pending {
    wanted: Wanted,
    buffer: IoVec,
    /// Bytes of a read that have come or are holes.
    filled: u64,
    failure: Option<Error>,
    extents: Vec<(u32, u32)>,
    answer: oneshot::Sender<Finished>,
}

#[derive(Default)]
struct State {
    pending: Slab<Pending>,
    unsent: VecDeque<usize>,
    driver: Option<Waker>,
    closing: bool,
    /// Why there is no connection any more.
    lost: Option<String>,
}

/// See the module.
pub(super) struct Line {
    name: String,
    joined: Joined,
    state: RefCell<State>,
}

/// The server broke the protocol.
pub(super) type Broken = &'static str;

impl Line {
    pub(super) fn new(name: String, joined: Joined) -> Rc<Self> {
        Rc::new(Self {
            name,
            joined,
            state: RefCell::default(),
        })
    }

    pub(super) fn joined(&self) -> &Joined {
        &self.joined
    }

    /// Adds a request; its answer will come.
    pub(super) fn ask(&self, wanted: Wanted, buffer: IoVec) -> oneshot::Receiver<Finished> {
        let (answer, answered) = oneshot::channel();
        let mut state = self.state.borrow_mut();
        let pending = Pending {
            wanted,
            buffer,
            filled: 0,
            failure: None,
            extents: Vec::new(),
            answer,
        };
        if let Some(why) = &state.lost {
            let error = self.offline(why);
            drop(state);
            pending.finish(Err(error));
            return answered;
        }
        let cookie = state.pending.insert(pending);
        state.unsent.push_back(cookie);
        let driver = state.driver.take();
        drop(state);
        if let Some(driver) = driver {
            driver.wake();
        }
        answered
    }

    /// No more requests will be added.
    pub(super) fn close(&self) {
        let mut state = self.state.borrow_mut();
        state.closing = true;
        let driver = state.driver.take();
        drop(state);
        if let Some(driver) = driver {
            driver.wake();
        }
    }

    /// The driver wants to be woken when there is something to send.
    pub(super) fn listen(&self, waker: &Waker) {
        self.state.borrow_mut().driver = Some(waker.clone());
    }

    /// Whether requests wait for their answers.
    pub(super) fn is_busy(&self) -> bool {
        !self.state.borrow().pending.is_empty()
    }

    /// Whether no request is left and none will come.
    pub(super) fn is_over(&self) -> bool {
        let state = self.state.borrow();
        state.closing && state.pending.is_empty()
    }

    /// The next request to send, with a write's data.
    pub(super) fn next_unsent(&self) -> Option<(Request, IoVec)> {
        let mut state = self.state.borrow_mut();
        let cookie = state.unsent.pop_front()?;
        let pending = &state.pending[cookie];
        let wanted = pending.wanted;
        let request = Request {
            flags: wanted.flags,
            code: wanted.code as u16,
            cookie: cookie as u64,
            offset: wanted.offset,
            len: wanted.len,
        };
        let payload = match wanted.code {
            CommandCode::Write => pending.buffer.clone(),
            _ => IoVec::empty(),
        };
        Some((request, payload))
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
        self.with(cookie, |pending| {
            let at = pending.range(offset.unwrap_or(pending.wanted.offset), len)?;
            pending.filled += u64::from(len);
            Ok(pending.buffer.slice(at, len as usize))
        })
    }

    /// A part of a read that is zeroes.
    pub(super) fn hole(&self, cookie: u64, offset: u64, len: u32) -> Result<(), Broken> {
        self.with(cookie, |pending| {
            let at = pending.range(offset, len)?;
            pending.filled += u64::from(len);
            pending.buffer.fill(at, len as usize, 0);
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
        let mut state = self.state.borrow_mut();
        let pending = usize::try_from(cookie)
            .ok()
            .and_then(|cookie| state.pending.try_remove(cookie))
            .ok_or("a reply to no request")?;
        drop(state);
        let short = match pending.wanted.code {
            CommandCode::Read => pending.filled != u64::from(pending.wanted.len),
            CommandCode::BlockStatus => pending.extents.is_empty(),
            _ => false,
        };
        if short && pending.failure.is_none() {
            pending.finish(Err(self.offline("the server left a part of its reply out")));
            return Err("a reply with a part left out");
        }
        pending.finish(Ok(()));
        Ok(())
    }

    /// The connection is gone: every request fails, now and later.
    pub(super) fn lose(&self, why: &str) {
        let mut state = self.state.borrow_mut();
        state.lost = Some(why.to_string());
        state.unsent.clear();
        let pending = std::mem::take(&mut state.pending);
        drop(state);
        for (_, pending) in pending {
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

impl Pending {
    /// Where a part of a read lies in its buffer.
    fn range(&self, offset: u64, len: u32) -> Result<usize, Broken> {
        let Wanted {
            code,
            offset: start,
            len: all,
            ..
        } = self.wanted;
        let at = offset.checked_sub(start).ok_or("data before the range")?;
        let fits = at <= u64::from(all) && u64::from(len) <= u64::from(all) - at;
        if code != CommandCode::Read || !fits || self.filled + u64::from(len) > u64::from(all) {
            return Err("data that nobody asked for");
        }
        Ok(at as usize)
    }

    fn fail(&mut self, name: &str, errno: Errno, message: &str) {
        let Wanted {
            code, offset, len, ..
        } = self.wanted;
        let what = format!("{name} failed to do {code:?} of {len} bytes at {offset} ({errno:?})");
        let error = Error::new(errno.kind(), what);
        self.failure = Some(match message {
            "" => error,
            message => error.with_source(message.to_string()),
        });
    }

    fn finish(self, result: Result<()>) {
        let result = match self.failure {
            Some(failure) => Err(failure),
            None => result,
        };
        // Whoever asked may not want to know any more.
        let _ = self.answer.send(Finished {
            result,
            buffer: self.buffer,
            extents: self.extents,
        });
    }
}
