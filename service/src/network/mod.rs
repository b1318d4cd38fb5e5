//! Networks: a bridge with an address, rules in a table of its own, DHCP, and ports.
//!
//! The store is the truth, and the kernel is reconciled with it: after a crash, a plan makes what is missing and leaves
//! what stands, so guests' links are not touched.

mod dhcp;
pub mod hosts;
pub mod port;
pub mod vpn;
mod ways;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use weft_netio::link::Links;
use weft_netio::plan::{self, Observed};
use weft_netio::{InterfaceName, Mode, NetworkName, NetworkSpec, PortSpec, Tap, TapOptions};
use weft_wire::{Ipv4Cidr, MacAddress};

use crate::api::{
    Advice, DhcpSetting, Error, ErrorKind, Lease, NetCreate, NetMode, Network, Port, PortAdd,
    Result,
};
use crate::attach::backends::{self, Backend};
use crate::shards::Shards;
use crate::store::{Kind, Store};
use dhcp::Dhcp;
use port::OpenPort;
use ways::Stretch;

/// Without root: gives this process a user and a network namespace of its own. Call before any thread is started.
///
/// # Errors
/// `Permission` if the kernel allows neither.
pub fn enter_rootless() -> Result<()> {
    weft_netio::namespace::enter_rootless().map_err(|error| from_netio("daemon", &error))
}

/// The networks of one daemon.
pub struct Networks {
    store: Arc<dyn Store>,
    shards: Arc<Shards>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    networks: BTreeMap<String, Running>,
    troubles: Vec<Advice>,
}

struct Running {
    record: Record,
    spec: NetworkSpec,
    dhcp: Option<Dhcp>,
    /// Ports that are there for a while: those of machines, and sockets.
    ports: Vec<Port>,
    sockets: BTreeMap<String, Backend>,
}

/// What the store keeps of a network.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    network: NetCreate,
    /// Ports that were added by name.
    ports: Vec<PortAdd>,
    /// How it is joined to another host's.
    #[serde(default)]
    stretch: Option<Stretch>,
}

impl Networks {
    /// No network yet; [`restore`](Self::restore) brings back what the store remembers.
    pub fn start(store: Arc<dyn Store>, shards: Arc<Shards>) -> Self {
        Self {
            store,
            shards,
            state: Mutex::default(),
        }
    }

    /// Reconciles the kernel with the store. What cannot be made is a trouble that `status` shows.
    pub async fn restore(&self) {
        let records = self
            .store
            .read::<Record>(Kind::Network)
            .unwrap_or_else(|error| {
                tracing::error!(error = error.message, "networks cannot be brought back");
                Vec::new()
            });
        let mut state = self.state.lock().await;
        for (name, record) in records {
            if let Err(error) = self.bring_back(&mut state, record).await {
                state.troubles.push(Advice {
                    object: format!("net {name}"),
                    message: format!("it could not be brought back: {error}"),
                    command: Some(format!("weft net remove {name}")),
                });
            }
        }
    }

    async fn bring_back(&self, state: &mut State, record: Record) -> Result<()> {
        let name = record.network.name.clone();
        let ports = record.ports.clone();
        let mut running = self
            .make(
                state,
                Record {
                    ports: Vec::new(),
                    ..record
                },
            )
            .await?;
        for port in &ports {
            self.make_port(&mut running, port).await?;
        }
        running.record.ports = ports;
        state.networks.insert(name, running);
        Ok(())
    }

    /// What could not be brought back.
    pub async fn troubles(&self) -> Vec<Advice> {
        self.state.lock().await.troubles.clone()
    }

    /// Makes a network and remembers it.
    ///
    /// # Errors
    /// `Exists`, `Invalid`, `InUse` (the subnet collides), or what the kernel refuses; nothing is left then.
    pub async fn create(&self, request: &NetCreate) -> Result<Network> {
        let mut state = self.state.lock().await;
        if state.networks.contains_key(&request.name) {
            return Err(Error::exists("network", &request.name));
        }
        let record = Record {
            network: request.clone(),
            ports: Vec::new(),
            stretch: None,
        };
        let running = self.make(&mut state, record).await?;
        self.store
            .put(Kind::Network, &request.name, &running.record)?;
        let shown = running.describe(true);
        state.networks.insert(request.name.clone(), running);
        Ok(shown)
    }

