//! The answer to `get=1`.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use zeroize::Zeroizing;

use crate::{KEY_BYTES, PeerStatus, Tunnel};

/// Room for what one peer comes to without its addresses, so that the text with its secrets is not moved as it grows.
const PEER_ROOM: usize = 512;
const PREFIX_ROOM: usize = 64;

/// All that is set and known of a tunnel on a UDP port. The text holds secrets, and is wiped when it is dropped.
pub fn describe(tunnel: &Tunnel, listen_port: u16, fwmark: u32) -> Zeroizing<String> {
    let room = tunnel
        .peers()
        .map(|peer| PEER_ROOM + peer.allowed_ips.len() * PREFIX_ROOM)
        .sum::<usize>();
    let mut text = Zeroizing::new(String::with_capacity(PEER_ROOM + room));
    if let Some(key) = tunnel.private_key() {
        text.push_str("private_key=");
        push_hex(&mut text, key.expose());
    }
    // Writing into a string does not fail.
    let _ = writeln!(text, "listen_port={listen_port}");
    if fwmark != 0 {
        let _ = writeln!(text, "fwmark={fwmark}");
    }
    for peer in tunnel.peers() {
        push_peer(&mut text, &peer);
    }
    text
}

fn push_peer(text: &mut String, peer: &PeerStatus<'_>) {
    text.push_str("public_key=");
    push_hex(text, &peer.public_key.0);
    text.push_str("preshared_key=");
    push_hex(text, peer.preshared_key.expose());
    text.push_str("protocol_version=1\n");
    if let Some(endpoint) = peer.endpoint {
        let _ = writeln!(text, "endpoint={}", endpoint.remote);
    }
    let since = |at: SystemTime| at.duration_since(SystemTime::UNIX_EPOCH).ok();
    let at = peer
        .last_handshake
        .and_then(since)
        .unwrap_or(Duration::ZERO);
    let (seconds, nanoseconds) = (at.as_secs(), at.subsec_nanos());
    let _ = writeln!(text, "last_handshake_time_sec={seconds}");
    let _ = writeln!(text, "last_handshake_time_nsec={nanoseconds}");
    let _ = writeln!(text, "tx_bytes={}", peer.sent_bytes);
    let _ = writeln!(text, "rx_bytes={}", peer.received_bytes);
    let keepalive = peer.persistent_keepalive;
    let _ = writeln!(text, "persistent_keepalive_interval={keepalive}");
    for prefix in peer.allowed_ips {
        let _ = writeln!(text, "allowed_ip={prefix}");
    }
}

fn push_hex(text: &mut String, key: &[u8; KEY_BYTES]) {
    for byte in key {
        let _ = write!(text, "{byte:02x}");
    }
    text.push('\n');
}
