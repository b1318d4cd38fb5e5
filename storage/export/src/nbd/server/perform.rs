//! Doing what a client asked for, on a device's queue.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use smallvec::SmallVec;
use weft_block::{
    BlockDevice, BlockQueue, Error, ErrorKind, Extent, ExtentKind, Op, Request, Spawner,
};

use super::data_runs::DataRuns;
use crate::nbd::pool::Payload;
use crate::nbd::proto::{Errno, state_flag};
use crate::nbd::session::{Action, Command};

/// Bytes of a read from which on holes are looked for. Looking costs a call to the device, which is small beside the
/// work of a read this long, and a hole saves the whole of that.
const SPARSE_READ: u32 = 64 << 10;

/// Bytes about which the device is asked at least. The range doubles as long as the answer is one run of data, for some
/// file systems take as long to find the end of a short run as that of a long one; then reads of it ask no more.
const LOOK_AHEAD: u64 = 1 << 20;

/// Parts of one read; a range more scattered than this is sent as data.
const MAX_PARTS: usize = 32;

/// Descriptors in one block status reply.
const MAX_DESCRIPTORS: usize = 2048;

/// An export as its server's thread sees it: one queue, which all connections share.
pub(super) struct Target {
    device: Arc<dyn BlockDevice>,
    queue: Box<dyn BlockQueue>,
    fast_zeroes: bool,
    data: RefCell<DataRuns>,
    /// Bytes about which the device is asked next time.
    look_ahead: Cell<u64>,
}

impl Target {
    pub(super) fn open(device: &Arc<dyn BlockDevice>, spawner: &Spawner) -> Result<Self, Error> {
        Ok(Self {
            device: Arc::clone(device),
            queue: device.open(spawner)?,
            fast_zeroes: device.info().fast_zeroes,
            data: RefCell::default(),
            look_ahead: Cell::new(LOOK_AHEAD),
        })
    }
}

/// How a request ended.
pub(super) struct Answer {
    pub(super) cookie: u64,
    /// Bytes of payload that the request held while it ran.
    pub(super) cost: usize,
    pub(super) outcome: Outcome,
}

pub(super) enum Outcome {
    Done,
    /// The end of a read of no bytes.
    Nothing,
    /// The payload of a read, all of it data.
    Data(Payload, u64),
    /// A read with holes: the offset of the payload's first byte, and its parts in order.
    Sparse(Payload, u64, SmallVec<[Extent; 4]>),
    /// Bytes and flags of each extent.
    Status(Vec<(u32, u32)>),
    Failed(Errno, String),
}

impl Outcome {
    fn failed(error: &Error) -> Self {
        Self::Failed(Errno::of_kind(error.kind()), error.to_string())
    }
}

/// Does `command`. `payload` is a write's data, and memory for a read's.
///
/// `sparse` allows a read to be answered with holes.
pub(super) async fn perform(
    target: Rc<Target>,
    command: Command,
    payload: Option<Payload>,
    sparse: bool,
) -> Answer {
    let cookie = command.cookie;
    let cost = payload.as_ref().map_or(0, Payload::len);
    let outcome = match (command.action, payload) {
        (Action::Read { whole }, Some(payload)) => {
            read(&target, command, payload, sparse && !whole).await
        }
        (Action::Read { .. }, None) => Outcome::Nothing,
        (Action::Cache, Some(payload)) => match read(&target, command, payload, false).await {
            Outcome::Data(..) => Outcome::Done,
            other => other,
        },
        (action, payload) => match change(&target, action, command, payload).await {
            Ok(outcome) => outcome,
            Err(error) => Outcome::failed(&error),
        },
    };
    Answer {
        cookie,
        cost,
        outcome,
    }
}

/// Everything but reads.
async fn change(
    target: &Target,
    action: Action,
    command: Command,
    payload: Option<Payload>,
) -> Result<Outcome, Error> {
    let (offset, len) = (command.offset, u64::from(command.len));
    match action {
        Action::Flush => submit(target, Request::flush()).await?,
        _ if len == 0 => {}
        Action::Write { fua } => {
            let Some(payload) = payload else {
                return Ok(Outcome::Done);
            };
            let mut request = Request::write(offset, payload.whole());
            request.op = Op::Write { fua };
            submit(target, request).await?;
        }
        Action::Trim { fua } => {
            target.data.borrow_mut().forget();
            submit(target, Request::discard(offset, len)).await?;
            if fua {
                submit(target, Request::flush()).await?;
            }
        }
        Action::WriteZeroes { fast, .. } if fast && !target.fast_zeroes => {
            let message = "zeroes are no faster than data here";
            return Ok(Outcome::Failed(Errno::NotSup, message.to_string()));
        }
        Action::WriteZeroes { unmap, fua, .. } => {
            target.data.borrow_mut().forget();
            let mut request = Request::write_zeroes(offset, len, unmap);
            request.op = Op::WriteZeroes { unmap, fua };
            submit(target, request).await?;
        }
        Action::BlockStatus { one } => return status(target, offset, len, one).await,
        Action::Read { .. } | Action::Cache => {}
    }
    Ok(Outcome::Done)
}

