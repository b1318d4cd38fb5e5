//! From requests of the block contract to requests of the protocol.

use std::rc::Rc;

use futures_channel::oneshot;
use weft_block::{
    BlockQueue, Completion, Error, ErrorKind, Extent, ExtentKind, Info, IoVec, LocalBoxFuture, Op,
    Request, Result,
};

use super::line::{Line, Wanted};
use super::pending::Finished;
use crate::nbd::proto::{CommandCode, command_flag, state_flag, transmission_flag};

/// Bytes about which the server is asked at once: the answer is bounded even with an extent for every 512 bytes.
const STATUS_RANGE: u64 = 64 << 20;

/// Bytes of one trim. Lengths have 32 bits.
const TRIM_RANGE: u64 = 1 << 30;

/// Bytes of zeroes that are sent at once to a server that cannot make them itself.
const ZEROES: u64 = 1 << 20;

/// The queue of an [`NbdDevice`](super::NbdDevice). Dropping the last one of a thread ends its connection once its
/// requests are done.
pub(super) struct Queue {
    line: Rc<Line>,
    info: Info,
}

type Answered = oneshot::Receiver<Finished>;

impl Queue {
    pub(super) fn new(line: Rc<Line>, info: Info) -> Self {
        line.enter();
        Self { line, info }
    }

    fn offers(&self, flag: u16) -> bool {
        self.line.joined().offers(flag)
    }

    fn flush(&self) -> Option<Answered> {
        self.offers(transmission_flag::SEND_FLUSH)
            .then(|| self.line.ask(Wanted::FLUSH, IoVec::empty()))
    }

    /// Asks for the range in parts of at most `most` bytes.
    fn ask(&self, code: CommandCode, flags: u16, request: &Request, most: u64) -> Vec<Answered> {
        let parts = request.len.div_ceil(most);
        (0..parts)
            .map(|part| {
                let at = part * most;
                let len = most.min(request.len - at);
                let buffer = match code {
                    CommandCode::Read | CommandCode::Write => {
                        request.buffer.slice(at as usize, len as usize)
                    }
                    _ => IoVec::empty(),
                };
                let wanted = Wanted {
                    code,
                    flags,
                    offset: request.offset + at,
                    len: len as u32,
                };
                self.line.ask(wanted, buffer)
            })
            .collect()
    }

    /// Writes zeroes as data.
    fn ask_plain_zeroes(&self, flags: u16, request: &Request) -> Vec<Answered> {
        let zeroes = IoVec::zeroed(ZEROES.min(request.len) as usize);
        let parts = request.len.div_ceil(ZEROES);
        (0..parts)
            .map(|part| {
                let len = ZEROES.min(request.len - part * ZEROES);
                let wanted = Wanted {
                    code: CommandCode::Write,
                    flags,
                    offset: request.offset + part * ZEROES,
                    len: len as u32,
                };
                self.line.ask_zeroes(wanted, zeroes.slice(0, len as usize))
            })
            .collect()
    }

    /// Starts a request; its parts, and whether a flush must follow to make it durable.
    fn start(&self, request: &Request) -> (Vec<Answered>, bool) {
        let most = u64::from(self.line.joined().max_payload);
        let has_fua = self.offers(transmission_flag::SEND_FUA);
        let flags_of = |fua: bool| {
            if fua && has_fua { command_flag::FUA } else { 0 }
        };
        match request.op {
            Op::Flush => (self.flush().into_iter().collect(), false),
            Op::Read => (self.ask(CommandCode::Read, 0, request, most), false),
            Op::Write { fua } => {
                let parts = self.ask(CommandCode::Write, flags_of(fua), request, most);
                (parts, fua && !has_fua)
            }
            // A hint; without trim it is heard and not followed.
            Op::Discard if !self.offers(transmission_flag::SEND_TRIM) => (Vec::new(), false),
            Op::Discard => {
                let parts = self.ask(CommandCode::Trim, 0, request, TRIM_RANGE);
                (parts, false)
            }
            Op::WriteZeroes { unmap, fua } => {
                let flags = flags_of(fua);
                let parts = if self.offers(transmission_flag::SEND_WRITE_ZEROES) {
                    let keep = if unmap { 0 } else { command_flag::NO_HOLE };
                    self.ask(CommandCode::WriteZeroes, flags | keep, request, most)
                } else {
                    self.ask_plain_zeroes(flags, request)
                };
                (parts, fua && !has_fua)
            }
        }
    }
}

