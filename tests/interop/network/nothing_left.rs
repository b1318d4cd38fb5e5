//! What the system's tools say of a network, and that nothing is left of it.

use anyhow::Result;
use serde_json::Value;
use weft_netio::link::Owner;
use weft_netio::nft::{self, network_rules};
use weft_netio::plan::{self, Observed, Operation};
use weft_netio::{ErrorKind, Mode, NetworkName, PortSpec, Tap, TapOptions};
use weft_tests::{can, require, skip};

use crate::lab::{Host, interface, spec, told};

fn json(host: &Host, program: &str, arguments: &[&str]) -> Result<Value> {
    Ok(serde_json::from_str(&host.netns.run(program, arguments)?)?)
}

/// All that a network may change, as the system's tools tell it.
fn state(host: &Host) -> Result<Vec<Value>> {
    Ok(vec![
        json(host, "ip", &["-j", "-d", "link"])?,
        json(host, "ip", &["-j", "address"])?,
        json(host, "ip", &["-j", "route", "show", "table", "all"])?,
        json(host, "nft", &["-j", "list", "ruleset"])?,
        host.netns
            .run("cat", ["/proc/sys/net/ipv4/ip_forward"])?
            .into(),
    ])
}

fn port(network: &str, tap: &str) -> PortSpec {
    let network = NetworkName::new(network).expect("a good name");
    PortSpec {
        bridge: network.bridge(),
        network,
        port: "vm1".into(),
        tap: interface(tap),
        owner: None,
        multi_queue: false,
        mtu: None,
    }
}

#[test]
fn after_a_network_nothing_is_left() -> Result<()> {
    require!("ip", "bridge", "nft");
    if !can::be_root() {
        skip!("needs root for network namespaces");
    }
    for (mode, forwards) in [
        (Mode::Isolated, vec![]),
        (Mode::Routed, vec![]),
        (
            Mode::Nat,
            vec!["tcp:8080:10.91.0.9:80", "udp:5353:10.91.0.9:53"],
        ),
    ] {
        let host = Host::new()?;
        let before = state(&host)?;
        let mut spec = spec("lab", "10.91.0.0/24", mode);
        spec.mtu = Some(1400);
        spec.forwards = forwards
            .iter()
            .map(|text| text.parse().expect("a forward"))
            .collect();
        host.set_up(&spec)?;
        let again = told(plan::set_up(&spec, &host.observe()?))?;
        assert!(
            again.is_empty(),
            "{mode:?}: what is in force is what was asked for: {again}"
        );
        let listed = host.run(async |_| nft::list("weft_lab").await)?;
        assert_eq!(listed, Some(network_rules(&spec)));

        let links = json(&host, "ip", &["-j", "-d", "link", "show", "weft-lab"])?;
        assert_eq!(links[0]["linkinfo"]["info_kind"], "bridge");
        assert_eq!(
            (&links[0]["mtu"], &links[0]["address"]),
            (&1400.into(), &spec.mac.to_string().into())
        );
        assert!(
            links[0]["ifalias"]
                .as_str()
                .is_some_and(|alias| alias.starts_with("weft:lab"))
        );
        let ipv6 = "/proc/sys/net/ipv6/conf/weft-lab/disable_ipv6";
        assert_eq!(
            host.netns.run("cat", [ipv6])?,
            "1\n",
            "no guest is the host's router"
        );
        let addresses = json(&host, "ip", &["-j", "-4", "address", "show", "weft-lab"])?;
        assert_eq!(addresses[0]["addr_info"][0]["local"], "10.91.0.1");
        assert_eq!(addresses[0]["addr_info"][0]["prefixlen"], 24);

        host.run(async |links| {
            let port = port("lab", "wt-lab-vm1");
            let plan = plan::add_port(&port, &Observed::read_links(&links).await?)?;
            plan.apply(&links).await
        })?;
        let ports = json(&host, "bridge", &["-j", "link"])?;
        assert_eq!(
            (&ports[0]["ifname"], &ports[0]["master"]),
            (&"wt-lab-vm1".into(), &"weft-lab".into())
        );
        let tap = told(
            host.namespace
                .run(|| Tap::open(&interface("wt-lab-vm1"), &TapOptions::default())),
        )?;
        drop(told(tap)?);
        assert!(told(plan::add_port(&port("lab", "wt-lab-vm1"), &host.observe()?))?.is_empty());

        host.tear_down(&spec.name)?;
        assert_eq!(state(&host)?, before, "{mode:?}");
        host.tear_down(&spec.name)?;
    }
    Ok(())
}

