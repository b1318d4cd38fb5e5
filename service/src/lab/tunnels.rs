//! Tunnels in a lab file: `[vpn.a]`, its peers `[vpn.a.peer.b]`, and a network's `[net.lan.stretch]`.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;

use super::source::Source;
use crate::api::{NetStretch, PeerAdd, Result, VpnCreate};
use crate::one_or_more;

/// A network of the lab that is joined to another host's bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabStretch {
    /// The network.
    pub net: String,
    /// How.
    pub stretch: NetStretch,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenTunnel {
    #[serde(default)]
    address: Vec<String>,
    listen: Option<u16>,
    key: Option<String>,
    mtu: Option<u32>,
    fwmark: Option<u32>,
    #[serde(default = "yes")]
    routes: bool,
    netns: Option<String>,
    socket_netns: Option<String>,
    net: Option<Spanned<String>>,
    #[serde(default)]
    nat: bool,
    key_log: Option<String>,
    #[serde(default)]
    peer: BTreeMap<String, Spanned<WrittenPeer>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenPeer {
    key: Option<String>,
    tunnel: Option<Spanned<String>>,
    #[serde(default)]
    allowed: Vec<String>,
    endpoint: Option<String>,
    psk: Option<String>,
    #[serde(default)]
    keepalive: u16,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenStretch {
    vpn: Spanned<String>,
    vni: u32,
    #[serde(deserialize_with = "one_or_more::list")]
    remote: Vec<String>,
}

fn yes() -> bool {
    true
}

/// Tunnels by name, as they are written.
pub(super) type Written = BTreeMap<String, WrittenTunnel>;

impl Source<'_> {
    pub(super) fn tunnels(
        &self,
        written: &Written,
        is_net: impl Fn(&str) -> bool,
    ) -> Result<Vec<VpnCreate>> {
        let tunnel = |(name, tunnel): (&String, &WrittenTunnel)| {
            if let Some(net) = &tunnel.net
                && !is_net(net.get_ref())
            {
                let what = format!("no network named {:?} is declared here", net.get_ref());
                return Err(self.wrong(net.span().start, &what));
            }
            let peers = tunnel.peer.iter();
            let peers = peers.map(|(name, peer)| self.peer(name, peer, written));
            Ok(VpnCreate {
                name: name.clone(),
                addresses: tunnel.address.clone(),
                listen: tunnel.listen,
                key_file: tunnel.key.as_deref().map(|file| self.absolute(file)),
                mtu: tunnel.mtu,
                fwmark: tunnel.fwmark,
                no_routes: !tunnel.routes,
                netns: tunnel.netns.clone(),
                socket_netns: tunnel.socket_netns.clone(),
                net: tunnel.net.as_ref().map(|net| net.get_ref().clone()),
                nat: tunnel.nat,
                key_log: tunnel.key_log.as_deref().map(|file| self.absolute(file)),
                peers: peers.collect::<Result<_>>()?,
            })
        };
        written.iter().map(tunnel).collect()
    }

    fn peer(&self, name: &str, peer: &Spanned<WrittenPeer>, written: &Written) -> Result<PeerAdd> {
        let (start, peer) = (peer.span().start, peer.get_ref());
        if peer.key.is_some() == peer.tunnel.is_some() {
            let what = format!("peer {name} needs either a key or the tunnel that it is");
            return Err(self.wrong(start, &what));
        }
        if let Some(tunnel) = &peer.tunnel {
            self.declared(tunnel, written)?;
        }
        Ok(PeerAdd {
            name: Some(name.to_owned()),
            key: peer.key.clone(),
            tunnel: peer.tunnel.as_ref().map(|other| other.get_ref().clone()),
            allowed: peer.allowed.clone(),
            endpoint: peer.endpoint.clone(),
            psk_file: peer.psk.as_deref().map(|file| self.absolute(file)),
            keepalive: peer.keepalive,
        })
    }

    pub(super) fn stretch(
        &self,
        net: &str,
        stretch: &WrittenStretch,
        written: &Written,
    ) -> Result<LabStretch> {
        self.declared(&stretch.vpn, written)?;
        Ok(LabStretch {
            net: net.to_owned(),
            stretch: NetStretch {
                vpn: stretch.vpn.get_ref().clone(),
                vni: stretch.vni,
                remotes: stretch.remote.clone(),
            },
        })
    }

    fn declared(&self, tunnel: &Spanned<String>, written: &Written) -> Result<()> {
        if written.contains_key(tunnel.get_ref()) {
            return Ok(());
        }
        let what = format!("no tunnel named {:?} is declared here", tunnel.get_ref());
        Err(self.wrong(tunnel.span().start, &what))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::lab::Lab;

    fn parse(text: &str) -> crate::api::Result<Lab> {
        Lab::parse(Path::new("/labs/vpn.toml"), text)
    }

    #[test]
    fn two_tunnels_know_each_other_by_name() {
        let lab = parse(
            r#"
            [net.lan]
            subnet = "10.50.0.0/24"
            [net.lan.stretch]
            vpn = "a"
            vni = 7
            remote = "10.99.0.2"
            [vpn.a]
            address = ["10.99.0.1/24"]
            listen = 51820
            net = "lan"
            [vpn.a.peer.b]
            tunnel = "b"
            allowed = ["10.99.0.2/32", "10.2.0.0/16"]
            psk = "psk"
            [vpn.b]
            address = ["10.99.0.2/24"]
            netns = "site-b"
            socket_netns = "site-b"
            key = "b.key"
            [vpn.b.peer.a]
            tunnel = "a"
            allowed = ["10.99.0.1/32"]
            endpoint = "127.0.0.1:51820"
            keepalive = 5
            "#,
        )
        .unwrap();
        let [a, b] = &lab.tunnels[..] else {
            panic!("two tunnels");
        };
        assert_eq!(a.peers[0].tunnel.as_deref(), Some("b"));
        assert_eq!(a.peers[0].psk_file.as_deref(), Some("/labs/psk"));
        assert_eq!(b.key_file.as_deref(), Some("/labs/b.key"));
        assert_eq!((b.peers[0].keepalive, a.no_routes), (5, false));
        let stretch = &lab.stretches[0].stretch;
        assert_eq!(
            (stretch.vni, &stretch.remotes[..]),
            (7, &["10.99.0.2".to_owned()][..])
        );
    }

    #[test]
    fn what_is_not_there_is_told_with_its_line() {
        let message = |text: &str| parse(text).unwrap_err().message;
        let nobody = message("[vpn.a]\n[vpn.a.peer.b]\ntunnel = \"b\"\n");
        assert!(nobody.contains(":3:10: no tunnel named \"b\""), "{nobody}");
        let neither = message("[vpn.a]\n[vpn.a.peer.b]\nallowed = []\n");
        assert!(neither.contains("either a key or the tunnel"), "{neither}");
        let net = message("[vpn.a]\nnet = \"lan\"\n");
        assert!(net.contains(":2:7: no network named \"lan\""), "{net}");
    }
}
