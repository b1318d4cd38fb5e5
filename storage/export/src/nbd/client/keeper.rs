//! The life of a line: its connection is made, served, and made again when it is lost.

use std::collections::hash_map::RandomState;
use std::future::{Future, poll_fn};
use std::hash::BuildHasher;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_util::future::{Either, select};
use weft_block::{Error, ErrorKind};
use weft_uring::{Address, Stream, sleep, sleep_until};

use super::driver::{Driver, Loss};
use super::line::Line;
use super::retry::Retry;
use super::{CONNECT_TIME, Url, join};
use crate::nbd::proto::transmission_flag;
use crate::nbd::session::Joined;

/// How often a thread looks whether another has let the connection go that is the only one.
const SEAT_PAUSE: Duration = Duration::from_millis(2);

/// Serves `line` until it is closed and idle, or the connection is lost for good.
pub(super) async fn run(line: Rc<Line>, url: Url, address: Address) {
    let _ending = Ending(Rc::clone(&line));
    let mut keeper = Keeper {
        // As long as a server may take to answer, however soon it is given up later.
        retry: Retry::new(url.reconnect_delay.max(CONNECT_TIME)),
        line,
        url,
        address,
    };
    if let Err(why) = keeper.keep().await {
        tracing::warn!(url = %keeper.url, why, "an NBD export is given up");
        keeper.line.seats().give_up(&why);
        keeper.line.lose(&why);
    }
}

/// Ends the line, however its keeper does: what waits when the executor ends fails, and the seat is free.
struct Ending(Rc<Line>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.lose("its thread has ended");
    }
}

struct Keeper {
    line: Rc<Line>,
    url: Url,
    address: Address,
    retry: Retry,
}

impl Keeper {
    /// An error says why the device is given up.
    async fn keep(&mut self) -> Result<(), String> {
        if !self.take_seat().await {
            // Not the device's end: the connection that it may have serves another thread.
            self.line
                .lose("the one connection that the server allows is another thread's");
            return Ok(());
        }
        while let Some((stream, received)) = self.connect().await? {
            let mut driver = Driver::new(&self.line, stream, received);
            let Some(loss) = poll_fn(|context| driver.poll(context)).await else {
                driver.say_goodbye().await;
                return Ok(());
            };
            self.lost(loss)?;
        }
        Ok(())
    }

    /// Whether the line may have a connection, if need be after a while.
    async fn take_seat(&self) -> bool {
        let until = Instant::now() + CONNECT_TIME;
        loop {
            if let Some(seat) = self.line.seats().take() {
                self.line.sit(seat);
                return true;
            }
            if Instant::now() >= until || self.line.is_over() {
                return false;
            }
            sleep(SEAT_PAUSE).await;
        }
    }

    /// Gets the line ready for the next connection.
    fn lost(&mut self, loss: Loss) -> Result<(), String> {
        let Loss {
            why,
            closed,
            served,
        } = loss;
        if served {
            self.retry = Retry::new(self.url.reconnect_delay);
        }
        if !closed || self.url.reconnect_delay.is_zero() || !self.line.begin_again() {
            return Err(why);
        }
        tracing::warn!(url = %self.url, why, "an NBD connection is lost and made again");
        Ok(())
    }

    /// Makes the connection, however often it takes; nothing if nobody wants it any more.
    async fn connect(&mut self) -> Result<Option<(Stream, Vec<u8>)>, String> {
        let mut refusal = None;
        loop {
            if !self.pause().await {
                return Ok(None);
            }
            let now = Instant::now();
            if self.retry.is_over(now) {
                let seconds = self.url.reconnect_delay.as_secs();
                let why = refusal.map_or_else(String::new, |why| format!(": {why}"));
                return Err(format!(
                    "it did not come back within {seconds} seconds{why}"
                ));
            }
            self.retry.attempt();
            let error = match self.attempt(now).await {
                Ok((stream, joined, received)) => {
                    if !is_same(&joined, self.line.joined()) {
                        return Err("the export has changed since it was opened".to_string());
                    }
                    return Ok(Some((stream, received)));
                }
                Err(error) => error,
            };
            // A server that starts may not have the export yet; one that speaks otherwise is another.
            let later = matches!(error.kind(), ErrorKind::Offline | ErrorKind::Invalid);
            if !later || self.url.reconnect_delay.is_zero() {
                return Err(error.sentence());
            }
            refusal = Some(error.sentence());
        }
    }

    async fn attempt(&self, now: Instant) -> Result<(Stream, Joined, Vec<u8>), Error> {
        let deadline = self.retry.deadline().unwrap_or(now + CONNECT_TIME);
        let talk = Box::pin(join(&self.url, &self.address, true));
        match select(talk, Box::pin(sleep_until(deadline))).await {
            Either::Left((joined, _)) => joined,
            Either::Right(_) => {
                let message = "the server does not answer";
                Err(Error::new(ErrorKind::Offline, message))
            }
        }
    }

    /// Rests before the next attempt, or until whoever waits has waited long enough. False if nobody wants it any more.
    async fn pause(&mut self) -> bool {
        let chance = RandomState::new().hash_one(0_u8) as u32;
        let rested = Instant::now() + self.retry.pause(chance);
        loop {
            if self.line.is_over() {
                return false;
            }
            let now = Instant::now();
            self.retry.waited_for(self.line.is_needed(), now);
            let until = self.retry.deadline().unwrap_or(rested).min(rested);
            if now >= until {
                return true;
            }
            let mut rest = pin!(sleep_until(until));
            let line = &self.line;
            let mut heard = false;
            // Whoever asks for something wakes this.
            poll_fn(|context| {
                if std::mem::replace(&mut heard, true) {
                    return Poll::Ready(());
                }
                line.listen(context.waker());
                rest.as_mut().poll(context)
            })
            .await;
        }
    }
}

/// Whether requests made for one export fit the other: the same size and block, and no ability less.
fn is_same(now: &Joined, then: &Joined) -> bool {
    now.size == then.size
        && now.min_block == then.min_block
        && now.max_payload >= then.max_payload
        && now.offers(then.flags & !transmission_flag::SEND_DF)
        && now.structured == then.structured
        && now.allocation.is_some() == then.allocation.is_some()
}
