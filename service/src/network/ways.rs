//! Ways out of a network through tunnels: at layer 3, by rules of the network's own table; at layer 2, by a VXLAN device
//! among its ports.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};
use weft_netio::link::Links;
use weft_netio::plan::{self, Observed, StretchSpec};
use weft_netio::{InterfaceName, NetworkSpec, TunnelWay};
use weft_wire::{IpCidr, MacAddress};

use super::{Networks, Running, dhcp, from_netio};
use crate::api::{Advice, Error, ErrorKind, NetStretch, NetStretched, Network, Result, Vpn};
use crate::one_or_more;
use crate::store::Kind;
use dhcp::Dhcp;

/// What the store keeps of a stretch.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Stretch {
    vpn: String,
    vni: u32,
    /// There was one, once.
    #[serde(alias = "remote", deserialize_with = "one_or_more::list")]
    remotes: Vec<Ipv4Addr>,
    local: Ipv4Addr,
    mtu: u32,
}

impl Stretch {
    /// What a network is to be because of it: no frame is longer than the tunnel carries, and the bridge has an address
    /// that the network's bridge on the other host, which may have the same name, has not.
    pub(super) fn shape(&self, spec: &mut NetworkSpec) {
        spec.mtu = Some(self.mtu);
        spec.mac = MacAddress::derived(&format!("weft:{}@{}", spec.name, self.local));
    }

    pub(super) fn shown(&self) -> NetStretched {
        NetStretched {
            vpn: self.vpn.clone(),
            vni: self.vni,
            remotes: self.remotes.iter().map(ToString::to_string).collect(),
            local: self.local.to_string(),
            mtu: self.mtu,
        }
    }

    /// Whether it can take the place of another one while guests go on: the same but for the other hosts.
    fn follows(&self, old: &Self) -> bool {
        let same = |one: &Self, other: &Self| {
            (&one.vpn, one.vni, one.local, one.mtu)
                == (&other.vpn, other.vni, other.local, other.mtu)
        };
        same(self, old) && self.remotes != old.remotes
    }

    fn spec(&self, object: &str) -> Result<StretchSpec> {
        let lower = InterfaceName::new(self.vpn.clone());
        Ok(StretchSpec {
            lower: lower.map_err(|error| from_netio(object, &error))?,
            vni: self.vni,
            local: self.local,
            remotes: self.remotes.clone(),
        })
    }
}

impl Networks {
    /// Lets guests of `net` out through a tunnel.
    pub(super) async fn open_way(&self, net: &str, way: TunnelWay) -> Result<()> {
        let mut state = self.state.lock().await;
        let running = state
            .networks
            .get_mut(net)
            .ok_or_else(|| Error::not_found("network", net))?;
        let before = running.spec.tunnels.clone();
        running
            .spec
            .tunnels
            .retain(|old| old.interface != way.interface);
        running.spec.tunnels.push(way);
        let done = running.reconcile().await;
        if done.is_err() {
            running.spec.tunnels = before;
        }
        done
    }

    /// Takes that away. It is no error if there is no such network.
    pub(super) async fn close_way(&self, net: &str, tunnel: &InterfaceName) -> Result<()> {
        let mut state = self.state.lock().await;
        let Some(running) = state.networks.get_mut(net) else {
            return Ok(());
        };
        running.spec.tunnels.retain(|way| way.interface != *tunnel);
        running.reconcile().await
    }

    /// The network that is stretched through a tunnel.
    pub(super) async fn stretched_through(&self, tunnel: &str) -> Option<String> {
        let state = self.state.lock().await;
        let through = |running: &Running| {
            let stretch = running.record.stretch.as_ref();
            stretch.is_some_and(|stretch| stretch.vpn == tunnel)
        };
        let mut found = state
            .networks
            .iter()
            .filter(|(_, running)| through(running));
        found.next().map(|(name, _)| name.clone())
    }

    /// Joins a network to the bridges of other hosts, through a tunnel to them. One that is stretched already, by the same
    /// tunnel and identifier, has these other hosts from then on.
    ///
    /// # Errors
    /// `NotFound`, `Exists` if it is stretched so or by another way, `Invalid`, or what the kernel refuses; nothing has
    /// changed then.
    pub async fn stretch(&self, net: &str, request: &NetStretch, vpn: &Vpn) -> Result<Network> {
        let stretch = declared(net, request, vpn)?;
        let mut state = self.state.lock().await;
        let running = state
            .networks
            .get_mut(net)
            .ok_or_else(|| Error::not_found("network", net))?;
        let before = (running.record.stretch.take(), running.spec.clone());
        if before.0.as_ref().is_some_and(|old| !stretch.follows(old)) {
            running.record.stretch = before.0;
            let message =
                format!("network {net} is stretched already; first: weft net unstretch {net}");
            return Err(Error::new(ErrorKind::Exists, net, message));
        }
        stretch.shape(&mut running.spec);
        running.record.stretch = Some(stretch);
        let done = async {
            running.reconcile().await?;
            running.join_tunnel().await?;
            self.answer_anew(running).await?;
            self.store.put(Kind::Network, net, &running.record)
        };
        if let Err(error) = done.await {
            (running.record.stretch, running.spec) = before;
            running.leave_tunnel().await?;
            running.reconcile().await?;
            running.join_tunnel().await?;
            self.answer_anew(running).await?;
            return Err(error);
        }
        Ok(running.describe(true))
    }