async fn submit(target: &Target, request: Request) -> Result<(), Error> {
    target.queue.submit(request).await.result
}

async fn read(target: &Target, command: Command, payload: Payload, sparse: bool) -> Outcome {
    let (offset, len) = (command.offset, u64::from(command.len));
    let ask = sparse && command.len >= SPARSE_READ && !target.data.borrow().contains(offset, len);
    if ask && let Some(parts) = parts_of(target, offset, len).await {
        return read_parts(target, payload, offset, parts).await;
    }
    match submit(target, Request::read(offset, payload.whole())).await {
        Ok(()) => Outcome::Data(payload, offset),
        Err(error) => Outcome::failed(&error),
    }
}

/// The parts of a range that has holes; `None` if it is all data, as far as is known, or not worth taking apart.
async fn parts_of(target: &Target, offset: u64, len: u64) -> Option<SmallVec<[Extent; 4]>> {
    let end = offset + len;
    let size = target.device.info().size;
    let mut parts: SmallVec<[Extent; 4]> = SmallVec::new();
    let mut at = offset;
    while at < end {
        let ahead = target.look_ahead.get();
        let look = ahead.max(end - at).min(size.checked_sub(at)?);
        // A device that cannot tell will say what is wrong when it is read.
        let extents = target.queue.extents(at, look).await.ok()?;
        let all_data = matches!(&extents[..], [run] if run.kind == ExtentKind::Data);
        let next = if all_data { 2 * ahead } else { LOOK_AHEAD };
        target.look_ahead.set(next.min(size.max(LOOK_AHEAD)));
        let before = at;
        for extent in extents {
            let known = extent.kind == ExtentKind::Data;
            if known {
                let mut data = target.data.borrow_mut();
                data.learn(extent.offset, extent.len);
            }
            if at >= end {
                break;
            }
            let len = extent.len.min(end - at);
            match parts.last_mut() {
                Some(last) if (last.kind == ExtentKind::Data) == known => last.len += len,
                _ => parts.push(Extent {
                    offset: at,
                    len,
                    kind: extent.kind,
                }),
            }
            at += len;
        }
        if parts.len() > MAX_PARTS || at == before {
            return None;
        }
    }
    parts
        .iter()
        .any(|part| part.kind != ExtentKind::Data)
        .then_some(parts)
}

async fn read_parts(
    target: &Target,
    payload: Payload,
    offset: u64,
    parts: SmallVec<[Extent; 4]>,
) -> Outcome {
    // All are under way before the first is waited for.
    let reads: SmallVec<[_; 4]> = parts
        .iter()
        .filter(|part| part.kind == ExtentKind::Data)
        .map(|part| {
            let memory = payload.part((part.offset - offset) as usize, part.len as usize);
            target.queue.submit(Request::read(part.offset, memory))
        })
        .collect();
    let mut failure = None;
    for read in reads {
        failure = read.await.result.err().or(failure);
    }
    match failure {
        None => Outcome::Sparse(payload, offset, parts),
        Some(error) => Outcome::failed(&error),
    }
}

async fn status(target: &Target, offset: u64, len: u64, one: bool) -> Result<Outcome, Error> {
    let end = offset + len;
    let mut descriptors: Vec<(u32, u32)> = Vec::new();
    let mut at = offset;
    while at < end && descriptors.len() < MAX_DESCRIPTORS {
        let before = at;
        for extent in target.queue.extents(at, end - at).await? {
            let flags = match extent.kind {
                ExtentKind::Data => 0,
                ExtentKind::Zero => state_flag::ZERO,
                ExtentKind::Hole => state_flag::HOLE | state_flag::ZERO,
            };
            let len = extent.len.min(end - at);
            at += len;
            match descriptors.last_mut() {
                Some((last, last_flags)) if *last_flags == flags => *last += len as u32,
                _ => descriptors.push((len as u32, flags)),
            }
            if at >= end || descriptors.len() == MAX_DESCRIPTORS {
                break;
            }
        }
        if at == before {
            return Err(Error::new(ErrorKind::Io, "the device told no extents"));
        }
        if one && (descriptors.len() > 1 || at >= end) {
            descriptors.truncate(1);
            break;
        }
    }
    Ok(Outcome::Status(descriptors))
}

#[cfg(test)]
#[path = "perform_tests.rs"]
mod tests;
