//! Plans, from what is wanted and what is there, without a host.

use weft_netio::link::{Address, LINK_GROUP, Link, Owner, Route};
use weft_netio::nft::{Blocking, network_rules};
use weft_netio::plan::{self, Observed, Operation, Plan, Rules};
use weft_netio::{ErrorKind, InterfaceName, Mode, NetworkName, NetworkSpec, PortSpec};
use weft_wire::MacAddress;

fn name(name: &str) -> NetworkName {
    NetworkName::new(name).expect("a good name")
}

fn interface(name: &str) -> InterfaceName {
    InterfaceName::new(name).expect("a good name")
}

fn spec(network: &str, subnet: &str, mode: Mode) -> NetworkSpec {
    NetworkSpec::new(name(network), subnet.parse().expect("a subnet"), mode)
}

fn link(index: u32, name: &str, kind: &str, alias: Option<&str>) -> Link {
    Link {
        index,
        name: name.into(),
        kind: kind.into(),
        mac: Some(MacAddress([2, 0, 0, 0, 0, index as u8])),
        alias: alias.map(Into::into),
        group: if alias.is_some() { LINK_GROUP } else { 0 },
        bridge: None,
        mtu: 1500,
        up: true,
    }
}

fn address(index: u32, text: &str) -> Address {
    Address {
        index,
        address: text.parse().expect("an address"),
    }
}

/// A host with one link to the outside, which does not forward.
fn host() -> Observed {
    Observed {
        links: vec![link(1, "lo", "", None), link(2, "eth0", "", None)],
        addresses: vec![address(1, "127.0.0.1/8"), address(2, "192.0.2.2/24")],
        routes: vec![
            Route {
                destination: "0.0.0.0/0".parse().expect("a route"),
                gateway: Some([192, 0, 2, 1].into()),
                index: Some(2),
            },
            Route {
                destination: "192.0.2.0/24".parse().expect("a route"),
                gateway: None,
                index: Some(2),
            },
        ],
        forwarding: false,
        rules: Rules::Known(Vec::new()),
        blocking: Vec::new(),
    }
}

/// The host after a plan for `spec` was done.
fn with(mut host: Observed, spec: &NetworkSpec) -> Observed {
    let plan = plan::set_up(spec, &host).expect("a plan");
    let index = 10 + host.links.len() as u32;
    let Operation::CreateBridge { owner, .. } = &plan.operations[0] else {
        panic!("the bridge comes first: {plan}");
    };
    let mut bridge = link(
        index,
        spec.bridge.as_str(),
        "bridge",
        Some(&owner.to_string()),
    );
    bridge.mac = Some(spec.mac);
    host.links.push(bridge);
    host.addresses.push(Address {
        index,
        address: spec.address,
    });
    host.routes.push(Route {
        destination: spec.address.network(),
        gateway: None,
        index: Some(index),
    });
    host.forwarding |= spec.mode.forwards();
    let Rules::Known(tables) = &mut host.rules else {
        panic!("rules are known");
    };
    tables.push(network_rules(spec));
    host
}

fn refused(plan: weft_netio::Result<Plan>) -> (ErrorKind, String) {
    let error = plan.expect_err("it is refused");
    (error.kind(), error.sentence())
}

#[test]
fn a_nat_network_from_nothing() {
    let plan = plan::set_up(&spec("lab", "10.7.0.0/24", Mode::Nat), &host()).unwrap();
    let expected = "\
network lab:
  make bridge weft-lab with address 52:28:52:65:59:fe, marked weft:lab;ip_forward=0
  set the rules of table inet weft_lab (8 rules)
  give weft-lab the address 10.7.0.1/24
  turn IPv4 forwarding on
  set weft-lab up
";
    assert_eq!(plan.to_string(), expected);
}

#[test]
fn an_isolated_network_does_not_make_the_host_a_router() {
    let mut spec = spec("lab", "10.7.0.0/24", Mode::Isolated);
    spec.mtu = Some(9000);
    let plan = plan::set_up(&spec, &host()).unwrap();
    let expected = "\
network lab:
  make bridge weft-lab with address 52:28:52:65:59:fe and MTU 9000, marked weft:lab
  set the rules of table inet weft_lab (4 rules)
  give weft-lab the address 10.7.0.1/24
  set weft-lab up
";
    assert_eq!(plan.to_string(), expected);
}

