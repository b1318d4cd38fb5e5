//! The machine: peers, their keys, and what is decided for them.
//!
//! [`Tunnel`] is told what arrives ([`Tunnel::receive`]), what is to be sent ([`Tunnel::send`]) and what time it is
//! ([`Tunnel::handle_timeout`]), and gives outputs. Whoever moves many packets takes a session out
//! ([`Tunnel::lane`], [`Tunnel::incoming`]), seals or opens a batch with it, and tells what was moved
//! ([`Tunnel::departed`], [`Tunnel::arrived`]).

mod administration;
mod data;
mod handshake;
mod timeouts;

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use slab::Slab;

use crate::allowed::AllowedIps;
use crate::cookie::Checker;
use crate::deadlines::Deadlines;
use crate::entropy::{Entropy, draw};
use crate::indices::Indices;
use crate::key_log::KeyLog;
use crate::load::{Load, LoadLimits};
use crate::message::Message;
use crate::peer::Peer;
use crate::timing::{LARGEST_JITTER, REKEY_AFTER_MESSAGES};
use crate::{Delivery, Endpoint, Now, Output, PeerId, PrivateKey, PublicKey, Refusal};

pub use data::Lane;

/// The MTU of a tunnel when nobody says otherwise: it leaves room for an outer IPv6 packet of 1500 bytes.
pub const DEFAULT_MTU: usize = 1420;

/// Who we are.
struct Identity {
    private: PrivateKey,
    public: PublicKey,
    checker: Checker,
}

/// One WireGuard interface: a private key, peers, and their sessions.
pub struct Tunnel {
    identity: Option<Identity>,
    mtu: usize,
    peers: Slab<Peer>,
    by_key: HashMap<PublicKey, PeerId>,
    /// How many peers there ever were, so that no number is used twice.
    generations: u32,
    allowed: AllowedIps<PeerId>,
    indices: Indices,
    deadlines: Deadlines<PeerId>,
    load: Load,
    entropy: Box<dyn Entropy>,
    key_log: Option<Box<dyn KeyLog>>,
    rekey_after_messages: u64,
}

impl Tunnel {
    /// A tunnel without a key and without peers, which takes all chance from `entropy`.
    pub fn new(entropy: Box<dyn Entropy>) -> Self {
        Self {
            identity: None,
            mtu: DEFAULT_MTU,
            peers: Slab::new(),
            by_key: HashMap::new(),
            generations: 0,
            allowed: AllowedIps::new(),
            indices: Indices::default(),
            deadlines: Deadlines::new(),
            load: Load::new(LoadLimits::default()),
            entropy,
            key_log: None,
            rekey_after_messages: REKEY_AFTER_MESSAGES,
        }
    }

    /// Sets how many handshakes are handled before their senders must prove where they are.
    pub fn set_load_limits(&mut self, limits: LoadLimits) {
        self.load = Load::new(limits);
    }

    /// Tells the secrets of every handshake from now on to `log`, which lets whoever reads it read the traffic. For
    /// labs alone.
    pub fn set_key_log(&mut self, log: Option<Box<dyn KeyLog>>) {
        self.key_log = log;
    }

    /// For tests: opens a new handshake after as many messages under one key, instead of [`REKEY_AFTER_MESSAGES`], which
    /// nobody lives to see.
    pub fn set_rekey_after_messages(&mut self, count: u64) {
        self.rekey_after_messages = count.min(REKEY_AFTER_MESSAGES);
    }

    /// Handles a datagram that came from `from`, in place. If it carries a packet, that is given; if it is a
    /// keepalive or a handshake, nothing is.
    pub fn receive(
        &mut self,
        datagram: &mut [u8],
        from: Endpoint,
        now: Now,
        outputs: &mut Vec<Output>,
    ) -> Result<Option<Delivery>, Refusal> {
        match Message::parse(datagram).ok_or(Refusal::Malformed)? {
            Message::Initiation(initiation) => {
                self.answer(&initiation, from, now, outputs).map(|()| None)
            }
            Message::Response(response) => {
                self.finish(&response, from, now, outputs).map(|()| None)
            }
            Message::CookieReply(reply) => self.take_cookie(&reply, now).map(|()| None),
            Message::Data(data) => {
                let receiver = data.receiver();
                self.deliver(receiver, datagram, from, now, outputs)
            }
        }
    }

    /// When [`Tunnel::handle_timeout`] wants to be called next, if nothing happens before. It may find nothing to do.
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.deadlines.first()
    }

    fn slot(&self, id: PeerId) -> Option<usize> {
        let slot = id.slot as usize;
        self.peers
            .get(slot)
            .is_some_and(|peer| peer.id == id)
            .then_some(slot)
    }

    /// Sees to it that the peer's timers are looked at in time.
    fn schedule(&mut self, slot: usize) {
        let peer = &mut self.peers[slot];
        if let Some(at) = peer.state.timers.next() {
            self.deadlines
                .at_latest(at, peer.id, &mut peer.state.scheduled);
        }
    }
}

/// Some time below a third of a second.
fn jitter(entropy: &mut dyn Entropy) -> Duration {
    let drawn = u16::from_le_bytes(draw(entropy));
    LARGEST_JITTER * u32::from(drawn) / u32::from(u16::MAX)
}

impl fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tunnel")
            .field("public_key", &self.public_key())
            .field("peers", &self.peers.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
