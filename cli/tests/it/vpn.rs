//! `weft vpn`: interfaces that wg-quick brings up and takes down, and keys.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use weft_tests::{Netns, can, require, skip, temp_dir};

const WEFT: &str = env!("CARGO_BIN_EXE_weft");
const LIMIT: Duration = Duration::from_secs(20);

fn socket(name: &str) -> String {
    format!("/var/run/wireguard/{name}.sock")
}

/// Takes an interface away, and with it its process, also when the test fails.
struct Gone<'a>(&'a Netns, String);

impl Drop for Gone<'_> {
    fn drop(&mut self) {
        let _ = self.0.run("ip", ["link", "delete", &self.1]);
    }
}

/// Waits until the process behind an interface has gone with all that it had made.
fn wait_until_gone(name: &str) {
    let start = Instant::now();
    while Path::new(&socket(name)).exists() {
        assert!(start.elapsed() < LIMIT, "the socket of {name} is left");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn wg_quick_brings_an_interface_up_and_takes_it_down() -> Result<()> {
    require!("ip", "wg", "wg-quick");
    if !can::be_root() {
        skip!("needs root");
    }
    if Path::new("/sys/module/wireguard").exists() {
        skip!("wg-quick takes the kernel's WireGuard, which is there");
    }
    let (netns, folder) = (Netns::new()?, temp_dir());
    let name = format!("wq{}", std::process::id());
    let script = folder.path().join("weft-wireguard");
    std::fs::write(&script, format!("#!/bin/sh\nexec {WEFT} vpn run \"$1\"\n"))?;
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755))?;
    let key = "GFFEbxQWJBuTrf6fXZbuEQ3UCBQnZ9ut8BNrzm3JY1k=";
    let config = folder.path().join(format!("{name}.conf"));
    let text = format!(
        "[Interface]\nPrivateKey = {key}\nAddress = 10.8.0.1/24\nMTU = 1380\nListenPort = 7100\n[Peer]\nPublicKey = {key}\n\
         AllowedIPs = 10.8.0.2/32, 10.9.0.0/16\nEndpoint = 127.0.0.1:9\nPersistentKeepalive = 5\n"
    );
    std::fs::write(&config, text)?;
    std::fs::set_permissions(&config, std::fs::Permissions::from_mode(0o600))?;
    let wg_quick = |verb: &str| {
        let status = netns
            .command("wg-quick")
            .args([verb, &config.display().to_string()])
            .env("WG_QUICK_USERSPACE_IMPLEMENTATION", &script)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        status.context("wg-quick does not start")
    };
    let _gone = Gone(&netns, name.clone());
    assert!(wg_quick("up")?.success());
    let shown = netns.run("wg", ["showconf", &name])?;
    assert!(
        shown.contains("ListenPort = 7100") && shown.contains("10.9.0.0/16"),
        "{shown}"
    );
    let routes = netns.run("ip", ["route", "show", "dev", &name])?;
    assert!(routes.contains("10.9.0.0/16"), "{routes}");
    let link = netns.run("ip", ["link", "show", &name])?;
    assert!(link.contains("mtu 1380") && link.contains("UP"), "{link}");
    assert!(wg_quick("down")?.success());
    wait_until_gone(&name);
    Ok(())
}

#[test]
fn a_tunnel_in_the_foreground_ends_when_it_is_told_to() -> Result<()> {
    require!("ip", "wg");
    if !can::be_root() {
        skip!("needs root");
    }
    let netns = Netns::new()?;
    let name = format!("wf{}", std::process::id());
    let mut command = netns.command(WEFT);
    command.args(["vpn", "run", "--foreground", &name]);
    let mut process = weft_tests::Process::spawn(command)?;
    let start = Instant::now();
    while netns.run("wg", ["show", &name]).is_err() {
        assert!(start.elapsed() < LIMIT, "it does not answer");
        std::thread::sleep(Duration::from_millis(20));
    }
    // A second one of this name is refused, and harms nothing.
    let second = netns.command(WEFT).args(["vpn", "run", &name]).output()?;
    assert_eq!(second.status.code(), Some(1));
    assert!(!second.stderr.is_empty());
    netns.run("wg", ["show", &name])?;
    process.signal(nix::sys::signal::Signal::SIGTERM)?;
    let status = process.wait_for(LIMIT)?;
    assert_eq!(status.and_then(|status| status.code()), Some(0));
    wait_until_gone(&name);
    assert!(netns.run("ip", ["link", "show", &name]).is_err());
    Ok(())
}