#[test]
fn what_is_already_so_needs_nothing() {
    let spec = spec("lab", "10.7.0.0/24", Mode::Nat);
    let plan = plan::set_up(&spec, &with(host(), &spec)).unwrap();
    assert_eq!(plan.to_string(), "network lab: nothing to do\n");
}

#[test]
fn what_differs_is_mended() {
    let old = spec("lab", "10.7.0.0/24", Mode::Nat);
    let host = with(host(), &old);
    let mut new = spec("lab", "10.8.0.0/24", Mode::Nat);
    new.mtu = Some(1400);
    new.forwards = vec!["tcp:8080:10.8.0.5:80".parse().unwrap()];
    let plan = plan::set_up(&new, &host).unwrap();
    let expected = "\
network lab:
  set the MTU of weft-lab from 1500 to 1400
  take the address 10.7.0.1/24 from weft-lab
  replace the rules of table inet weft_lab (11 rules)
  give weft-lab the address 10.8.0.1/24
";
    assert_eq!(plan.to_string(), expected);
}

#[test]
fn a_crash_between_making_and_marking_is_mended() {
    let spec = spec("lab", "10.7.0.0/24", Mode::Isolated);
    let mut host = host();
    let mut half = link(9, "weft-lab", "bridge", None);
    half.mac = Some(spec.mac);
    half.group = LINK_GROUP;
    half.up = false;
    host.links.push(half);
    let plan = plan::set_up(&spec, &host).unwrap();
    assert_eq!(
        plan.operations[0].to_string(),
        "mark link weft-lab as weft:lab"
    );
    let expected = "\
network lab, to be removed:
  mark link weft-lab as weft:lab
  delete link weft-lab
";
    let gone = plan::tear_down(&name("lab"), &host).unwrap();
    assert_eq!(gone.to_string(), expected);
    host.links[2].group = 0;
    assert!(plan::set_up(&spec, &host).is_err(), "somebody else's");
}

#[test]
fn a_foreign_link_is_never_taken() {
    let spec = spec("lab", "10.7.0.0/24", Mode::Nat);
    let mut host = host();
    host.links.push(link(9, "weft-lab", "bridge", None));
    assert_eq!(
        refused(plan::set_up(&spec, &host)),
        (
            ErrorKind::Foreign,
            "network lab: link weft-lab exists and was not made by weft; choose another bridge name".into()
        )
    );
    host.links[2].alias = Some("weft:other".into());
    assert_eq!(
        refused(plan::set_up(&spec, &host)),
        (
            ErrorKind::Foreign,
            "network lab: link weft-lab belongs to network other; choose another bridge name"
                .into()
        )
    );
    assert!(plan::tear_down(&name("lab"), &host).unwrap().is_empty());
}

#[test]
fn a_network_has_one_bridge() {
    let mut spec = spec("lab", "10.7.0.0/24", Mode::Nat);
    let host = with(host(), &spec);
    spec.bridge = interface("br7");
    assert_eq!(
        refused(plan::set_up(&spec, &host)),
        (
            ErrorKind::Busy,
            "network lab exists with the bridge weft-lab; remove it before it gets the bridge br7"
                .into()
        )
    );
}

#[test]
fn a_subnet_in_use_is_refused_by_name() {
    let collision = |subnet: &str, host: &Observed| {
        let (kind, sentence) = refused(plan::set_up(&spec("lab", subnet, Mode::Nat), host));
        assert_eq!(kind, ErrorKind::Collision);
        sentence
    };
    let mut host = host();
    assert_eq!(
        collision("192.0.2.128/25", &host),
        "network lab: subnet 192.0.2.128/25 overlaps the address 192.0.2.2/24 of link eth0; choose another subnet"
    );
    host.routes.push(Route {
        destination: "10.0.0.0/8".parse().unwrap(),
        gateway: Some([192, 0, 2, 9].into()),
        index: Some(2),
    });
    assert_eq!(
        collision("10.7.0.0/24", &host),
        "network lab: subnet 10.7.0.0/24 overlaps the route to 10.0.0.0/8 by 192.0.2.9 on link eth0; choose another \
         subnet"
    );
    host.routes.pop();
    let host = with(host, &spec("other", "10.7.0.0/16", Mode::Nat));
    assert_eq!(
        collision("10.7.9.0/24", &host),
        "network lab: subnet 10.7.9.0/24 overlaps the address 10.7.0.1/16 of link weft-other, network other; choose \
         another subnet"
    );
}

