//! Whether a subnet is free.

use weft_wire::Ipv4Cidr;

use super::Observed;
use crate::{Error, ErrorKind, NetworkName, Result};

/// The shortest prefix of a route that claims its addresses. Shorter ones say where everything goes that has no better
/// route: the default route, and the halves into which VPNs split it.
const SHORTEST_CLAIM: u8 = 2;

/// Refuses a subnet that overlaps an address or a route of the host outside of the network's own bridge.
/// [`ErrorKind::Collision`] with a sentence that names the link or the route.
pub(super) fn check(
    network: &NetworkName,
    subnet: Ipv4Cidr,
    own: Option<u32>,
    observed: &Observed,
) -> Result<()> {
    let refuse = |what: String| {
        Err(Error::new(
            ErrorKind::Collision,
            format!("network {network}: subnet {subnet} overlaps {what}; choose another subnet"),
        ))
    };
    for address in &observed.addresses {
        if own != Some(address.index) && subnet.overlaps(address.address) {
            let place = place(address.index, observed);
            return refuse(format!("the address {} of {place}", address.address));
        }
    }
    for route in &observed.routes {
        let claims = route.destination.prefix() >= SHORTEST_CLAIM;
        let elsewhere = own.is_none() || route.index != own;
        if claims && elsewhere && subnet.overlaps(route.destination) {
            let mut what = format!("the route to {}", route.destination);
            if let Some(gateway) = route.gateway {
                what.push_str(&format!(" by {gateway}"));
            }
            if let Some(index) = route.index {
                what.push_str(&format!(" on {}", place(index, observed)));
            }
            return refuse(what);
        }
    }
    Ok(())
}

fn place(index: u32, observed: &Observed) -> String {
    match observed.link_by_index(index) {
        Some(link) => match link.owner() {
            Some(owner) => format!("link {}, network {}", link.name, owner.network),
            None => format!("link {}", link.name),
        },
        None => format!("link number {index}"),
    }
}
