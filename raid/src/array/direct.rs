//! Requests that one member answers: no task runs them, and one piece of memory holds all that is known of them until
//! then. Most reads are such, so what they cost counts.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use weft_block::{Completion, Error, LocalBoxFuture, Request};

use super::Lane;
use super::copies::Counted;
use super::hedge::InTime;
use super::state::MemberId;

/// A request that is with one member. It may be polled by whoever has the lane's thread, and moved.
pub(crate) struct Direct {
    lane: Rc<Lane>,
    stage: Stage,
}

enum Stage {
    Sent {
        sent: InTime,
        whose: Whose,
    },
    /// The member could not, and others help.
    Healing(LocalBoxFuture<'static, Completion>),
}

/// What the request is a part of, and so what its failure leads to.
pub(crate) enum Whose {
    /// A read of a row with parity: where it lies on the member.
    Row {
        slot: u32,
        id: MemberId,
        offset: u64,
    },
    /// A read of a copy: where it lies in the array.
    Copy {
        id: MemberId,
        offset: u64,
        counted: Option<Counted>,
    },
    /// A request to a level without redundancy.
    Stripe,
}

impl Direct {
    pub(crate) fn new(lane: &Rc<Lane>, sent: InTime, whose: Whose) -> Self {
        Self {
            lane: Rc::clone(lane),
            stage: Stage::Sent { sent, whose },
        }
    }
}

impl Future for Direct {
    type Output = Completion;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Completion> {
        let Self { lane, stage } = &mut *self;
        loop {
            match stage {
                Stage::Healing(healing) => return healing.as_mut().poll(context),
                Stage::Sent { sent, whose } => {
                    let completion = ready!(sent.poll(lane, context));
                    if let Whose::Copy { counted, .. } = whose
                        && let Some(counted) = counted.take()
                    {
                        counted.done(&lane.spawner);
                    }
                    let Err(error) = completion.result else {
                        return Poll::Ready(completion);
                    };
                    let failed = Completion {
                        result: Ok(()),
                        ..completion
                    };
                    match heal(lane, whose, failed, error) {
                        Ok(healing) => *stage = Stage::Healing(healing),
                        Err(completion) => return Poll::Ready(completion),
                    }
                }
            }
        }
    }
}

/// What follows when a member could not: a task that asks others, or the answer.
fn heal(
    lane: &Rc<Lane>,
    whose: &Whose,
    completion: Completion,
    error: Error,
) -> Result<LocalBoxFuture<'static, Completion>, Completion> {
    let buffer = completion.buffer;
    match *whose {
        Whose::Row { slot, id, offset } => {
            let again = Request::read(offset, buffer);
            Ok(lane.spawn(again, move |lane, part| lane.heal(part, slot, id, error)))
        }
        Whose::Copy { id, offset, .. } => {
            let again = Request::read(offset, buffer);
            Ok(lane.spawn(again, move |lane, part| lane.copies_heal(part, id, error)))
        }
        Whose::Stripe => {
            let why = format!("a member of array {} failed", lane.shared.name);
            Err(Completion {
                result: Err(error.in_context(why)),
                buffer,
            })
        }
    }
}
