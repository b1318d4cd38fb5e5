//! What passes between guests, networks and the outside, by the kernel's own forwarding.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, Result};
use weft_netio::Mode;
use weft_tests::{can, require, skip};

use crate::lab::{Host, spec, told};

/// A host between a guest of one network and the outside, which has no route to the guest.
struct Site {
    host: Host,
    outside: Host,
}

const OUTSIDE: &str = "198.51.100.2";

impl Site {
    fn new() -> Result<Self> {
        let (host, outside) = (Host::new()?, Host::new()?);
        host.join(&outside, "uplink", None)?;
        host.netns
            .run("ip", ["address", "add", "198.51.100.1/24", "dev", "uplink"])?;
        outside.configure("198.51.100.2/24", None)?;
        Ok(Self { host, outside })
    }

    /// A guest of the network with this subnet, with the address `.9` in it.
    fn guest(&self, network: &str, subnet: &str, mode: Mode) -> Result<Host> {
        let spec = spec(network, &format!("{subnet}.0/24"), mode);
        self.host.set_up(&spec)?;
        let guest = self.host.guest(&spec.bridge, &format!("port-{network}"))?;
        guest.configure(&format!("{subnet}.9/24"), Some(&format!("{subnet}.1")))?;
        Ok(guest)
    }

    fn route_back(&self, subnet: &str) -> Result<()> {
        let arguments = ["route", "add", subnet, "via", "198.51.100.1"];
        self.outside.netns.run("ip", arguments).map(drop)
    }
}

#[test]
fn a_nat_guest_reaches_the_outside_and_nobody_reaches_it() -> Result<()> {
    require!("ip", "nft", "ping");
    if !can::be_root() {
        skip!("needs root for network namespaces");
    }
    let site = Site::new()?;
    let guest = site.guest("lab", "10.91.0", Mode::Nat)?;
    assert!(guest.pings("10.91.0.1"), "the gateway");
    assert!(
        guest.pings(OUTSIDE),
        "the outside, which knows no way back but the host's address"
    );
    site.route_back("10.91.0.0/24")?;
    assert!(
        !site.outside.pings("10.91.0.9"),
        "from outside, although it has a route now"
    );
    assert!(guest.pings(OUTSIDE), "still");
    Ok(())
}

#[test]
fn a_forged_source_reaches_neither_host_nor_outside() -> Result<()> {
    require!("ip", "nft");
    if !can::be_root() {
        skip!("needs root for network namespaces");
    }
    let site = Site::new()?;
    let guest = site.guest("lab", "10.91.0", Mode::Routed)?;
    let forge = ["address", "add", "10.99.0.9/24", "dev", "eth0"];
    guest.netns.run("ip", forge)?;
    let send = |from: &str, target: &str| -> Result<()> {
        let send = || UdpSocket::bind((from, 0))?.send_to(from.as_bytes(), target);
        told(guest.namespace.run(send))?.context("sending")?;
        Ok(())
    };
    for (place, target) in [
        (&site.host, "10.91.0.1:7"),
        (&site.outside, "198.51.100.2:7"),
    ] {
        let bind = || UdpSocket::bind("0.0.0.0:7");
        let socket = told(place.namespace.run(bind))?.context("binding")?;
        socket.set_read_timeout(Some(Duration::from_secs(20)))?;
        // The second would come after the first.
        send("10.99.0.9", target)?;
        send("10.91.0.9", target)?;
        let mut heard = [0; 64];
        let length = socket.recv(&mut heard).context("the honest datagram")?;
        assert_eq!(&heard[..length], b"10.91.0.9", "at {target}");
    }
    Ok(())
}

#[test]
fn a_routed_guest_is_reached_under_its_own_address() -> Result<()> {
    require!("ip", "nft", "ping");
    if !can::be_root() {
        skip!("needs root for network namespaces");
    }
    let site = Site::new()?;
    let guest = site.guest("lab", "10.91.0", Mode::Routed)?;
    assert!(
        !guest.pings(OUTSIDE),
        "no way back yet, and nobody hides the guest's address"
    );
    site.route_back("10.91.0.0/24")?;
    assert!(guest.pings(OUTSIDE));
    assert!(site.outside.pings("10.91.0.9"));
    Ok(())
}

#[test]
fn networks_are_apart() -> Result<()> {
    require!("ip", "nft", "ping");
    if !can::be_root() {
        skip!("needs root for network namespaces");
    }
    let site = Site::new()?;
    let isolated = site.guest("alone", "10.91.1", Mode::Isolated)?;
    let nat = site.guest("nat", "10.91.2", Mode::Nat)?;
    let other = site.guest("other", "10.91.3", Mode::Nat)?;
    let routed = site.guest("routed", "10.91.4", Mode::Routed)?;
    site.route_back("10.91.0.0/16")?;
    assert!(isolated.pings("10.91.1.1"), "its own gateway");
    for target in [OUTSIDE, "10.91.2.9", "10.91.4.9"] {
        assert!(!isolated.pings(target), "isolated to {target}");
    }
    for target in ["10.91.1.9", "10.91.3.9", "10.91.4.9"] {
        assert!(!nat.pings(target), "nat to {target}");
    }
    assert!(other.pings(OUTSIDE) && nat.pings(OUTSIDE));
    assert!(!routed.pings("10.91.2.9"), "routed to nat");
    assert!(routed.pings(OUTSIDE));
    Ok(())
}

#[test]
fn a_forwarded_port_leads_to_its_guest() -> Result<()> {
    require!("ip", "nft");
    if !can::be_root() {
        skip!("needs root for network namespaces");
    }
    let site = Site::new()?;
    let guest = site.guest("lab", "10.91.0", Mode::Nat)?;
    let mut spec = spec("lab", "10.91.0.0/24", Mode::Nat);
    spec.forwards = vec!["tcp:8080:10.91.0.9:80".parse().expect("a port forward")];
    let plan = site.host.set_up(&spec)?;
    assert_eq!(
        plan.to_string(),
        "network lab:\n  replace the rules of table inet weft_lab (11 rules)\n",
        "only the rules change"
    );
    let listener =
        told(guest.namespace.run(|| TcpListener::bind("0.0.0.0:80")))?.context("binding")?;
    for (from, target) in [
        (&site.outside, "198.51.100.1:8080"),
        (&site.host, "198.51.100.1:8080"),
    ] {
        let connect = || {
            let target: SocketAddr = target.parse().expect("an address");
            let mut stream = TcpStream::connect_timeout(&target, Duration::from_secs(20))?;
            stream.write_all(b"hello")
        };
        told(from.namespace.run(connect))?.context("connecting to the forwarded port")?;
        let (mut stream, peer) = listener.accept()?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        assert_eq!(text, "hello");
        assert!(
            peer.ip().to_string().starts_with("198.51.100."),
            "the guest sees who asks: {peer}"
        );
    }
    Ok(())
}
