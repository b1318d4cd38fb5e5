//! `wg` on our socket.

use anyhow::Result;
use weft_tests::{can, require, skip};

use crate::lab::{Runner, Site};

const KEY: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAUE=";

/// A key that no other number has.
fn key(number: u32) -> String {
    let mut bytes = [7; 32];
    bytes[..4].copy_from_slice(&number.to_le_bytes());
    weft_vpn::PublicKey(bytes).to_string()
}

#[test]
fn what_is_set_is_shown() -> Result<()> {
    require!("ip", "wg");
    if !can::be_root() {
        skip!("needs root");
    }
    let site = Site::new(Runner::Ours, 1)?;
    let (one, other) = (key(1), key(2));
    let psk = site.file("psk", KEY)?;
    site.bring_up(7001, 1420)?;
    site.wg(&[
        "set",
        "fwmark",
        "0x77",
        "peer",
        &one,
        "preshared-key",
        &psk,
        "endpoint",
        "[fd00::1]:9",
        "persistent-keepalive",
        "25",
        "allowed-ips",
        "10.0.0.0/8,fd00::/16",
        "peer",
        &other,
        "allowed-ips",
        "10.1.0.0/16",
    ])?;
    let shown = site.wg(&["showconf"])?;
    for line in [
        "ListenPort = 7001",
        "FwMark = 0x77",
        &format!("PublicKey = {one}"),
        &format!("PresharedKey = {KEY}"),
        "AllowedIPs = 10.0.0.0/8, fd00::/16",
        "Endpoint = [fd00::1]:9",
        "PersistentKeepalive = 25",
        "AllowedIPs = 10.1.0.0/16",
    ] {
        assert!(shown.contains(line), "{line} is missing in {shown}");
    }
    // What is shown can be set again, and then nothing has changed.
    let file = site.file("shown", &shown)?;
    site.wg(&["syncconf", &file])?;
    assert_eq!(sorted(&site.wg(&["showconf"])?), sorted(&shown));
    site.wg(&["setconf", &file])?;
    assert_eq!(sorted(&site.wg(&["showconf"])?), sorted(&shown));
    // Addresses move to whoever got them last.
    site.wg(&["set", "peer", &other, "allowed-ips", "10.0.0.0/8"])?;
    let allowed = site.wg(&["show", "allowed-ips"])?;
    assert!(allowed.contains(&format!("{one}\tfd00::/16")), "{allowed}");
    site.wg(&["set", "peer", &one, "remove"])?;
    assert_eq!(site.wg(&["show", "peers"])?.trim(), other);
    // The interface's own key is no peer, which is no mistake.
    site.wg(&["set", "peer", &site.public, "allowed-ips", "10.9.0.0/16"])?;
    assert_eq!(site.wg(&["show", "peers"])?.trim(), other);
    Ok(())
}

fn sorted(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn a_mistake_changes_nothing() -> Result<()> {
    require!("ip", "wg");
    if !can::be_root() {
        skip!("needs root");
    }
    let site = Site::new(Runner::Ours, 1)?;
    site.bring_up(7001, 1420)?;
    let busy = std::thread::scope(|scope| {
        let name = site.netns.name().to_owned();
        let bind = move || {
            let netns = weft_netio::Namespace::open_named(&name).expect("it is there");
            netns.enter().expect("the thread enters");
            std::net::UdpSocket::bind("0.0.0.0:7099").expect("a free port")
        };
        scope.spawn(bind).join().expect("it was bound")
    });
    let refused = site.wg(&["set", "listen-port", "7099", "peer", &key(1)]);
    assert!(format!("{:#}", refused.unwrap_err()).contains("Address already in use"));
    drop(busy);
    assert_eq!(site.wg(&["show", "listen-port"])?.trim(), "7001");
    assert_eq!(site.wg(&["show", "peers"])?.trim(), "");
    Ok(())
}

#[test]
fn very_many_addresses_and_peers_are_taken() -> Result<()> {
    require!("ip", "wg");
    if !can::be_root() {
        skip!("needs root");
    }
    let site = Site::new(Runner::Ours, 1)?;
    let prefixes: Vec<String> = (0..130_560_u32)
        .map(|n| format!("{}/24", std::net::Ipv4Addr::from(n << 8)))
        .collect();
    let one = format!(
        "[Interface]\nPrivateKey = {KEY}\n[Peer]\nPublicKey = {}\nAllowedIPs = {}\n",
        key(1),
        prefixes.join("\nAllowedIPs = ")
    );
    let many: String = (0..40)
        .map(|peer: u32| {
            let prefixes = prefixes[peer as usize * 52..][..52].join(", ");
            format!(
                "[Peer]\nPublicKey = {}\nAllowedIPs = {prefixes}\n",
                key(peer + 10)
            )
        })
        .collect();
    let many = format!("[Interface]\nPrivateKey = {KEY}\n{many}");
    let (one, many) = (site.file("one", &one)?, site.file("many", &many)?);
    for (file, count) in [(&one, 130_560), (&many, 40 * 52), (&one, 130_560)] {
        site.wg(&["setconf", file])?;
        let allowed = site.wg(&["show", "allowed-ips"])?;
        let shown: usize = allowed
            .lines()
            .map(|line| line.split_whitespace().count() - 1)
            .sum();
        assert_eq!(shown, count);
    }
    Ok(())
}
