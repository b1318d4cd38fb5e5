//! DHCP clients that others made, on our bridge, with our server.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use weft_dhcp::{Config, LeaseState, Reservation};
use weft_netio::{Mode, NetworkSpec};
use weft_tests::{Process, can, require, skip, temp_dir};
use weft_wire::MacAddress;

use crate::lab::{DhcpServer, Host, LeaseStore, script, spec, wait_for};

/// Writes each event of a client as a line, and configures the link as the client says.
const UDHCPC_SCRIPT: &str = r#"#!/bin/sh
case $1 in
    bound|renew)
        ip address replace "$ip/$mask" dev "$interface"
        [ -z "$router" ] || ip route replace default via $router
        ;;
    deconfig) ip address flush dev "$interface" scope global ;;
esac
echo "$1 ip=$ip mask=$mask router=$router dns=$dns domain=$domain mtu=$mtu lease=$lease server=$serverid" >> EVENTS
"#;

const DHCLIENT_SCRIPT: &str = r#"#!/bin/sh
case $reason in
    BOUND|RENEW|REBOOT|REBIND) ip address replace "$new_ip_address/$new_subnet_mask" dev "$interface" ;;
esac
echo "$reason ip=$new_ip_address router=$new_routers mtu=$new_interface_mtu" >> EVENTS
"#;

fn config(spec: &NetworkSpec) -> Config {
    let range = "10.91.0.10-10.91.0.20".parse().expect("a range");
    let mut config = Config::new(spec.address, range);
    config.dns = vec![spec.address.address()];
    config.domain = Some("lab.example".into());
    config.mtu = Some(1450);
    config
}

fn events(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// The value of `key` in an event.
fn value<'a>(event: &'a str, key: &str) -> &'a str {
    event
        .split(' ')
        .find_map(|part| part.strip_prefix(key)?.strip_prefix('='))
        .unwrap_or_default()
}

/// udhcpc in a guest, and what it says.
struct Udhcpc {
    process: Process,
    log: PathBuf,
}

impl Udhcpc {
    /// Starts it with more arguments, with its files in `folder` under `name`.
    fn start(guest: &Host, folder: &Path, name: &str, arguments: &[&str]) -> Result<Self> {
        let log = folder.join(format!("{name}.events"));
        let handler = folder.join(name);
        script(
            &handler,
            &UDHCPC_SCRIPT.replace("EVENTS", &log.to_string_lossy()),
        )?;
        let mut command = guest.netns.command("udhcpc");
        command.args(["-f", "-i", "eth0", "-t", "20", "-T", "1", "-s"]);
        command.arg(&handler).args(arguments).stderr(Stdio::null());
        // udhcpc takes its signals itself; setpriv and ip netns exec become it.
        let process = Process::spawn(command)?;
        Ok(Self { process, log })
    }

    /// Waits for the event `name` of this number, counted from 0.
    fn event(&self, name: &str, number: usize) -> Result<String> {
        event(&self.log, name, number)
    }
}

fn event(log: &Path, name: &str, number: usize) -> Result<String> {
    wait_for(&format!("event {number}, {name},"), || {
        let mut matching = events(log)
            .into_iter()
            .filter(|event| event.starts_with(name));
        matching.nth(number)
    })
}

#[test]
fn udhcpc_gets_a_lease_renews_it_and_keeps_it_over_a_restart_of_the_server() -> Result<()> {
    require!("udhcpc", "ip", "nft", "ping", "setpriv");
    if !can::be_root() {
        skip!("needs root for network namespaces");
    }
    let folder = temp_dir();
    let host = Host::new()?;
    let spec = spec("lab", "10.91.0.0/24", Mode::Isolated);
    host.set_up(&spec)?;
    let guest = host.guest(&spec.bridge, "port0")?;
    let store = LeaseStore::default();
    let mut server = DhcpServer::start(&host, &spec.bridge, config(&spec), &store)?;
    let arguments = ["-x", "hostname:Guest", "-O", "mtu"];
    let client = Udhcpc::start(&guest, folder.path(), "client", &arguments)?;
    let bound = client.event("bound", 0)?;
    let address = value(&bound, "ip").to_owned();
    for (key, expected) in [
        ("mask", "24"),
        ("router", "10.91.0.1"),
        ("dns", "10.91.0.1"),
        ("domain", "lab.example"),
        ("mtu", "1450"),
        ("lease", "3600"),
        ("server", "10.91.0.1"),
    ] {
        assert_eq!(value(&bound, key), expected, "{bound}");
    }
    assert!(guest.pings("10.91.0.1"), "the gateway answers");
    let lease = &store.leases()[0];
    assert_eq!(lease.address.to_string(), address);
    assert_eq!(lease.hostname.as_deref(), Some("guest"));

    client.process.signal(Signal::SIGUSR1)?;
    assert_eq!(value(&client.event("renew", 0)?, "ip"), address);
    server.end()?;
    let mut server = DhcpServer::start(&host, &spec.bridge, config(&spec), &store)?;
    client.process.signal(Signal::SIGUSR1)?;
    let renewed = client.event("renew", 1)?;
    assert_eq!(
        value(&renewed, "ip"),
        address,
        "after a restart of the server"
    );

    // A release that follows an ACK at once is taken for one that was overtaken; see the server.
    std::thread::sleep(std::time::Duration::from_secs(4));
    client.process.signal(Signal::SIGUSR2)?;
    wait_for("the release", || {
        let released = matches!(store.leases()[0].state, LeaseState::Released { .. });
        released.then_some(())
    })?;
    server.end()
}