    /// Makes what `record` declares, as far as it is not there.
    async fn make(&self, state: &mut State, record: Record) -> Result<Running> {
        let name = &record.network.name;
        let failed = |error: weft_netio::Error| from_netio(name, &error);
        let spec = spec(&record)?;
        let settings = dhcp::settings(&record.network, &spec)?;
        let links = Links::open().map_err(failed)?;
        let observed = Observed::read_for(&links, &spec.name)
            .await
            .map_err(failed)?;
        let plan = plan::set_up(&spec, &observed).map_err(failed)?;
        let made = !plan.is_empty() && observed.link(spec.bridge.as_str()).is_none();
        plan.apply(&links).await.map_err(failed)?;
        state
            .troubles
            .extend(plan.warnings.iter().map(|warning| Advice {
                object: format!("net {name}"),
                message: warning.clone(),
                command: None,
            }));
        let dhcp = match settings {
            None => None,
            Some(settings) => {
                match Dhcp::start(name, &links, &spec, settings, self.store.clone()).await {
                    Ok(dhcp) => Some(dhcp),
                    Err(error) => {
                        // What an earlier daemon made may carry running guests, and stays.
                        if made {
                            tear_down(&spec.name, &links).await?;
                        }
                        return Err(error);
                    }
                }
            }
        };
        Ok(Running {
            spec,
            dhcp,
            record,
            ports: Vec::new(),
            sockets: BTreeMap::new(),
        })
    }

    /// Takes a network away: its DHCP server, ports, rules and bridge.
    ///
    /// # Errors
    /// `NotFound`, or `InUse` if a machine is plugged in.
    pub async fn remove(&self, name: &str) -> Result<()> {
        let mut state = self.state.lock().await;
        state
            .troubles
            .retain(|advice| advice.object != format!("net {name}"));
        let running = state
            .networks
            .get(name)
            .ok_or_else(|| Error::not_found("network", name))?;
        if let Some(machine) = running
            .ports
            .iter()
            .find_map(|port| port.machine.as_deref())
        {
            let message = format!("network {name} is used by machine {machine}");
            return Err(Error::new(ErrorKind::InUse, name, message));
        }
        if let Some(way) = running.spec.tunnels.first() {
            let tunnel = &way.interface;
            let message = format!(
                "network {name} is used by tunnel {tunnel}; first: weft vpn remove {tunnel}"
            );
            return Err(Error::new(ErrorKind::InUse, name, message));
        }
        let Some(running) = state.networks.remove(name) else {
            return Ok(());
        };
        for socket in running.sockets.into_values() {
            socket.close().await;
        }
        if let Some(dhcp) = running.dhcp {
            dhcp.stop().await;
        }
        let failed = |error: weft_netio::Error| from_netio(name, &error);
        let links = Links::open().map_err(failed)?;
        tear_down(&running.spec.name, &links).await?;
        dhcp::forget_leases(&*self.store, name)?;
        self.store.remove(Kind::Network, name)
    }

    /// All networks.
    pub async fn list(&self) -> Vec<Network> {
        let state = self.state.lock().await;
        let mut list = Vec::new();
        for running in state.networks.values() {
            list.push(running.describe(running.is_up().await));
        }
        list
    }

