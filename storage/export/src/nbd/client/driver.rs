//! One connection: sends what waits, receives answers to where they belong.

use std::future::Future;
use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use weft_block::{IoVec, LocalBoxFuture};
use weft_uring::{Sleep, Stream, sleep};

use super::SILENCE;
use super::line::{Broken, Line};
use crate::nbd::input::{Input, RECEIVE_DIRECTLY};
use crate::nbd::pool::Pool;
use crate::nbd::proto::{CommandCode, REQUEST_HEADER, Request};
use crate::nbd::session::{Answer, Answers};

/// Requests in one send: each is a head and perhaps a payload, and the kernel takes 1,024 pieces.
const MAX_BATCH: usize = 500;

/// Rounds of work after which other tasks of the thread get their turn.
const MAX_ROUNDS: usize = 16;

/// Why a connection is over before its line is.
pub(super) struct Loss {
    pub(super) why: String,
    /// The server has closed its end: what it was sent on this connection it has done or never will, so it may be sent
    /// again on another. A server that is silent may do it yet, and one that breaks the protocol is not asked twice.
    pub(super) closed: bool,
    /// Whether anything came over it since it was made.
    pub(super) served: bool,
}

pub(super) struct Driver {
    line: Rc<Line>,
    stream: Stream,
    answers: Answers,
    pool: Rc<Pool>,
    input: Input,
    /// Data that comes now, and how much of it is there.
    arriving: Option<Arriving>,
    receiving: Option<LocalBoxFuture<'static, Received>>,
    sending: Option<LocalBoxFuture<'static, io::Result<()>>>,
    /// Runs while requests are in flight, or did lately.
    watch: Option<Pin<Box<Sleep>>>,
    /// Whether anything came since the watch began.
    heard: bool,
    served: bool,
    lost: Option<Loss>,
}

struct Arriving {
    cookie: u64,
    memory: IoVec,
    filled: usize,
    /// Whether the reply ends with it.
    last: bool,
}

enum Received {
    Buffered(io::Result<usize>, Vec<u8>),
    Directly(io::Result<usize>),
}

impl Driver {
    pub(super) fn new(line: &Rc<Line>, stream: Stream, received: Vec<u8>) -> Self {
        Self {
            answers: Answers::new(line.joined().structured),
            line: Rc::clone(line),
            stream,
            pool: Pool::new(),
            input: Input::of(received),
            arriving: None,
            receiving: None,
            sending: None,
            watch: None,
            heard: false,
            served: false,
            lost: None,
        }
    }

