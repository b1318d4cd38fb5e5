//! What gives a network a port, and takes it away.

use super::tear_down::delete;
use super::{Observed, OnFailure, Operation, Plan};
use crate::link::{Link, Owner};
use crate::network::PortSpec;
use crate::{Error, ErrorKind, NetworkName, Result};

/// What makes the port's TAP device and joins it to the bridge. Empty if it is so already.
///
/// [`ErrorKind::NotFound`] if the network is not there, [`ErrorKind::Foreign`] if the device's name is taken.
pub fn add_port(spec: &PortSpec, observed: &Observed) -> Result<Plan> {
    let PortSpec {
        network, port, tap, ..
    } = spec;
    let owner = Owner::port(network.as_str(), port);
    // The mark is read back from text, which must give the same port.
    let fits = !port.is_empty()
        && port.len() <= 100
        && Owner::parse(&owner.to_string()) == Some(owner.clone());
    if !fits || port.contains(char::is_control) {
        return Err(Error::new(
            ErrorKind::Invalid,
            format!("network {network}: {port:?} is no name for a port"),
        ));
    }
    let bridge = find_bridge(spec, observed)?;
    let mut operations = Vec::new();
    let link = find_tap(spec, &owner, observed)?;
    if link.is_none() {
        operations.push(Operation::CreateTap {
            name: tap.clone(),
            user: spec.owner,
            multi_queue: spec.multi_queue,
            owner,
        });
    }
    let mtu = spec.mtu.unwrap_or(bridge.mtu);
    let from = link.map_or(1500, |link| link.mtu);
    if mtu != from {
        let name = tap.clone();
        operations.push(Operation::SetMtu {
            name,
            from,
            to: mtu,
        });
    }
    if link.is_none_or(|link| link.bridge != Some(bridge.index)) {
        operations.push(Operation::JoinBridge {
            name: tap.clone(),
            bridge: spec.bridge.clone(),
        });
    }
    if !link.is_some_and(|link| link.up) {
        operations.push(Operation::SetUp { name: tap.clone() });
    }
    Ok(Plan {
        title: format!("port {port} of network {network}"),
        operations,
        warnings: Vec::new(),
        on_failure: OnFailure::Undo,
    })
}

/// What takes the port's TAP device away. Empty if it is not there.
pub fn remove_port(network: &NetworkName, port: &str, observed: &Observed) -> Result<Plan> {
    let owner = Owner::port(network.as_str(), port);
    let operations = match observed.marked(&owner) {
        Some(link) => vec![delete(link)?],
        None => Vec::new(),
    };
    Ok(Plan {
        title: format!("port {port} of network {network}, to be removed"),
        operations,
        warnings: Vec::new(),
        on_failure: OnFailure::GoOn,
    })
}

fn find_bridge<'a>(spec: &PortSpec, observed: &'a Observed) -> Result<&'a Link> {
    observed
        .marked(&Owner::bridge(spec.network.as_str()))
        .filter(|link| link.name == spec.bridge.as_str())
        .ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                format!(
                    "network {} has no bridge {} on this host",
                    spec.network, spec.bridge
                ),
            )
        })
}

fn find_tap<'a>(
    spec: &PortSpec,
    owner: &Owner,
    observed: &'a Observed,
) -> Result<Option<&'a Link>> {
    let PortSpec {
        network, port, tap, ..
    } = spec;
    if let Some(link) = observed
        .marked(owner)
        .filter(|link| link.name != tap.as_str())
    {
        return Err(Error::new(
            ErrorKind::Busy,
            format!("port {port} of network {network} exists as {}", link.name),
        ));
    }
    let Some(link) = observed.link(tap.as_str()) else {
        return Ok(None);
    };
    if link.owner().is_some_and(|mark| mark.same(owner)) {
        return Ok(Some(link));
    }
    Err(Error::new(
        ErrorKind::Foreign,
        format!(
            "port {port} of network {network}: link {tap} exists and is not this port's; choose another name"
        ),
    ))
}
