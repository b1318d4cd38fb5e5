//! The keys of a session, and what is sealed and opened with them.
//!
//! A session is shared by whoever moves packets and needs no lock of the machine's: counters are atomic, and the
//! replay window has a lock of its own that only one lane takes. Both directions work in place, in the buffer that is
//! sent or was received.

use std::fmt;
use std::hint::black_box;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

use crate::PeerId;
use crate::message::{DATA_HEADER, Data, OVERHEAD, TAG};
use crate::noise::TransportKeys;
use crate::replay::ReplayWindow;
use crate::timing::{REJECT_AFTER_MESSAGES, REJECT_AFTER_TIME};

/// Why a session does not seal or open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// As many messages were sent as its key is good for.
    #[error("the session's key is used up")]
    Exhausted,
    /// The bytes were not sealed with its key.
    #[error("the message was not sealed by the peer")]
    Forged,
    /// The message was seen, or is older than what is remembered.
    #[error("the message was seen before, or is too old to tell")]
    Replayed,
}

/// A pair of keys with one peer, and how far they were used.
///
/// With many peers a session is seldom in the nearest cache when its turn comes, so what one direction needs lies
/// together: `ring` reads the first 40 bytes of a key and its last 16, and what stands beside them here is in the same
/// cache lines.
#[repr(C)]
pub struct Session {
    sent: AtomicU64,
    /// Nanoseconds on the monotonic clock.
    born: u64,
    sending: Key,
    peer: PeerId,
    /// What the peer puts into messages to us, and we into messages to it.
    local: u32,
    remote: u32,
    receiving: Key,
    initiator: bool,
    seen: Mutex<ReplayWindow>,
}

impl Session {
    pub(crate) fn new(
        peer: PeerId,
        local: u32,
        remote: u32,
        initiator: bool,
        keys: &TransportKeys,
        now: Duration,
    ) -> Self {
        Self {
            sent: AtomicU64::new(0),
            born: nanoseconds(now),
            sending: Key::new(&keys.sending),
            peer,
            local,
            remote,
            receiving: Key::new(&keys.receiving),
            initiator,
            seen: Mutex::new(ReplayWindow::new()),
        }
    }

    /// Whom it is with.
    pub fn peer(&self) -> PeerId {
        self.peer
    }

    /// The index that the peer names it by.
    pub fn local_index(&self) -> u32 {
        self.local
    }

    /// Seals a message in place. The packet, with its padding, lies behind [`DATA_HEADER`] bytes for the header and
    /// before [`TAG`] bytes for the tag, both of which are written.
    ///
    /// # Panics
    /// If there is no room for header and tag.
    pub fn seal(&self, message: &mut [u8]) -> Result<(), SessionError> {
        let counter = self.sent.fetch_add(1, Ordering::Relaxed);
        if counter >= REJECT_AFTER_MESSAGES {
            self.sent.store(REJECT_AFTER_MESSAGES, Ordering::Relaxed);
            return Err(SessionError::Exhausted);
        }
        assert!(message.len() >= OVERHEAD, "room for header and tag");
        let end = message.len() - TAG;
        let (header, rest) = message.split_at_mut(DATA_HEADER);
        let (packet, tag) = rest.split_at_mut(end - DATA_HEADER);
        Data::emit_header(self.remote, counter, header);
        let sealed = self
            .sending
            .0
            .seal_in_place_separate_tag(nonce(counter), Aad::empty(), packet)
            .map_err(|_| SessionError::Exhausted)?;
        tag.copy_from_slice(sealed.as_ref());
        Ok(())
    }

    /// Opens a data message in place and tells where the packet with its padding lies in it: nowhere, for a keepalive.
    /// The message is one of this session: [`Data::receiver`] is [`Session::local_index`].
    pub fn open(&self, message: &mut [u8]) -> Result<Range<usize>, SessionError> {
        let data = Data::parse(message).ok_or(SessionError::Forged)?;
        let counter = data.counter();
        if counter >= REJECT_AFTER_MESSAGES {
            return Err(SessionError::Exhausted);
        }
        let packet = self
            .receiving
            .0
            .open_in_place(nonce(counter), Aad::empty(), &mut message[DATA_HEADER..])
            .map_err(|_| SessionError::Forged)?
            .len();
        // Only what is genuine moves the window.
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if !seen.accept(counter) {
            return Err(SessionError::Replayed);
        }
        Ok(DATA_HEADER..DATA_HEADER + packet)
    }

    /// Looks at the memory that sealing reads, so that all of it is on its way at once.
    pub(crate) fn fetch_for_sealing(&self) {
        black_box((self.sent(), self.remote));
    }

    /// Looks at the memory that opening reads, so that all of it is on its way at once.
    pub(crate) fn fetch_for_opening(&self) {
        black_box((self.local, self.initiator));
    }

    pub(crate) fn is_initiator(&self) -> bool {
        self.initiator
    }

    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    pub(crate) fn age(&self, now: Duration) -> Duration {
        now.saturating_sub(Duration::from_nanos(self.born))
    }

    /// Whether messages may still be sent and received with it.
    pub(crate) fn is_alive(&self, now: Duration) -> bool {
        self.age(now) < REJECT_AFTER_TIME
    }

    /// Whether one more may be sent.
    pub(crate) fn may_send(&self, now: Duration) -> bool {
        self.is_alive(now) && self.sent() < REJECT_AFTER_MESSAGES
    }

    /// As if `count` messages had been sent.
    #[cfg(test)]
    pub(crate) fn skip_to(&self, count: u64) {
        self.sent.store(count, Ordering::Relaxed);
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("peer", &self.peer)
            .field("local", &self.local)
            .field("remote", &self.remote)
            .field("sent", &self.sent)
            .finish_non_exhaustive()
    }
}

/// Enough for five centuries.
fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// A key of the AEAD that is wiped when it is dropped.
struct Key(LessSafeKey);

impl Key {
    fn new(bytes: &[u8; 32]) -> Self {
        Self(bound(bytes))
    }
}

impl Drop for Key {
    /// `ring` does not wipe its keys, so another is put in the same place, and the compiler is kept from leaving that
    /// out for a value that nobody reads.
    fn drop(&mut self) {
        self.0 = bound(&[0; 32]);
        std::hint::black_box(&mut self.0);
    }
}

fn bound(bytes: &[u8; 32]) -> LessSafeKey {
    let key = UnboundKey::new(&CHACHA20_POLY1305, bytes).expect("ChaCha20 takes 32 bytes");
    LessSafeKey::new(key)
}

fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}
