//! Replies on their way to a client: heads in one piece, payloads where the device put them.

use std::rc::Rc;

use weft_block::{ExtentKind, IoVec};

use super::perform::{Answer, Outcome};
use crate::nbd::pool::{Payload, Pool};
use crate::nbd::session::{Refusal, Replies};

/// Pieces that one system call takes (`UIO_MAXIOV` is 1024), with one head before each payload.
const MAX_BODIES: usize = 500;

/// A payload and how many bytes of heads go before it.
struct Body {
    heads_before: usize,
    memory: IoVec,
    /// Gives the memory back to its pool once it is sent.
    _payload: Option<Payload>,
}

/// Replies that wait to be sent.
pub(super) struct Outbox {
    replies: Replies,
    heads: Vec<u8>,
    bodies: Vec<Body>,
    /// In `bodies`.
    bytes: usize,
}

/// Replies that are being sent.
pub(super) struct Batch {
    /// All of their bytes in order.
    pub(super) memory: IoVec,
    _heads: Payload,
    _bodies: Vec<Body>,
}

impl Outbox {
    pub(super) fn new(replies: Replies) -> Self {
        Self {
            replies,
            heads: Vec::new(),
            bodies: Vec::new(),
            bytes: 0,
        }
    }

    /// Bytes that wait.
    pub(super) fn bytes(&self) -> usize {
        self.bytes + self.heads.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.heads.is_empty()
    }

    /// Nobody will read them.
    pub(super) fn clear(&mut self) {
        self.heads.clear();
        self.bodies.clear();
        self.bytes = 0;
    }

    pub(super) fn refuse(&mut self, refusal: &Refusal) {
        let Refusal { cookie, errno, why } = *refusal;
        self.replies.error(&mut self.heads, cookie, errno, why);
    }

    pub(super) fn answer(&mut self, answer: Answer) {
        let (cookie, heads) = (answer.cookie, &mut self.heads);
        match answer.outcome {
            Outcome::Done => self.replies.done(heads, cookie),
            Outcome::Nothing => self.replies.end_of_read(heads, cookie),
            Outcome::Status(extents) => self.replies.block_status(heads, cookie, &extents),
            Outcome::Failed(errno, message) => {
                self.replies.error(heads, cookie, errno, &message);
            }
            Outcome::Data(payload, offset) => {
                let len = payload.len() as u32;
                self.replies.data(heads, cookie, offset, len, true);
                self.put_body(payload.whole(), Some(payload));
            }
            Outcome::Sparse(payload, offset, parts) => {
                let count = parts.len();
                let mut payload = Some(payload);
                for (number, part) in parts.iter().enumerate() {
                    let last = number + 1 == count;
                    let (at, len) = (part.offset, part.len as u32);
                    if part.kind != ExtentKind::Data {
                        self.replies.hole(&mut self.heads, cookie, at, len, last);
                        continue;
                    }
                    let Some(memory) = payload
                        .as_ref()
                        .map(|payload| payload.part((at - offset) as usize, len as usize))
                    else {
                        break;
                    };
                    self.replies.data(&mut self.heads, cookie, at, len, last);
                    let more = parts[number + 1..]
                        .iter()
                        .any(|part| part.kind == ExtentKind::Data);
                    let done_with = if more { None } else { payload.take() };
                    self.put_body(memory, done_with);
                }
            }
        }
    }

    fn put_body(&mut self, memory: IoVec, payload: Option<Payload>) {
        self.bytes += memory.len();
        self.bodies.push(Body {
            heads_before: self.heads.len(),
            memory,
            _payload: payload,
        });
    }

