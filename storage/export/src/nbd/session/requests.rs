//! The server's side of transmission, reading. "Request message", "Request types".

use super::Agreed;
use crate::nbd::proto::{CommandCode, Errno, MAX_PAYLOAD, REQUEST_HEADER, Request, command_flag};

/// A request that may be done: its range lies in the export, its flags fit its command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Command {
    /// What the client tells its requests apart by.
    pub cookie: u64,
    /// First byte on the export, a multiple of its block size.
    pub offset: u64,
    /// Bytes, a multiple of the block size; for reads, writes and cache at most [`MAX_PAYLOAD`]; may be zero.
    pub len: u32,
    /// What is to be done.
    pub action: Action,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Send the range; `whole`, in one chunk.
    Read {
        /// The flag DF.
        whole: bool,
    },
    /// Store the payload.
    Write {
        /// Durably.
        fua: bool,
    },
    /// Make completed writes durable.
    Flush,
    /// The range is not needed.
    Trim {
        /// Durably.
        fua: bool,
    },
    /// The range will be read soon.
    Cache,
    /// The range shall read as zeroes.
    WriteZeroes {
        /// Whether the space may be given back.
        unmap: bool,
        /// Whether to fail with [`Errno::NotSup`] where it is no faster than a write.
        fast: bool,
        /// Durably.
        fua: bool,
    },
    /// How is the range backed? Its length is not zero.
    BlockStatus {
        /// One extent only.
        one: bool,
    },
}

/// A request that is answered with an error and nothing else. Its payload, if it has one, is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// The request's.
    pub cookie: u64,
    /// The error to send.
    pub errno: Errno,
    /// The same for people.
    pub why: &'static str,
}

/// What the client sent next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Less than a request is there: receive more.
    Wait,
    /// Do this. The `len` bytes of a write's payload follow in the input; the caller takes them off before it calls
    /// again.
    Do(Command),
    /// Answer this with an error.
    Refuse(Refusal),
    /// The client goes: complete what was begun, then close.
    Disconnect,
    /// This is not NBD any more: hang up.
    Broken(&'static str),
}

/// Reads the requests of one connection.
#[derive(Debug)]
pub struct Requests {
    size: u64,
    min_block: u32,
    read_only: bool,
    trim: bool,
    structured: bool,
    allocation: bool,
    /// Bytes of a refused write's payload that are still to come.
    unwanted: u32,
}

impl Requests {
    /// For a connection that agreed on `agreed`.
    pub fn new(agreed: &Agreed) -> Self {
        Self {
            size: agreed.export.size,
            min_block: agreed.export.min_block,
            read_only: agreed.export.read_only,
            trim: agreed.export.trim,
            structured: agreed.structured,
            allocation: agreed.allocation,
            unwanted: 0,
        }
    }

    /// Takes one request off `input`.
    pub fn next(&mut self, input: &mut &[u8]) -> Event {
        let dropped = input.len().min(self.unwanted as usize);
        self.unwanted -= dropped as u32;
        *input = &input[dropped..];
        let Some((header, rest)) = input.split_first_chunk::<REQUEST_HEADER>() else {
            return Event::Wait;
        };
        let Some(request) = Request::parse(header) else {
            return Event::Broken("a request without its magic");
        };
        *input = rest;
        let code = CommandCode::of(request.code);
        if code == Some(CommandCode::Disconnect) {
            return Event::Disconnect;
        }
        match self.check(code, &request) {
            Ok(action) => Event::Do(Command {
                cookie: request.cookie,
                offset: request.offset,
                len: request.len,
                action,
            }),
            Err((errno, why)) => {
                if code == Some(CommandCode::Write) {
                    self.unwanted = request.len;
                }
                Event::Refuse(Refusal {
                    cookie: request.cookie,
                    errno,
                    why,
                })
            }
        }
    }

    fn check(
        &self,
        code: Option<CommandCode>,
        request: &Request,
    ) -> Result<Action, (Errno, &'static str)> {
        let action = self.action(code, request)?;
        if action == Action::Flush {
            return match (request.offset, request.len) {
                (0, 0) => Ok(action),
                _ => Err((Errno::Inval, "a flush has no range")),
            };
        }
        let changes = matches!(
            action,
            Action::Write { .. } | Action::Trim { .. } | Action::WriteZeroes { .. }
        );
        if changes && self.read_only {
            return Err((Errno::Perm, "the export is read-only"));
        }
        let carries = matches!(
            action,
            Action::Read { .. } | Action::Write { .. } | Action::Cache
        );
        if carries && request.len > MAX_PAYLOAD {
            return Err((Errno::Inval, "more than 32 MiB in one request"));
        }
        let block = self.min_block;
        if !request.offset.is_multiple_of(u64::from(block)) || !request.len.is_multiple_of(block) {
            return Err((Errno::Inval, "not whole blocks of the export"));
        }
        let end = request.offset.checked_add(u64::from(request.len));
        if end.is_none_or(|end| end > self.size) {
            let no_space = matches!(action, Action::Write { .. } | Action::WriteZeroes { .. });
            let errno = if no_space {
                Errno::NoSpace
            } else {
                Errno::Inval
            };
            return Err((errno, "beyond the end of the export"));
        }
        Ok(action)
    }

    /// The command and its flags. FUA is accepted with all commands, as it must be.
    fn action(
        &self,
        code: Option<CommandCode>,
        request: &Request,
    ) -> Result<Action, (Errno, &'static str)> {
        use command_flag::*;
        let has = |flag: u16| request.flags & flag != 0;
        let fua = has(FUA);
        let (action, allowed) = match code {
            Some(CommandCode::Read) => (Action::Read { whole: has(DF) }, DF),
            Some(CommandCode::Write) => (Action::Write { fua }, 0),
            Some(CommandCode::Flush) => (Action::Flush, 0),
            Some(CommandCode::Trim) => (Action::Trim { fua }, 0),
            Some(CommandCode::Cache) => (Action::Cache, 0),
            Some(CommandCode::WriteZeroes) => {
                let action = Action::WriteZeroes {
                    unmap: !has(NO_HOLE),
                    fast: has(FAST_ZERO),
                    fua,
                };
                (action, NO_HOLE | FAST_ZERO)
            }
            Some(CommandCode::BlockStatus) => (Action::BlockStatus { one: has(REQ_ONE) }, REQ_ONE),
            Some(CommandCode::Disconnect) | None => {
                return Err((Errno::Inval, "unknown command"));
            }
        };
        if request.flags & !(allowed | FUA) != 0 {
            return Err((Errno::Inval, "a flag that this command does not have"));
        }
        if has(DF) && !self.structured {
            return Err((Errno::Inval, "structured replies were not negotiated"));
        }
        if matches!(action, Action::Trim { .. }) && !self.trim && !self.read_only {
            return Err((Errno::Inval, "the export does not offer trim"));
        }
        if matches!(action, Action::BlockStatus { .. }) {
            if !self.allocation {
                return Err((Errno::Inval, "no metadata context was negotiated"));
            }
            if request.len == 0 {
                return Err((Errno::Inval, "the status of nothing"));
            }
        }
        Ok(action)
    }
}

#[cfg(test)]
#[path = "requests_tests.rs"]
mod tests;
