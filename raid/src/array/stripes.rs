//! RAID-0: requests are split and passed on.

use std::rc::Rc;

use smallvec::SmallVec;
use weft_block::{Completion, IoVec, LocalBoxFuture, Op, Request};

use super::Lane;
use super::queue::ready;
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
pub(super) fn submit(lane: &Rc<Lane>, mut request: Request) -> LocalBoxFuture<'static, Completion> {
    let shared = &lane.shared;
    let route = lane.route();
    let plan = plan::read(&shared.geometry, request.offset, request.len);
    let name = shared.name.clone();
    let context = move || format!("a member of array {name} failed");
    if let [io] = plan.as_slice() {
        let Some(leg) = &route.legs[io.slot as usize] else {
            return ready(request.failed(missing(&context())));
        };
        request.offset = io.offset;
        let sent = leg.submit(request);
        return Box::pin(async move {
            let mut completion = sent.await;
            completion.result = completion
                .result
                .map_err(|error| error.in_context(context()));
            completion
        });
    }
    let sent: SmallVec<[_; 4]> = plan
        .iter()
        .map(|io| {
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
                Some(leg) => leg.submit(part),
                None => ready(part.failed(missing(&context()))),
            }
        })
        .collect();
    Box::pin(async move {
        let mut failed = None;
        for part in sent {
            if let Err(error) = part.await.result {
                failed = failed.or(Some(error));
            }
        }
        match failed {
            Some(error) => request.failed(error.in_context(context())),
            None => request.done(),
        }
    })
}

fn missing(what: &str) -> weft_block::Error {
    weft_block::Error::new(weft_block::ErrorKind::Offline, what)
}