#[test]
fn the_halves_of_a_vpn_s_default_route_claim_nothing() {
    let mut host = host();
    for half in ["0.0.0.0/1", "128.0.0.0/1"] {
        host.routes.push(Route {
            destination: half.parse().unwrap(),
            gateway: None,
            index: Some(2),
        });
    }
    assert!(plan::set_up(&spec("lab", "10.7.0.0/24", Mode::Nat), &host).is_ok());
}

#[test]
fn the_last_network_restores_forwarding_as_it_was() {
    let (one, two) = (
        spec("one", "10.1.0.0/24", Mode::Nat),
        spec("two", "10.2.0.0/24", Mode::Routed),
    );
    let first = with(host(), &one);
    let both = with(first, &two);
    let expected = "\
network one, to be removed:
  delete link weft-one
  delete the rules of table inet weft_one
";
    assert_eq!(
        plan::tear_down(&name("one"), &both).unwrap().to_string(),
        expected
    );
    let mut only_two = both;
    only_two.links.retain(|link| link.name != "weft-one");
    let expected = "\
network two, to be removed:
  turn IPv4 forwarding off
  delete link weft-two
  delete the rules of table inet weft_two
";
    assert_eq!(
        plan::tear_down(&name("two"), &only_two)
            .unwrap()
            .to_string(),
        expected
    );

    let mut router = host();
    router.forwarding = true;
    let router = with(router, &one);
    let last = plan::tear_down(&name("one"), &router).unwrap();
    assert!(
        !last
            .operations
            .contains(&Operation::SetForwarding { on: false }),
        "it was on before"
    );
}

#[test]
fn ports_go_before_their_bridge_and_foreign_ones_stay() {
    let mut host = with(host(), &spec("lab", "10.7.0.0/24", Mode::Isolated));
    let bridge = host.link("weft-lab").unwrap().index;
    for (index, device, alias) in [(20, "wt-lab-a", Some("weft:lab/a")), (21, "vnet0", None)] {
        let mut port = link(index, device, "tun", alias);
        port.bridge = Some(bridge);
        host.links.push(port);
    }
    let networks = host.networks();
    assert_eq!((networks.len(), networks[0].ports.len()), (1, 2));
    let expected = "\
network lab, to be removed:
  delete link wt-lab-a
  delete link weft-lab
  delete the rules of table inet weft_lab
";
    assert_eq!(
        plan::tear_down(&name("lab"), &host).unwrap().to_string(),
        expected
    );
    assert!(plan::tear_down(&name("none"), &host).unwrap().is_empty());
}

fn port(device: &str) -> PortSpec {
    PortSpec {
        network: name("lab"),
        bridge: interface("weft-lab"),
        port: "vm1".into(),
        tap: interface(device),
        owner: Some(1000),
        multi_queue: true,
        mtu: None,
    }
}

#[test]
fn a_port_is_made_once() {
    let mut host = with(host(), &spec("lab", "10.7.0.0/24", Mode::Isolated));
    let bridge = host.link("weft-lab").unwrap().index;
    let expected = "\
port vm1 of network lab:
  make TAP device wt-lab-vm1 with several queues for user 1000, marked weft:lab/vm1
  join wt-lab-vm1 to bridge weft-lab
  set wt-lab-vm1 up
";
    assert_eq!(
        plan::add_port(&port("wt-lab-vm1"), &host)
            .unwrap()
            .to_string(),
        expected
    );
    let mut tap = link(20, "wt-lab-vm1", "tun", Some("weft:lab/vm1"));
    tap.bridge = Some(bridge);
    host.links.push(tap);
    assert!(
        plan::add_port(&port("wt-lab-vm1"), &host)
            .unwrap()
            .is_empty()
    );
    assert_eq!(
        refused(plan::add_port(&port("wt-other"), &host)).0,
        ErrorKind::Busy
    );
    let removal = plan::remove_port(&name("lab"), "vm1", &host).unwrap();
    assert_eq!(
        removal.operations,
        [Operation::DeleteLink {
            name: interface("wt-lab-vm1"),
            owner: Owner::port("lab", "vm1"),
        }]
    );
    assert!(
        plan::remove_port(&name("lab"), "vm2", &host)
            .unwrap()
            .is_empty()
    );
}

