//! From what a network is to be and what is there: what to do.

use super::{Observed, OnFailure, Operation, Plan, collision};
use crate::link::{Link, Owner};
use crate::network::{Mode, NetworkSpec};
use crate::nft::network_rules;
use crate::{Error, ErrorKind, Result};

/// What brings the network into being, or from another state of it to this one. Empty if it is so already.
///
/// [`ErrorKind::Invalid`], [`ErrorKind::Foreign`] or [`ErrorKind::Collision`] if it cannot be, and
/// [`ErrorKind::MissingProgram`] without `nft`.
pub fn set_up(spec: &NetworkSpec, observed: &Observed) -> Result<Plan> {
    spec.check()?;
    let bridge = find_bridge(spec, observed)?;
    collision::check(
        &spec.name,
        spec.address.network(),
        bridge.map(|link| link.index),
        observed,
    )?;
    let rules = network_rules(spec);
    let before = observed.table(rules.table())?;

    let mut operations = Vec::new();
    match bridge {
        None => operations.push(Operation::CreateBridge {
            name: spec.bridge.clone(),
            mac: spec.mac,
            mtu: spec.mtu,
            owner: owner(spec, observed),
        }),
        Some(link) => mend_bridge(spec, link, observed, &mut operations),
    }
    // Rules before the link is up and before the host forwards: nothing passes that they would not let pass.
    if before != Some(&rules) {
        let before = before.cloned();
        operations.push(Operation::SetRules { rules, before });
    }
    let name = || spec.bridge.clone();
    let address = spec.address;
    let present = |link: &Link| {
        observed
            .addresses_of(link.index)
            .any(|a| a.address == address)
    };
    if !bridge.is_some_and(present) {
        operations.push(Operation::AddAddress {
            name: name(),
            address: address.into(),
        });
    }
    if spec.forwards() && !observed.forwarding {
        operations.push(Operation::SetForwarding { on: true });
    }
    if !bridge.is_some_and(|link| link.up) {
        operations.push(Operation::SetUp { name: name() });
    }
    Ok(Plan {
        title: format!("network {}", spec.name),
        operations,
        warnings: warnings(spec, observed),
        on_failure: OnFailure::Undo,
    })
}

/// The mark for the bridge, which remembers that forwarding was off: now, or when the first network was made that is
/// still there.
fn owner(spec: &NetworkSpec, observed: &Observed) -> Owner {
    let mut owner = Owner::bridge(spec.name.as_str());
    let remembered = || {
        observed
            .bridges()
            .any(|(owner, _)| owner.forwarding_was_off)
    };
    owner.forwarding_was_off = spec.forwards() && (!observed.forwarding || remembered());
    owner
}

/// The network's bridge, if it is there; refuses what has its name and is not its own.
fn find_bridge<'a>(spec: &NetworkSpec, observed: &'a Observed) -> Result<Option<&'a Link>> {
    let own = Owner::bridge(spec.name.as_str());
    if let Some(link) = observed.marked(&own)
        && link.name != spec.bridge.as_str()
    {
        return Err(Error::new(
            ErrorKind::Busy,
            format!(
                "network {} exists with the bridge {}; remove it before it gets the bridge {}",
                spec.name, link.name, spec.bridge
            ),
        ));
    }
    let Some(link) = observed.link(spec.bridge.as_str()) else {
        return Ok(None);
    };
    match link.owner() {
        Some(owner) if owner.same(&own) => Ok(Some(link)),
        None if link.is_unmarked_bridge(spec.mac) => Ok(Some(link)),
        Some(owner) => Err(Error::new(
            ErrorKind::Foreign,
            format!(
                "network {}: link {} belongs to network {}; choose another bridge name",
                spec.name, spec.bridge, owner.network
            ),
        )),
        None => Err(Error::new(
            ErrorKind::Foreign,
            format!(
                "network {}: link {} exists and was not made by weft; choose another bridge name",
                spec.name, spec.bridge
            ),
        )),
    }
}

/// Brings a bridge that is there to what it is to be.
fn mend_bridge(
    spec: &NetworkSpec,
    link: &Link,
    observed: &Observed,
    operations: &mut Vec<Operation>,
) {
    let name = || spec.bridge.clone();
    let mut to = owner(spec, observed);
    let from = link.owner();
    // While the host forwards because of this network, its mark is what remembers.
    to.forwarding_was_off |= from.as_ref().is_some_and(|mark| mark.forwarding_was_off);
    if from.as_ref() != Some(&to) {
        operations.push(Operation::Mark {
            name: name(),
            from,
            to,
        });
    }
    if link.mac != Some(spec.mac) {
        operations.push(Operation::SetMac {
            name: name(),
            from: link.mac,
            to: spec.mac,
        });
    }
    if let Some(mtu) = spec.mtu.filter(|&mtu| mtu != link.mtu) {
        operations.push(Operation::SetMtu {
            name: name(),
            from: link.mtu,
            to: mtu,
        });
    }
    for old in observed.addresses_of(link.index) {
        if old.address != spec.address {
            operations.push(Operation::RemoveAddress {
                name: name(),
                address: old.address.into(),
            });
        }
    }
}

fn warnings(spec: &NetworkSpec, observed: &Observed) -> Vec<String> {
    let concerns = |hook: &str| hook == "input" || spec.mode != Mode::Isolated;
    observed
        .blocking
        .iter()
        .filter(|chain| concerns(&chain.hook))
        .map(|chain| {
            let stops = match chain.hook.as_str() {
                "input" => "DHCP and what else guests ask of this host",
                _ => "what guests send to the outside",
            };
            format!(
                "chain {} of table {} drops by default and may stop {stops}; let link {} pass there",
                chain.chain, chain.table, spec.bridge
            )
        })
        .collect()
}
