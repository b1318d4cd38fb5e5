//! `wg` on our socket.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use weft_tests::{Netns, Process, can, require, skip, temp_dir};

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

/// How often the threads of a process have been woken.
fn wakes(process: &Process) -> Result<u64> {
    let mut all = 0;
    for thread in std::fs::read_dir(format!("/proc/{}/task", process.pid()))? {
        let status = std::fs::read_to_string(thread?.path().join("status"))?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        all += line
            .context("the kernel counts them")?
            .trim()
            .parse::<u64>()?;
    }
    Ok(all)
}

/// What it has taken for itself, without its program.
fn resident_bytes(process: &Process) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid()))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    Ok(kib.context("the kernel tells it")?.trim().parse::<u64>()? * 1024)
}

/// What their sessions take is counted in `network/vpn/tests/allocation.rs`: less than 8 KB each.
#[test]
fn a_thousand_idle_peers_cost_little_memory_and_wake_nobody() -> Result<()> {
    require!("ip", "wg");
    if !can::be_root() {
        skip!("needs root");
    }
    let (netns, folder) = (Netns::new()?, temp_dir());
    let name = format!("wi{}", std::process::id());
    let mut command = netns.command(env!("CARGO_BIN_EXE_tunnel-process"));
    command.arg(&name);
    let process = Process::spawn(command)?;
    let start = Instant::now();
    while netns.run("wg", ["show", &name]).is_err() {
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "it does not answer"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    let peers: String = (1..=1000_u32)
        .map(|peer| {
            let address = std::net::Ipv4Addr::from(0x0a00_0000 + peer);
            format!(
                "[Peer]\nPublicKey = {}\nAllowedIPs = {address}/32\nEndpoint = 192.0.2.1:9\n",
                key(peer)
            )
        })
        .collect();
    let file = folder.path().join("peers");
    std::fs::write(&file, format!("[Interface]\nPrivateKey = {KEY}\n{peers}"))?;
    let file = file.to_str().context("the folder's path is text")?;
    netns.run("wg", ["setconf", &name, file])?;
    let resident = resident_bytes(&process)?;
    assert!(resident < 20_000_000, "{resident} bytes");
    // The kernel looks for routers on a new interface a few times, and `wg` has only just gone.
    for _ in 0..15 {
        let before = wakes(&process)?;
        std::thread::sleep(Duration::from_secs(2));
        if wakes(&process)? == before {
            return Ok(());
        }
    }
    bail!("somebody is woken again and again");
}