#[test]
fn a_port_needs_its_network_and_a_free_name() {
    assert_eq!(
        refused(plan::add_port(&port("wt-lab-vm1"), &host())).0,
        ErrorKind::NotFound
    );
    let mut host = with(host(), &spec("lab", "10.7.0.0/24", Mode::Isolated));
    host.links.push(link(20, "tap0", "tun", None));
    assert_eq!(
        refused(plan::add_port(&port("tap0"), &host)).1,
        "port vm1 of network lab: link tap0 exists and is not this port's; choose another name"
    );
    for bad in ["", "a\nb", "x;ip_forward=0"] {
        let mut spec = port("tap1");
        spec.port = bad.into();
        assert_eq!(
            refused(plan::add_port(&spec, &host)).0,
            ErrorKind::Invalid,
            "{bad:?}"
        );
    }
}

#[test]
fn a_firewall_in_the_way_is_named() {
    let mut host = host();
    host.blocking.push(Blocking {
        table: "ip filter".into(),
        chain: "FORWARD".into(),
        hook: "forward".into(),
    });
    let nat = plan::set_up(&spec("lab", "10.7.0.0/24", Mode::Nat), &host).unwrap();
    assert_eq!(
        nat.warnings,
        [
            "chain FORWARD of table ip filter drops by default and may stop what guests send to the outside; let link \
          weft-lab pass there"
        ]
    );
    let isolated = plan::set_up(&spec("lab", "10.7.0.0/24", Mode::Isolated), &host).unwrap();
    assert!(isolated.warnings.is_empty());
}

#[test]
fn without_nft_a_network_is_refused_and_one_that_is_there_can_go() {
    let spec = spec("lab", "10.7.0.0/24", Mode::Nat);
    let mut host = with(host(), &spec);
    host.rules = Rules::NoProgram;
    assert_eq!(
        refused(plan::set_up(&spec, &host)),
        (
            ErrorKind::MissingProgram,
            "networks need the program nft, which is not installed: install the package nftables"
                .into()
        )
    );
    let plan = plan::tear_down(&name("lab"), &host).unwrap();
    assert_eq!((plan.operations.len(), plan.warnings.len()), (2, 1));
}

#[test]
fn every_step_of_a_set_up_can_be_undone() {
    let mut wanted = spec("lab", "10.7.0.0/24", Mode::Nat);
    wanted.mtu = Some(1400);
    let plan = plan::set_up(&wanted, &host()).unwrap();
    let inverse = |operation: &Operation| operation.inverse().map(|inverse| inverse.to_string());
    let undone: Vec<String> = plan.operations.iter().rev().filter_map(inverse).collect();
    assert_eq!(
        undone,
        [
            "turn IPv4 forwarding off",
            "take the address 10.7.0.1/24 from weft-lab",
            "delete the rules of table inet weft_lab",
            "delete link weft-lab",
        ]
    );
}

#[test]
fn the_rules_of_a_nat_network() {
    let mut spec = spec("lab", "10.7.0.0/24", Mode::Nat);
    spec.forwards = vec!["udp:53:10.7.0.5:5353".parse().unwrap()];
    let rules = network_rules(&spec);
    let comments = |chain: &str| -> Vec<String> {
        let of_chain = rules
            .objects()
            .iter()
            .filter(|object| object["rule"]["chain"] == chain);
        of_chain
            .map(|object| {
                object["rule"]["comment"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned()
            })
            .collect()
    };
    assert_eq!(
        comments("forward"),
        [
            "within the network",
            "IPv4 alone is forwarded",
            "IPv4 alone is forwarded",
            "other networks are apart",
            "answers come back",
            "port forwards come in",
            "nothing else comes in",
        ]
    );
    assert_eq!(comments("guard"), ["sources of this subnet alone"]);
    assert_eq!(comments("postrouting").len(), 1);
    let forward = rules
        .objects()
        .iter()
        .find(|object| object["rule"]["chain"] == "prerouting");
    let text = serde_json::to_string(&forward.unwrap()["rule"]["expr"]).unwrap();
    assert_eq!(
        text,
        "[{\"match\":{\"left\":{\"fib\":{\"flags\":[\"daddr\"],\"result\":\"type\"}},\"op\":\"==\",\
         \"right\":\"local\"}},{\"match\":{\"left\":{\"payload\":{\"field\":\"dport\",\"protocol\":\"udp\"}},\
         \"op\":\"==\",\"right\":53}},{\"dnat\":{\"addr\":\"10.7.0.5\",\"family\":\"ip\",\"port\":5353}}]"
    );
}
