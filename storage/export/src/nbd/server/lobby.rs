//! Clients that have connected and not yet agreed on an export.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::time::Duration;

use futures_channel::oneshot;
use futures_util::future::{Either, select};
use weft_uring::{Stream, sleep};

use crate::nbd::session::{Agreed, Catalogue, HANDSHAKE_BUFFER, Negotiation, Step};

/// Clients that may be in their handshake at once. The one that came first makes room for the next: whoever is honest is
/// through in a few milliseconds, and whoever is slow on purpose keeps nobody out.
pub(super) const MAX_HANDSHAKES: usize = 64;

/// How long a handshake may take. Long, because people drive it by hand in `nbdsh`; the bound above is what protects.
const HANDSHAKE_TIME: Duration = Duration::from_secs(60);

/// The clients in their handshake, oldest first.
#[derive(Default)]
pub(super) struct Lobby {
    waiting: RefCell<VecDeque<(u64, oneshot::Sender<()>)>>,
    next: Cell<u64>,
    closed: Cell<bool>,
}

impl Lobby {
    /// Throws everybody out, and turns away who is still on the way in from the door.
    pub(super) fn close(&self) {
        self.closed.set(true);
        self.waiting.take();
    }

    /// Brings a client to an agreement; with it, what came of its first requests. `None` if it left, was thrown out or
    /// took too long.
    pub(super) async fn receive(
        &self,
        stream: &Stream,
        catalogue: &dyn Catalogue,
    ) -> Option<(Agreed, Vec<u8>)> {
        if self.closed.get() {
            return None;
        }
        let number = self.next.replace(self.next.get() + 1);
        let (room, thrown_out) = oneshot::channel();
        let oldest = {
            let mut waiting = self.waiting.borrow_mut();
            waiting.push_back((number, room));
            (waiting.len() > MAX_HANDSHAKES).then(|| waiting.pop_front())
        };
        drop(oldest);
        let late = select(thrown_out, Box::pin(sleep(HANDSHAKE_TIME)));
        let talk = Box::pin(haggle(stream, catalogue));
        let agreed = match select(talk, late).await {
            Either::Left((agreed, _)) => agreed,
            Either::Right(_) => {
                tracing::debug!("an NBD client did not finish its handshake");
                None
            }
        };
        let mut waiting = self.waiting.borrow_mut();
        waiting.retain(|(other, _)| *other != number);
        agreed
    }
}

/// The handshake itself.
async fn haggle(stream: &Stream, catalogue: &dyn Catalogue) -> Option<(Agreed, Vec<u8>)> {
    let mut out = Vec::new();
    let mut negotiation = Negotiation::new(&mut out);
    let mut received = Vec::new();
    let mut buffer = vec![0; HANDSHAKE_BUFFER];
    let mut step = Step::Answered;
    loop {
        if !out.is_empty() {
            let (sent, memory) = stream.send(out).await;
            sent.ok()?;
            out = memory;
            out.clear();
        }
        match step {
            Step::Answered => {}
            Step::Wait => {
                let (result, memory) = stream.recv(buffer).await;
                buffer = memory;
                let len = result.ok().filter(|&len| len > 0)?;
                received.extend_from_slice(&buffer[..len]);
            }
            Step::Enter(agreed) => return Some((agreed, received)),
            Step::Close(why) => {
                tracing::debug!(why, "an NBD handshake ended");
                return None;
            }
        }
        let mut input = &received[..];
        step = negotiation.advance(&mut input, catalogue, &mut out);
        let taken = received.len() - input.len();
        received.drain(..taken);
    }
}
