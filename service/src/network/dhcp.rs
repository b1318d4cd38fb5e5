//! The DHCP server of a network: the machine, its socket on the bridge, and its leases in the store.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use weft_dhcp::{Config, LeaseState, Server};
use weft_netio::NetworkSpec;
use weft_netio::datagram::{LinkSocket, serve};
use weft_netio::link::Links;
use weft_wire::Ipv4Range;

use super::from_netio;
use crate::api::{DhcpSetting, Error, ErrorKind, Lease, NetCreate, NetMode, Result};
use crate::store::{Kind, Store};

/// The port of DHCP servers (RFC 2131, 4.1).
const SERVER_PORT: u16 = 67;

/// A server that answers.
pub(super) struct Dhcp {
    machine: Arc<Mutex<Server>>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

/// What the declaration comes to; nothing if DHCP is off.
///
/// # Errors
/// `Invalid`, in a sentence that names what is wrong.
pub(super) fn settings(request: &NetCreate, spec: &NetworkSpec) -> Result<Option<Config>> {
    let invalid = |why: String| {
        let name = &request.name;
        Error::new(ErrorKind::Invalid, name, format!("network {name}: {why}"))
    };
    spec.check()
        .map_err(|error| from_netio(&request.name, &error))?;
    let range = match &request.dhcp {
        DhcpSetting::Off => return Ok(None),
        DhcpSetting::Default => {
            Config::default_range(spec.address).map_err(|error| invalid(error.to_string()))?
        }
        DhcpSetting::Range(first, last) => Ipv4Range::new(*first, *last)
            .ok_or_else(|| invalid(format!("the range {first}-{last} ends before it begins")))?,
    };
    let mut config = Config::new(spec.address, range);
    if request.mode == NetMode::Isolated {
        config.router = None;
    }
    config.mtu = spec.mtu.and_then(|mtu| u16::try_from(mtu).ok());
    config.check().map_err(|error| invalid(error.to_string()))?;
    Ok(Some(config))
}

/// The store's name of a lease.
fn key(network: &str, lease: &weft_dhcp::Lease) -> String {
    format!("{network}/{}", lease.address)
}

/// Takes all leases of a network out of the store.
///
/// # Errors
/// `Io`.
pub(super) fn forget_leases(store: &dyn Store, network: &str) -> Result<()> {
    let prefix = format!("{network}/");
    for (name, _) in store.all(Kind::Leases)? {
        if name.starts_with(&prefix) {
            store.set(Kind::Leases, &name, None)?;
        }
    }
    Ok(())
}

impl Dhcp {
    /// Answers on the network's bridge, with the leases that the store remembers.
    ///
    /// # Errors
    /// `Io` or `Permission` if the socket cannot be had.
    pub(super) async fn start(
        network: &str,
        links: &Links,
        spec: &NetworkSpec,
        config: Config,
        store: Arc<dyn Store>,
    ) -> Result<Self> {
        let prefix = format!("{network}/");
        let leases = store.read::<weft_dhcp::Lease>(Kind::Leases)?;
        let own = leases
            .into_iter()
            .filter(|(name, _)| name.starts_with(&prefix));
        let server = Server::new(config, own.map(|(_, lease)| lease)).map_err(|error| {
            Error::new(
                ErrorKind::Invalid,
                network,
                format!("network {network}: {error}"),
            )
        })?;
        let failed = |error: weft_netio::Error| from_netio(network, &error);
        let link = links.expect(spec.bridge.as_str()).await.map_err(failed)?;
        let socket =
            LinkSocket::open(&link, spec.address.address(), SERVER_PORT).map_err(failed)?;
        let machine = Arc::new(Mutex::new(server));
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(answer(
            network.to_owned(),
            socket,
            machine.clone(),
            store,
            stopped,
        ));
        Ok(Self {
            machine,
            stop,
            task,
        })
    }

    /// Stops answering; leases stay in the store.
    pub(super) async fn stop(self) {
        drop(self.stop);
        let _ = self.task.await;
    }

    fn machine(&self) -> std::sync::MutexGuard<'_, Server> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The addresses that are given.
    pub(super) fn range(&self) -> DhcpSetting {
        let machine = self.machine();
        let range = machine.config().range;
        DhcpSetting::Range(range.first(), range.last())
    }

    /// The addresses that guests hold now.
    pub(super) fn leases(&self) -> Vec<Lease> {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = since.map_or(0, |since| since.as_secs());
        let leases = self.machine().leases();
        let bound = leases.into_iter().filter(|lease| lease.is_bound(now));
        bound.filter_map(|lease| shown(&lease)).collect()
    }
}

fn shown(lease: &weft_dhcp::Lease) -> Option<Lease> {
    let LeaseState::Bound { expires, .. } = lease.state else {
        return None;
    };
    let expires = OffsetDateTime::from_unix_timestamp(i64::try_from(expires).ok()?).ok()?;
    Some(Lease {
        mac: lease.mac.to_string(),
        address: lease.address.to_string(),
        hostname: lease.hostname.clone(),
        expires: expires.format(&Rfc3339).ok()?,
    })
}

async fn answer(
    network: String,
    socket: LinkSocket,
    machine: Arc<Mutex<Server>>,
    store: Arc<dyn Store>,
    stopped: oneshot::Receiver<()>,
) {
    // One durable transaction for all that is answered together.
    let keep = |changes: Vec<weft_dhcp::Lease>| {
        let record = |lease: &weft_dhcp::Lease| {
            let value = serde_json::to_value(lease).expect("leases are plain data");
            (key(&network, lease), value)
        };
        let records: Vec<_> = changes.iter().map(record).collect();
        std::future::ready(store.set_all(Kind::Leases, &records))
    };
    let stopped = async {
        let _ = stopped.await;
    };
    if let Err(error) = serve(&socket, &machine, keep, stopped).await {
        tracing::error!(
            network,
            error = error.sentence(),
            "the DHCP server has ended"
        );
    }
}
