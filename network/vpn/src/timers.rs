//! What a peer waits for (whitepaper, 6), as instants: nothing runs by itself.
//!
//! Each method is named for what has happened. Whoever tells it asks [`Timers::due`] when the earliest instant is there.

use std::hint::black_box;
use std::time::Duration;

use crate::timing::{FORGET_KEYS_AFTER, KEEPALIVE_TIMEOUT, REKEY_TIMEOUT, RETRIES};

/// What is to be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    /// The handshake was not answered: try again.
    Retry,
    /// It was tried often enough.
    GiveUp,
    /// Nothing came back for what was sent: see by a handshake whether the peer is there.
    Probe,
    /// Say that we are there.
    Keepalive,
    /// Wipe the keys.
    Forget,
}

#[derive(Debug, Default)]
pub(crate) struct Timers {
    retransmit: Option<Duration>,
    /// When a keepalive is due for what was received, and whether more was received since it was set.
    keepalive: Option<(Duration, bool)>,
    probe: Option<Duration>,
    forget: Option<Duration>,
    persistent: Option<Duration>,
    interval: Option<Duration>,
    attempts: u32,
}

impl Timers {
    /// Looks at all of them, so that they are in the cache soon.
    pub(crate) fn fetch(&self) {
        black_box((self.retransmit, self.forget, self.interval));
    }

    /// The earliest instant at which something may be due.
    pub(crate) fn next(&self) -> Option<Duration> {
        let keepalive = self.keepalive.map(|(at, _)| at);
        [
            self.retransmit,
            keepalive,
            self.probe,
            self.forget,
            self.persistent,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Something that is due, which then is not due any more. To be asked until there is nothing.
    pub(crate) fn due(&mut self, now: Duration) -> Option<Due> {
        let is_due = |at: &mut Duration| *at <= now;
        if self.retransmit.take_if(is_due).is_some() {
            return Some(self.retry(now));
        }
        if let Some((_, again)) = self.keepalive.take_if(|(at, _)| *at <= now) {
            self.keepalive = again.then_some((now + KEEPALIVE_TIMEOUT, false));
            return Some(Due::Keepalive);
        }
        if self.probe.take_if(is_due).is_some() {
            return Some(Due::Probe);
        }
        if self.forget.take_if(is_due).is_some() {
            return Some(Due::Forget);
        }
        let due = self.persistent.take_if(is_due).is_some();
        due.then_some(Due::Keepalive)
    }

    fn retry(&mut self, now: Duration) -> Due {
        if self.attempts >= RETRIES {
            self.keepalive = None;
            self.forget.get_or_insert(now + FORGET_KEYS_AFTER);
            return Due::GiveUp;
        }
        self.attempts += 1;
        Due::Retry
    }

    /// A handshake is wanted for a reason of its own, not as one more attempt.
    pub(crate) fn handshake_wanted(&mut self) {
        self.attempts = 0;
    }

    /// An initiation has left.
    pub(crate) fn initiation_sent(&mut self, jitter: Duration, now: Duration) {
        self.retransmit = Some(now + REKEY_TIMEOUT + jitter);
    }

    /// Whether an initiation was not answered in time, and it is tried again.
    pub(crate) fn is_unanswered(&self) -> bool {
        self.retransmit.is_some() && self.attempts > 0
    }

    /// Both sides have the keys.
    pub(crate) fn handshake_completed(&mut self) {
        self.retransmit = None;
        self.attempts = 0;
    }

    /// A session was made.
    pub(crate) fn session_made(&mut self, now: Duration) {
        self.forget = Some(now + FORGET_KEYS_AFTER);
    }

    /// A packet with something in it has left.
    pub(crate) fn data_sent(&mut self, jitter: impl FnOnce() -> Duration, now: Duration) {
        self.probe
            .get_or_insert_with(|| now + KEEPALIVE_TIMEOUT + REKEY_TIMEOUT + jitter());
    }

    /// A packet with something in it has come.
    pub(crate) fn data_received(&mut self, now: Duration) {
        match &mut self.keepalive {
            Some((_, again)) => *again = true,
            None => self.keepalive = Some((now + KEEPALIVE_TIMEOUT, false)),
        }
    }

    /// Anything that the peer can tell to be ours has left.
    pub(crate) fn sent(&mut self, now: Duration) {
        self.keepalive = None;
        self.traversed(now);
    }

    /// Anything that is the peer's for sure has come.
    pub(crate) fn received(&mut self, now: Duration) {
        self.probe = None;
        self.traversed(now);
    }

    fn traversed(&mut self, now: Duration) {
        self.persistent = self.interval.map(|interval| now + interval);
    }

    /// Sets how often a keepalive goes out whatever else happens; none for not at all.
    pub(crate) fn set_interval(&mut self, interval: Option<Duration>, now: Duration) {
        self.interval = interval;
        self.traversed(now);
    }

    /// How often a keepalive goes out whatever else happens.
    pub(crate) fn interval(&self) -> Option<Duration> {
        self.interval
    }

    /// The peer has no session any more, and nothing is tried.
    pub(crate) fn stop(&mut self) {
        *self = Self {
            interval: self.interval,
            persistent: self.persistent,
            ..Self::default()
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(100);

    #[test]
    fn a_handshake_is_tried_for_ninety_seconds() {
        let mut timers = Timers::default();
        let (mut now, mut sent) = (NOW, 0);
        timers.handshake_wanted();
        loop {
            timers.initiation_sent(Duration::ZERO, now);
            sent += 1;
            now = timers.next().unwrap();
            assert_eq!(timers.is_unanswered(), sent > 1);
            match timers.due(now) {
                Some(Due::Retry) => {}
                due => break assert_eq!(due, Some(Due::GiveUp)),
            }
        }
        assert_eq!((sent, now - NOW), (19, Duration::from_secs(95)));
        assert_eq!(timers.next(), Some(now + FORGET_KEYS_AFTER));
    }

    #[test]
    fn a_keepalive_answers_what_was_received_and_nothing_else() {
        let mut timers = Timers::default();
        timers.data_received(NOW);
        timers.sent(NOW);
        assert_eq!(timers.next(), None);
        timers.data_received(NOW);
        timers.data_received(NOW + Duration::from_secs(3));
        let then = NOW + KEEPALIVE_TIMEOUT;
        assert_eq!(timers.due(then - Duration::from_nanos(1)), None);
        assert_eq!(timers.due(then), Some(Due::Keepalive));
        assert_eq!(timers.next(), Some(then + KEEPALIVE_TIMEOUT));
        assert_eq!(timers.due(then), None);
    }

    #[test]
    fn silence_after_data_asks_for_a_handshake() {
        let mut timers = Timers::default();
        timers.data_sent(|| Duration::ZERO, NOW);
        timers.data_sent(|| Duration::ZERO, NOW + Duration::from_secs(9));
        let then = NOW + Duration::from_secs(15);
        assert_eq!(timers.next(), Some(then));
        assert_eq!(timers.due(then), Some(Due::Probe));
        timers.data_sent(|| Duration::ZERO, then);
        timers.received(then);
        assert_eq!(timers.next(), None);
    }
}
