//! Hosts of labs: namespaces joined by links.
//!
//! The store is the truth: a host is written down before it is made, and forgotten after it was taken away, so that
//! whatever a crash leaves is taken away too. Namespaces that others made are not touched.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::Mutex;
use weft_netio::{InterfaceName, host};

use super::from_netio;
use crate::api::{Advice, Error, ErrorKind, Host, HostLink, Result};
use crate::store::{Kind, Store};

/// The hosts of one daemon.
pub struct Hosts {
    store: Arc<dyn Store>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    hosts: BTreeMap<String, Host>,
    troubles: Vec<Advice>,
}

impl Hosts {
    /// No host yet; [`restore`](Self::restore) brings back what the store remembers.
    pub fn start(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            state: Mutex::default(),
        }
    }

    /// Takes up the hosts that the store remembers. Those that are there are left as they are; after a start of the
    /// machine all are made anew.
    pub async fn restore(&self) {
        let records = self.store.read::<Host>(Kind::Host).unwrap_or_else(|error| {
            tracing::error!(error = error.message, "hosts cannot be brought back");
            Vec::new()
        });
        let mut state = self.state.lock().await;
        let mut anew = Vec::new();
        for (name, host) in records {
            match bring_back(&host).await {
                Ok(true) => anew.push(host.clone()),
                Ok(false) => {}
                Err(error) => state.troubles.push(lost(&name, &error)),
            }
            state.hosts.insert(name, host);
        }
        for host in anew {
            for link in &host.links {
                if let Err(error) = join(&host.name, link).await {
                    state.troubles.push(lost(&host.name, &error));
                }
            }
        }
    }

    /// What could not be brought back.
    pub async fn troubles(&self) -> Vec<Advice> {
        self.state.lock().await.troubles.clone()
    }

    /// All hosts.
    pub async fn list(&self) -> Vec<Host> {
        self.state.lock().await.hosts.values().cloned().collect()
    }

    /// Makes a host, without links, and remembers it.
    ///
    /// # Errors
    /// `Exists`, `Busy` if a namespace that is not weft's has the name, `Invalid`, or what the kernel refuses; nothing is
    /// left then.
    pub async fn create(&self, name: &str, forward: bool) -> Result<()> {
        let mut state = self.state.lock().await;
        if state.hosts.contains_key(name) {
            return Err(Error::exists("host", name));
        }
        let checked = interface(name)?;
        if edge(name, move || host::exists(&checked)).await? {
            let message =
                format!("there is a network namespace {name} already, which is not weft's");
            return Err(Error::new(ErrorKind::Busy, name, message));
        }
        let host = Host {
            name: name.to_owned(),
            forward,
            links: Vec::new(),
        };
        self.store.put(Kind::Host, name, &host)?;
        if let Err(error) = make(&host).await {
            self.store.remove(Kind::Host, name)?;
            return Err(error);
        }
        state.hosts.insert(name.to_owned(), host);
        Ok(())
    }

    /// Joins a host to another one.
    ///
    /// # Errors
    /// `NotFound`, `Exists` if they are joined, `Invalid`, or what the kernel refuses; nothing has changed then.
    pub async fn join(&self, name: &str, link: &HostLink) -> Result<()> {
        let mut state = self.state.lock().await;
        if !state.hosts.contains_key(&link.to) {
            return Err(Error::not_found("host", &link.to));
        }
        let host = state
            .hosts
            .get_mut(name)
            .ok_or_else(|| Error::not_found("host", name))?;
        if host.links.iter().any(|found| found.to == link.to) {
            return Err(Error::exists("link", &format!("{name}/{}", link.to)));
        }
        join(name, link).await?;
        host.links.push(link.clone());
        self.store.put(Kind::Host, name, &*host)
    }

    /// Takes a host away, with its links.
    ///
    /// # Errors
    /// `NotFound`, or what keeps the namespace from being taken away.
    pub async fn remove(&self, name: &str) -> Result<()> {
        let mut state = self.state.lock().await;
        if !state.hosts.contains_key(name) {
            return Err(Error::not_found("host", name));
        }
        let checked = interface(name)?;
        edge(name, move || host::remove(&checked)).await?;
        state.hosts.remove(name);
        self.store.remove(Kind::Host, name)?;
        for (other, host) in &mut state.hosts {
            let before = host.links.len();
            host.links.retain(|link| link.to != name);
            if host.links.len() < before {
                self.store.put(Kind::Host, other, &*host)?;
            }
        }
        Ok(())
    }
}

/// Makes a host that is not there; tells whether it was not.
async fn bring_back(host: &Host) -> Result<bool> {
    let name = interface(&host.name)?;
    if edge(&host.name, move || host::exists(&name)).await? {
        return Ok(false);
    }
    make(host).await.map(|()| true)
}

async fn make(host: &Host) -> Result<()> {
    let (name, forward) = (interface(&host.name)?, host.forward);
    edge(&host.name, move || host::create(&name, forward)).await
}

async fn join(name: &str, link: &HostLink) -> Result<()> {
    let link = checked(name, link)?;
    edge(name, move || host::join(&link)).await
}

/// The declared link as the edge knows it.
pub(crate) fn checked(from: &str, link: &HostLink) -> Result<host::HostLink> {
    let cidr = |text: &String| {
        text.parse().map_err(|error| {
            let message =
                format!("{text:?} is no address with a prefix, write it as 192.0.2.2/30: {error}");
            Error::new(ErrorKind::Invalid, from, message)
        })
    };
    Ok(host::HostLink {
        from: interface(from)?,
        to: interface(&link.to)?,
        address: cidr(&link.address)?,
        peer: cidr(&link.peer)?,
        routes: link.routes.iter().map(cidr).collect::<Result<_>>()?,
        masquerade: link.masquerade,
    })
}

fn interface(name: &str) -> Result<InterfaceName> {
    crate::attach::check_name("host", name)?;
    InterfaceName::new(name).map_err(|error| from_netio(name, &error))
}

/// Work of the network edge, away from the thread that serves the API.
async fn edge<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> weft_netio::Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    let done = done.map_err(|error| Error::general(ErrorKind::Io, error.to_string()))?;
    done.map_err(|error| from_netio(name, &error))
}

fn lost(name: &str, error: &Error) -> Advice {
    Advice {
        object: format!("host {name}"),
        message: format!("it could not be brought back: {error}"),
        command: None,
    }
}