    /// One network.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn show(&self, name: &str) -> Result<Network> {
        let state = self.state.lock().await;
        let running = state
            .networks
            .get(name)
            .ok_or_else(|| Error::not_found("network", name))?;
        Ok(running.describe(running.is_up().await))
    }

    /// All leases of all networks.
    pub async fn leases(&self) -> Vec<Lease> {
        let state = self.state.lock().await;
        state.networks.values().flat_map(Running::leases).collect()
    }

    /// Adds a port by name, and remembers it.
    ///
    /// # Errors
    /// `NotFound`, `Exists`, or what keeps the link or the socket from being made.
    pub async fn add_port(&self, net: &str, request: &PortAdd) -> Result<Port> {
        let mut state = self.state.lock().await;
        let running = state
            .networks
            .get_mut(net)
            .ok_or_else(|| Error::not_found("network", net))?;
        let port = self.make_port(running, request).await?;
        running.record.ports.push(request.clone());
        self.store.put(Kind::Network, net, &running.record)?;
        Ok(port)
    }

    async fn make_port(&self, running: &mut Running, request: &PortAdd) -> Result<Port> {
        crate::attach::check_name("port", &request.port)?;
        let mut port = running
            .link(&request.port, request.tap.as_deref(), None)
            .await?;
        if let Some(socket) = &request.vhost {
            let open = self.open(&port, running.spec.mtu)?;
            let served = Backend::serve(backends::Port::Nic(open), socket.as_ref()).await;
            match served {
                Ok(backend) => running.sockets.insert(port.name.clone(), backend),
                Err(error) => {
                    running.unlink(&port.name).await?;
                    return Err(error);
                }
            };
            port.socket = Some(socket.clone());
        }
        running.ports.push(port.clone());
        Ok(port)
    }

    /// Takes a port away that was added by name.
    ///
    /// # Errors
    /// `NotFound`, or `InUse` if a machine has it.
    pub async fn remove_port(&self, net: &str, name: &str) -> Result<()> {
        let mut state = self.state.lock().await;
        let running = state
            .networks
            .get_mut(net)
            .ok_or_else(|| Error::not_found("network", net))?;
        let place = running.ports.iter().position(|port| port.name == name);
        let place = place.ok_or_else(|| Error::not_found("port", name))?;
        if let Some(machine) = &running.ports[place].machine {
            let message = format!("port {name} is used by machine {machine}");
            return Err(Error::new(ErrorKind::InUse, name, message));
        }
        if let Some(socket) = running.sockets.remove(name) {
            socket.close().await;
        }
        running.unlink(name).await?;
        running.ports.remove(place);
        running.record.ports.retain(|port| port.port != name);
        self.store.put(Kind::Network, net, &running.record)
    }

    /// Opens a port for a machine's NIC, making its link if it is not there.
    ///
    /// # Errors
    /// `NotFound` if there is no such network, or what keeps the link from being made.
    pub async fn open_port(&self, net: &str, name: &str, machine: &str) -> Result<OpenPort> {
        let mut state = self.state.lock().await;
        let running = state
            .networks
            .get_mut(net)
            .ok_or_else(|| Error::not_found("network", net))?;
        let port = running.link(name, None, Some(machine)).await?;
        let open = self.open(&port, running.spec.mtu)?;
        running.ports.push(port);
        Ok(open)
    }

    fn open(&self, port: &Port, mtu: Option<u32>) -> Result<OpenPort> {
        let failed = |error: weft_netio::Error| from_netio(&port.name, &error);
        let link = InterfaceName::new(port.tap.clone()).map_err(failed)?;
        let tap = Tap::open(&link, &TapOptions::default()).map_err(failed)?;
        let mac = MacAddress::derived(&format!("weft-port:{}", port.tap));
        Ok(OpenPort {
            tap,
            mac,
            mtu: mtu.and_then(|mtu| u16::try_from(mtu).ok()),
            home: self.shards.place()?,
        })
    }

    /// Takes away the ports of a machine that is gone.
    pub async fn close_ports_of(&self, machine: &str) {
        let mut state = self.state.lock().await;
        for running in state.networks.values_mut() {
            let own = |port: &Port| port.machine.as_deref() == Some(machine);
            let gone: Vec<Port> = running
                .ports
                .iter()
                .filter(|port| own(port))
                .cloned()
                .collect();
            running.ports.retain(|port| !own(port));
            for port in gone {
                if let Err(error) = running.unlink(&port.name).await {
                    tracing::warn!(port = port.name, error = error.message, "port left behind");
                }
            }
        }
    }

    /// Stops answering; bridges, rules and links stay for the next daemon.
    pub async fn close(&self) {
        let mut state = self.state.lock().await;
        for (_, running) in std::mem::take(&mut state.networks) {
            for socket in running.sockets.into_values() {
                socket.close().await;
            }
            if let Some(dhcp) = running.dhcp {
                dhcp.stop().await;
            }
        }
    }
}

impl Running {
    fn describe(&self, up: bool) -> Network {
        let request = &self.record.network;
        Network {
            name: request.name.clone(),
            subnet: self.spec.address.network().to_string(),
            gateway: self.spec.address.address().to_string(),
            mode: request.mode,
            dhcp: self.dhcp.as_ref().map_or(DhcpSetting::Off, Dhcp::range),
            forwards: request.forwards.clone(),
            bridge: self.spec.bridge.to_string(),
            state: if up { "up" } else { "down" }.to_owned(),
            ports: self.ports.clone(),
            leases: self.leases(),
            tunnels: self
                .spec
                .tunnels
                .iter()
                .map(|way| way.interface.to_string())
                .collect(),
            stretch: self.record.stretch.as_ref().map(Stretch::shown),
        }
    }

