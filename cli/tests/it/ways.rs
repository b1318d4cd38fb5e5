//! Guests of a network behind a tunnel: at layer 3, and at layer 2.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use weft_tests::{Netns, can, link_pair, require, skip};

use crate::program::Weft;
use crate::restart::kill_daemon;
use crate::tunnels::{LIMIT, name, ping};

/// A daemon with a network, a guest on its bridge, and a tunnel to another one whose interface is far away.
struct Site {
    weft: Weft,
    guest: Netns,
    far: Netns,
    near_name: String,
    far_name: String,
}

impl Site {
    fn new(letters: [&str; 2], subnet: &str, mode: &str) -> Self {
        Self::with(letters, subnet, &["--mode", mode, "--dhcp", "off"])
    }

    fn with(letters: [&str; 2], subnet: &str, more: &[&str]) -> Self {
        let [near_name, far_name] = letters.map(name);
        let site = Self {
            weft: Weft::in_namespace(),
            guest: Netns::new().unwrap(),
            far: Netns::new().unwrap(),
            near_name,
            far_name,
        };
        let create = ["net", "create", "lan", "--subnet", subnet];
        site.weft.ok(&[&create[..], more].concat());
        let (host, guest) = (site.weft.netns(), &site.guest);
        link_pair([(host, "g1", &[]), (guest, "eth0", &[])]).unwrap();
        host.run("ip", ["link", "set", "g1", "master", "weft-lan"])
            .unwrap();
        site
    }

    /// Makes the two tunnels, each the other's peer.
    fn join(&self, near: &[&str], behind_near: &str) {
        let create = |name: &str, address: &str, more: &[&str]| {
            let create = ["vpn", "create", name, "--address", address];
            self.weft.json(&[&create[..], more].concat())
        };
        let near = create(&self.near_name, "10.99.0.1/24", near);
        let far = create(
            &self.far_name,
            "10.99.0.2/24",
            &["--netns", self.far.name()],
        );
        let add = |to: &str, peer: &serde_json::Value, allowed: &str, more: &[&str]| {
            let key = peer["public_key"].as_str().unwrap();
            let add = ["vpn", "peer", "add", to, "--key", key, "--allowed", allowed];
            self.weft.ok(&[&add[..], more].concat());
        };
        add(&self.near_name, &far, "10.99.0.2/32", &[]);
        let endpoint = format!("127.0.0.1:{}", near["listen_port"]);
        let place = ["--endpoint", &endpoint, "--keepalive", "1"];
        add(&self.far_name, &near, behind_near, &place);
    }

    /// Takes the tunnels away.
    fn part(&self) {
        for name in [&self.near_name, &self.far_name] {
            self.weft.ok(&["vpn", "remove", name]);
        }
    }

    fn guest_is(&self, address: &str, gateway: &str) {
        let ip = |arguments: &[&str]| self.guest.run("ip", arguments).unwrap();
        ip(&["address", "add", address, "dev", "eth0"]);
        ip(&["route", "add", "default", "via", gateway]);
    }
}

fn is_answered(from: &Netns, to: &str) -> bool {
    from.run("ping", ["-q", "-c", "1", "-W", "1", to]).is_ok()
}

#[test]
fn guests_and_peers_reach_each_other_through_a_tunnel_and_nothing_of_it_is_left() {
    require!("ip", "nft", "ping");
    if !can::be_root() {
        skip!("needs root");
    }
    let site = Site::new(["ua", "ub"], "10.77.0.0/24", "isolated");
    site.guest_is("10.77.0.5/24", "10.77.0.1");
    let before = site.weft.traces();
    site.join(&["--net", "lan"], "10.99.0.1/32,10.77.0.0/24");
    ping(&site.guest, "10.99.0.2");
    ping(&site.far, "10.77.0.5");
    let (kind, message) = site.weft.fails(&["net", "remove", "lan"]);
    assert!(
        kind == "in-use" && message.contains("weft vpn remove"),
        "{message}"
    );

    kill_daemon(&site.weft);
    site.weft.json(&["status"]);
    ping(&site.guest, "10.99.0.2");
    ping(&site.far, "10.77.0.5");
    site.part();
    assert!(!is_answered(&site.guest, "10.99.0.2"));
    assert_eq!(
        without_forwarding(&site.weft.traces()),
        without_forwarding(&before)
    );

    // Under the tunnel's own address, of which alone the peer knows.
    site.join(&["--net", "lan", "--nat"], "10.99.0.1/32");
    ping(&site.guest, "10.99.0.2");
    let far = &site.far;
    far.run(
        "ip",
        ["route", "add", "10.77.0.0/24", "dev", &site.far_name],
    )
    .unwrap();
    assert!(!is_answered(far, "10.77.0.5"));
    site.part();
    assert_eq!(
        without_forwarding(&site.weft.traces()),
        without_forwarding(&before)
    );
}

