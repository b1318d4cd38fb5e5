//! Two hosts on a link, each with a tunnel's end.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tempfile::TempDir;
use weft_netio::{InterfaceName, Namespace};
use weft_tests::{Netns, Process, link_pair, temp_dir};
use weft_tunnel::{Device, Tun, Uapi, entropy};
use weft_vpn::{PrivateKey, Tunnel};

/// How long anything may take before it counts as failed.
const LIMIT: Duration = Duration::from_secs(20);

/// Who runs an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Runner {
    Ours,
    Judge(Judge),
}

/// Implementations that others made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Judge {
    WireguardGo,
    Boringtun,
    Gotatun,
}

impl Judge {
    /// The program, and what comes before the interface's name.
    pub(crate) fn program(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Self::WireguardGo => ("wireguard-go", &["-f"]),
            Self::Boringtun => ("boringtun-cli", &["-f", "--disable-drop-privileges"]),
            Self::Gotatun => ("gotatun", &["-f", "--disable-drop-privileges"]),
        }
    }
}

/// A host with one end of a tunnel.
pub(crate) struct Site {
    pub(crate) netns: Netns,
    /// The tunnel's interface. Sockets of all namespaces lie in one folder, so no other test has the name.
    pub(crate) name: String,
    pub(crate) public: String,
    pub(crate) inner: String,
    key: PathBuf,
    folder: TempDir,
    _end: End,
}

#[expect(dead_code, reason = "kept for as long as the site lives")]
enum End {
    Ours(Uapi, Arc<Device>),
    Judge(Process),
}

impl Site {
    pub(crate) fn new(runner: Runner, number: u8) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("wt{}-{next}", std::process::id());
        let netns = Netns::new()?;
        let end = match runner {
            Runner::Ours => ours(&netns, &name)?,
            Runner::Judge(judge) => run_judge(judge, &netns, &name)?,
        };
        let folder = temp_dir();
        let private = PrivateKey::new([number; 32]);
        let key = folder.path().join("key");
        fs::write(&key, private.expose_base64().as_bytes())?;
        Ok(Self {
            netns,
            name,
            public: private.public().to_string(),
            inner: format!("10.66.0.{number}"),
            key,
            folder,
            _end: end,
        })
    }

    /// Runs `wg` on the interface.
    pub(crate) fn wg(&self, arguments: &[&str]) -> Result<String> {
        let mut all = vec![arguments[0], self.name.as_str()];
        all.extend(&arguments[1..]);
        self.netns.run("wg", all)
    }

    /// A file of its own.
    pub(crate) fn file(&self, name: &str, contents: &str) -> Result<String> {
        let path = self.folder.path().join(name);
        fs::write(&path, contents)?;
        Ok(path.display().to_string())
    }

    /// Sets the private key and port, and gives the interface its address.
    pub(crate) fn bring_up(&self, port: u16, mtu: u32) -> Result<()> {
        let key = self.key.display().to_string();
        self.wg(&["set", "private-key", &key, "listen-port", &port.to_string()])?;
        let address = format!("{}/24", self.inner);
        let (name, mtu) = (self.name.as_str(), mtu.to_string());
        self.netns
            .run("ip", ["address", "replace", &address, "dev", name])?;
        self.netns
            .run("ip", ["link", "set", name, "mtu", &mtu, "up"])?;
        Ok(())
    }

    /// Makes `other` a peer, the only one.
    pub(crate) fn know(&self, other: &Self, endpoint: Option<&str>, psk: bool) -> Result<()> {
        let mut text = format!(
            "[Interface]\nPrivateKey = {}\n",
            fs::read_to_string(&self.key)?
        );
        let port = self.wg(&["show", "listen-port"])?;
        text += &format!("ListenPort = {}\n[Peer]\n", port.trim());
        text += &format!("PublicKey = {}\n", other.public);
        text += &format!("AllowedIPs = {}/32\n", other.inner);
        if psk {
            text += "PresharedKey = BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=\n";
        }
        if let Some(endpoint) = endpoint {
            text += &format!("Endpoint = {endpoint}\n");
        }
        let file = self.file("config", &text)?;
        self.wg(&["setconf", &file]).map(drop)
    }

    /// Sends echo requests of `size` bytes until they are answered, one after the other.
    pub(crate) fn ping(&self, other: &Self, size: u32) -> Result<()> {
        let (size, to) = (size.to_string(), other.inner.as_str());
        let arguments = ["-q", "-c", "3", "-i", "0.05", "-W", "10", "-s", &size, to];
        let said = self.netns.run("ping", arguments)?;
        if !said.contains(" 0% packet loss") {
            bail!("not all came back: {said}");
        }
        Ok(())
    }
}

fn ours(netns: &Netns, name: &str) -> Result<End> {
    let namespace = Namespace::open_named(netns.name()).map_err(told)?;
    let name = InterfaceName::new(name).map_err(told)?;
    let device = namespace
        .run(|| Device::start(Tunnel::new(entropy()), Box::new(Tun::create(&name)?), 0))
        .and_then(|device| device)
        .map_err(told)?;
    let device = Arc::new(device);
    let uapi = Uapi::listen(&name, &device).map_err(told)?;
    Ok(End::Ours(uapi, device))
}

fn told(error: weft_netio::Error) -> anyhow::Error {
    anyhow::anyhow!(error.sentence())
}

fn run_judge(judge: Judge, netns: &Netns, name: &str) -> Result<End> {
    let (program, before) = judge.program();
    let mut command = netns.command(program);
    command.args(before).arg(name).env("LOG_LEVEL", "error");
    let (null, err) = (std::process::Stdio::null(), std::process::Stdio::null());
    command.stdout(null).stderr(err);
    let process = Process::spawn(command)?;
    let start = Instant::now();
    while netns.run("wg", ["show", name]).is_err() {
        if start.elapsed() > LIMIT {
            bail!("{program} does not answer");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(End::Judge(process))
}

/// Joins two sites by a pair of links with addresses of both IP versions: .1 and .2, ::1 and ::2.
pub(crate) fn join(a: &Site, b: &Site) -> Result<()> {
    link_pair([
        (&a.netns, "uplink", &["192.168.66.1/24", "fd66::1/64"]),
        (&b.netns, "uplink", &["192.168.66.2/24", "fd66::2/64"]),
    ])
}
