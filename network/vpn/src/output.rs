//! What goes into the machine and what comes out of it.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

use smallvec::SmallVec;

use crate::SessionError;
use crate::message::INITIATION;

/// The time, as two clocks tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Time that never goes back, from any start. All timers follow it; it should go on while the host sleeps.
    pub monotonic: Duration,
    /// The time of day, which may be set at will. Only timestamps of initiations follow it.
    pub wall: SystemTime,
}

/// A peer of one [`crate::Tunnel`]. The number of one that was removed is not used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

/// Where a peer is, and from which of our addresses it is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint {
    /// The peer's address and port.
    pub remote: SocketAddr,
    /// Where its datagrams came in, so that ours leave from there; none to let the host's routing decide.
    pub local: Option<LocalAddress>,
}

impl Endpoint {
    /// A peer that is reached as the host's routing decides.
    pub fn new(remote: SocketAddr) -> Self {
        Self {
            remote,
            local: None,
        }
    }
}

/// An address of ours on an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalAddress {
    /// The address.
    pub ip: IpAddr,
    /// The kernel's number of the interface.
    pub interface: u32,
}

/// The bytes of a datagram. Those of handshakes, cookies and keepalives need no allocation.
pub type Bytes = SmallVec<[u8; INITIATION]>;

/// What the machine wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// A datagram is to be sent.
    Send {
        /// To whom, and from where.
        to: Endpoint,
        /// What it says.
        bytes: Bytes,
    },
    /// Something that others may like to know.
    Event(Event),
}

/// Something that has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// There is a new session with the peer, and both know it.
    HandshakeCompleted(PeerId),
    /// The peer has another address than before.
    Roamed(PeerId, SocketAddr),
    /// The peer has not answered for as long as a handshake is tried. What waited for it was dropped.
    HandshakeGivenUp(PeerId),
}

/// A packet that a peer has sent: what it is and where it lies in the datagram that was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// From whom.
    pub peer: PeerId,
    /// Where it is in the datagram, without padding.
    pub packet: std::ops::Range<usize>,
}

/// Messages of one session that were moved together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Bytes of the messages, with their headers and tags.
    pub bytes: u64,
    /// Whether any of them carried a packet: keepalives alone ask for no answer.
    pub data: bool,
}

/// Why a datagram or a packet was dropped. Nothing but counters came of it, unless a variant says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// The tunnel has no private key.
    #[error("the tunnel has no private key")]
    NoPrivateKey,
    /// It is no message of the protocol.
    #[error("it is no message of the protocol")]
    Malformed,
    /// Its first MAC is wrong: the sender does not know our public key.
    #[error("its sender does not know our public key")]
    WrongMac,
    /// There are too many handshakes; a cookie was sent for it.
    #[error("there are too many handshakes, so its sender is to prove where it is")]
    CookieSent,
    /// There are too many handshakes from this address.
    #[error("there are too many handshakes from its address")]
    TooMany,
    /// Its sender is none of the peers.
    #[error("its sender is none of the peers")]
    UnknownPeer,
    /// It was replayed, or came too soon after another.
    #[error("it was seen before, or came too soon")]
    Stale,
    /// It belongs to no session or handshake that is known, or is too late for it.
    #[error("it belongs to no session that is known")]
    UnknownSession,
    /// It was not made with the keys of its session or handshake.
    #[error("it was not made by the peer")]
    Forged,
    /// Its packet is no IP packet, or not whole.
    #[error("it carries no whole IP packet")]
    NotIp,
    /// The peer may not send from the packet's source. The message itself was genuine.
    #[error("the peer may not send from that address")]
    NotAllowed,
    /// No peer has the packet's destination.
    #[error("no peer has that address")]
    NoRoute,
    /// It is not known where the peer is.
    #[error("it is not known where the peer is")]
    NoEndpoint,
}

impl From<SessionError> for Refusal {
    fn from(error: SessionError) -> Self {
        match error {
            SessionError::Exhausted => Self::UnknownSession,
            SessionError::Forged => Self::Forged,
            SessionError::Replayed => Self::Stale,
        }
    }
}
