//! Files of `wg-quick` (wg-quick(8), wg(8)): an interface and its peers as text, both ways.
//!
//! What has no meaning outside of `wg-quick`, such as its commands to run, is read over and named in
//! [`Config::left_out`]. A mistake is told by its line, without what stands there: it may be a secret.

mod read;
mod write;

pub use read::is_endpoint;

use weft_wire::IpCidr;

use crate::{Prefix, PresharedKey, PrivateKey, PublicKey};

/// The most bytes of a file that is read.
pub const LARGEST_FILE: usize = 16 << 20;

/// An interface with its peers.
#[derive(Debug, Clone)]
pub struct Config {
    /// Who it is.
    pub private_key: Option<PrivateKey>,
    /// Its own addresses.
    pub addresses: Vec<IpCidr>,
    /// Its UDP port.
    pub listen_port: Option<u16>,
    /// Its largest packet.
    pub mtu: Option<u32>,
    /// The mark of what it sends.
    pub fwmark: Option<u32>,
    /// Whether allowed addresses are led to it (`Table = off` says that they are not).
    pub routes: bool,
    /// Its peers.
    pub peers: Vec<ConfigPeer>,
    /// Names of what was read over, each once.
    pub left_out: Vec<String>,
}

/// A peer.
#[derive(Debug, Clone)]
pub struct ConfigPeer {
    /// Who it is.
    pub public_key: PublicKey,
    /// The secret besides.
    pub preshared_key: PresharedKey,
    /// The addresses it has.
    pub allowed_ips: Vec<Prefix>,
    /// Where it is, as `HOST:PORT`; the host may be a name.
    pub endpoint: Option<String>,
    /// How often a keepalive goes to it, in seconds; 0 for never.
    pub persistent_keepalive: u16,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            private_key: None,
            addresses: Vec::new(),
            listen_port: None,
            mtu: None,
            fwmark: None,
            routes: true,
            peers: Vec::new(),
            left_out: Vec::new(),
        }
    }
}

/// A file that cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct BadConfig {
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong with it.
    pub what: String,
}