    /// Takes what one system call can send; `None` if nothing waits.
    pub(super) fn take(&mut self, pool: &Rc<Pool>) -> Option<Batch> {
        if self.heads.is_empty() {
            return None;
        }
        let later = self.bodies.split_off(self.bodies.len().min(MAX_BODIES));
        let bodies = std::mem::replace(&mut self.bodies, later);
        // A head is only sent with the payload behind it, or the stream would stop in its middle for no reason.
        let heads_end = match self.bodies.first() {
            Some(_) => bodies.last().map_or(0, |body| body.heads_before),
            None => self.heads.len(),
        };
        let mut heads = pool.take(heads_end);
        heads.fill(0, &self.heads[..heads_end]);
        self.heads.drain(..heads_end);
        for body in &mut self.bodies {
            body.heads_before -= heads_end;
        }
        self.bytes = self.bodies.iter().map(|body| body.memory.len()).sum();
        Some(Batch {
            memory: gather(&heads, &bodies),
            _heads: heads,
            _bodies: bodies,
        })
    }
}

/// Heads and payloads in the order of the stream.
fn gather(heads: &Payload, bodies: &[Body]) -> IoVec {
    let mut at = 0;
    let mut parts = Vec::with_capacity(2 * bodies.len() + 1);
    for body in bodies {
        parts.push(heads.part(at, body.heads_before - at));
        parts.push(body.memory.clone());
        at = body.heads_before;
    }
    parts.push(heads.part(at, heads.len() - at));
    IoVec::join(parts)
}

#[cfg(test)]
mod tests {
    use smallvec::smallvec;
    use weft_block::Extent;

    use super::*;
    use crate::nbd::proto::Errno;

    fn payload(pool: &Rc<Pool>, bytes: &[u8]) -> Payload {
        let mut payload = pool.take(bytes.len());
        payload.fill(0, bytes);
        payload
    }

    fn data(pool: &Rc<Pool>, cookie: u64, bytes: &[u8]) -> Answer {
        let outcome = Outcome::Data(payload(pool, bytes), 512);
        Answer {
            cookie,
            cost: bytes.len(),
            outcome,
        }
    }

    fn all(outbox: &mut Outbox, pool: &Rc<Pool>) -> Vec<u8> {
        let mut bytes = Vec::new();
        while let Some(batch) = outbox.take(pool) {
            assert!(batch.memory.segments().len() <= 1024);
            bytes.extend_from_slice(&batch.memory.to_buffer());
        }
        assert_eq!(outbox.bytes(), 0);
        bytes
    }

    #[test]
    fn heads_and_payloads_keep_their_order() {
        let pool = Pool::new();
        let replies = Replies::new(true);
        let (mut outbox, mut wanted) = (Outbox::new(replies), Vec::new());
        for cookie in 0..1200 {
            let bytes = [cookie as u8; 16];
            outbox.answer(data(&pool, cookie, &bytes));
            replies.data(&mut wanted, cookie, 512, 16, true);
            wanted.extend_from_slice(&bytes);
            let (errno, why) = (Errno::Inval, "no");
            outbox.refuse(&Refusal { cookie, errno, why });
            replies.error(&mut wanted, cookie, errno, why);
        }
        assert_eq!(outbox.bytes(), wanted.len());
        assert!(all(&mut outbox, &pool) == wanted);
    }

    #[test]
    fn holes_are_told_and_not_sent() {
        let pool = Pool::new();
        let replies = Replies::new(true);
        let mut outbox = Outbox::new(replies);
        let part = |offset, len, kind| Extent { offset, len, kind };
        let parts = smallvec![
            part(512, 2, ExtentKind::Data),
            part(514, 1 << 20, ExtentKind::Hole),
        ];
        outbox.answer(Answer {
            cookie: 1,
            cost: 4,
            outcome: Outcome::Sparse(payload(&pool, b"ab??"), 512, parts),
        });
        let mut wanted = Vec::new();
        replies.data(&mut wanted, 1, 512, 2, false);
        wanted.extend_from_slice(b"ab");
        replies.hole(&mut wanted, 1, 514, 1 << 20, true);
        assert_eq!(all(&mut outbox, &pool), wanted);
    }
}
