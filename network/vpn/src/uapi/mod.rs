//! The configuration protocol that `wg` speaks, as text (wireguard.com/xplatform, "Cross-platform Userspace
//! Configuration Protocol").
//!
//! [`Reader`] makes a [`Request`] of the lines that a client sends, whole or not at all: an operation with a mistake in
//! it changes nothing. [`describe`] is the answer to `get=1`, without the line that closes it.

mod describe;
mod read;

pub use describe::describe;
pub use read::{LONGEST_LINE, MOST_LINES, Reader};

use std::net::SocketAddr;

use crate::{Prefix, PresharedKey, PrivateKey, PublicKey};

/// What a client asks for.
#[derive(Debug)]
pub enum Request {
    /// Everything that is set.
    Get,
    /// A change.
    Set(Box<DeviceChange>),
}

/// What is to change of an interface; what is not named stays as it is.
#[derive(Debug, Default)]
pub struct DeviceChange {
    /// The private key, or that there is none any more.
    pub private_key: Option<Option<PrivateKey>>,
    /// The UDP port, 0 for any free one.
    pub listen_port: Option<u16>,
    /// The mark of what is sent, 0 for none.
    pub fwmark: Option<u32>,
    /// Whether peers that are not named go.
    pub replace_peers: bool,
    /// The peers, in the order in which they are to be changed.
    pub peers: Vec<PeerChange>,
}

/// What is to change of a peer.
#[derive(Debug)]
pub struct PeerChange {
    /// Which one. It is added if it is not there.
    pub public_key: PublicKey,
    /// It goes.
    pub remove: bool,
    /// It is not added.
    pub update_only: bool,
    /// The preshared key, which may be none.
    pub preshared_key: Option<PresharedKey>,
    /// Where it is.
    pub endpoint: Option<SocketAddr>,
    /// How often a keepalive goes to it, in seconds; 0 for never.
    pub persistent_keepalive: Option<u16>,
    /// Whether addresses that are not named are taken from it.
    pub replace_allowed_ips: bool,
    /// Addresses that it gets, or that are taken from it.
    pub allowed_ips: Vec<AllowedChange>,
}

/// A range of addresses that a peer gets or loses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AllowedChange {
    /// It gets them.
    Add(Prefix),
    /// They are taken from it.
    Remove(Prefix),
}

impl PeerChange {
    /// No change of the peer with this key, which adds it if it is not there.
    pub fn new(public_key: PublicKey) -> Self {
        Self {
            public_key,
            remove: false,
            update_only: false,
            preshared_key: None,
            endpoint: None,
            persistent_keepalive: None,
            replace_allowed_ips: false,
            allowed_ips: Vec::new(),
        }
    }
}

/// An operation that makes no sense; the client is told `EINVAL`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the operation makes no sense")]
pub struct BadOperation;
