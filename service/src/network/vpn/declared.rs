//! What a tunnel is to be: read once from its record, and checked.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use weft_netio::InterfaceName;
use weft_netio::plan::TunnelSpec;
use weft_vpn::{DEFAULT_MTU, Prefix, PublicKey};
use weft_wire::IpCidr;

use crate::api::{Error, ErrorKind, PeerAdd, Result, VpnCreate};
use crate::network::from_netio;

/// The MTUs that an interface can have: IPv4 hosts take no less (RFC 791), and a packet has no more.
const MTU: std::ops::RangeInclusive<u32> = 576..=65_535;

/// What the store keeps of a tunnel. Its secrets are files.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    /// What was asked for, with every peer's public key and without the names of files with secrets.
    pub(super) tunnel: VpnCreate,
    /// The port that it had.
    pub(super) port: Option<u16>,
}

/// A peer as it is to be.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    pub(super) public: PublicKey,
    pub(super) allowed: Vec<Prefix>,
    pub(super) endpoint: Option<String>,
    pub(super) keepalive: u16,
}

/// A checked record.
#[derive(Debug, Clone)]
pub(super) struct Declared {
    pub(super) spec: TunnelSpec,
    pub(super) peers: Vec<Peer>,
}

impl Declared {
    /// # Errors
    /// `Invalid`, in a sentence that names what is wrong.
    pub(super) fn of(tunnel: &VpnCreate) -> Result<Self> {
        let name = &tunnel.name;
        let interface =
            InterfaceName::new(name.clone()).map_err(|error| from_netio(name, &error))?;
        let invalid = |why: String| {
            let message = format!("tunnel {name}: {why}");
            Error::new(ErrorKind::Invalid, name, message)
        };
        let mtu = tunnel.mtu.unwrap_or(DEFAULT_MTU as u32);
        if !MTU.contains(&mtu) {
            let (least, most) = (MTU.start(), MTU.end());
            return Err(invalid(format!(
                "an MTU of {mtu} is not within {least} to {most}"
            )));
        }
        if tunnel.net.is_some() && tunnel.netns.is_some() {
            let why =
                "guests of a network reach it only where the network is: leave out the namespace";
            return Err(invalid(why.to_owned()));
        }
        if tunnel.nat && tunnel.net.is_none() {
            return Err(invalid(
                "nat needs the network whose guests go under its address".to_owned(),
            ));
        }
        let addresses: Vec<IpCidr> = parse_all(&tunnel.addresses).map_err(invalid)?;
        let peers: Vec<Peer> = tunnel
            .peers
            .iter()
            .map(|peer| Peer::of(peer).map_err(invalid))
            .collect::<Result<_>>()?;
        check_names(tunnel).map_err(invalid)?;
        check_owners(&peers).map_err(invalid)?;
        let routes = match tunnel.no_routes {
            true => Vec::new(),
            false => peers
                .iter()
                .flat_map(|peer| &peer.allowed)
                .map(cidr)
                .collect(),
        };
        let loops = tunnel.netns == tunnel.socket_netns;
        if loops && routes.iter().any(|route: &IpCidr| route.prefix() == 0) {
            let why = "a peer has all addresses, and a default route would lead the tunnel's own datagrams into it: \
                       give its interface a namespace (--netns), or lead nothing to it (--no-routes)";
            return Err(invalid(why.to_owned()));
        }
        Ok(Self {
            spec: TunnelSpec {
                interface,
                mtu,
                addresses,
                routes,
            },
            peers,
        })
    }
}

impl Peer {
    fn of(peer: &PeerAdd) -> Result<Self, String> {
        let key = peer.key.as_deref().ok_or("a peer needs a key")?;
        let public = key
            .parse()
            .map_err(|error| format!("peer {key}: {error}"))?;
        if let Some(endpoint) = peer.endpoint.as_deref()
            && !weft_vpn::wg_quick::is_endpoint(endpoint)
        {
            return Err(format!("{endpoint:?} is no place of a peer like HOST:PORT"));
        }
        Ok(Self {
            public,
            allowed: parse_all(&peer.allowed)?,
            endpoint: peer.endpoint.clone(),
            keepalive: peer.keepalive,
        })
    }
}

