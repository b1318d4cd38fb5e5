//! Tunnels from wg-quick files, and peers' files.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use weft_vpn::wg_quick::{Config, ConfigPeer, LARGEST_FILE};
use weft_vpn::{Prefix, PresharedKey, PrivateKey, PublicKey};
use weft_wire::IpCidr;
use zeroize::Zeroizing;

use super::declared::{Declared, cidr};
use super::running::Running;
use super::secrets::Secrets;
use crate::api::{Error, ErrorKind, PeerAdd, Result, VpnCreate, VpnExport, VpnExported, VpnImport};

/// How often a peer keeps the way to a tunnel open whose place it is told (wg(8) advises 25 seconds behind NAT).
const KEEPALIVE: u16 = 25;

/// A file that was read.
pub(super) struct Imported {
    pub(super) request: VpnCreate,
    pub(super) private: Option<PrivateKey>,
    pub(super) preshared: Vec<(PublicKey, PresharedKey)>,
    pub(super) left_out: Vec<String>,
}

/// # Errors
/// `NotFound` or `Io` if it cannot be read, `Invalid` with the line that cannot be taken.
pub(super) fn read(request: &VpnImport) -> Result<Imported> {
    let path = Path::new(&request.path);
    let name = &request.path;
    let mut text = Zeroizing::new(String::new());
    File::open(path)
        .and_then(|file| {
            let bytes = usize::try_from(file.metadata()?.len()).unwrap_or(LARGEST_FILE);
            // With room for all of it no copy is left behind as it grows.
            text.reserve(bytes.min(LARGEST_FILE) + 1);
            file.take(LARGEST_FILE as u64 + 1).read_to_string(&mut text)
        })
        .map_err(|error| Error::from_io(name, &format!("{name} cannot be read"), &error))?;
    let config: Config = text
        .parse()
        .map_err(|error| Error::new(ErrorKind::Invalid, name, format!("{name}: {error}")))?;
    let stem = || path.file_stem().unwrap_or_default().to_string_lossy();
    let peers = config.peers.iter();
    let preshared = peers.clone().filter(|peer| peer.preshared_key.is_some());
    let preshared = preshared.map(|peer| (peer.public_key, peer.preshared_key.clone()));
    Ok(Imported {
        preshared: preshared.collect(),
        request: VpnCreate {
            name: request.name.clone().unwrap_or_else(|| stem().into_owned()),
            addresses: config.addresses.iter().map(ToString::to_string).collect(),
            listen: config.listen_port,
            key_file: None,
            mtu: config.mtu,
            fwmark: config.fwmark,
            no_routes: !config.routes,
            netns: request.netns.clone(),
            socket_netns: request.socket_netns.clone(),
            net: request.net.clone(),
            nat: request.nat,
            key_log: None,
            peers: peers.map(peer).collect(),
        },
        private: config.private_key,
        left_out: config.left_out,
    })
}

fn peer(peer: &ConfigPeer) -> PeerAdd {
    PeerAdd {
        key: Some(peer.public_key.to_string()),
        allowed: peer.allowed_ips.iter().map(ToString::to_string).collect(),
        endpoint: peer.endpoint.clone(),
        keepalive: peer.persistent_keepalive,
        ..PeerAdd::default()
    }
}

/// The file of the peer at `place`. It reaches the tunnel's own subnets, and the network's that is joined to it.
///
/// # Errors
/// `Invalid` for an endpoint that is none, `Io` if secrets cannot be read.
pub(super) fn write(
    running: &Running,
    place: usize,
    request: &VpnExport,
    subnet: Option<&str>,
    secrets: &Secrets,
) -> Result<VpnExported> {
    let tunnel = &running.record.tunnel;
    let name = &tunnel.name;
    let declared = Declared::of(tunnel)?;
    let peer = &declared.peers[place];
    let shown = running.describe();
    let public_key = shown.public_key.parse().map_err(|_| {
        let message = format!("tunnel {name} has no key that a peer could know");
        Error::new(ErrorKind::Invalid, name, message)
    })?;
    let endpoint = request.endpoint.as_deref();
    let endpoint = endpoint.map(|text| place_of(text, shown.listen_port));
    let endpoint = endpoint.transpose().map_err(|why| {
        let message = format!("tunnel {name}: {why}");
        Error::new(ErrorKind::Invalid, name, message)
    })?;
    let subnet: Option<IpCidr> = subnet.and_then(|subnet| subnet.parse().ok());
    let reached = declared.spec.addresses.iter().copied().chain(subnet);
    let private_key = secrets.peer_private(name, &peer.public)?;
    let has_private_key = private_key.is_some();
    let config = Config {
        private_key,
        addresses: own_addresses(&peer.allowed, &declared.spec.addresses),
        mtu: tunnel.mtu,
        peers: vec![ConfigPeer {
            public_key,
            preshared_key: secrets.preshared(name, &peer.public)?,
            allowed_ips: reached
                .filter_map(|cidr| Prefix::new(cidr.address(), cidr.prefix()))
                .collect(),
            persistent_keepalive: endpoint.as_ref().map_or(0, |_| KEEPALIVE),
            endpoint,
        }],
        ..Config::default()
    };
    Ok(VpnExported {
        config: config.expose().to_string(),
        has_private_key,
    })
}

/// The addresses of a peer itself: those that are one address, within the tunnel's subnets if any is.
fn own_addresses(allowed: &[Prefix], subnets: &[IpCidr]) -> Vec<IpCidr> {
    let hosts: Vec<IpCidr> = allowed
        .iter()
        .map(cidr)
        .filter(|cidr| cidr.is_host())
        .collect();
    let within = |host: &IpCidr| subnets.iter().any(|subnet| subnet.covers(*host));
    match hosts.iter().any(within) {
        true => hosts.into_iter().filter(within).collect(),
        false => hosts,
    }
}

/// `HOST:PORT` of `HOST` or `HOST:PORT`.
fn place_of(text: &str, port: u16) -> Result<String, String> {
    use weft_vpn::wg_quick::is_endpoint;
    let bracketed = match text.parse::<std::net::Ipv6Addr>() {
        Ok(address) => format!("[{address}]"),
        Err(_) => text.to_owned(),
    };
    let with_port = format!("{bracketed}:{port}");
    if is_endpoint(text) {
        Ok(text.to_owned())
    } else if is_endpoint(&with_port) {
        Ok(with_port)
    } else {
        Err(format!("{text:?} is no place like HOST or HOST:PORT"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_gets_the_port_that_it_lacks() {
        for (text, place) in [
            ("vpn.example", Some("vpn.example:7")),
            ("vpn.example:9", Some("vpn.example:9")),
            ("192.0.2.1", Some("192.0.2.1:7")),
            ("fd00::1", Some("[fd00::1]:7")),
            ("[fd00::1]:9", Some("[fd00::1]:9")),
            ("a b", None),
            ("", None),
        ] {
            let found = place_of(text, 7);
            assert_eq!(found.as_deref().ok(), place, "{text}");
        }
    }

    #[test]
    fn a_peer_has_the_addresses_that_are_its_alone() {
        let allowed: Vec<Prefix> = ["10.9.0.2/32", "10.2.0.0/16", "10.7.0.1/32"]
            .map(|text| text.parse().unwrap())
            .to_vec();
        let tunnel = ["10.9.0.1/24".parse().unwrap()];
        let told = |own: Vec<IpCidr>| own.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(told(own_addresses(&allowed, &tunnel)), ["10.9.0.2/32"]);
        assert_eq!(
            told(own_addresses(&allowed, &[])),
            ["10.9.0.2/32", "10.7.0.1/32"]
        );
    }
}
