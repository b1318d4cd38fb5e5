//! Hosts with two links between them, whose routes change. Without the right to make namespaces there is nothing to test.

use std::net::{IpAddr, UdpSocket};
use std::process::Command;

use side::{LONGEST_WAIT, Side};
use weft_netio::link::Links;
use weft_netio::{ErrorKind, InterfaceName, Namespace};

mod side;

/// The hosts that the ports of two sides are on.
struct Hosts([Namespace; 2]);

impl Hosts {
    /// Two hosts with `link1` and `link2` between them, which end in the host's number. None without the right to make them.
    fn new() -> Option<Self> {
        let host = || match Namespace::create() {
            Ok(namespace) => Some(namespace),
            Err(e) if e.kind() == ErrorKind::Denied => {
                eprintln!("skipped: {}", e.sentence());
                None
            }
            Err(e) => panic!("{}", e.sentence()),
        };
        let hosts = Self([host()?, host()?]);
        let [a, b] = &hosts.0;
        for host in [a, b] {
            host.run(|| {
                // A datagram may come by another link than the one that its answer takes.
                for which in ["all", "default"] {
                    let file = format!("/proc/sys/net/ipv4/conf/{which}/rp_filter");
                    std::fs::write(file, "0").expect("a setting of the namespace");
                }
            })
            .expect("the thread enters");
        }
        let links = || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                let links = Links::open().expect("netlink");
                for link in 1..=2 {
                    let end = |host| InterfaceName::new(format!("link{link}-{host}"));
                    let (here, there) = (end(0).expect("a name"), end(1).expect("a name"));
                    let made = links.create_veth(&here, &there, Some(b));
                    made.await.expect("a pair of links");
                }
            });
        };
        a.run(links).expect("the thread enters");
        for (host, number) in [(0, 1), (1, 2)] {
            for link in 1..=2 {
                let dev = format!("dev link{link}-{host}");
                hosts.ip(host, &format!("address add 10.{link}.0.{number}/24 {dev}"));
                let v6 = format!("fd0{link}::{number}/64 {dev} nodad");
                hosts.ip(host, &format!("address add {v6}"));
                hosts.ip(host, &format!("link set {dev} up"));
            }
            hosts.ip(host, "link set lo up");
        }
        Some(hosts)
    }

    fn ip(&self, host: usize, words: &str) {
        let run = || Command::new("ip").args(words.split(' ')).status();
        let status = self.0[host].run(run).expect("the thread enters");
        assert!(status.expect("ip is installed").success(), "ip {words}");
    }

    /// The sides of a tunnel, each with its ports on its host. `a` knows `b` at this address.
    fn sides(&self, at: &str) -> [Side; 2] {
        let side = |host: usize| {
            let number = host as u8 + 1;
            let made = self.0[host].run(|| Side::new(number, 1420));
            made.expect("the thread enters")
        };
        let [a, b] = [side(0), side(1)];
        a.know(&b, Some(at.parse().expect("an address")));
        b.know(&a, None);
        [a, b]
    }
}

/// Sends one packet, and waits until it has arrived.
fn packet(from: &Side, to: &Side) {
    let receiver = to.inside(|| UdpSocket::bind((to.address, 0)).expect("a port"));
    receiver.set_read_timeout(Some(LONGEST_WAIT)).expect("set");
    let at = receiver.local_addr().expect("an address");
    let sender = from.inside(|| UdpSocket::bind((from.address, 0)).expect("a port"));
    sender.send_to(b"here", at).expect("it is sent");
    assert_eq!(receiver.recv(&mut [0; 16]).expect("it arrives"), 4);
}

/// Where a side has seen its peer last.
fn sees(side: &Side) -> IpAddr {
    let endpoint = side.device.with(|machine, _, _| {
        let peer = machine.peers().next().expect("a peer");
        peer.endpoint.expect("it was heard")
    });
    endpoint.remote.ip()
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// The old link and its address stay, so nothing but the routing tells that there is a better one.
#[test]
fn a_route_that_moves_is_followed_by_the_very_next_packet() {
    for (far, near) in [
        ("192.0.2.1", ["10.1.0.", "10.2.0."]),
        ("2001:db8::1", ["fd01::", "fd02::"]),
    ] {
        let Some(hosts) = Hosts::new() else { return };
        hosts.ip(1, &format!("address add {far} dev lo"));
        hosts.ip(0, &format!("route add {far} via {}2", near[0]));
        let [a, b] = hosts.sides(far);
        packet(&a, &b);
        packet(&b, &a);
        assert_eq!(sees(&b), address(&format!("{}1", near[0])));
        for link in [1, 0, 1] {
            hosts.ip(0, &format!("route replace {far} via {}2", near[link]));
            packet(&a, &b);
            assert_eq!(sees(&b), address(&format!("{}1", near[link])));
            packet(&b, &a);
            assert_eq!(sees(&a), address(far));
        }
    }
}

#[test]
fn a_route_by_another_rule_is_followed_by_the_very_next_packet() {
    let Some(hosts) = Hosts::new() else { return };
    hosts.ip(1, "address add 192.0.2.1 dev lo");
    hosts.ip(0, "route add 192.0.2.1 via 10.1.0.2");
    hosts.ip(0, "route add 192.0.2.1 via 10.2.0.2 table 7");
    let [a, b] = hosts.sides("192.0.2.1");
    let port = a.device.port();
    packet(&a, &b);
    packet(&b, &a);
    assert_eq!(sees(&b), address("10.1.0.1"));
    hosts.ip(0, &format!("rule add ipproto udp sport {port} lookup 7"));
    packet(&a, &b);
    assert_eq!(sees(&b), address("10.2.0.1"));
}

#[test]
fn the_address_that_was_asked_answers_whatever_other_routes_do() {
    let Some(hosts) = Hosts::new() else { return };
    // What is asked on one link would by itself be answered by the other, from there.
    hosts.ip(0, "address add 192.0.2.1 dev lo");
    hosts.ip(0, "route add 10.1.0.9 via 10.1.0.2 src 192.0.2.1");
    hosts.ip(1, "address add 10.1.0.9 dev link1-1");
    hosts.ip(1, "route add 192.0.2.1 via 10.2.0.1");
    let [a, b] = hosts.sides("10.1.0.9");
    for number in 0..3 {
        packet(&a, &b);
        packet(&b, &a);
        assert_eq!(sees(&a), address("10.1.0.9"));
        assert_eq!(sees(&b), address("192.0.2.1"));
        hosts.ip(1, &format!("route add 198.51.100.{number} via 10.2.0.1"));
    }
    packet(&b, &a);
    assert_eq!(sees(&a), address("10.1.0.9"));
}
