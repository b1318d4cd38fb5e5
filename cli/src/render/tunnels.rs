//! Tunnels, as lists and one by one.

use weft_service::api::{PeerState, Size, Vpn, VpnPeer, VpnState};

use super::details::lines;
use super::tables::table;

/// The word for a state.
pub(super) fn state(state: VpnState) -> &'static str {
    match state {
        VpnState::Up => "up",
        VpnState::Down => "down",
    }
}

fn peer_state(state: PeerState) -> &'static str {
    match state {
        PeerState::Up => "up",
        PeerState::Idle => "idle",
        PeerState::Connecting => "connecting",
        PeerState::Silent => "silent",
    }
}

/// What a peer is called.
pub(super) fn who(peer: &VpnPeer) -> &str {
    peer.name.as_deref().unwrap_or(&peer.public_key)
}

/// How a peer is, in a few words.
pub(super) fn how(peer: &VpnPeer) -> String {
    let mut text = peer_state(peer.state).to_owned();
    if let Some(address) = peer.address.as_ref().or(peer.endpoint.as_ref()) {
        text.push_str(&format!(", at {address}"));
    }
    match &peer.last_handshake {
        Some(at) => text.push_str(&format!(", handshake {at}")),
        None => text.push_str(", no handshake yet"),
    }
    text
}

pub(crate) fn list(tunnels: &[Vpn]) -> String {
    let row = |tunnel: &Vpn| {
        let up = |peer: &&VpnPeer| peer.state == PeerState::Up;
        let peers = tunnel.peers.len();
        [
            tunnel.name.clone(),
            tunnel.addresses.join(", "),
            tunnel.listen_port.to_string(),
            state(tunnel.state).to_owned(),
            format!("{} of {peers} up", tunnel.peers.iter().filter(up).count()),
        ]
    };
    table(
        ["TUNNEL", "ADDRESS", "PORT", "STATE", "PEERS"],
        tunnels.iter().map(row),
    )
}

pub(crate) fn one(tunnel: &Vpn) -> String {
    let mut pairs = vec![
        ("tunnel", tunnel.name.clone()),
        ("key", tunnel.public_key.clone()),
        ("port", tunnel.listen_port.to_string()),
        ("mtu", tunnel.mtu.to_string()),
        ("state", state(tunnel.state).to_owned()),
    ];
    let addresses = tunnel.addresses.iter();
    pairs.extend(addresses.map(|address| ("address", address.clone())));
    if tunnel.fwmark != 0 {
        pairs.push(("mark", format!("{:#x}", tunnel.fwmark)));
    }
    if !tunnel.routes {
        pairs.push(("routes", "none: somebody else makes them".to_owned()));
    }
    let places = [
        ("namespace", &tunnel.netns),
        ("port's namespace", &tunnel.socket_netns),
    ];
    for (what, place) in places {
        pairs.extend(place.iter().map(|name| (what, name.clone())));
    }
    if let Some(net) = &tunnel.net {
        let under = match tunnel.nat {
            true => ", its guests go under the tunnel's address",
            false => "",
        };
        pairs.push(("network", format!("{net}{under}")));
    }
    if let Some(file) = &tunnel.key_log {
        pairs.push(("key log", format!("{file}: who reads it reads the traffic")));
    }
    for peer in &tunnel.peers {
        let preshared = if peer.preshared {
            ", preshared key"
        } else {
            ""
        };
        pairs.push(("peer", format!("{}  {}{preshared}", who(peer), how(peer))));
        if peer.name.is_some() {
            pairs.push(("  key", peer.public_key.clone()));
        }
        pairs.push(("  allowed", peer.allowed.join(", ")));
        let moved = (Size(peer.received_bytes), Size(peer.sent_bytes));
        pairs.push(("  moved", format!("{} in, {} out", moved.0, moved.1)));
        if peer.keepalive_seconds > 0 {
            let every = format!("every {} s", peer.keepalive_seconds);
            pairs.push(("  keepalive", every));
        }
    }
    lines(&pairs)
}
