//! What makes a network reach a bridge of another host, at layer 2: a VXLAN device (RFC 7348) among its ports.

use std::net::Ipv4Addr;

use super::tear_down::delete;
use super::{Observed, OnFailure, Operation, Plan};
use crate::link::{Link, Owner};
use crate::{Error, ErrorKind, InterfaceName, NetworkName, NetworkSpec, Result};

/// The port's name in the mark of the device; no port of a guest can have it.
const PORT: &str = "~stretch";
/// What VXLAN puts before a frame over IPv4: IPv4, UDP and VXLAN headers, and the frame's own Ethernet header.
const OVERHEAD: u32 = 20 + 8 + 8 + 14;
/// The largest network identifier.
const LARGEST_VNI: u32 = (1 << 24) - 1;

/// How a network is stretched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StretchSpec {
    /// The interface that the frames leave by: a tunnel's.
    pub lower: InterfaceName,
    /// The network identifier, the same on both hosts.
    pub vni: u32,
    /// The host's own address there.
    pub local: Ipv4Addr,
    /// The other host's.
    pub remote: Ipv4Addr,
}

impl StretchSpec {
    /// The largest packet of guests that fits through a lower link with this MTU.
    pub fn mtu(lower: u32) -> u32 {
        lower.saturating_sub(OVERHEAD)
    }
}

/// What stretches a network that is there, and brings all its ports to `network.mtu`.
///
/// [`ErrorKind::NotFound`] without its bridge, [`ErrorKind::Invalid`] for an identifier that is none.
pub fn stretch(network: &NetworkSpec, spec: &StretchSpec, observed: &Observed) -> Result<Plan> {
    if !(1..=LARGEST_VNI).contains(&spec.vni) {
        let why = format!(
            "network {}: {} is no VXLAN network identifier; they go from 1 to {LARGEST_VNI}",
            network.name, spec.vni
        );
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
        remote: spec.remote,
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
