//! A host with a network and its neighbours, each in a namespace.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use tokio::sync::oneshot;
use weft_dhcp::{Config, Lease, Server};
use weft_netio::datagram::{LinkSocket, serve};
use weft_netio::link::Links;
use weft_netio::plan::{self, Observed, Plan};
use weft_netio::{InterfaceName, Mode, Namespace, NetworkName, NetworkSpec};
use weft_tests::Netns;

/// How long anything may take that happens at once on an idle machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// An error of weft's as an error of a test.
pub(crate) fn told<T>(result: weft_netio::Result<T>) -> Result<T> {
    result.map_err(|e| anyhow!("{}", e.sentence()))
}

pub(crate) fn interface(name: &str) -> InterfaceName {
    InterfaceName::new(name).expect("a good name")
}

pub(crate) fn spec(network: &str, subnet: &str, mode: Mode) -> NetworkSpec {
    let name = NetworkName::new(network).expect("a good name");
    NetworkSpec::new(name, subnet.parse().expect("a subnet"), mode)
}

/// Waits until `done` gives something.
pub(crate) fn wait_for<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = done() {
            return Ok(value);
        }
        if Instant::now() > deadline {
            bail!("{what} does not happen");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A namespace in which weft runs.
pub(crate) struct Host {
    pub(crate) netns: Netns,
    pub(crate) namespace: Namespace,
}

impl Host {
    pub(crate) fn new() -> Result<Self> {
        let netns = Netns::new()?;
        let namespace = told(Namespace::open_named(netns.name()))?;
        Ok(Self { netns, namespace })
    }

    /// Runs `work` in the namespace on a runtime of its own.
    pub(crate) fn run<T: Send, F: Future<Output = weft_netio::Result<T>>>(
        &self,
        work: impl FnOnce(Links) -> F + Send,
    ) -> Result<T> {
        let run = || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime starts");
            runtime.block_on(async { work(Links::open()?).await })
        };
        told(told(self.namespace.run(run))?)
    }

    pub(crate) fn observe(&self) -> Result<Observed> {
        self.run(async |links| Observed::read(&links).await)
    }

    pub(crate) fn apply(&self, plan: &Plan) -> Result<()> {
        self.run(async |links| plan.apply(&links).await)
    }

    pub(crate) fn set_up(&self, spec: &NetworkSpec) -> Result<Plan> {
        self.run(async |links| {
            let plan = plan::set_up(spec, &Observed::read_for(&links, &spec.name).await?)?;
            plan.apply(&links).await?;
            Ok(plan)
        })
    }

    pub(crate) fn tear_down(&self, network: &NetworkName) -> Result<()> {
        let plan = told(plan::tear_down(network, &self.observe()?))?;
        self.apply(&plan)
    }

    /// Joins a new namespace to one of its bridges by a pair of links; the other end is `eth0`, and up.
    pub(crate) fn guest(&self, bridge: &InterfaceName, port: &str) -> Result<Host> {
        let guest = Host::new()?;
        self.join(&guest, port, Some(bridge))?;
        Ok(guest)
    }

    /// Joins another namespace by a pair of links, `port` here and `eth0` there, both up.
    pub(crate) fn join(
        &self,
        other: &Host,
        port: &str,
        bridge: Option<&InterfaceName>,
    ) -> Result<()> {
        let (here, there) = (interface(port), interface("eth0"));
        self.run(async |links| {
            links
                .create_veth(&here, &there, Some(&other.namespace))
                .await?;
            if bridge.is_some() {
                links.set_bridge(&here, bridge).await?;
            }
            links.set_up(&here, true).await
        })?;
        other.run(async |links| links.set_up(&there, true).await)
    }

    /// Gives `eth0` an address, and a default route by `gateway`.
    pub(crate) fn configure(&self, address: &str, gateway: Option<&str>) -> Result<()> {
        self.netns
            .run("ip", ["address", "add", address, "dev", "eth0"])?;
        if let Some(gateway) = gateway {
            self.netns
                .run("ip", ["route", "add", "default", "via", gateway])?;
        }
        Ok(())
    }

    /// Whether one of a few pings is answered.
    pub(crate) fn pings(&self, address: &str) -> bool {
        self.netns
            .run("ping", ["-c", "2", "-i", "0.2", "-W", "1", address])
            .is_ok()
    }
}

/// The store of leases: what a service would have on disk, as JSON by address.
#[derive(Debug, Clone, Default)]
pub(crate) struct LeaseStore(Arc<Mutex<BTreeMap<Ipv4Addr, String>>>);

impl LeaseStore {
    pub(crate) fn leases(&self) -> Vec<Lease> {
        let stored = self.0.lock().expect("no test thread panics with it");
        let parse = |text: &String| serde_json::from_str(text).expect("a stored lease is read");
        stored.values().map(parse).collect()
    }

    fn keep(&self, leases: Vec<Lease>) {
        let mut stored = self.0.lock().expect("no test thread panics with it");
        for lease in leases {
            let text = serde_json::to_string(&lease).expect("a lease is text");
            stored.insert(lease.address, text);
        }
    }
}

/// A DHCP server on a bridge, on a thread of its own until it is dropped.
pub(crate) struct DhcpServer {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<weft_netio::Result<()>>>,
}

impl DhcpServer {
    /// Starts with what the store has, and returns when clients are heard.
    pub(crate) fn start(
        host: &Host,
        bridge: &InterfaceName,
        config: Config,
        store: &LeaseStore,
    ) -> Result<Self> {
        let namespace = told(host.namespace.try_clone())?;
        let (bridge, store) = (bridge.clone(), store.clone());
        let server = Mutex::new(Server::new(config, store.leases())?);
        let (stop, stopped) = oneshot::channel::<()>();
        let (ready, started) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            namespace.enter()?;
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime starts");
            runtime.block_on(async {
                let link = Links::open()?.expect(bridge.as_str()).await?;
                let address = server
                    .lock()
                    .expect("not poisoned")
                    .config()
                    .server
                    .address();
                let socket = LinkSocket::open(&link, address, weft_dhcp::SERVER_PORT)?;
                let _ = ready.send(());
                let keep = |leases| {
                    store.keep(leases);
                    std::future::ready(Ok::<_, String>(()))
                };
                let shutdown = async {
                    let _ = stopped.await;
                };
                serve(&socket, &server, keep, shutdown).await
            })
        });
        let (stop, thread) = (Some(stop), Some(thread));
        let mut running = Self { stop, thread };
        match started.recv() {
            Ok(()) => Ok(running),
            Err(_) => Err(running
                .end()
                .err()
                .unwrap_or_else(|| anyhow!("the server ended"))),
        }
    }

    /// Stops it and gives its result.
    pub(crate) fn end(&mut self) -> Result<()> {
        drop(self.stop.take());
        match self.thread.take() {
            Some(thread) => told(thread.join().map_err(|_| anyhow!("the server panicked"))?),
            None => Ok(()),
        }
    }
}

impl Drop for DhcpServer {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("{error:#}");
        }
    }
}

/// Writes an executable script.
pub(crate) fn script(path: &Path, text: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(path, text).context("writing a script")?;
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(path, mode).context("making a script executable")
}