    /// Ends that.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn unstretch(&self, net: &str) -> Result<Network> {
        let mut state = self.state.lock().await;
        let running = state
            .networks
            .get_mut(net)
            .ok_or_else(|| Error::not_found("network", net))?;
        if running.record.stretch.take().is_none() {
            let message = format!("network {net} is not stretched");
            return Err(Error::new(ErrorKind::NotFound, net, message));
        }
        self.store.put(Kind::Network, net, &running.record)?;
        let tunnels = std::mem::take(&mut running.spec.tunnels);
        running.spec = super::spec(&running.record)?;
        running.spec.tunnels = tunnels;
        running.leave_tunnel().await?;
        running.reconcile().await?;
        self.answer_anew(running).await?;
        Ok(running.describe(true))
    }

    /// Stretches again what was, once the tunnels are there. What cannot be is a trouble.
    pub async fn restore_stretches(&self) {
        let mut state = self.state.lock().await;
        let mut troubles = Vec::new();
        for (name, running) in &state.networks {
            if running.record.stretch.is_none() {
                continue;
            }
            if let Err(error) = running.join_tunnel().await {
                troubles.push(Advice {
                    object: format!("net {name}"),
                    message: format!("it is not joined to other hosts: {error}"),
                    command: Some(format!("weft net unstretch {name}")),
                });
            }
        }
        state.troubles.extend(troubles);
    }

    /// Lets DHCP tell what the network is now.
    async fn answer_anew(&self, running: &mut Running) -> Result<()> {
        let Some(old) = running.dhcp.take() else {
            return Ok(());
        };
        old.stop().await;
        let name = running.record.network.name.clone();
        let links = Links::open().map_err(|error| from_netio(&name, &error))?;
        if let Some(settings) = dhcp::settings(&running.record.network, &running.spec)? {
            let store = self.store.clone();
            let started = Dhcp::start(&name, &links, &running.spec, settings, store).await?;
            running.dhcp = Some(started);
        }
        Ok(())
    }
}

impl Running {
    /// Brings bridge and rules to what `spec` says.
    async fn reconcile(&self) -> Result<()> {
        let failed = |error: weft_netio::Error| from_netio(&self.record.network.name, &error);
        let links = Links::open().map_err(failed)?;
        let observed = Observed::read_for(&links, &self.spec.name)
            .await
            .map_err(failed)?;
        let plan = plan::set_up(&self.spec, &observed).map_err(failed)?;
        plan.apply(&links).await.map_err(failed)
    }

    /// Makes the VXLAN device of the network's stretch.
    async fn join_tunnel(&self) -> Result<()> {
        let name = &self.record.network.name;
        let Some(stretch) = &self.record.stretch else {
            return Ok(());
        };
        let spec = stretch.spec(name)?;
        let failed = |error: weft_netio::Error| from_netio(name, &error);
        let links = Links::open().map_err(failed)?;
        let observed = Observed::read_links(&links).await.map_err(failed)?;
        let plan = plan::stretch(&self.spec, &spec, &observed).map_err(failed)?;
        plan.apply(&links).await.map_err(failed)
    }

    async fn leave_tunnel(&self) -> Result<()> {
        let failed = |error: weft_netio::Error| from_netio(&self.record.network.name, &error);
        let links = Links::open().map_err(failed)?;
        let observed = Observed::read_links(&links).await.map_err(failed)?;
        let plan = plan::unstretch(&self.spec, &observed).map_err(failed)?;
        plan.apply(&links).await.map_err(failed)
    }
}

fn declared(net: &str, request: &NetStretch, vpn: &Vpn) -> Result<Stretch> {
    let invalid = |why: String| {
        let message = format!("network {net}: {why}");
        Error::new(ErrorKind::Invalid, net, message)
    };
    let name = &vpn.name;
    if let Some(netns) = &vpn.netns {
        let why =
            format!("tunnel {name} has its interface in namespace {netns}, away from the bridge");
        return Err(invalid(why));
    }
    let addresses = vpn.addresses.iter();
    let local = addresses
        .filter_map(|text| text.parse::<IpCidr>().ok())
        .find_map(|cidr| match cidr.address() {
            std::net::IpAddr::V4(address) => Some(address),
            std::net::IpAddr::V6(_) => None,
        });
    let local = local.ok_or_else(|| {
        invalid(format!(
            "tunnel {name} has no IPv4 address to send frames from"
        ))
    })?;
    let remotes = request.remotes.iter().map(|remote| {
        let why = format!("{remote:?} is no IPv4 address of another host in tunnel {name}");
        remote.parse().map_err(|_| invalid(why))
    });
    let remotes = remotes.collect::<Result<_>>()?;
    Ok(Stretch {
        vpn: name.clone(),
        vni: request.vni,
        remotes,
        local,
        mtu: StretchSpec::mtu(vpn.mtu),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stretch_of_the_time_when_there_was_one_other_host_is_read() {
        let old = r#"{"vpn":"wg0","vni":7,"remote":"10.99.0.2","local":"10.99.0.1","mtu":1370}"#;
        let read: Stretch = serde_json::from_str(old).unwrap();
        assert_eq!(read.remotes, [Ipv4Addr::new(10, 99, 0, 2)]);
        let again: Stretch = serde_json::from_str(&serde_json::to_string(&read).unwrap()).unwrap();
        assert_eq!(again.remotes, read.remotes);
    }
}