#[test]
fn a_new_key_is_its_owners_alone() -> Result<()> {
    let folder = temp_dir();
    let file = folder.path().join("key");
    let keygen = |json: bool| {
        let mut command = Command::new(WEFT);
        command.args(json.then_some("--json"));
        command.args(["vpn", "keygen"]).arg(&file).output()
    };
    let made = keygen(true)?;
    assert!(made.status.success());
    let answer: serde_json::Value = serde_json::from_slice(&made.stdout)?;
    assert_eq!(answer["public_key"].as_str().map(str::len), Some(44));
    assert_eq!(
        std::fs::metadata(&file)?.permissions().mode() & 0o777,
        0o600
    );
    let private = std::fs::read_to_string(&file)?;
    assert!(!String::from_utf8_lossy(&made.stdout).contains(private.trim()));
    let again = keygen(false)?;
    assert_eq!(again.status.code(), Some(1));
    assert_eq!(std::fs::read_to_string(&file)?, private);
    Ok(())
}

/// Opens a TUN device with a virtio-net header and a socket, and becomes the program, which is told of both.
const OPENER: &str = r#"
import fcntl, os, socket, struct, sys
weft, name, path = sys.argv[1:]
tun = os.open("/dev/net/tun", os.O_RDWR)
IFF_TUN, IFF_NO_PI, IFF_VNET_HDR, TUNSETIFF = 0x1, 0x1000, 0x4000, 0x400454ca
fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI | IFF_VNET_HDR))
os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
uapi = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
uapi.bind(path)
uapi.listen(8)
for fd in (tun, uapi.fileno()):
    os.set_inheritable(fd, True)
env = dict(os.environ, WG_TUN_FD=str(tun), WG_UAPI_FD=str(uapi.fileno()), WG_PROCESS_FOREGROUND="1")
os.execve(weft, [weft, "vpn", "run", name], env)
"#;

#[test]
fn a_device_and_a_socket_that_somebody_else_has_opened_are_served() -> Result<()> {
    require!("ip", "wg", "python3");
    if !can::be_root() {
        skip!("needs root");
    }
    let netns = Netns::new()?;
    let name = format!("wd{}", std::process::id());
    let mut command = netns.command("python3");
    command.args(["-c", OPENER, WEFT, &name, &socket(&name)]);
    let mut process = weft_tests::Process::spawn(command)?;
    let start = Instant::now();
    // The socket takes connections before anybody answers them: what comes first waits.
    while netns.run("ip", ["link", "show", &name]).is_err() || !Path::new(&socket(&name)).exists() {
        assert!(
            start.elapsed() < LIMIT && process.is_running(),
            "it is not there"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    netns.run("wg", ["set", &name, "listen-port", "7201", "fwmark", "0x9"])?;
    let shown = netns.run("wg", ["showconf", &name])?;
    assert!(
        shown.contains("ListenPort = 7201") && shown.contains("FwMark = 0x9"),
        "{shown}"
    );
    let link = netns.run("ip", ["link", "show", &name])?;
    assert!(link.contains("mtu 1420"), "{link}");
    process.signal(nix::sys::signal::Signal::SIGTERM)?;
    let status = process.wait_for(LIMIT)?;
    assert_eq!(status.and_then(|status| status.code()), Some(0));
    wait_until_gone(&name);
    // A descriptor that is none is told of.
    let bad = netns
        .command(WEFT)
        .args(["vpn", "run", "-f", &name])
        .env("WG_TUN_FD", "999")
        .output()?;
    assert_eq!(bad.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&bad.stderr).contains("WG_TUN_FD"));
    Ok(())
}