impl BlockQueue for Queue {
    fn submit(&self, request: Request) -> LocalBoxFuture<'static, Completion> {
        if let Err(error) = request.check(&self.info) {
            return Box::pin(std::future::ready(request.failed(error)));
        }
        let (parts, flush) = self.start(&request);
        if !flush {
            return Box::pin(async move { finish(request, all(parts).await) });
        }
        // Without FUA a write is durable after a flush that follows its completion, whoever waits for either.
        let line = Rc::clone(&self.line);
        Box::pin(async move {
            let mut result = all(parts).await;
            if result.is_ok() {
                result = all(vec![line.ask(Wanted::FLUSH, IoVec::empty())]).await;
            }
            finish(request, result)
        })
    }

    fn extents(&self, offset: u64, len: u64) -> LocalBoxFuture<'static, Result<Vec<Extent>>> {
        let check = Request::discard(offset, len).check(&Info {
            read_only: false,
            ..self.info.clone()
        });
        if let Err(error) = check {
            return Box::pin(std::future::ready(Err(error)));
        }
        let unknown = Extent {
            offset,
            len,
            kind: ExtentKind::Data,
        };
        if self.line.joined().allocation.is_none() || len == 0 {
            return Box::pin(std::future::ready(Ok(vec![unknown])));
        }
        let wanted = Wanted {
            code: CommandCode::BlockStatus,
            flags: 0,
            offset,
            len: len.min(STATUS_RANGE) as u32,
        };
        let answered = self.line.ask(wanted, IoVec::empty());
        Box::pin(async move {
            let finished = answered.await.map_err(|_| ended())?;
            finished.result?;
            Ok(extents_of(offset, len, &finished.extents))
        })
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.line.leave();
    }
}

fn finish(request: Request, result: Result<()>) -> Completion {
    match result {
        Ok(()) => request.done(),
        Err(error) => request.failed(error),
    }
}

/// Waits for all parts; the first failure counts.
async fn all(parts: Vec<Answered>) -> Result<()> {
    let mut result = Ok(());
    for part in parts {
        let ended = match part.await {
            Ok(finished) => {
                drop(finished.buffer);
                finished.result
            }
            Err(_) => Err(ended()),
        };
        result = result.and(ended);
    }
    result
}

/// The executor ended under the connection.
fn ended() -> Error {
    Error::new(ErrorKind::Offline, "the connection's thread has ended")
}

/// The protocol's extents as the contract wants them: inside the range, neighbours of one kind joined.
fn extents_of(offset: u64, len: u64, told: &[(u32, u32)]) -> Vec<Extent> {
    let end = offset + len;
    let mut at = offset;
    let mut extents: Vec<Extent> = Vec::new();
    for &(len, flags) in told {
        let len = u64::from(len).min(end - at);
        if len == 0 {
            break;
        }
        let kind = match (flags & state_flag::ZERO != 0, flags & state_flag::HOLE != 0) {
            (true, true) => ExtentKind::Hole,
            (true, false) => ExtentKind::Zero,
            // What a hole reads as that is not zero, nobody knows.
            (false, _) => ExtentKind::Data,
        };
        match extents.last_mut() {
            Some(last) if last.kind == kind => last.len += len,
            _ => extents.push(Extent {
                offset: at,
                len,
                kind,
            }),
        }
        at += len;
    }
    extents
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_are_cut_and_joined() {
        let extents = extents_of(512, 4096, &[(512, 0), (512, 1), (1024, 3), (1 << 30, 2)]);
        let seen: Vec<_> = extents
            .iter()
            .map(|extent| (extent.offset, extent.len, extent.kind))
            .collect();
        assert_eq!(
            seen,
            [
                (512, 1024, ExtentKind::Data),
                (1536, 1024, ExtentKind::Hole),
                (2560, 2048, ExtentKind::Zero)
            ]
        );
    }
}
