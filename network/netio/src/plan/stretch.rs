//! What makes a network reach bridges of other hosts, at layer 2: a VXLAN device (RFC 7348) among its ports.

use std::net::Ipv4Addr;

use super::tear_down::delete;
use super::{Observed, OnFailure, Operation, Plan};
use crate::link::{Link, Owner};
use crate::{Error, ErrorKind, InterfaceName, NetworkName, NetworkSpec, Result};

/// The port's name in the mark of the device; no port of a guest can have it.
const PORT: &str = "~stretch";
/// What VXLAN puts before a frame over IPv4: IPv4, UDP and VXLAN headers, and the frame's own Ethernet header.
const OVERHEAD: u32 = 20 + 8 + 8 + 14;
/// The most other hosts: a frame for all is sent to each of them.
const MOST_REMOTES: usize = 64;
/// The largest network identifier.
const LARGEST_VNI: u32 = (1 << 24) - 1;

/// How a network is stretched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StretchSpec {
    /// The interface that the frames leave by: a tunnel's.
    pub lower: InterfaceName,
    /// The network identifier, the same on all hosts.
    pub vni: u32,
    /// The host's own address there.
    pub local: Ipv4Addr,
    /// The other hosts'. Each of them knows all others, this one as well.
    pub remotes: Vec<Ipv4Addr>,
}

impl StretchSpec {
    /// The largest packet of guests that fits through a lower link with this MTU.
    pub fn mtu(lower: u32) -> u32 {
        lower.saturating_sub(OVERHEAD)
    }
}

/// What stretches a network that is there, and brings all its ports to `network.mtu`.
///
/// [`ErrorKind::NotFound`] without its bridge, [`ErrorKind::Invalid`] for an identifier or for hosts that are none.
pub fn stretch(network: &NetworkSpec, spec: &StretchSpec, observed: &Observed) -> Result<Plan> {
    if let Some(why) = wrong(spec) {
        let why = format!("network {}: {why}", network.name);
        return Err(Error::new(ErrorKind::Invalid, why));
    }
    let bridge = find_bridge(network, observed)?;
    let owner = Owner::port(network.name.as_str(), PORT);
    let mut operations = Vec::new();
    if let Some(old) = observed.marked(&owner) {
        operations.push(delete(old)?);
    }
    let name = device(&network.name);
    operations.push(Operation::CreateVxlan {
        name: name.clone(),
        vni: spec.vni,
        lower: spec.lower.clone(),
        local: spec.local,
        remotes: spec.remotes.clone(),
        owner,
    });
    operations.extend(resize(network, bridge, observed)?);
    operations.push(Operation::JoinBridge {
        name: name.clone(),
        bridge: network.bridge.clone(),
    });
    operations.push(Operation::SetUp { name });
    Ok(plan(
        network,
        "to be stretched",
        operations,
        OnFailure::Undo,
    ))
}

/// What takes the device away and brings the ports to `network.mtu`.
pub fn unstretch(network: &NetworkSpec, observed: &Observed) -> Result<Plan> {
    let mut operations = Vec::new();
    let owner = Owner::port(network.name.as_str(), PORT);
    if let Some(link) = observed.marked(&owner) {
        operations.push(delete(link)?);
    }
    if let Ok(bridge) = find_bridge(network, observed) {
        let device = observed.marked(&owner).map(|link| link.index);
        let sizes = resize(network, bridge, observed)?;
        let stays = |operation: &Operation| match operation {
            Operation::SetMtu { name, .. } => {
                let link = observed.link(name.as_str());
                device.is_none() || link.map(|link| link.index) != device
            }
            _ => true,
        };
        operations.extend(sizes.into_iter().filter(stays));
    }
    Ok(plan(
        network,
        "to be stretched no more",
        operations,
        OnFailure::GoOn,
    ))
}

/// What is wrong with a stretch, if anything is.
fn wrong(spec: &StretchSpec) -> Option<String> {
    let (vni, remotes) = (spec.vni, &spec.remotes);
    if !(1..=LARGEST_VNI).contains(&vni) {
        return Some(format!(
            "{vni} is no VXLAN network identifier; they go from 1 to {LARGEST_VNI}"
        ));
    }
    if remotes.is_empty() || remotes.len() > MOST_REMOTES {
        let count = remotes.len();
        return Some(format!(
            "it can be shared with 1 to {MOST_REMOTES} other hosts, not with {count}"
        ));
    }
    for (place, remote) in remotes.iter().enumerate() {
        if *remote == spec.local {
            return Some(format!("{remote} is this host itself"));
        }
        if remotes[..place].contains(remote) {
            return Some(format!("{remote} is there twice"));
        }
        if remote.is_multicast() || remote.is_unspecified() || remote.is_broadcast() {
            return Some(format!("{remote} is no address of a host"));
        }
    }
    None
}

/// The device's name.
fn device(network: &NetworkName) -> InterfaceName {
    network.tap(PORT)
}

/// Ports first: a bridge takes no packet that one of them could not carry.
fn resize(network: &NetworkSpec, bridge: &Link, observed: &Observed) -> Result<Vec<Operation>> {
    let to = network.mtu.unwrap_or(1500);
    let ports = observed
        .links
        .iter()
        .filter(|link| link.bridge == Some(bridge.index));
    let all = ports.chain([bridge]).filter(|link| link.mtu != to);
    all.map(|link| {
        Ok(Operation::SetMtu {
            name: InterfaceName::new(link.name.clone())?,
            from: link.mtu,
            to,
        })
    })
    .collect()
}

fn find_bridge<'a>(network: &NetworkSpec, observed: &'a Observed) -> Result<&'a Link> {
    observed
        .marked(&Owner::bridge(network.name.as_str()))
        .ok_or_else(|| {
            let why = format!("network {} has no bridge on this host", network.name);
            Error::new(ErrorKind::NotFound, why)
        })
}

fn plan(
    network: &NetworkSpec,
    what: &str,
    operations: Vec<Operation>,
    on_failure: OnFailure,
) -> Plan {
    Plan {
        title: format!("network {}, {what}", network.name),
        operations,
        warnings: Vec::new(),
        on_failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(vni: u32, remotes: &[[u8; 4]]) -> StretchSpec {
        StretchSpec {
            lower: InterfaceName::new("wg0").expect("a name"),
            vni,
            local: Ipv4Addr::new(10, 99, 0, 1),
            remotes: remotes.iter().map(|&octets| octets.into()).collect(),
        }
    }

    #[test]
    fn what_cannot_be_stretched_to_is_told() {
        let good: Vec<[u8; 4]> = (2..66).map(|host| [10, 99, 0, host]).collect();
        assert_eq!(wrong(&spec(7, &good)), None);
        let why = |vni, remotes: &[[u8; 4]]| wrong(&spec(vni, remotes)).expect("it is wrong");
        assert!(why(0, &good).contains("1 to 16777215"));
        assert!(why(1 << 24, &good).contains("1 to 16777215"));
        assert!(why(7, &[]).contains("not with 0"));
        assert!(why(7, &[&good[..], &[[10, 99, 1, 0]]].concat()).contains("not with 65"));
        assert!(why(7, &[[10, 99, 0, 1]]).contains("this host itself"));
        assert!(why(7, &[good[0], good[1], good[0]]).contains("10.99.0.2 is there twice"));
        assert!(why(7, &[[239, 1, 1, 1]]).contains("no address of a host"));
    }
}
