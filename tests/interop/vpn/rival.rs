//! Packets through a tunnel of which the other end is not ours.

use anyhow::Result;
use weft_tests::{can, require, skip};

use crate::lab::{Judge, Runner, Site, join};

fn pair(judge: Judge, mtu: u32) -> Result<(Site, Site)> {
    let (ours, theirs) = (
        Site::new(Runner::Ours, 1)?,
        Site::new(Runner::Judge(judge), 2)?,
    );
    join(&ours, &theirs)?;
    ours.bring_up(7001, mtu)?;
    theirs.bring_up(7002, mtu)?;
    Ok((ours, theirs))
}

/// Lets `from` open the tunnel to `to`, whose end is at `endpoint`, with sessions of neither side left over.
fn introduce(from: &Site, to: &Site, endpoint: &str, psk: bool) -> Result<()> {
    for (one, other) in [(from, to), (to, from)] {
        one.wg(&["set", "peer", &other.public, "remove"])?;
    }
    to.know(from, None, psk)?;
    from.know(to, Some(endpoint), psk)
}

/// Opens the tunnel from each side, over both versions, with and without a preshared key.
fn each_side_opens(judge: Judge) -> Result<()> {
    let (program, _) = judge.program();
    require!("ip", "ping", "wg", program);
    if !can::be_root() {
        skip!("needs root");
    }
    let (ours, theirs) = pair(judge, 1420)?;
    for psk in [false, true] {
        for (to_theirs, to_ours) in [
            ("192.168.66.2:7002", "192.168.66.1:7001"),
            ("[fd66::2]:7002", "[fd66::1]:7001"),
        ] {
            introduce(&ours, &theirs, to_theirs, psk)?;
            ours.ping(&theirs, 56)?;
            theirs.ping(&ours, 1392)?;
            introduce(&theirs, &ours, to_ours, psk)?;
            theirs.ping(&ours, 56)?;
            ours.ping(&theirs, 1392)?;
        }
    }
    Ok(())
}

#[test]
fn wireguard_go_and_we_open_tunnels() -> Result<()> {
    each_side_opens(Judge::WireguardGo)
}

#[test]
fn boringtun_and_we_open_tunnels() -> Result<()> {
    each_side_opens(Judge::Boringtun)
}

#[test]
fn gotatun_and_we_open_tunnels() -> Result<()> {
    each_side_opens(Judge::Gotatun)
}

#[test]
fn packets_of_all_sizes_come_through_with_any_mtu() -> Result<()> {
    require!("ip", "ping", "wg", "wireguard-go", "iperf3");
    if !can::be_root() {
        skip!("needs root");
    }
    for mtu in [1280, 1420, 9000, 65_000] {
        let (ours, theirs) = pair(Judge::WireguardGo, mtu)?;
        introduce(&ours, &theirs, "192.168.66.2:7002", true)?;
        for size in [0, 1, 15, 16, 17, mtu - 29, mtu - 28] {
            ours.ping(&theirs, size)?;
            theirs.ping(&ours, size)?;
        }
        for reverse in [None, Some("-R")] {
            let mut server = theirs.netns.command("iperf3");
            server
                .args(["-s", "-1"])
                .stdout(std::process::Stdio::null());
            let _server = weft_tests::Process::spawn(server)?;
            let stream = || {
                let arguments = ["-c", &theirs.inner, "-n", "8M", "--connect-timeout", "500"];
                ours.netns
                    .run("iperf3", arguments.into_iter().chain(reverse))
            };
            // The server may not listen yet.
            let mut result = stream();
            for _ in 0..20 {
                if result.is_ok() {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(100));
                result = stream();
            }
            result?;
        }
    }
    Ok(())
}

#[test]
fn an_end_that_moves_is_followed() -> Result<()> {
    require!("ip", "ping", "wg", "wireguard-go");
    if !can::be_root() {
        skip!("needs root");
    }
    let (ours, theirs) = pair(Judge::WireguardGo, 1420)?;
    introduce(&ours, &theirs, "192.168.66.2:7002", true)?;
    ours.ping(&theirs, 56)?;
    // Our host gets another address, and the one that we had sent from is gone.
    let ip = |arguments: &[&str]| ours.netns.run("ip", arguments);
    ip(&["address", "flush", "dev", "uplink"])?;
    ip(&["address", "add", "192.168.66.99/24", "dev", "uplink"])?;
    ours.ping(&theirs, 56)?;
    theirs.ping(&ours, 56)?;
    let known = theirs.wg(&["show", "endpoints"])?;
    assert!(known.contains("192.168.66.99:7001"), "{known}");
    // wireguard-go would keep to an address that is gone; it moves to another port.
    theirs.wg(&["set", "listen-port", "7003"])?;
    theirs.ping(&ours, 56)?;
    ours.ping(&theirs, 56)?;
    let known = ours.wg(&["show", "endpoints"])?;
    assert!(known.contains("192.168.66.2:7003"), "{known}");
    Ok(())
}

#[test]
fn an_answer_leaves_from_the_address_that_was_asked() -> Result<()> {
    require!("ip", "ping", "wg", "wireguard-go");
    if !can::be_root() {
        skip!("needs root");
    }
    let (ours, theirs) = pair(Judge::WireguardGo, 1420)?;
    // Of the same subnet, so that routing alone would choose the first address.
    let ip = |arguments: &[&str]| ours.netns.run("ip", arguments);
    ip(&["address", "add", "192.168.66.50/24", "dev", "uplink"])?;
    ip(&["address", "add", "fd66::50/64", "dev", "uplink", "nodad"])?;
    for endpoint in ["192.168.66.50:7001", "[fd66::50]:7001"] {
        introduce(&theirs, &ours, endpoint, false)?;
        theirs.ping(&ours, 56)?;
        let known = theirs.wg(&["show", "endpoints"])?;
        assert!(known.contains(endpoint), "{known}");
    }
    Ok(())
}
