//! Writes to rows that wait, and are taken together.
//!
//! A write waits until the executor has let everybody else run who was ready when it came, as any task does: what comes
//! from one guest's queue at once is there then. And it waits while another write of its queue holds member space that
//! it needs, as it would for the lock. All that have waited and lie side by side are one write; where they overlap, the
//! one that came last wins. So small writes in sequence become one that reads their row once, or a whole row that reads
//! nothing, and nobody waits for a neighbour that may never come.
//!
//! Nothing is copied: a merged write is made of the buffers of its requests. It takes
//! [`MERGED_BYTES`](crate::plan::MERGED_BYTES) at most.

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

use futures_channel::oneshot;
use smallvec::SmallVec;
use weft_block::{Completion, IoVec, LocalBoxFuture, Request, answered};

use super::{InFlight, Lane};
use crate::geometry::{ParityRows, Shape};
use crate::plan::{self, Run};

/// Member space.
type Touched = SmallVec<[Range<u64>; 2]>;

/// The writes of a queue.
#[derive(Default)]
pub(crate) struct Gather(RefCell<State>);

#[derive(Default)]
struct State {
    /// In the order in which they came.
    waiting: Vec<Waiting>,
    /// What the writes under way hold, and their numbers.
    busy: Vec<(u64, Touched)>,
    next: u64,
    /// Somebody is about to take those that wait.
    due: bool,
}

struct Waiting {
    request: Request,
    touched: Touched,
    sender: oneshot::Sender<Completion>,
    in_flight: InFlight,
}

/// Writes that are under way as one.
struct Merged {
    number: u64,
    /// In the order in which they came.
    writes: Vec<Waiting>,
}

fn overlap(one: &Touched, other: &Touched) -> bool {
    let mut pairs = one
        .iter()
        .flat_map(|one| other.iter().map(move |other| (one, other)));
    pairs.any(|(one, other)| one.start < other.end && other.start < one.end)
}

impl State {
    /// Takes the writes that need not wait: neighbours together, unless `apart`.
    fn take(&mut self, row_bytes: u64, apart: bool) -> Vec<Merged> {
        self.due = false;
        let waiting = std::mem::take(&mut self.waiting);
        let (mut ready, mut later) = (Vec::new(), Vec::new());
        // Nobody overtakes whom it would have to wait for.
        for (place, write) in waiting.into_iter().enumerate() {
            let is_before = |held: &(usize, Waiting)| overlap(&held.1.touched, &write.touched);
            match self.is_held(&write.touched) || later.iter().any(is_before) {
                true => later.push((place, write)),
                false => ready.push((place, write)),
            }
        }
        let runs = self.runs(&ready, row_bytes, apart);
        let mut ready: Vec<Option<(usize, Waiting)>> = ready.into_iter().map(Some).collect();
        let mut taken = Vec::new();
        for run in runs {
            let writes: Vec<_> = run.iter().filter_map(|&at| ready[at].take()).collect();
            if writes.iter().any(|(_, write)| self.is_held(&write.touched)) {
                // By one that is taken now.
                later.extend(writes);
                continue;
            }
            let number = self.next;
            self.next += 1;
            let touched = writes.iter().flat_map(|(_, write)| write.touched.clone());
            self.busy.push((number, joined(touched.collect())));
            let writes = writes.into_iter().map(|(_, write)| write).collect();
            taken.push(Merged { number, writes });
        }
        later.sort_unstable_by_key(|(place, _)| *place);
        self.waiting = later.into_iter().map(|(_, write)| write).collect();
        taken
    }

    fn is_held(&self, touched: &Touched) -> bool {
        self.busy.iter().any(|(_, held)| overlap(held, touched))
    }

    fn runs(&self, ready: &[(usize, Waiting)], row_bytes: u64, apart: bool) -> Vec<Run> {
        if apart || ready.len() < 2 {
            return (0..ready.len())
                .map(|at| SmallVec::from_slice(&[at]))
                .collect();
        }
        let waiting = ready.iter().map(|(_, write)| plan::Waiting {
            op: write.request.op,
            range: write.request.offset..write.request.end(),
        });
        plan::runs(&waiting.collect::<Vec<_>>(), row_bytes)
    }
}

