//! `weft vpn`: tunnels that the daemon keeps, in namespaces of the tests' own.

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;
use weft_tests::{Netns, can, link_pair, require, skip};

use crate::program::Weft;
use crate::restart::kill_daemon;

/// How long anything may take before it counts as failed.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// Sockets of `wg` lie in one folder for all namespaces, so no other test has the name.
pub(crate) fn name(letter: &str) -> String {
    format!("{letter}{}", std::process::id())
}

/// Sends echo requests until they are answered.
#[track_caller]
pub(crate) fn ping(from: &Netns, to: &str) {
    let said = from.run("ping", ["-q", "-c", "3", "-i", "0.1", "-W", "10", to]);
    let said = said.unwrap();
    assert!(said.contains(" 0% packet loss"), "{said}");
}

/// A daemon with two tunnels to each other over its own loopback, each with its interface in a namespace of its own.
struct Pair {
    weft: Weft,
    a: Netns,
    b: Netns,
    names: [String; 2],
}

impl Pair {
    fn new(letters: [&str; 2]) -> Self {
        Self::watched(letters, |_| ()).0
    }

    /// As [`new`](Self::new); `watch` is called before there is anything to see.
    fn watched<T>(letters: [&str; 2], watch: impl FnOnce(&Weft) -> T) -> (Self, T) {
        let weft = Weft::in_namespace();
        let watcher = watch(&weft);
        let (a, b) = (Netns::new().unwrap(), Netns::new().unwrap());
        let names = letters.map(name);
        let text = format!(
            r#"
            [vpn.{one}]
            address = ["10.99.0.1/24", "fd99::1/64"]
            listen = 51820
            netns = "{a}"
            key_log = "keys.log"
            [vpn.{one}.peer.other]
            tunnel = "{other}"
            allowed = ["10.99.0.2/32", "fd99::2/128", "10.2.0.0/16"]
            psk = "psk"
            [vpn.{other}]
            address = ["10.99.0.2/24", "fd99::2/64"]
            netns = "{b}"
            fwmark = 0x77
            [vpn.{other}.peer.one]
            tunnel = "{one}"
            allowed = ["0.0.0.0/0", "fd99::1/128"]
            endpoint = "127.0.0.1:51820"
            keepalive = 1
            psk = "psk"
            "#,
            one = names[0],
            other = names[1],
            a = a.name(),
            b = b.name(),
        );
        std::fs::write(weft.path("vpn.toml"), text).unwrap();
        let psk = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=\n";
        std::fs::write(weft.path("psk"), psk).unwrap();
        weft.ok(&["up", "vpn.toml"]);
        (Self { weft, a, b, names }, watcher)
    }

    fn show(&self, which: usize) -> Value {
        self.weft.json(&["vpn", "show", &self.names[which]])
    }

