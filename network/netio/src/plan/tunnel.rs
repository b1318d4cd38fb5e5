//! What gives a tunnel's interface its addresses and routes.

use weft_wire::IpCidr;

use super::{OnFailure, Operation, Plan};
use crate::InterfaceName;

/// What a tunnel's interface is to be. The interface is there: whoever moves its packets has made it, and it goes with
/// them, and with it its addresses and routes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelSpec {
    /// The interface.
    pub interface: InterfaceName,
    /// Its largest packet.
    pub mtu: u32,
    /// The host's addresses in the tunnel.
    pub addresses: Vec<IpCidr>,
    /// What is led to it.
    pub routes: Vec<IpCidr>,
}

impl TunnelSpec {
    /// The routes that are missing once the addresses are there: the kernel leads their subnets to the interface by
    /// itself.
    pub fn own_routes(&self) -> Vec<IpCidr> {
        let mut routes: Vec<IpCidr> = self.routes.iter().map(|route| route.network()).collect();
        routes.sort();
        routes.dedup();
        let covered = |route: &IpCidr| {
            let mut addresses = self.addresses.iter();
            addresses.any(|address| !address.is_host() && address.covers(*route))
        };
        routes.retain(|route| !covered(route));
        routes
    }
}

/// What makes an interface that was just made, and is down, the one that is wanted.
pub fn tunnel(spec: &TunnelSpec, mtu: u32) -> Plan {
    let name = || spec.interface.clone();
    let mut operations = Vec::new();
    if mtu != spec.mtu {
        operations.push(Operation::SetMtu {
            name: name(),
            from: mtu,
            to: spec.mtu,
        });
    }
    operations.extend(spec.addresses.iter().map(|&address| Operation::AddAddress {
        name: name(),
        address,
    }));
    operations.push(Operation::SetUp { name: name() });
    let routes = spec.own_routes().into_iter();
    operations.extend(routes.map(|destination| Operation::AddRoute {
        name: name(),
        destination,
    }));
    plan(spec, operations)
}

/// What makes of the routes of `before` those of `after`, of the same interface.
pub fn reroute(before: &TunnelSpec, after: &TunnelSpec) -> Plan {
    let (old, new) = (before.own_routes(), after.own_routes());
    let name = || after.interface.clone();
    let gone = old.iter().filter(|route| !new.contains(route));
    let come = new.iter().filter(|route| !old.contains(route));
    let gone = gone.map(|&destination| Operation::RemoveRoute {
        name: name(),
        destination,
    });
    let come = come.map(|&destination| Operation::AddRoute {
        name: name(),
        destination,
    });
    plan(after, gone.chain(come).collect())
}

fn plan(spec: &TunnelSpec, operations: Vec<Operation>) -> Plan {
    Plan {
        title: format!("tunnel {}", spec.interface),
        operations,
        warnings: Vec::new(),
        on_failure: OnFailure::Undo,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(routes: &[&str]) -> TunnelSpec {
        let cidr = |text: &&str| text.parse().expect("a subnet");
        TunnelSpec {
            interface: InterfaceName::new("wg0").expect("a name"),
            mtu: 1420,
            addresses: ["10.9.0.1/24", "fd09::1/128"].iter().map(cidr).collect(),
            routes: routes.iter().map(cidr).collect(),
        }
    }

    #[test]
    fn routes_that_the_addresses_bring_are_left_to_the_kernel() {
        let plan = tunnel(
            &spec(&["10.9.0.2/32", "10.2.0.5/16", "fd02::/64", "10.2.0.0/16"]),
            1500,
        );
        let told = "tunnel wg0:\n  set the MTU of wg0 from 1500 to 1420\n  give wg0 the address 10.9.0.1/24\n  \
                    give wg0 the address fd09::1/128\n  set wg0 up\n  lead 10.2.0.0/16 to wg0\n  \
                    lead fd02::/64 to wg0\n";
        assert_eq!(plan.to_string(), told);
    }

    #[test]
    fn only_what_differs_is_led_elsewhere_and_it_can_be_undone() {
        let plan = reroute(
            &spec(&["10.2.0.0/16", "10.3.0.0/16"]),
            &spec(&["10.3.0.0/16", "10.4.0.0/16"]),
        );
        let told = "tunnel wg0:\n  lead 10.2.0.0/16 to wg0 no more\n  lead 10.4.0.0/16 to wg0\n";
        assert_eq!(plan.to_string(), told);
        let back: Vec<_> = plan
            .operations
            .iter()
            .rev()
            .map(|op| op.inverse().unwrap())
            .collect();
        let there = reroute(
            &spec(&["10.3.0.0/16", "10.4.0.0/16"]),
            &spec(&["10.2.0.0/16", "10.3.0.0/16"]),
        );
        assert_eq!(back, there.operations);
    }
}