#[test]
fn a_set_up_that_fails_half_way_leaves_nothing() -> Result<()> {
    require!("ip", "nft");
    if !can::be_root() {
        skip!("needs root for network namespaces");
    }
    let host = Host::new()?;
    let before = state(&host)?;
    let spec = spec("lab", "10.91.0.0/24", Mode::Nat);
    let plan = told(plan::set_up(&spec, &host.observe()?))?;
    for place in 0..=plan.operations.len() {
        let mut failing = plan.clone();
        let missing = Operation::SetUp {
            name: interface("no-such-link"),
        };
        failing.operations.insert(place, missing);
        let error = host.apply(&failing).expect_err("it fails");
        let text = format!("{error:#}");
        assert_eq!(
            text,
            "network lab: link no-such-link does not exist (nothing was changed)"
        );
        assert_eq!(state(&host)?, before, "at step {place}");
    }
    Ok(())
}

#[test]
fn foreign_links_and_rules_are_left_as_they_are() -> Result<()> {
    require!("ip", "nft");
    if !can::be_root() {
        skip!("needs root for network namespaces");
    }
    let host = Host::new()?;
    let spec = spec("lab", "10.91.0.0/24", Mode::Nat);
    let stale = host.observe()?;
    host.netns
        .run("ip", ["link", "add", "weft-lab", "type", "bridge"])?;
    host.netns.run("nft", ["add table ip filter { chain FORWARD { type filter hook forward priority 0; policy drop; }; }"])?;
    let before = state(&host)?;
    let refused = plan::set_up(&spec, &host.observe()?).expect_err("the name is taken");
    assert_eq!(refused.kind(), ErrorKind::Foreign);
    // A plan made before somebody took the name.
    let error = host
        .apply(&told(plan::set_up(&spec, &stale))?)
        .expect_err("it fails");
    assert!(
        format!("{error:#}").contains("a link of this name exists"),
        "{error:#}"
    );
    host.tear_down(&spec.name)?;
    assert_eq!(state(&host)?, before);
    let delete = host.run(async |links| {
        links
            .delete(&interface("weft-lab"), &Owner::bridge("lab"))
            .await
    });
    assert!(delete.is_err());

    host.netns.run("ip", ["link", "delete", "weft-lab"])?;
    let plan = host.set_up(&spec)?;
    assert_eq!(plan.warnings.len(), 1, "{plan}");
    host.tear_down(&spec.name)
}

#[test]
fn a_subnet_of_the_host_is_refused() -> Result<()> {
    require!("ip", "nft");
    if !can::be_root() {
        skip!("needs root for network namespaces");
    }
    let host = Host::new()?;
    let other = Host::new()?;
    host.join(&other, "uplink", None)?;
    host.netns
        .run("ip", ["address", "add", "10.91.0.5/16", "dev", "uplink"])?;
    host.netns
        .run("ip", ["route", "add", "10.92.0.0/16", "via", "10.91.0.6"])?;
    let refuse = |subnet: &str| -> Result<String> {
        let refused = plan::set_up(&spec("lab", subnet, Mode::Nat), &host.observe()?);
        let error = refused.expect_err("it collides");
        assert_eq!(error.kind(), ErrorKind::Collision);
        Ok(error.sentence())
    };
    assert_eq!(
        refuse("10.91.7.0/24")?,
        "network lab: subnet 10.91.7.0/24 overlaps the address 10.91.0.5/16 of link uplink; choose another subnet"
    );
    assert_eq!(
        refuse("10.92.7.0/24")?,
        "network lab: subnet 10.92.7.0/24 overlaps the route to 10.92.0.0/16 by 10.91.0.6 on link uplink; choose \
         another subnet"
    );
    Ok(())
}

#[test]
fn forwarding_is_restored_by_the_last_network() -> Result<()> {
    require!("ip", "nft");
    if !can::be_root() {
        skip!("needs root for network namespaces");
    }
    let host = Host::new()?;
    let forwarding = || host.netns.run("cat", ["/proc/sys/net/ipv4/ip_forward"]);
    let (one, two) = (
        spec("one", "10.91.1.0/24", Mode::Nat),
        spec("two", "10.91.2.0/24", Mode::Routed),
    );
    for found in ["0", "1"] {
        host.netns.run(
            "sh",
            [
                "-c",
                &format!("echo {found} > /proc/sys/net/ipv4/ip_forward"),
            ],
        )?;
        host.set_up(&one)?;
        host.set_up(&two)?;
        host.tear_down(&one.name)?;
        assert_eq!(forwarding()?, "1\n", "two needs it");
        host.tear_down(&two.name)?;
        assert_eq!(forwarding()?, format!("{found}\n"));
    }
    Ok(())
}