    /// Waits until the peer of a tunnel is in this state.
    #[track_caller]
    fn wait_for(&self, which: usize, state: &str) {
        let start = Instant::now();
        while self.show(which)["peers"][0]["state"] != state {
            let shown = self.show(which);
            assert!(start.elapsed() < LIMIT, "{shown}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

#[test]
fn two_sites_of_a_lab_reach_each_other_and_again_after_the_daemon_was_killed() {
    require!("ip", "ping", "wg");
    if !can::be_root() {
        skip!("needs root");
    }
    let pair = Pair::new(["ta", "tb"]);
    ping(&pair.a, "10.99.0.2");
    ping(&pair.b, "fd99::1");
    pair.wait_for(1, "up");
    let status = pair.weft.json(&["status"]);
    assert_eq!(status["health"], "good", "{status}");
    assert_eq!(status["tunnels"].as_array().map(Vec::len), Some(2));
    let route = pair.a.run("ip", ["route", "get", "10.2.3.4"]).unwrap();
    assert!(route.contains(&pair.names[0]), "{route}");
    let (before, other) = (pair.show(0), pair.show(1));
    let wg = pair.a.run("wg", ["show", &pair.names[0]]).unwrap();
    for told in ["51820", "10.2.0.0/16", "latest handshake", "(hidden)"] {
        assert!(wg.contains(told), "{told} is missing in {wg}");
    }
    assert!(
        pair.weft.json(&["up", "vpn.toml"])["changes"]
            .as_array()
            .unwrap()
            .iter()
            .all(|change| change["action"] == "keep")
    );

    kill_daemon(&pair.weft);
    // Nothing is left that could lead packets elsewhere, once the kernel has closed what the daemon had open.
    let start = Instant::now();
    while pair.a.run("ip", ["link", "show", &pair.names[0]]).is_ok() {
        assert!(start.elapsed() < LIMIT, "the interface is left");
        std::thread::sleep(Duration::from_millis(10));
    }
    let after = pair.show(0);
    for same in ["public_key", "listen_port", "addresses", "mtu"] {
        assert_eq!(after[same], before[same], "{same}");
    }
    // A port that nobody chose is kept as well.
    assert_eq!(pair.show(1)["listen_port"], other["listen_port"]);
    ping(&pair.a, "10.99.0.2");
    ping(&pair.b, "10.99.0.1");

    pair.weft.ok(&["down", "vpn.toml"]);
    for (netns, name) in [(&pair.a, &pair.names[0]), (&pair.b, &pair.names[1])] {
        assert!(netns.run("ip", ["link", "show", name]).is_err());
        assert!(!Path::new(&format!("/var/run/wireguard/{name}.sock")).exists());
        assert!(!pair.weft.path(&format!("state/vpn/{name}")).exists());
    }
    assert_eq!(pair.weft.json(&["vpn", "list"]), serde_json::json!([]));
}

#[test]
fn wireshark_reads_a_lab_by_its_key_log() {
    require!("ip", "ping", "tcpdump", "tshark");
    if !can::be_root() {
        skip!("needs root");
    }
    let watch = |weft: &Weft| {
        let mut command = weft.netns().command("tcpdump");
        let file = weft.at("all.pcap");
        command.args(["-i", "lo", "-U", "--immediate-mode", "-w", &file]);
        command.args(["udp", "port", "51820"]);
        command.stderr(std::process::Stdio::piped());
        let mut process = weft_tests::Process::spawn(command).unwrap();
        let stderr = process.child().stderr.take().unwrap();
        let mut lines = BufReader::new(stderr).lines();
        assert!(lines.any(|line| line.unwrap().contains("listening on")));
        process
    };
    let (pair, watcher) = Pair::watched(["th", "ti"], watch);
    ping(&pair.a, "10.99.0.2");
    ping(&pair.b, "fd99::1");
    let (file, log) = (pair.weft.at("all.pcap"), pair.weft.at("keys.log"));
    let keys = format!("wg.keylog_file:{log}");
    let decoded = |more: &[&str]| {
        let line = ["-r", &file, "-Y", "icmp.type == 0 or icmpv6.type == 129"];
        weft_tests::run("tshark", [&line[..], more].concat()).unwrap_or_default()
    };
    assert_eq!(decoded(&[]), "");
    let start = Instant::now();
    loop {
        let read = decoded(&["-o", &keys]);
        if read.contains("10.99.0.2") && read.contains("fd99::1") {
            break;
        }
        assert!(start.elapsed() < LIMIT, "not all is there: {read:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
    drop(watcher);
}

#[test]
fn what_a_tunnel_sends_carries_its_mark() {
    require!("ip", "nft", "ping");
    if !can::be_root() {
        skip!("needs root");
    }
    let count = |weft: &Weft| {
        let nft = |line: &str| weft.netns().run("nft", line.split(' ')).unwrap();
        nft("add table inet judge");
        nft("add chain inet judge out { type filter hook output priority 0 ; }");
        nft("add rule inet judge out udp dport 51820 meta mark 0x77 counter");
        nft("add rule inet judge out udp dport 51820 meta mark != 0x77 counter");
    };
    let (pair, ()) = Pair::watched(["tj", "tk"], count);
    ping(&pair.a, "10.99.0.2");
    assert_eq!(pair.show(1)["fwmark"], 0x77);
    let rules = pair
        .weft
        .netns()
        .run("nft", ["list", "table", "inet", "judge"]);
    let rules = rules.unwrap();
    let counter = |mark: &str| {
        let line = rules.lines().find(|line| line.contains(mark)).unwrap();
        !line.contains("packets 0 ")
    };
    assert!(counter("mark 0x00000077"), "{rules}");
    assert!(!counter("mark != 0x00000077"), "{rules}");
}

#[test]
fn secrets_are_their_owners_alone_and_in_no_record() {
    require!("ip", "wg");
    if !can::be_root() {
        skip!("needs root");
    }
    let pair = Pair::new(["tc", "td"]);
    pair.wait_for(1, "up");
    let mut secrets = Vec::new();
    for folder in std::fs::read_dir(pair.weft.path("state/vpn")).unwrap() {
        let folder = folder.unwrap();
        assert_eq!(
            folder.metadata().unwrap().permissions().mode() & 0o777,
            0o700
        );
        for file in std::fs::read_dir(folder.path()).unwrap() {
            let file = file.unwrap();
            assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
            secrets.push(std::fs::read_to_string(file.path()).unwrap());
        }
    }
    assert_eq!(secrets.len(), 4, "two keys, and one secret twice");
    let log = pair.weft.path("keys.log");
    assert_eq!(log.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let log = std::fs::read_to_string(log).unwrap();
    for line in [
        "LOCAL_STATIC_PRIVATE_KEY = ",
        "REMOTE_STATIC_PUBLIC_KEY = ",
        "LOCAL_EPHEMERAL_PRIVATE_KEY = ",
        "PRESHARED_KEY = BwcH",
    ] {
        assert!(log.contains(line), "{line} is missing");
    }
    let store = std::fs::read(pair.weft.path("state/inventory.redb")).unwrap();
    let shown = pair.weft.ok(&["status", "--json"]);
    for secret in &secrets {
        let secret = secret.trim();
        assert!(!shown.contains(secret));
        let mut windows = store.windows(secret.len());
        assert!(!windows.any(|window| window == secret.as_bytes()));
    }
}

#[test]
fn peers_come_and_go_with_their_routes_and_a_file_of_theirs_works_with_wg_quick() {
    require!("ip", "ping", "wg", "wg-quick", "wireguard-go");
    if !can::be_root() {
        skip!("needs root");
    }
    if Path::new("/sys/module/wireguard").exists() {
        skip!("wg-quick takes the kernel's WireGuard, which is there");
    }
    let weft = Weft::in_namespace();
    let (one, phone) = (name("te"), name("tf"));
    let far = Netns::new().unwrap();
    let near = (weft.netns(), "uplink", &["192.168.7.1/24"][..]);
    link_pair([near, (&far, "uplink", &["192.168.7.2/24"])]).unwrap();
    weft.ok(&["vpn", "create", &one, "--address", "10.99.1.1/24"]);
    let before = weft.traces();
    let add = ["vpn", "peer", "add", &one, "--generate", "--name", "phone"];
    weft.ok(&[&add[..], &["--allowed", "10.99.1.2/32,10.3.0.0/16"]].concat());
    assert!(weft.traces().contains(&format!("10.3.0.0/16 dev {one}")));
    let (kind, _) = weft.fails(&[&add[..], &["--allowed", "10.99.1.3/32"]].concat());
    assert_eq!(kind, "exists");
    let (kind, message) = weft.fails(&[
        "vpn",
        "peer",
        "add",
        &one,
        "--generate",
        "--allowed",
        "192.168.7.0/24",
    ]);
    assert_eq!(kind, "busy", "{message}");
    assert_eq!(
        weft.json(&["vpn", "show", &one])["peers"]
            .as_array()
            .unwrap()
            .len(),
        1
    );

    let file = weft.at(&format!("{phone}.conf"));
    let export = ["vpn", "export", &one, "phone", "--output", &file];
    weft.ok(&[&export[..], &["--endpoint", "192.168.7.1"]].concat());
    assert_eq!(
        Path::new(&file).metadata().unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert_eq!(weft.fails(&export).0, "exists");
    let wg_quick = |verb: &str| {
        let status = far
            .command("wg-quick")
            .args([verb, &file])
            .env("WG_QUICK_USERSPACE_IMPLEMENTATION", "wireguard-go")
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .status();
        status.unwrap()
    };
    assert!(wg_quick("up").success());
    ping(&far, "10.99.1.1");
    ping(weft.netns(), "10.99.1.2");
    assert_eq!(weft.json(&["vpn", "show", &one])["peers"][0]["state"], "up");
    assert!(wg_quick("down").success());

    imports(&weft, &file, &phone, &far);
    weft.ok(&["vpn", "peer", "remove", &one, "phone"]);
    assert_eq!(weft.traces(), before);
    assert_eq!(
        weft.fails(&["vpn", "peer", "remove", &one, "phone"]).0,
        "not-found"
    );
    weft.ok(&["vpn", "remove", &one]);
    assert_eq!(weft.fails(&["vpn", "show", &one]).0, "not-found");
    assert!(!weft.traces().contains(&one));
}

/// The same file is a tunnel of weft's, and a mistake in it is told by its line.
fn imports(weft: &Weft, file: &str, name: &str, netns: &Netns) {
    let import = ["vpn", "import", file, "--netns", netns.name()];
    let imported = weft.json(&import);
    assert_eq!(imported["addresses"][0], "10.99.1.2/32");
    assert_eq!(imported["peers"][0]["keepalive_seconds"], 25);
    weft.ok(&["vpn", "remove", name]);
    let broken = std::fs::read_to_string(file).unwrap() + "Colour = blue\n";
    std::fs::write(file, broken).unwrap();
    let (kind, message) = weft.fails(&import);
    assert!(kind == "invalid" && message.contains("line "), "{message}");
}

#[test]
fn what_cannot_become_a_tunnel_is_told_and_leaves_nothing() {
    require!("ip");
    if !can::be_root() {
        skip!("needs root");
    }
    let weft = Weft::in_namespace();
    weft.netns()
        .run("ip", ["link", "add", "taken", "type", "bridge"])
        .unwrap();
    let before = weft.traces();
    let one = name("tg");
    let fails = |more: &[&str]| {
        let create = ["vpn", "create", &one, "--address", "10.99.2.1/24"];
        weft.fails(&[&create[..], more].concat()).0
    };
    assert_eq!(fails(&["--netns", "no-such-namespace"]), "not-found");
    assert_eq!(fails(&["--net", "no-such-network"]), "not-found");
    assert_eq!(fails(&["--key", "/no/such/file"]), "not-found");
    assert_eq!(fails(&["--address", "nonsense"]), "invalid");
    assert_eq!(fails(&["--mtu", "70000"]), "invalid");
    let bad = weft.at("bad.key");
    std::fs::write(&bad, "not a key").unwrap();
    assert_eq!(fails(&["--key", &bad]), "invalid");
    let taken = weft.run(&["vpn", "create", "taken", "--address", "10.99.2.1/24"]);
    assert_eq!(taken.status.code(), Some(1));
    assert_eq!(weft.traces(), before);
    assert!(!weft.path(&format!("state/vpn/{one}")).exists());
    // One whose interface somebody takes away is told of, and can be removed.
    weft.ok(&["vpn", "create", &one, "--address", "10.99.2.1/24"]);
    weft.netns().run("ip", ["link", "delete", &one]).unwrap();
    let start = Instant::now();
    while weft.json(&["vpn", "show", &one])["state"] != "down" {
        assert!(start.elapsed() < LIMIT);
        std::thread::sleep(Duration::from_millis(20));
    }
    let advice = weft.json(&["status"])["advice"].to_string();
    assert!(advice.contains("took its interface away"), "{advice}");
    weft.ok(&["vpn", "remove", &one]);
    assert_eq!(weft.traces(), before);
}

/// A namespace's own `/etc/hosts`, which `ip netns exec` puts in its place.
struct Hosts(std::path::PathBuf);

impl Hosts {
    fn of(netns: &Netns, text: &str) -> Self {
        let hosts = Self(Path::new("/etc/netns").join(netns.name()));
        std::fs::create_dir_all(&hosts.0).unwrap();
        hosts.say(text);
        hosts
    }

    /// In place, for it is the file that was mounted.
    fn say(&self, text: &str) {
        std::fs::write(self.0.join("hosts"), text).unwrap();
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
        // If it was nobody else's.
        let _ = std::fs::remove_dir("/etc/netns");
    }
}

#[test]
fn a_peer_that_has_moved_under_the_same_name_is_found() {
    require!("ip", "ping");
    if !can::be_root() {
        skip!("needs root");
    }
    let (weft, far) = (Weft::in_namespace(), Weft::in_namespace());
    let hosts = Hosts::of(weft.netns(), "192.0.2.8 far.test\n");
    let near_end = (weft.netns(), "uplink", &["192.0.2.1/24"][..]);
    link_pair([near_end, (far.netns(), "uplink", &["192.0.2.9/24"])]).unwrap();
    let names = [name("tn"), name("to")];
    let create = |weft: &Weft, name: &str, address: &str| {
        let create = ["vpn", "create", name, "--address", address];
        let vpn = weft.json(&[&create[..], &["--listen", "51820"]].concat());
        vpn["public_key"].as_str().unwrap().to_owned()
    };
    let near_key = create(&weft, &names[0], "10.99.3.1/24");
    let far_key = create(&far, &names[1], "10.99.3.2/24");
    let add = |weft: &Weft, name: &str, key: &str, more: &[&str]| {
        let add = ["vpn", "peer", "add", name, "--key", key, "--allowed"];
        weft.ok(&[&add[..], more].concat());
    };
    add(&far, &names[1], &near_key, &["10.99.3.1/32"]);
    let there = ["10.99.3.2/32", "--endpoint", "far.test:51820"];
    let keep = ["--keepalive", "1"];
    add(&weft, &names[0], &far_key, &[&there[..], &keep].concat());
    let at = || weft.json(&["vpn", "show", &names[0]])["peers"][0]["address"].clone();
    assert_eq!(at(), "192.0.2.8:51820");

    hosts.say("192.0.2.9 far.test\n");
    let start = Instant::now();
    while at() != "192.0.2.9:51820" {
        assert!(start.elapsed() < 2 * LIMIT, "{}", at());
        std::thread::sleep(Duration::from_millis(100));
    }
    ping(weft.netns(), "10.99.3.2");
    // One that answers is left where it is, whatever its name says.
    assert_eq!(at(), "192.0.2.9:51820");
}