    fn leases(&self) -> Vec<Lease> {
        self.dhcp.as_ref().map(Dhcp::leases).unwrap_or_default()
    }

    async fn is_up(&self) -> bool {
        let Ok(links) = Links::open() else {
            return false;
        };
        let link = links.link(self.spec.bridge.as_str()).await;
        matches!(link, Ok(Some(link)) if link.up)
    }

    /// Makes the link of a port, if it is not there.
    async fn link(&self, name: &str, tap: Option<&str>, machine: Option<&str>) -> Result<Port> {
        let failed = |error: weft_netio::Error| from_netio(name, &error);
        if self.ports.iter().any(|port| port.name == name) {
            return Err(Error::exists("port", name));
        }
        let tap = match tap {
            Some(tap) => InterfaceName::new(tap).map_err(failed)?,
            None => self.spec.name.tap(name),
        };
        let spec = PortSpec {
            network: self.spec.name.clone(),
            bridge: self.spec.bridge.clone(),
            port: name.to_owned(),
            tap: tap.clone(),
            owner: None,
            multi_queue: false,
            mtu: self.spec.mtu,
        };
        let links = Links::open().map_err(failed)?;
        let observed = Observed::read_links(&links).await.map_err(failed)?;
        let plan = plan::add_port(&spec, &observed).map_err(failed)?;
        plan.apply(&links).await.map_err(failed)?;
        let machine = machine.map(str::to_owned);
        Ok(Port {
            name: name.to_owned(),
            tap: tap.to_string(),
            socket: None,
            machine,
        })
    }

    async fn unlink(&self, name: &str) -> Result<()> {
        let failed = |error: weft_netio::Error| from_netio(name, &error);
        let links = Links::open().map_err(failed)?;
        let observed = Observed::read_links(&links).await.map_err(failed)?;
        let plan = plan::remove_port(&self.spec.name, name, &observed).map_err(failed)?;
        plan.apply(&links).await.map_err(failed)
    }
}

async fn tear_down(name: &NetworkName, links: &Links) -> Result<()> {
    let failed = |error: weft_netio::Error| from_netio(name.as_str(), &error);
    let observed = Observed::read_for(links, name).await.map_err(failed)?;
    plan::tear_down(name, &observed)
        .map_err(failed)?
        .apply(links)
        .await
        .map_err(failed)
}

/// The declared network as the edge knows it.
fn spec(record: &Record) -> Result<NetworkSpec> {
    let request = &record.network;
    let name = NetworkName::new(request.name.clone());
    let name = name.map_err(|error| from_netio(&request.name, &error))?;
    let subnet: Ipv4Cidr = request.subnet.parse().map_err(|error| {
        let message = format!("network {}: {error}", request.name);
        Error::new(ErrorKind::Invalid, &request.name, message)
    })?;
    let mode = match request.mode {
        NetMode::Nat => Mode::Nat,
        NetMode::Routed => Mode::Routed,
        NetMode::Isolated => Mode::Isolated,
    };
    let mut spec = NetworkSpec::new(name, subnet, mode);
    let forwards = request.forwards.iter().map(|forward| forward.parse());
    let forwards: weft_netio::Result<_> = forwards.collect();
    spec.forwards = forwards.map_err(|error| from_netio(&request.name, &error))?;
    if let Some(stretch) = &record.stretch {
        stretch.shape(&mut spec);
    }
    Ok(spec)
}

/// A failure of the network edge, about `object`.
fn from_netio(object: &str, error: &weft_netio::Error) -> Error {
    use weft_netio::ErrorKind as Edge;
    let kind = match error.kind() {
        Edge::Invalid => ErrorKind::Invalid,
        Edge::Foreign => ErrorKind::Foreign,
        Edge::Collision => ErrorKind::InUse,
        Edge::NotFound | Edge::MissingProgram => ErrorKind::NotFound,
        Edge::Denied => ErrorKind::Permission,
        Edge::Unsupported => ErrorKind::Unsupported,
        Edge::Busy => ErrorKind::Busy,
        _ => ErrorKind::Io,
    };
    Error::new(kind, object, error.sentence())
}