/// The same member space in as few ranges as possible.
fn joined(mut touched: Touched) -> Touched {
    touched.sort_unstable_by_key(|range| range.start);
    let mut joined = Touched::new();
    for range in touched {
        match joined.last_mut().filter(|last| last.end >= range.start) {
            Some(last) => last.end = last.end.max(range.end),
            None => joined.push(range),
        }
    }
    joined
}

impl Lane {
    /// Takes a write or write-zeroes, to be written with its neighbours.
    pub(crate) fn gather(self: &Rc<Self>, request: Request) -> LocalBoxFuture<'static, Completion> {
        let (sender, receiver) = oneshot::channel();
        let range = request.offset..request.end();
        let waiting = Waiting {
            touched: plan::touched(self.rows(), &range),
            in_flight: InFlight::new(&self.shared.core),
            request,
            sender,
        };
        self.gather.0.borrow_mut().waiting.push(waiting);
        self.gather_soon();
        Box::pin(answered(receiver))
    }

    fn rows(&self) -> &ParityRows {
        match self.shared.geometry.shape() {
            Shape::Parity(rows) => rows,
            _ => unreachable!("the queue sends only parity levels here"),
        }
    }

    fn gather_soon(self: &Rc<Self>) {
        let is_due = std::mem::replace(&mut self.gather.0.borrow_mut().due, true);
        if !is_due {
            let lane = Rc::clone(self);
            self.spawner.spawn(Box::pin(lane.write_gathered()));
        }
    }

    /// Writes those that wait: the first of them here, since most come alone.
    async fn write_gathered(self: Rc<Self>) {
        // While a member is away, a logged row is written in parts, one after the other: longer writes would take longer.
        let route = self.route();
        let apart = self.shared.has_log() && route.legs.iter().any(Option::is_none);
        let row_bytes = self.shared.geometry.row_bytes();
        let taken = self.gather.0.borrow_mut().take(row_bytes, apart);
        let mut taken = taken.into_iter();
        let first = taken.next();
        for merged in taken {
            let lane = Rc::clone(&self);
            self.spawner.spawn(Box::pin(lane.write_merged(merged)));
        }
        if let Some(first) = first {
            self.write_merged(first).await;
        }
    }

    async fn write_merged(self: Rc<Self>, merged: Merged) {
        let Merged { number, writes } = merged;
        let mut answers = Vec::with_capacity(writes.len());
        let alone = writes.len() == 1 || !self.write_as_one(&writes).await;
        for write in writes {
            let completion = match alone {
                true => Rc::clone(&self).rows_write(write.request).await,
                false => write.request.done(),
            };
            answers.push((write.sender, completion));
            drop(write.in_flight);
        }
        let others_wait = {
            let mut state = self.gather.0.borrow_mut();
            state.busy.retain(|(busy, _)| *busy != number);
            !state.waiting.is_empty()
        };
        if others_wait {
            self.gather_soon();
        }
        for (sender, completion) in answers {
            // Nobody listens when the submitter has lost interest.
            let _ = sender.send(completion);
        }
    }

    /// Writes neighbours as one. Whether that went well; if not, one of them may be to blame, and each is tried alone.
    async fn write_as_one(self: &Rc<Self>, writes: &[Waiting]) -> bool {
        let range = |write: &Waiting| write.request.offset..write.request.end();
        let pieces = plan::pieces(writes.iter().map(range));
        let (first, op) = (pieces[0].1.start, writes[0].request.op);
        let parts = pieces.into_iter().map(|(index, piece)| {
            let request = &writes[index].request;
            let at = (piece.start - request.offset) as usize;
            let len = (piece.end - piece.start) as usize;
            request.buffer.slice(at, len)
        });
        let buffer = IoVec::join(parts);
        let request = Request {
            op,
            offset: first,
            len: buffer.len() as u64,
            buffer,
        };
        Rc::clone(self).rows_write(request).await.result.is_ok()
    }
}
