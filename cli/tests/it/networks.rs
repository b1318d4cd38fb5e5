//! `weft net`, in a network namespace of the test's own.

use crate::program::Weft;
use weft_tests::{can, require, skip};

#[test]
fn a_network_is_made_shown_and_taken_away_without_a_trace() {
    require!("ip", "nft");
    if !can::be_root() {
        skip!("needs root for a network namespace");
    }
    let weft = Weft::in_namespace();
    let before = weft.traces();
    weft.ok(&["net", "create", "lan", "--subnet", "10.99.0.0/24"]);
    let shown = weft.json(&["net", "show", "lan"]);
    assert_eq!(shown["gateway"], "10.99.0.1");
    assert_eq!(shown["state"], "up");
    let port = weft.json(&["net", "port", "add", "lan", "p1", "--tap", "tap-p1"]);
    assert_eq!(port["tap"], "tap-p1");
    let during = weft.traces();
    assert!(
        during.contains("10.99.0.1/24") && during.contains("tap-p1"),
        "{during}"
    );
    assert!(during.contains("masquerade"), "{during}");
    weft.ok(&["net", "port", "remove", "lan", "p1"]);
    weft.ok(&["net", "remove", "lan"]);
    assert_eq!(weft.traces(), before);
}

#[test]
fn what_cannot_become_a_network_is_told_and_leaves_nothing() {
    require!("ip", "nft");
    if !can::be_root() {
        skip!("needs root for a network namespace");
    }
    let weft = Weft::in_namespace();
    weft.ok(&[
        "net",
        "create",
        "lan",
        "--subnet",
        "10.99.0.0/24",
        "--mode",
        "isolated",
    ]);
    let before = weft.traces();
    let create = |name: &str, subnet: &str, more: &[&str]| {
        let mut line = vec!["net", "create", name, "--subnet", subnet];
        line.extend(more);
        weft.fails(&line)
    };
    assert_eq!(create("lan", "10.98.0.0/24", &[]).0, "exists");
    let (kind, message) = create("wan", "10.99.0.128/25", &[]);
    assert_eq!(kind, "in-use");
    assert!(message.contains("10.99.0."), "{message}");
    assert_eq!(create("wan", "10.98.0.0/33", &[]).0, "invalid");
    assert_eq!(create("wan", "10.98.0.0/32", &[]).0, "invalid");
    assert_eq!(
        create("wan", "10.98.0.0/24", &["--dhcp", "10.97.0.1-10.97.0.9"]).0,
        "invalid"
    );
    for forward in ["tcp:80", "tcp:8080:10.97.0.5:80"] {
        let (kind, message) = create("wan", "10.98.0.0/24", &["--forward", forward]);
        assert_eq!(kind, "invalid");
        assert!(message.contains(forward), "{message}");
    }
    assert_eq!(weft.traces(), before);
}

#[test]
fn a_port_of_the_host_leads_to_a_guest() {
    require!("ip", "nft");
    if !can::be_root() {
        skip!("needs root for a network namespace");
    }
    let weft = Weft::in_namespace();
    let forward = "tcp:8080:10.99.0.5:80";
    let create = ["net", "create", "lan", "--subnet", "10.99.0.0/24"];
    weft.ok(&[&create[..], &["--forward", forward]].concat());
    assert_eq!(weft.json(&["net", "show", "lan"])["forwards"][0], forward);
    let rules = weft.traces();
    assert!(rules.contains("dnat ip to 10.99.0.5:80"), "{rules}");
}