    /// Ready when the line is over, or with the reason why the connection is. Nothing touches the memory of requests then.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Loss>> {
        self.line.listen(context.waker());
        for _ in 0..MAX_ROUNDS {
            let mut moved = self.poll_receiving(context);
            moved |= self.poll_sending(context);
            if self.lost.is_none() {
                self.poll_watch(context);
            }
            if self.lost.is_some() {
                // The socket was shut down, so both end soon; until then they touch the requests' memory.
                if self.receiving.is_none() && self.sending.is_none() {
                    return Poll::Ready(self.lost.take());
                }
            } else if self.line.is_over() && self.sending.is_none() {
                return Poll::Ready(None);
            }
            if !moved {
                return Poll::Pending;
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// The socket has failed.
    fn failed(&mut self, error: &io::Error) {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
        let closed = matches!(
            error.kind(),
            BrokenPipe | ConnectionAborted | ConnectionReset
        );
        self.lose(error.to_string(), closed);
    }

    /// The server is not to be trusted with the same requests again.
    fn leave(&mut self, why: String) {
        self.lose(why, false);
    }

    fn lose(&mut self, why: String, closed: bool) {
        if self.lost.is_none() {
            let served = self.served;
            self.lost = Some(Loss {
                why,
                closed,
                served,
            });
            // What was not sent yet must not reach the server after what follows on another connection.
            self.stream.discard_unsent();
            // The server may be gone already.
            let _ = self.stream.shutdown(Shutdown::Both);
        }
    }

    fn poll_watch(&mut self, context: &mut Context<'_>) {
        if self.watch.is_none() && self.line.is_busy() {
            self.heard = true;
            self.watch = Some(Box::pin(sleep(SILENCE)));
        }
        let Some(watch) = &mut self.watch else {
            return;
        };
        if watch.as_mut().poll(context).is_pending() {
            return;
        }
        self.watch = None;
        if !self.line.is_busy() {
            return;
        }
        if !self.heard {
            let seconds = SILENCE.as_secs();
            return self.leave(format!("the server was silent for {seconds} seconds"));
        }
        self.heard = false;
        let mut watch = Box::pin(sleep(SILENCE));
        // It registers with the first poll; it cannot be over yet.
        let _ = watch.as_mut().poll(context);
        self.watch = Some(watch);
    }

    /// True if bytes came and were understood, or a receive was begun.
    fn poll_receiving(&mut self, context: &mut Context<'_>) -> bool {
        if let Some(receiving) = &mut self.receiving {
            let Poll::Ready(received) = receiving.as_mut().poll(context) else {
                return false;
            };
            self.receiving = None;
            self.received(received);
        }
        if self.lost.is_some() {
            return false;
        }
        if let Err(why) = self.understand() {
            self.leave(format!("the server broke the protocol: {why}"));
            return true;
        }
        self.receive();
        true
    }

    fn received(&mut self, received: Received) {
        let result = match received {
            Received::Buffered(result, buffer) => {
                self.input.put(buffer, *result.as_ref().unwrap_or(&0));
                result
            }
            Received::Directly(result) => {
                if let Some(arriving) = &mut self.arriving {
                    arriving.filled += *result.as_ref().unwrap_or(&0);
                }
                result
            }
        };
        match result {
            Ok(0) => self.lose("the server hung up".to_string(), true),
            Ok(_) => (self.heard, self.served) = (true, true),
            Err(error) => self.failed(&error),
        }
    }

    /// Takes whole answers off the input.
    fn understand(&mut self) -> Result<(), Broken> {
        loop {
            if !self.take_data()? {
                return Ok(());
            }
            let mut input = self.input.rest();
            let before = input.len();
            let answer = self.answers.next(&mut input);
            let taken = before - input.len();
            self.input.consume(taken);
            if answer == Answer::Wait {
                return Ok(());
            }
            self.apply(answer)?;
        }
    }

    /// Moves what has come of arriving data to its place. False if more of it must come.
    fn take_data(&mut self) -> Result<bool, Broken> {
        let Some(arriving) = &mut self.arriving else {
            return Ok(true);
        };
        let rest = self.input.rest();
        let len = rest.len().min(arriving.memory.len() - arriving.filled);
        arriving.memory.copy_in(arriving.filled, &rest[..len]);
        arriving.filled += len;
        self.input.consume(len);
        if arriving.filled < arriving.memory.len() {
            return Ok(false);
        }
        let (cookie, last) = (arriving.cookie, arriving.last);
        self.arriving = None;
        if last {
            self.line.finish(cookie)?;
        }
        Ok(true)
    }

    fn apply(&mut self, answer: Answer) -> Result<(), Broken> {
        let line = &self.line;
        let (cookie, last) = match answer {
            Answer::Wait => return Ok(()),
            Answer::Broken(why) => return Err(why),
            Answer::Simple { cookie, error } => {
                let len = line.replied(cookie, error)?;
                if len > 0 {
                    self.arriving = Some(Arriving {
                        cookie,
                        memory: line.place(cookie, None, len)?,
                        filled: 0,
                        last: true,
                    });
                }
                return Ok(());
            }
            Answer::Data {
                cookie,
                offset,
                len,
                last,
            } => {
                self.arriving = Some(Arriving {
                    cookie,
                    memory: line.place(cookie, Some(offset), len)?,
                    filled: 0,
                    last,
                });
                return Ok(());
            }
            Answer::Hole {
                cookie,
                offset,
                len,
                last,
            } => {
                line.hole(cookie, offset, len)?;
                (cookie, last)
            }
            Answer::Status {
                cookie,
                context,
                extents,
                last,
            } => {
                line.status(cookie, context, extents)?;
                (cookie, last)
            }
            Answer::Error {
                cookie,
                errno,
                message,
                last,
            } => {
                line.failed(cookie, errno, &message)?;
                (cookie, last)
            }
            Answer::End { cookie } => (cookie, true),
        };
        if last { line.finish(cookie) } else { Ok(()) }
    }

    fn receive(&mut self) {
        let stream = self.stream.clone();
        if let Some(arriving) = &self.arriving {
            let missing = arriving.memory.len() - arriving.filled;
            if missing >= RECEIVE_DIRECTLY {
                let memory = arriving.memory.slice(arriving.filled, missing);
                self.receiving = Some(Box::pin(async move {
                    Received::Directly(stream.recv(memory).await.0)
                }));
                return;
            }
        }
        let buffer = self.input.lend();
        self.receiving = Some(Box::pin(async move {
            let (result, buffer) = stream.recv(buffer).await;
            Received::Buffered(result, buffer)
        }));
    }

    /// True if something was sent or begun to be.
    fn poll_sending(&mut self, context: &mut Context<'_>) -> bool {
        let mut any = false;
        loop {
            if self.sending.is_none() && self.lost.is_none() {
                self.sending = self.next_batch();
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
                self.failed(&error);
            }
        }
    }

    /// The send of what waits, if anything does.
    fn next_batch(&self) -> Option<LocalBoxFuture<'static, io::Result<()>>> {
        let mut batch = Vec::new();
        while batch.len() < MAX_BATCH
            && let Some(next) = self.line.next_unsent()
        {
            batch.push(next);
        }
        if batch.is_empty() {
            return None;
        }
        let mut heads = self.pool.take(batch.len() * REQUEST_HEADER);
        for (number, (request, _)) in batch.iter().enumerate() {
            heads.fill(number * REQUEST_HEADER, &request.encode());
        }
        let parts = batch
            .into_iter()
            .enumerate()
            .flat_map(|(number, (_, payload))| {
                [heads.part(number * REQUEST_HEADER, REQUEST_HEADER), payload]
            });
        let memory = IoVec::join(parts);
        let stream = self.stream.clone();
        Some(Box::pin(async move {
            let (sent, memory) = stream.send(memory).await;
            drop(memory);
            drop(heads);
            sent
        }))
    }

    /// The polite end: the server need not wonder.
    pub(super) async fn say_goodbye(self) {
        let request = Request {
            flags: 0,
            code: CommandCode::Disconnect as u16,
            cookie: 0,
            offset: 0,
            len: 0,
        };
        // The server may be gone already.
        let _ = self.stream.send(request.encode().to_vec()).await;
    }
}
