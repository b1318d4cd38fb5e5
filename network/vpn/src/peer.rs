//! What is known of one peer.

use std::collections::{BTreeSet, VecDeque};
use std::hint::black_box;
use std::time::{Duration, SystemTime};

use crate::cookie::Jar;
use crate::keys_in_turn::KeysInTurn;
use crate::noise::Opened;
use crate::tai64n::Timestamp;
use crate::timers::Timers;
use crate::{Endpoint, PeerId, Prefix, PresharedKey, PublicKey};

/// The most packets that wait for a handshake with one peer; the oldest makes way.
pub const STAGED_PACKETS: usize = 128;
/// The most bytes of them.
pub const STAGED_BYTES: usize = 256 * 1024;

/// A handshake that we have opened.
pub(crate) struct Pending {
    pub(crate) index: u32,
    pub(crate) opened: Opened,
}

/// A peer: who it is here and what its packets are sealed with, which is all that is read of it to seal a packet. So
/// all peers of a tunnel lie close together, 48 bytes each, and its state, of which a packet changes the beginning, apart.
pub(crate) struct Peer {
    pub(crate) id: PeerId,
    pub(crate) keys: KeysInTurn,
    pub(crate) state: Box<PeerState>,
}

/// What is known of a peer. What packets read and change comes first.
#[repr(C)]
pub(crate) struct PeerState {
    pub(crate) endpoint: Option<Endpoint>,
    pub(crate) sent_bytes: u64,
    pub(crate) received_bytes: u64,
    /// For when the deadlines have it.
    pub(crate) scheduled: Option<Duration>,
    pub(crate) timers: Timers,
    /// The current session already has a handshake for its successor because something was received late in its life.
    pub(crate) succession_begun: bool,
    pub(crate) staged: Staged,
    /// When a handshake message of ours left last, and when an initiation of the peer's was taken last.
    pub(crate) handshake_sent: Option<Duration>,
    pub(crate) initiation_taken: Option<Duration>,
    /// The timestamp of our latest initiation, and the greatest one of the peer's.
    pub(crate) sent_timestamp: Option<Timestamp>,
    pub(crate) seen_timestamp: Option<Timestamp>,
    pub(crate) last_handshake: Option<SystemTime>,
    pub(crate) pending: Option<Pending>,
    pub(crate) public: PublicKey,
    pub(crate) psk: PresharedKey,
    pub(crate) allowed: BTreeSet<Prefix>,
    pub(crate) jar: Jar,
}

impl Peer {
    pub(crate) fn new(id: PeerId, public: PublicKey) -> Self {
        Self {
            id,
            keys: KeysInTurn::default(),
            state: Box::new(PeerState::new(public)),
        }
    }
}

impl PeerState {
    fn new(public: PublicKey) -> Self {
        Self {
            endpoint: None,
            sent_bytes: 0,
            received_bytes: 0,
            scheduled: None,
            timers: Timers::default(),
            succession_begun: false,
            staged: Staged::default(),
            handshake_sent: None,
            initiation_taken: None,
            sent_timestamp: None,
            seen_timestamp: None,
            last_handshake: None,
            pending: None,
            public,
            psk: PresharedKey::none(),
            allowed: BTreeSet::new(),
            jar: Jar::new(&public),
        }
    }

    /// Looks at the memory that a packet changes, so that all of it is on its way at once.
    pub(crate) fn fetch(&self) {
        black_box((self.sent_bytes, self.scheduled, self.succession_begun));
        self.timers.fetch();
    }

    /// Lets the host's routing decide anew from where the peer is reached.
    pub(crate) fn forget_local_address(&mut self) {
        if let Some(endpoint) = &mut self.endpoint {
            endpoint.local = None;
        }
    }
}

/// Packets that wait for a session.
#[derive(Default)]
pub(crate) struct Staged {
    packets: VecDeque<Box<[u8]>>,
    bytes: usize,
}

impl Staged {
    pub(crate) fn push(&mut self, packet: &[u8]) {
        self.packets.push_back(packet.into());
        self.bytes += packet.len();
        while self.packets.len() > STAGED_PACKETS || self.bytes > STAGED_BYTES {
            self.pop();
        }
    }

    pub(crate) fn pop(&mut self) -> Option<Box<[u8]>> {
        let packet = self.packets.pop_front()?;
        self.bytes -= packet.len();
        Some(packet)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

/// A peer as an administrator sees it.
#[derive(Debug, Clone)]
pub struct PeerStatus<'a> {
    /// Its number here.
    pub id: PeerId,
    /// Who it is.
    pub public_key: PublicKey,
    /// The secret that both have besides.
    pub preshared_key: &'a PresharedKey,
    /// Where it is, as far as is known.
    pub endpoint: Option<Endpoint>,
    /// The addresses it has.
    pub allowed_ips: &'a BTreeSet<Prefix>,
    /// How often a keepalive goes to it, in seconds; 0 for never.
    pub persistent_keepalive: u16,
    /// Whether it has not answered a handshake in time, and it is tried again.
    pub unanswered: bool,
    /// When the latest handshake with it was completed.
    pub last_handshake: Option<SystemTime>,
    /// Bytes of all genuine messages from it.
    pub received_bytes: u64,
    /// Bytes of all messages to it.
    pub sent_bytes: u64,
}

impl<'a> From<&'a Peer> for PeerStatus<'a> {
    fn from(peer: &'a Peer) -> Self {
        let interval = peer
            .state
            .timers
            .interval()
            .map_or(0, |every| every.as_secs());
        Self {
            id: peer.id,
            public_key: peer.state.public,
            preshared_key: &peer.state.psk,
            endpoint: peer.state.endpoint,
            allowed_ips: &peer.state.allowed,
            persistent_keepalive: interval as u16,
            unanswered: peer.state.timers.is_unanswered(),
            last_handshake: peer.state.last_handshake,
            received_bytes: peer.state.received_bytes,
            sent_bytes: peer.state.sent_bytes,
        }
    }
}
