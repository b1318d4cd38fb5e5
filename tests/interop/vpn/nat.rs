//! A peer behind a NAT that forgets quickly.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use weft_tests::{Netns, can, link_pair, require, skip};

use crate::lab::{Judge, Runner, Site};

/// How long the NAT remembers who a datagram came from, in seconds.
const MEMORY: u64 = 2;
const LIMIT: Duration = Duration::from_secs(60);

/// A host between an inner one, which it hides, and an outer one.
struct Nat(Netns);

impl Nat {
    fn between(inner: &Site, outer: &Site) -> Result<Self> {
        let nat = Self(Netns::new()?);
        link_pair([
            (&nat.0, "in", &["10.3.0.1/24"]),
            (&inner.netns, "uplink", &["10.3.0.2/24"]),
        ])?;
        link_pair([
            (&nat.0, "out", &["192.0.2.1/24"]),
            (&outer.netns, "uplink", &["192.0.2.2/24"]),
        ])?;
        let route = ["route", "add", "default", "via", "10.3.0.1"];
        inner.netns.run("ip", route)?;
        let forgets = |name| format!("net.netfilter.nf_conntrack_{name}={MEMORY}");
        let settings = [
            "net.ipv4.ip_forward=1",
            &forgets("udp_timeout"),
            &forgets("udp_timeout_stream"),
        ];
        nat.0.run("sysctl", ["-qw"].into_iter().chain(settings))?;
        for command in [
            "add table ip hide",
            "add chain ip hide out { type nat hook postrouting priority srcnat; }",
            "add rule ip hide out oifname out masquerade",
        ] {
            nat.0.run("nft", [command])?;
        }
        Ok(nat)
    }

    /// Waits until it has forgotten everyone.
    fn forgets(&self) -> Result<()> {
        let start = Instant::now();
        while self
            .0
            .run("cat", ["/proc/net/nf_conntrack"])?
            .contains("udp")
        {
            if start.elapsed() > LIMIT {
                bail!("the NAT does not forget");
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }
}

/// The outer end speaks first after a silence in which the NAT forgets the inner one, unless that keeps it from doing so.
fn is_kept_reachable(inner: Runner, outer: Runner) -> Result<()> {
    require!("ip", "ping", "wg", "nft", "sysctl", "wireguard-go");
    if !can::be_root() {
        skip!("needs root");
    }
    let (inner, outer) = (Site::new(inner, 1)?, Site::new(outer, 2)?);
    let nat = Nat::between(&inner, &outer)?;
    inner.bring_up(7001, 1420)?;
    outer.bring_up(7002, 1420)?;
    outer.know(&inner, None, true)?;
    inner.know(&outer, Some("192.0.2.2:7002"), true)?;
    inner.ping(&outer, 56)?;
    let known = outer.wg(&["show", "endpoints"])?;
    assert!(known.contains("192.0.2.1:"), "{known}");

    // Without keepalives the way back is gone; but for the one by which the inner end answers what it has heard.
    let once = ["-q", "-c", "1", "-W", "1", &inner.inner];
    let gets_in = || outer.netns.run("ping", once).is_ok();
    let start = Instant::now();
    nat.forgets()?;
    while gets_in() {
        if start.elapsed() > LIMIT {
            bail!("the way in stays open although nobody keeps it open");
        }
        nat.forgets()?;
    }

    let keep = ["set", "peer", &outer.public, "persistent-keepalive", "1"];
    inner.wg(&keep)?;
    inner.ping(&outer, 56)?;
    std::thread::sleep(Duration::from_secs(3 * MEMORY));
    // On a busy machine a keepalive can be late; the next one opens the way again.
    let start = Instant::now();
    while !gets_in() {
        if start.elapsed() > LIMIT {
            bail!("nothing gets in, although keepalives go out");
        }
    }
    Ok(())
}

#[test]
fn our_keepalives_keep_the_way_through_a_nat_open() -> Result<()> {
    is_kept_reachable(Runner::Ours, Runner::Judge(Judge::WireguardGo))
}

#[test]
fn a_peer_behind_a_nat_is_reached_as_long_as_it_keeps_alive() -> Result<()> {
    is_kept_reachable(Runner::Judge(Judge::WireguardGo), Runner::Ours)
}
