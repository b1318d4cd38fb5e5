//! The protocol's constants of time and count (whitepaper, 6.1).

use std::time::Duration;

use crate::replay::REPLAY_WINDOW;

/// After as many messages under one key the initiator opens a new handshake.
pub const REKEY_AFTER_MESSAGES: u64 = 1 << 60;
/// After as many messages a key is not used any more.
pub const REJECT_AFTER_MESSAGES: u64 = u64::MAX - REPLAY_WINDOW - 1;
/// After this time the initiator of a session opens a new handshake when it sends.
pub const REKEY_AFTER_TIME: Duration = Duration::from_secs(120);
/// After this time a session is not used any more.
pub const REJECT_AFTER_TIME: Duration = Duration::from_secs(180);
/// For how long a handshake is tried before it is given up.
pub const REKEY_ATTEMPT_TIME: Duration = Duration::from_secs(90);
/// How long an answer to an initiation is waited for.
pub const REKEY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long after a packet from the peer it is told that we are there, if nothing else was sent.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// The most by which chance delays an attempt, so that two peers do not stay in step.
pub(crate) const LARGEST_JITTER: Duration = Duration::from_millis(333);
/// Attempts after the first one.
pub(crate) const RETRIES: u32 = (REKEY_ATTEMPT_TIME.as_secs() / REKEY_TIMEOUT.as_secs()) as u32;
/// When keys of a peer with which there was no new session are wiped.
pub(crate) const FORGET_KEYS_AFTER: Duration = Duration::from_secs(3 * 180);
/// A session of this age gets a successor when something is received, so that one that only receives does not end.
pub(crate) const REKEY_ON_RECEIVE_AFTER: Duration = Duration::from_secs(180 - 10 - 5);
/// Initiations of one peer come at least this far apart.
pub(crate) const BETWEEN_INITIATIONS: Duration = Duration::from_millis(20);
/// How long cookies follow from one secret.
pub(crate) const COOKIE_SECRET_AGE: Duration = Duration::from_secs(120);
/// How long a cookie is used: less than its secret lives, for it was under way.
pub(crate) const COOKIE_AGE: Duration = Duration::from_secs(115);
