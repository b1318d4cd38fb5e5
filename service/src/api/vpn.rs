//! WireGuard tunnels that the daemon keeps.
//!
//! Secrets are never in a request: it names the files that they are in, which the daemon reads once and keeps a copy of.

use serde::{Deserialize, Serialize};

/// Make a tunnel.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VpnCreate {
    /// Its name, which is its interface's too.
    pub name: String,
    /// The host's addresses in it, such as `10.99.0.1/24`.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// Its UDP port; any free one if none is given, and that one ever after.
    #[serde(default)]
    pub listen: Option<u16>,
    /// The file with its private key; a new key if none is given.
    #[serde(default)]
    pub key_file: Option<String>,
    /// Its largest packet; 1,420 bytes if none is given.
    #[serde(default)]
    pub mtu: Option<u32>,
    /// The mark of what it sends, for the host's routing.
    #[serde(default)]
    pub fwmark: Option<u32>,
    /// Whether the addresses of peers are not led to it by routes.
    #[serde(default)]
    pub no_routes: bool,
    /// The network namespace of its interface; the daemon's own if none is given.
    #[serde(default)]
    pub netns: Option<String>,
    /// The network namespace of its UDP port; the daemon's own if none is given.
    #[serde(default)]
    pub socket_netns: Option<String>,
    /// The network whose guests reach its peers.
    #[serde(default)]
    pub net: Option<String>,
    /// Those guests go under the tunnel's own address.
    #[serde(default)]
    pub nat: bool,
    /// A file to which the secrets of each handshake are written, for Wireshark; for labs alone.
    #[serde(default)]
    pub key_log: Option<String>,
    /// Its peers.
    #[serde(default)]
    pub peers: Vec<PeerAdd>,
}

/// Give a tunnel a peer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerAdd {
    /// A name for it here.
    #[serde(default)]
    pub name: Option<String>,
    /// Its public key. Without one a key pair is made, and is handed out by the peer's wg-quick file.
    #[serde(default)]
    pub key: Option<String>,
    /// The peer is another tunnel of this daemon, by its name, in place of a key.
    #[serde(default)]
    pub tunnel: Option<String>,
    /// The addresses behind it.
    #[serde(default)]
    pub allowed: Vec<String>,
    /// Where it is, as `HOST:PORT`.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// The file with the secret that both sides have besides.
    #[serde(default)]
    pub psk_file: Option<String>,
    /// How often a keepalive goes to it, in seconds; 0 for never.
    #[serde(default)]
    pub keepalive: u16,
}

/// Take a peer from a tunnel, or describe it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerName {
    /// Its name or its public key.
    pub peer: String,
}

/// Make a tunnel of a wg-quick file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VpnImport {
    /// The file's absolute path.
    pub path: String,
    /// The tunnel's name; the file's without its ending if none is given.
    #[serde(default)]
    pub name: Option<String>,
    /// As in [`VpnCreate`].
    #[serde(default)]
    pub netns: Option<String>,
    /// As in [`VpnCreate`].
    #[serde(default)]
    pub socket_netns: Option<String>,
    /// As in [`VpnCreate`].
    #[serde(default)]
    pub net: Option<String>,
    /// As in [`VpnCreate`].
    #[serde(default)]
    pub nat: bool,
}

/// A tunnel that was made of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VpnImported {
    /// The tunnel.
    pub vpn: Vpn,
    /// Keys of the file that were read over.
    pub left_out: Vec<String>,
}

/// Ask for a peer's wg-quick file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VpnExport {
    /// The peer's name or public key.
    pub peer: String,
    /// Where the peer finds this tunnel, as `HOST` or `HOST:PORT`.
    #[serde(default)]
    pub endpoint: Option<String>,
}

/// A peer's wg-quick file. It may hold secrets.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VpnExported {
    /// Its text.
    pub config: String,
    /// Whether the peer's private key is in it.
    pub has_private_key: bool,
}

impl std::fmt::Debug for VpnExported {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("VpnExported(..)")
    }
}

/// How a tunnel's interface is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VpnState {
    /// It moves packets.
    Up,
    /// Somebody took its interface away.
    Down,
}

/// How a peer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PeerState {
    /// A handshake was completed within three minutes: packets move.
    Up,
    /// Nobody has asked for a handshake, or not lately; the next packet opens one.
    Idle,
    /// A handshake is expected, and there is still time.
    Connecting,
    /// A handshake is expected, and none comes.
    Silent,
}

/// A tunnel's peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VpnPeer {
    /// Its name here, if it has one.
    pub name: Option<String>,
    /// Who it is.
    pub public_key: String,
    /// Where it is, as it was told; its datagrams may come from elsewhere.
    pub endpoint: Option<String>,
    /// Where its latest genuine datagram came from, or where the next one goes.
    pub address: Option<String>,
    /// The addresses behind it.
    pub allowed: Vec<String>,
    /// How often a keepalive goes to it, in seconds; 0 for never.
    pub keepalive_seconds: u16,
    /// Whether there is a secret besides.
    pub preshared: bool,
    /// How it is.
    pub state: PeerState,
    /// When the latest handshake was completed, RFC 3339.
    pub last_handshake: Option<String>,
    /// Bytes of all genuine messages from it.
    pub received_bytes: u64,
    /// Bytes of all messages to it.
    pub sent_bytes: u64,
}

/// A tunnel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vpn {
    /// Its name, which is its interface's too.
    pub name: String,
    /// Who it is.
    pub public_key: String,
    /// The host's addresses in it.
    pub addresses: Vec<String>,
    /// Its UDP port.
    pub listen_port: u16,
    /// Its largest packet.
    pub mtu: u32,
    /// The mark of what it sends, 0 for none.
    pub fwmark: u32,
    /// Whether the addresses of peers are led to it by routes.
    pub routes: bool,
    /// The network namespace of its interface, if it is not the daemon's.
    pub netns: Option<String>,
    /// The network namespace of its UDP port, if it is not the daemon's.
    pub socket_netns: Option<String>,
    /// The network whose guests reach its peers.
    pub net: Option<String>,
    /// Whether those guests go under the tunnel's own address.
    pub nat: bool,
    /// The file to which the secrets of each handshake are written, if that was asked for.
    pub key_log: Option<String>,
    /// The socket on which `wg` finds it.
    pub uapi: Option<String>,
    /// How its interface is.
    pub state: VpnState,
    /// Its peers.
    pub peers: Vec<VpnPeer>,
}
