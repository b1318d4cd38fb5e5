//! A client in transmission: waits for its socket and for the device, and lets the [`Desk`] decide.

use std::future::{Future, poll_fn};
use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt;
use weft_block::{IoVec, LocalBoxFuture};
use weft_uring::{Sleep, Stream, sleep};

use super::desk::Desk;
use super::exports::{Membership, Stopped};
use super::outbox::Batch;
use crate::nbd::input::Input;
use crate::nbd::session::Agreed;

/// How long a client may take to fetch the replies to what it had begun when its export is removed.
const GRACE: Duration = Duration::from_secs(5);

/// Rounds of work after which other tasks of the thread get their turn.
const MAX_ROUNDS: usize = 16;

/// Serves one client until it leaves, breaks the protocol, or its export is removed.
pub(super) async fn transmit(
    stream: Stream,
    membership: Membership,
    agreed: &Agreed,
    received: Vec<u8>,
) {
    let mut connection = Connection {
        desk: Desk::new(membership.target.clone(), agreed),
        stream,
        input: Input::of(received),
        receiving: None,
        sending: None,
        stopped: Some(membership.stopped.clone()),
        grace: None,
        dead: false,
    };
    poll_fn(|context| connection.poll(context)).await;
    // The peer may be gone already.
    let _ = connection.stream.shutdown(Shutdown::Both);
}

struct Connection {
    stream: Stream,
    desk: Desk,
    input: Input,
    receiving: Option<LocalBoxFuture<'static, Received>>,
    sending: Option<LocalBoxFuture<'static, Sent>>,
    /// Present until it has resolved.
    stopped: Option<Stopped>,
    grace: Option<Pin<Box<Sleep>>>,
    /// The socket takes and gives nothing any more.
    dead: bool,
}

/// What a receive came to, with its memory.
enum Received {
    Buffered(io::Result<usize>, Vec<u8>),
    Directly(io::Result<usize>, IoVec),
}

/// What a send came to. The batch's memory is held until then.
type Sent = io::Result<()>;

impl Connection {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.is_out_of_time(context) {
            return Poll::Ready(());
        }
        for _ in 0..MAX_ROUNDS {
            let mut moved = self.desk.collect(context);
            moved |= self.poll_receiving(context);
            moved |= self.begin(context);
            moved |= self.poll_sending(context);
            if self.is_over() {
                return Poll::Ready(());
            }
            if !moved {
                self.desk.rest();
                return Poll::Pending;
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Ends the taking of requests when the export was removed; true when the time for the rest is up.
    fn is_out_of_time(&mut self, context: &mut Context<'_>) -> bool {
        if let Some(stopped) = &mut self.stopped
            && stopped.poll_unpin(context).is_ready()
        {
            self.stopped = None;
            self.desk.close();
            self.grace = Some(Box::pin(sleep(GRACE)));
        }
        let grace = self.grace.as_mut();
        grace.is_some_and(|grace| grace.as_mut().poll(context).is_ready())
    }

    /// Whether nothing is left to do: what was begun is answered, and the answers are out unless nobody takes them.
    fn is_over(&mut self) -> bool {
        if self.dead {
            self.desk.discard_replies();
        }
        !self.desk.is_open() && self.desk.is_idle() && self.sending.is_none()
    }

    /// True if bytes came.
    fn poll_receiving(&mut self, context: &mut Context<'_>) -> bool {
        if !self.desk.is_open() {
            self.receiving = None;
            return false;
        }
        let Some(receiving) = &mut self.receiving else {
            return false;
        };
        let Poll::Ready(received) = receiving.as_mut().poll(context) else {
            return false;
        };
        self.receiving = None;
        let result = match received {
            Received::Buffered(result, buffer) => {
                self.input.put(buffer, *result.as_ref().unwrap_or(&0));
                result
            }
            Received::Directly(result, memory) => {
                drop(memory);
                let len = *result.as_ref().unwrap_or(&0);
                self.desk.received_directly(len);
                result
            }
        };
        match result {
            Ok(0) => self.desk.close(),
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(%error, "an NBD client's connection broke");
                self.die();
            }
        }
        true
    }

    /// Begins requests that have come, and receives more once all have. True if there was one.
    fn begin(&mut self, context: &mut Context<'_>) -> bool {
        let mut input = self.input.rest();
        let before = input.len();
        self.desk.begin(&mut input, context);
        let taken = before - input.len();
        self.input.consume(taken);
        if self.receiving.is_none() && self.desk.is_open() && self.desk.may_begin() {
            self.receive();
            // A socket that holds more gives it at the first poll.
            return true;
        }
        taken > 0
    }

    fn receive(&mut self) {
        let stream = self.stream.clone();
        self.receiving = Some(match self.desk.direct() {
            Some(memory) => Box::pin(async move {
                let (result, memory) = stream.recv(memory).await;
                Received::Directly(result, memory)
            }),
            None => {
                let buffer = self.input.lend();
                Box::pin(async move {
                    let (result, buffer) = stream.recv(buffer).await;
                    Received::Buffered(result, buffer)
                })
            }
        });
    }

    /// True if something was sent.
    fn poll_sending(&mut self, context: &mut Context<'_>) -> bool {
        let mut any = false;
        loop {
            if self.sending.is_none() {
                self.sending = self.desk.outgoing().map(|batch| self.send(batch));
            }
            let Some(sending) = &mut self.sending else {
                return any;
            };
            let Poll::Ready(sent) = sending.as_mut().poll(context) else {
                return any;
            };
            self.sending = None;
            any = true;
            if let Err(error) = sent {
                tracing::debug!(%error, "an NBD client does not take its replies");
                self.die();
                return any;
            }
        }
    }

    fn send(&self, batch: Batch) -> LocalBoxFuture<'static, Sent> {
        let stream = self.stream.clone();
        Box::pin(async move {
            let (sent, memory) = stream.send(batch.memory.clone()).await;
            drop(memory);
            drop(batch);
            sent
        })
    }

    /// The socket is of no more use. What was begun on the device is still waited for.
    fn die(&mut self) {
        self.dead = true;
        self.desk.close();
    }
}