/// Counts that change by themselves are left out.
fn without_forwarding(traces: &str) -> String {
    let lines = traces.lines().filter(|line| !line.contains("fe80::"));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn a_network_is_shared_with_another_host_at_layer_2() {
    require!("ip", "nft", "ping");
    if !can::be_root() {
        skip!("needs root");
    }
    let site = Site::new(["uc", "ud"], "10.50.0.1/24", "nat");
    site.guest_is("10.50.0.10/24", "10.50.0.1");
    site.join(&[], "10.99.0.1/32");
    let host = site.weft.netns();
    let before = host.run("ip", ["-br", "link"]).unwrap();
    let stretch = ["net", "stretch", "lan", "--vpn", &site.near_name];
    let there = ["--vni", "7", "--remote", "10.99.0.2"];
    let network = site.weft.json(&[&stretch[..], &there[..]].concat());
    assert_eq!(network["stretch"]["mtu"], 1370, "{network}");
    assert_eq!(
        site.weft.fails(&[&stretch[..], &there[..]].concat()).0,
        "exists"
    );
    assert_eq!(
        site.weft.fails(&["vpn", "remove", &site.near_name]).0,
        "in-use"
    );
    stock(&site);
    site.guest
        .run("ip", ["link", "set", "eth0", "mtu", "1370"])
        .unwrap();
    ping(&site.guest, "10.50.0.20");
    let whole = |bytes: &str| {
        let line = [
            "-q",
            "-c",
            "1",
            "-W",
            "5",
            "-M",
            "do",
            "-s",
            bytes,
            "10.50.0.20",
        ];
        site.guest.run("ping", line).is_ok()
    };
    assert!(whole("1342"), "the largest packet");
    let arp = site
        .guest
        .run("ip", ["neighbour", "show", "10.50.0.20"])
        .unwrap();
    assert!(arp.contains("lladdr"), "they share a link: {arp}");

    kill_daemon(&site.weft);
    site.weft.json(&["status"]);
    stock(&site);
    ping(&site.guest, "10.50.0.20");
    let start = Instant::now();
    while site.weft.json(&["status"])["health"] != "good" {
        let status = site.weft.json(&["status"]);
        assert!(start.elapsed() < LIMIT, "{status}");
        std::thread::sleep(Duration::from_millis(100));
    }

    let network = site.weft.json(&["net", "unstretch", "lan"]);
    assert_eq!(network["stretch"], serde_json::Value::Null);
    assert!(!is_answered(&site.guest, "10.50.0.20"));
    let after = host.run("ip", ["-br", "link"]).unwrap();
    assert_eq!(kinds(&after), kinds(&before));
    let bridge = host.run("ip", ["link", "show", "weft-lan"]).unwrap();
    assert!(bridge.contains("mtu 1500"), "{bridge}");
    site.part();
    site.weft.ok(&["net", "remove", "lan"]);
}

/// The other host is any Linux, with a VXLAN device of its own.
fn stock(site: &Site) {
    let far = |line: &str| site.far.run("ip", line.split(' ')).unwrap();
    let (vni, ends) = ("id 7 dstport 4789", "local 10.99.0.2 remote 10.99.0.1");
    let dev = &site.far_name;
    far(&format!("link add vx0 type vxlan {vni} {ends} dev {dev}"));
    // The same after it was made again, as the guest remembers it.
    far("link set vx0 address 02:00:00:00:00:07");
    far("address add 10.50.0.20/24 dev vx0");
    far("link set vx0 mtu 1370 up");
}

/// The names of links.
fn kinds(links: &str) -> Vec<String> {
    let name = |line: &str| line.split_whitespace().next().map(str::to_owned);
    let mut names: Vec<String> = links.lines().filter_map(name).collect();
    names.sort();
    names
}

#[test]
fn a_guest_of_the_other_host_gets_its_address_and_the_right_mtu() {
    require!("ip", "nft", "udhcpc");
    if !can::be_root() {
        skip!("needs root");
    }
    let site = Site::with(["ue", "uf"], "10.51.0.1/24", &[]);
    site.join(&[], "10.99.0.1/32");
    let stretch = ["net", "stretch", "lan", "--vpn", &site.near_name];
    let there = ["--vni", "7", "--remote", "10.99.0.2"];
    site.weft.ok(&[&stretch[..], &there[..]].concat());
    stock(&site);
    let script = site.weft.path("told.sh");
    std::fs::write(
        &script,
        "#!/bin/sh\n[ \"$1\" = bound ] && echo \"bound $ip mtu $mtu\"\nexit 0\n",
    )
    .unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let script = script.display().to_string();
    let line = [
        "-i", "vx0", "-n", "-q", "-f", "-t", "10", "-O", "mtu", "-s", &script,
    ];
    let said = site.far.run("udhcpc", line).unwrap();
    assert!(
        said.contains("bound 10.51.0.") && said.contains("mtu 1370"),
        "{said}"
    );
    assert_eq!(
        site.weft.json(&["net", "show", "lan"])["leases"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    site.weft.ok(&["net", "unstretch", "lan"]);
    site.part();
}
