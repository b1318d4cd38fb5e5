//! A request of the protocol while it waits for its answer.

use futures_channel::oneshot;
use weft_block::{Error, IoVec, Result};

use super::kept::{KeptWrite, Mark};
use super::line::{Broken, Wanted};
use crate::nbd::proto::{CommandCode, Errno, Request};

/// How a request ended.
pub(super) struct Finished {
    pub(super) result: Result<()>,
    pub(super) buffer: IoVec,
    /// Bytes and flags of each extent, from the offset that was asked about.
    pub(super) extents: Vec<(u32, u32)>,
}

/// What a request is for.
pub(super) enum Purpose {
    /// Somebody waits for it.
    Asked(oneshot::Sender<Finished>),
    /// The server is told again what it may have forgotten.
    Again,
    /// A flush that makes room for writes.
    Room,
}

/// See the module.
pub(super) struct Pending {
    pub(super) wanted: Wanted,
    pub(super) purpose: Purpose,
    /// Counts requests in the order of asking.
    pub(super) serial: u64,
    buffer: IoVec,
    /// A write that is kept when it is acknowledged; its data is sent rather than the buffer.
    pub(super) kept: Option<KeptWrite>,
    /// The writes that a flush covers.
    pub(super) mark: Mark,
    /// Bytes of a read that have come or are holes.
    filled: u64,
    pub(super) failure: Option<Error>,
    pub(super) extents: Vec<(u32, u32)>,
}

impl Pending {
    pub(super) fn new(wanted: Wanted, buffer: IoVec, purpose: Purpose) -> Self {
        Self {
            wanted,
            purpose,
            serial: 0,
            buffer,
            kept: None,
            mark: Mark::default(),
            filled: 0,
            failure: None,
            extents: Vec::new(),
        }
    }

    /// The request as it is sent, with a write's data.
    pub(super) fn to_send(&self, cookie: u64) -> (Request, IoVec) {
        let Wanted {
            code,
            flags,
            offset,
            len,
        } = self.wanted;
        let request = Request {
            flags,
            code: code as u16,
            cookie,
            offset,
            len,
        };
        let data = match (code, &self.kept) {
            (CommandCode::Write, Some(kept)) => kept.data.clone(),
            (CommandCode::Write, None) => self.buffer.clone(),
            _ => IoVec::empty(),
        };
        (request, data)
    }

    /// Memory for `len` bytes of a read at `offset` on the export, or at its beginning.
    pub(super) fn place(&mut self, offset: Option<u64>, len: u32) -> Result<IoVec, Broken> {
        let Wanted {
            code,
            offset: start,
            len: all,
            ..
        } = self.wanted;
        let at = offset.unwrap_or(start).checked_sub(start);
        let at = at.ok_or("data before the range")?;
        let fits = at <= u64::from(all) && u64::from(len) <= u64::from(all) - at;
        let filled = self.filled + u64::from(len);
        if code != CommandCode::Read || !fits || filled > u64::from(all) {
            return Err("data that nobody asked for");
        }
        self.filled = filled;
        Ok(self.buffer.slice(at as usize, len as usize))
    }

    /// Whether its answer ended before it was whole.
    pub(super) fn is_short(&self) -> bool {
        let short = match self.wanted.code {
            CommandCode::Read => self.filled != u64::from(self.wanted.len),
            CommandCode::BlockStatus => self.extents.is_empty(),
            _ => false,
        };
        short && self.failure.is_none()
    }

    pub(super) fn fail(&mut self, name: &str, errno: Errno, message: &str) {
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

    /// Forgets what a server has answered that did not come to the end. A flush that fails for an earlier one's sake
    /// still does.
    pub(super) fn forget_answer(&mut self) {
        self.filled = 0;
        self.extents.clear();
        if self.wanted.code != CommandCode::Flush {
            self.failure = None;
        }
    }

    pub(super) fn finish(self, result: Result<()>) {
        let result = match self.failure {
            Some(failure) => Err(failure),
            None => result,
        };
        if let Purpose::Asked(answer) = self.purpose {
            // Whoever asked may not want to know any more.
            let _ = answer.send(Finished {
                result,
                buffer: self.buffer,
                extents: self.extents,
            });
        }
    }
}
