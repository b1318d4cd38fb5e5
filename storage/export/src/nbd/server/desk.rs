//! What one client sent becomes requests to the device, and what the device answers becomes replies. No I/O of its own:
//! the connection around it moves the bytes.

use std::rc::Rc;
use std::task::{Context, Poll};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use weft_block::{IoVec, LocalBoxFuture};

use super::outbox::{Batch, Outbox};
use super::perform::{Answer, Target, perform};
use crate::nbd::input::RECEIVE_DIRECTLY;
use crate::nbd::pool::{Payload, Pool};
use crate::nbd::session::{Action, Agreed, Command, Event, Replies, Requests};

/// Requests of one client that the device works on at once. More wait in the socket.
pub(super) const MAX_REQUESTS: usize = 256;

/// Bytes of payload of one client that the device works on, beyond which no request is begun.
pub(super) const MAX_BYTES: usize = crate::nbd::proto::MAX_PAYLOAD as usize;

/// Bytes of replies that wait to be sent, beyond which no request is begun. Enough to be worth a system call, and little
/// enough to be in the processor's cache still when it is sent; a client that does not read stops at this, too.
const SEND_AT: usize = 256 << 10;

/// A write whose payload is still coming.
struct Arriving {
    command: Command,
    payload: Payload,
    filled: usize,
}

/// A request that the device has not answered yet.
type Running = LocalBoxFuture<'static, Answer>;

/// The work of one client.
pub(super) struct Desk {
    target: Rc<Target>,
    pool: Rc<Pool>,
    requests: Requests,
    /// Whether reads may be answered with holes.
    sparse: bool,
    arriving: Option<Arriving>,
    running: FuturesUnordered<Running>,
    running_bytes: usize,
    outbox: Outbox,
    /// Nothing more is taken from the client.
    closed: bool,
}

impl Desk {
    pub(super) fn new(target: Rc<Target>, agreed: &Agreed) -> Self {
        Self {
            target,
            pool: Pool::new(),
            requests: Requests::new(agreed),
            sparse: agreed.structured,
            arriving: None,
            running: FuturesUnordered::new(),
            running_bytes: 0,
            outbox: Outbox::new(Replies::new(agreed.structured)),
            closed: false,
        }
    }

    /// Begins what `input` asks for, as far as the bounds allow, and takes it off. A request that the device answers at
    /// once is answered here; others are polled by [`collect`](Self::collect).
    pub(super) fn begin(&mut self, input: &mut &[u8], context: &mut Context<'_>) {
        while !self.closed && self.may_begin() {
            if !self.take_payload(input) {
                return;
            }
            if let Some(Arriving {
                command, payload, ..
            }) = self.arriving.take()
            {
                self.start(command, Some(payload), context);
                continue;
            }
            match self.requests.next(input) {
                Event::Wait => return,
                Event::Do(command) => self.take(command, context),
                Event::Refuse(refusal) => self.outbox.refuse(&refusal),
                Event::Disconnect => self.close(),
                Event::Broken(why) => {
                    tracing::debug!(why, "an NBD client is hung up on");
                    self.close();
                }
            }
        }
    }

    /// Whether another request may be begun now.
    pub(super) fn may_begin(&self) -> bool {
        self.running.len() < MAX_REQUESTS
            && self.running_bytes < MAX_BYTES
            && self.outbox.bytes() < SEND_AT
    }

    /// Moves what has come of an arriving payload to its place. False if more of it must come.
    fn take_payload(&mut self, input: &mut &[u8]) -> bool {
        let Some(arriving) = &mut self.arriving else {
            return true;
        };
        let missing = arriving.payload.len() - arriving.filled;
        let (head, rest) = input.split_at(missing.min(input.len()));
        arriving.payload.fill(arriving.filled, head);
        arriving.filled += head.len();
        *input = rest;
        arriving.filled == arriving.payload.len()
    }

    fn take(&mut self, command: Command, context: &mut Context<'_>) {
        let len = command.len as usize;
        match command.action {
            Action::Write { .. } if len > 0 => {
                self.arriving = Some(Arriving {
                    command,
                    payload: self.pool.take(len),
                    filled: 0,
                });
            }
            Action::Read { .. } | Action::Cache if len > 0 => {
                let payload = self.pool.take(len);
                self.start(command, Some(payload), context);
            }
            _ => self.start(command, None, context),
        }
    }

    fn start(&mut self, command: Command, payload: Option<Payload>, context: &mut Context<'_>) {
        let cost = payload.as_ref().map_or(0, Payload::len);
        let target = Rc::clone(&self.target);
        let mut running: Running = Box::pin(perform(target, command, payload, self.sparse));
        match running.as_mut().poll(context) {
            Poll::Ready(answer) => self.outbox.answer(answer),
            Poll::Pending => {
                self.running_bytes += cost;
                self.running.push(running);
            }
        }
    }

    /// Takes the answers that the device has ready. True if there was one.
    pub(super) fn collect(&mut self, context: &mut Context<'_>) -> bool {
        let mut any = false;
        while let Poll::Ready(Some(answer)) = self.running.poll_next_unpin(context) {
            self.running_bytes -= answer.cost;
            self.outbox.answer(answer);
            any = true;
        }
        any
    }

    /// Where the rest of an arriving payload may be received directly, if that is worth it.
    pub(super) fn direct(&self) -> Option<IoVec> {
        let arriving = self.arriving.as_ref()?;
        let missing = arriving.payload.len() - arriving.filled;
        (missing >= RECEIVE_DIRECTLY).then(|| arriving.payload.part(arriving.filled, missing))
    }

    /// Says that `len` bytes were received where [`direct`](Self::direct) said.
    pub(super) fn received_directly(&mut self, len: usize) {
        if let Some(arriving) = &mut self.arriving {
            arriving.filled += len;
            debug_assert!(arriving.filled <= arriving.payload.len(), "only its rest");
        }
    }

    /// Replies to send, if there are any.
    pub(super) fn outgoing(&mut self) -> Option<Batch> {
        self.outbox.take(&self.pool)
    }

    /// Forgets replies, for nobody will read them.
    pub(super) fn discard_replies(&mut self) {
        self.outbox.clear();
    }

    /// Takes no more requests. A write whose payload has not wholly come is forgotten, and nothing of it is written.
    pub(super) fn close(&mut self) {
        self.closed = true;
        self.arriving = None;
    }

    /// Whether more may come from the client.
    pub(super) fn is_open(&self) -> bool {
        !self.closed
    }

    /// Says that nothing will happen until the client sends more.
    pub(super) fn rest(&self) {
        if self.is_idle() && self.arriving.is_none() {
            self.pool.rest();
        }
    }

    /// Whether all that was begun has been answered and taken away to be sent.
    pub(super) fn is_idle(&self) -> bool {
        self.running.is_empty() && self.outbox.is_empty()
    }
}
