//! A network that several hosts share, each with a daemon and guests of its own.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use weft_tests::{Netns, can, link_pair, require, skip};

use crate::program::Weft;
use crate::restart::kill_daemon;
use crate::tunnels::{LIMIT, name, ping};

/// The VXLAN network identifier.
const VNI: &str = "7";

/// A host with a daemon, a network `lan`, a guest on its bridge, and a tunnel to all other hosts.
struct Host {
    weft: Weft,
    guest: Netns,
    tunnel: String,
    number: usize,
    key: String,
}

impl Host {
    /// A host whose uplink ends in the bridge of `middle`.
    fn new(number: usize, middle: &Netns, dhcp: &[&str]) -> Self {
        let weft = Weft::in_namespace();
        let (host, guest) = (weft.netns(), Netns::new().unwrap());
        let (port, outer) = (format!("h{number}"), format!("192.0.2.{number}/24"));
        link_pair([(middle, &port, &[]), (host, "uplink", &[&outer])]).unwrap();
        let join = ["link", "set", &port, "master", "middle"];
        middle.run("ip", join).unwrap();
        let tunnel = name(&format!("w{number}"));
        let inner = format!("10.99.0.{number}/24");
        let create = [
            "vpn",
            "create",
            &tunnel,
            "--address",
            &inner,
            "--listen",
            "51820",
        ];
        let vpn = weft.json(&create);
        let subnet = format!("10.50.0.{number}/24");
        let create = ["net", "create", "lan", "--subnet", &subnet];
        weft.ok(&[&create[..], dhcp].concat());
        link_pair([(host, "g1", &[]), (&guest, "eth0", &[])]).unwrap();
        host.run("ip", ["link", "set", "g1", "master", "weft-lan"])
            .unwrap();
        let key = vpn["public_key"].as_str().unwrap().to_owned();
        Self {
            weft,
            guest,
            tunnel,
            number,
            key,
        }
    }

    /// Lets the tunnel know another host.
    fn know(&self, other: &Self) {
        let (allowed, endpoint) = (
            format!("10.99.0.{}/32", other.number),
            format!("192.0.2.{}:51820", other.number),
        );
        let who = [
            "vpn",
            "peer",
            "add",
            &self.tunnel,
            "--key",
            &other.key,
            "--allowed",
            &allowed,
        ];
        self.weft
            .ok(&[&who[..], &["--endpoint", &endpoint]].concat());
    }

    /// Shares `lan` with these hosts, and with no others.
    fn stretch(&self, others: &[&Self]) -> serde_json::Value {
        let remotes: Vec<String> = others
            .iter()
            .map(|other| format!("10.99.0.{}", other.number))
            .collect();
        let vpn = ["--vpn", self.tunnel.as_str(), "--vni", VNI, "--remote"];
        let mut line = vec!["net", "stretch", "lan"];
        line.extend(vpn);
        line.extend(remotes.iter().map(String::as_str));
        self.weft.json(&line)
    }

    /// Gives the guest an address, and the MTU of the shared network.
    fn guest_is(&self, address: &str) {
        let ip = |words: &str| self.guest.run("ip", words.split(' ')).unwrap();
        ip(&format!("address add {address}/24 dev eth0"));
        ip("link set eth0 mtu 1370");
    }
}

/// What connects the hosts.
fn middle() -> Netns {
    let middle = Netns::new().unwrap();
    let ip = |words: &str| middle.run("ip", words.split(' ')).unwrap();
    ip("link add middle type bridge forward_delay 0");
    ip("link set middle up");
    middle
}

/// Asks for an address by DHCP. Returns what was told.
fn lease(host: &Host) -> String {
    let script = host.weft.path("told.sh");
    let text = "#!/bin/sh\n[ \"$1\" = bound ] && echo \"$ip\"\nexit 0\n";
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let script = script.display().to_string();
    let line = ["-i", "eth0", "-n", "-q", "-f", "-t", "10", "-s", &script];
    let said = host.guest.run("udhcpc", line).unwrap();
    let told = said.lines().find(|line| line.starts_with("10.50.0."));
    told.unwrap_or_else(|| panic!("no address in {said}"))
        .to_owned()
}

#[test]
fn guests_of_three_daemons_share_a_network_through_their_tunnels() {
    require!("ip", "nft", "ping", "udhcpc");
    if !can::be_root() {
        skip!("needs root");
    }
    let middle = middle();
    let off = ["--dhcp", "off"];
    let [a, b, c] =
        [(1, &[][..]), (2, &off), (3, &off)].map(|(number, dhcp)| Host::new(number, &middle, dhcp));
    for (one, other) in [(&a, &b), (&b, &c), (&c, &a)] {
        one.know(other);
        other.know(one);
    }
    // Two of them first.
    assert_eq!(a.stretch(&[&b])["stretch"]["mtu"], 1370);
    b.stretch(&[&a]);
    a.guest_is("10.50.0.11");
    // The address of a guest on one host is handed out by the other.
    let of_b = lease(&b);
    b.guest_is(&of_b);
    ping(&a.guest, &of_b);
    ping(&b.guest, "10.50.0.11");
    let whole = ["-q", "-c", "1", "-W", "10", "-M", "do", "-s", "1342", &of_b];
    a.guest.run("ping", whole).expect("the largest packet");

    // A third one joins them while guests go on.
    for (host, others) in [(&a, [&b, &c]), (&b, [&a, &c]), (&c, [&a, &b])] {
        let network = host.stretch(&others);
        let remotes = network["stretch"]["remotes"].as_array().unwrap();
        assert_eq!(remotes.len(), 2, "{network}");
    }
    c.guest_is("10.50.0.13");
    for (from, to) in [(&a, "10.50.0.13"), (&b, "10.50.0.13"), (&c, "10.50.0.11")] {
        ping(&from.guest, to);
    }
    ping(&c.guest, &of_b);
    let link = c.guest.run("ip", ["neighbour", "show", &of_b]).unwrap();
    assert!(link.contains("lladdr"), "they share a link: {link}");
    // One that is killed finds the others again.
    kill_daemon(&b.weft);
    b.weft.json(&["status"]);
    let start = Instant::now();
    while b.weft.json(&["status"])["health"] != "good" {
        assert!(start.elapsed() < LIMIT, "{}", b.weft.json(&["status"]));
        std::thread::sleep(Duration::from_millis(100));
    }
    ping(&b.guest, "10.50.0.13");
    ping(&a.guest, &of_b);

    let itself = [
        "net",
        "stretch",
        "lan",
        "--vpn",
        &a.tunnel,
        "--vni",
        VNI,
        "--remote",
        "10.99.0.1",
    ];
    assert_eq!(a.weft.fails(&itself).0, "invalid");
    // A refusal leaves all as it was.
    ping(&a.guest, "10.50.0.13");
    for host in [&a, &b, &c] {
        host.weft.ok(&["net", "unstretch", "lan"]);
        host.weft.ok(&["net", "remove", "lan"]);
        host.weft.ok(&["vpn", "remove", &host.tunnel]);
    }
}
