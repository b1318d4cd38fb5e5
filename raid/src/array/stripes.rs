//! RAID-0: requests are split and passed on.

use std::rc::Rc;

use smallvec::SmallVec;
use weft_block::{Completion, Error, ErrorKind, IoVec, LocalBoxFuture, Op, Request};

use super::Lane;
use super::direct::{Direct, Whose};
use super::hedge::InTime;
use super::queue::{Way, ready};
use crate::plan::{self, MemberIo};

/// The parts of the buffer that belong to a member's request.
pub(super) fn gather(buffer: &IoVec, io: &MemberIo) -> IoVec {
    if buffer.is_empty() {
        return IoVec::empty();
    }
    match io.parts.as_slice() {
        [one] => buffer.slice(one.at, one.len),
        parts => IoVec::join(parts.iter().map(|part| buffer.slice(part.at, part.len))),
    }
}

/// Passes a request on to the members it touches. Nothing is done in several steps, so nothing is spawned.
pub(super) fn submit(lane: &Rc<Lane>, mut request: Request) -> Way {
    let (route, geometry) = (lane.route(), &lane.shared.geometry);
    let place = geometry.locate(request.offset);
    if request.len <= place.left {
        let Some(leg) = &route.legs[place.slot as usize] else {
            return Way::Task(ready(request.failed(missing(lane))));
        };
        request.offset = place.offset;
        let sent = InTime::unwatched(leg.submit(request));
        return Way::Direct(Direct::new(lane, sent, Whose::Stripe));
    }
    let plan = plan::read(geometry, request.offset, request.len);
    let sent: SmallVec<[_; 4]> = plan
        .iter()
        .map(|io| -> LocalBoxFuture<'static, Completion> {
            let part = Request {
                op: request.op,
                offset: io.offset,
                len: io.len,
                buffer: match request.op {
                    Op::Read | Op::Write { .. } => gather(&request.buffer, io),
                    _ => IoVec::empty(),
                },
            };
            match &route.legs[io.slot as usize] {
                Some(leg) => {
                    let sent = InTime::unwatched(leg.submit(part));
                    Box::pin(Direct::new(lane, sent, Whose::Stripe))
                }
                None => ready(part.failed(missing(lane))),
            }
        })
        .collect();
    Way::Parts(Box::pin(async move {
        let mut failed = None;
        for part in sent {
            if let Err(error) = part.await.result {
                failed = failed.or(Some(error));
            }
        }
        match failed {
            Some(error) => request.failed(error),
            None => request.done(),
        }
    }))
}

fn missing(lane: &Lane) -> Error {
    let why = format!("a member of array {} is missing", lane.shared.name);
    Error::new(ErrorKind::Offline, why)
}