/// A peer's name is no key, and it is the peer's alone.
fn check_names(tunnel: &VpnCreate) -> Result<(), String> {
    let mut seen = Vec::new();
    for peer in &tunnel.peers {
        if let Some(name) = &peer.name {
            crate::attach::check_name("peer", name).map_err(|error| error.message)?;
        }
        for word in [&peer.name, &peer.key].into_iter().flatten() {
            if seen.contains(&word) {
                return Err(format!("there are two peers {word}"));
            }
            seen.push(word);
        }
    }
    Ok(())
}

/// Addresses are one peer's: the protocol would move them to the latter without a word.
fn check_owners(peers: &[Peer]) -> Result<(), String> {
    let mut owners: BTreeMap<Prefix, PublicKey> = BTreeMap::new();
    for peer in peers {
        for &prefix in &peer.allowed {
            if let Some(owner) = owners.insert(prefix, peer.public)
                && owner != peer.public
            {
                return Err(format!(
                    "{prefix} is behind {owner} and {} both",
                    peer.public
                ));
            }
        }
    }
    Ok(())
}

pub(super) fn cidr(prefix: &Prefix) -> IpCidr {
    IpCidr::new(prefix.address(), prefix.length()).expect("a prefix fits its address")
}

fn parse_all<T: std::str::FromStr<Err: std::fmt::Display>>(
    texts: &[String],
) -> Result<Vec<T>, String> {
    let parsed = texts.iter().map(|text| text.parse::<T>());
    parsed
        .collect::<Result<_, _>>()
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: [&str; 2] = [
        "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAUE=",
        "AgEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAUE=",
    ];

    fn peer(number: usize, allowed: &[&str]) -> PeerAdd {
        PeerAdd {
            key: Some(KEYS[number].to_owned()),
            allowed: allowed.iter().map(|&text| text.to_owned()).collect(),
            ..PeerAdd::default()
        }
    }

    fn tunnel(peers: Vec<PeerAdd>) -> VpnCreate {
        VpnCreate {
            name: "wg0".into(),
            addresses: vec!["10.9.0.1/24".into()],
            peers,
            ..VpnCreate::default()
        }
    }

    #[test]
    fn what_cannot_be_is_told_in_a_sentence() {
        let why = |tunnel: VpnCreate| Declared::of(&tunnel).unwrap_err().message;
        assert!(why(tunnel(vec![peer(0, &["0.0.0.0/0"])])).contains("--netns"));
        let twice = tunnel(vec![peer(0, &["10.1.0.0/16"]), peer(1, &["10.1.0.9/16"])]);
        assert!(why(twice).contains("10.1.0.0/16 is behind"));
        let same = tunnel(vec![peer(0, &[]), peer(0, &[])]);
        assert!(why(same).contains("two peers"));
        let mut bad = tunnel(vec![]);
        bad.nat = true;
        assert!(why(bad).contains("nat needs"));
        let mut bad = tunnel(vec![]);
        bad.addresses = vec!["10.9.0.1/33".into()];
        assert!(why(bad).contains("10.9.0.1/33"));
        let mut bad = tunnel(vec![peer(0, &[])]);
        bad.peers[0].endpoint = Some("nowhere".into());
        assert!(why(bad).contains("HOST:PORT"));
    }

    #[test]
    fn a_default_route_is_no_loop_where_the_port_is_elsewhere() {
        let mut tunnel = tunnel(vec![peer(0, &["0.0.0.0/0", "10.9.0.7/32"])]);
        tunnel.netns = Some("inside".into());
        let declared = Declared::of(&tunnel).unwrap();
        assert_eq!(declared.spec.own_routes().len(), 1);
        tunnel.no_routes = true;
        tunnel.netns = None;
        assert!(Declared::of(&tunnel).unwrap().spec.routes.is_empty());
    }
}