#[test]
fn dhclient_gets_a_reserved_address_and_has_it_again_after_a_reboot() -> Result<()> {
    require!("dhclient", "ip", "nft", "ping", "setpriv");
    if !can::be_root() {
        skip!("needs root for network namespaces");
    }
    let folder = temp_dir();
    let log = folder.path().join("events");
    let handler = folder.path().join("handler");
    script(
        &handler,
        &DHCLIENT_SCRIPT.replace("EVENTS", &log.to_string_lossy()),
    )?;
    let host = Host::new()?;
    let spec = spec("lab", "10.91.0.0/24", Mode::Isolated);
    host.set_up(&spec)?;
    let guest = host.guest(&spec.bridge, "port0")?;
    let mac = "52:54:00:00:00:77";
    guest
        .netns
        .run("ip", ["link", "set", "eth0", "address", mac])?;
    let mut config = config(&spec);
    config.reservations = vec![Reservation {
        mac: mac.parse::<MacAddress>()?,
        address: "10.91.0.77".parse()?,
        hostname: None,
    }];
    let store = LeaseStore::default();
    let mut server = DhcpServer::start(&host, &spec.bridge, config.clone(), &store)?;

    let dhclient = || {
        let mut command = guest.netns.command("dhclient");
        command.args(["-d", "-1", "-sf"]).arg(&handler);
        command.arg("-lf").arg(folder.path().join("leases"));
        command.arg("-pf").arg(folder.path().join("pid"));
        command.arg("-cf").arg("/dev/null").arg("eth0");
        command.stderr(Stdio::null());
        Process::spawn(command)
    };
    let client = dhclient()?;
    let bound = event(&log, "BOUND", 0)?;
    assert_eq!(value(&bound, "ip"), "10.91.0.77");
    assert_eq!(value(&bound, "router"), "10.91.0.1");
    assert!(guest.pings("10.91.0.1"), "the gateway answers");
    drop(client);
    server.end()?;
    let mut server = DhcpServer::start(&host, &spec.bridge, config, &store)?;
    let _client = dhclient()?;
    assert_eq!(value(&event(&log, "REBOOT", 0)?, "ip"), "10.91.0.77");
    server.end()
}

#[test]
fn many_clients_at_once_get_addresses_of_their_own() -> Result<()> {
    require!("udhcpc", "ip", "nft", "setpriv");
    if !can::be_root() {
        skip!("needs root for network namespaces");
    }
    let folder = temp_dir();
    let host = Host::new()?;
    let spec = spec("lab", "10.91.0.0/24", Mode::Isolated);
    host.set_up(&spec)?;
    let store = LeaseStore::default();
    let _server = DhcpServer::start(&host, &spec.bridge, config(&spec), &store)?;
    let mut clients = Vec::new();
    for number in 0..6 {
        let guest = host.guest(&spec.bridge, &format!("port{number}"))?;
        let client = Udhcpc::start(
            &guest,
            folder.path(),
            &format!("client{number}"),
            &["-q", "-a"],
        )?;
        clients.push((client, guest));
    }
    let mut addresses = BTreeSet::new();
    for (client, _) in &clients {
        addresses.insert(value(&client.event("bound", 0)?, "ip").to_owned());
    }
    ensure!(addresses.len() == clients.len(), "{addresses:?}");
    let first = addresses.first().context("there are clients")?;
    let last = &clients[clients.len() - 1].1;
    assert!(last.pings(first), "guests reach each other");
    Ok(())
}
