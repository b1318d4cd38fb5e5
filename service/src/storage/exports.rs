//! Disks that are offered to others: over NBD, or to a VMM as vhost-user-blk.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::Mutex;
use weft_export::nbd;
use weft_uring::{Address, ShardHandle};

use super::disks::{self, Access, Served};
use crate::api::{DiskUse, Error, ErrorKind, Export, ExportAdd, Result};
use crate::attach::backends::{self, Backend};
use crate::paths::fits_a_socket;
use crate::store::{Kind, Store};

/// The exports of one daemon.
pub struct Exports {
    store: Arc<dyn Store>,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    exports: BTreeMap<String, Serving>,
    /// Several exports may share an address; the last one closes it.
    servers: BTreeMap<String, nbd::server::Server>,
}

struct Serving {
    shown: Export,
    vhost: Option<Backend>,
}

/// The user that an export is, to the disks.
pub fn user(name: &str) -> DiskUse {
    DiskUse {
        noun: "export".to_owned(),
        name: name.to_owned(),
    }
}

/// How an export shares its disk: its clients may be many.
pub fn access(request: &ExportAdd) -> Access {
    if request.read_only {
        Access::Reading
    } else {
        Access::Shared
    }
}

/// The name of an export that was given none: its DISK's last part.
pub fn name_of(request: &ExportAdd) -> Result<String> {
    let name = request.name.clone();
    let name = name.unwrap_or_else(|| disks::last_part(&request.disk));
    crate::attach::check_name("export", &name)?;
    Ok(name)
}

/// A disk that another NBD server offers.
///
/// # Errors
/// `Invalid` if the URL is none, `Io` if the server cannot be reached.
pub async fn remote(url: &str, home: ShardHandle) -> Result<Served> {
    let parsed: nbd::client::Url = url.parse().map_err(|error| {
        Error::new(
            ErrorKind::Invalid,
            url,
            format!("{url} names no disk: {error}"),
        )
    })?;
    let connect = move || async move { nbd::client::NbdDevice::connect(&parsed).await };
    let device = Arc::new(crate::shards::on(&home, url, connect).await?);
    Ok(Served {
        device: device.clone(),
        home,
        remote: Some(device),
    })
}

impl Exports {
    /// None yet; see [`records`](Self::records) for those of earlier daemons.
    pub fn start(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            open: Mutex::default(),
        }
    }

    /// The exports that the store remembers.
    ///
    /// # Errors
    /// `Io` or `Corrupt`.
    pub fn records(&self) -> Result<Vec<ExportAdd>> {
        let records = self.store.read(Kind::Export)?;
        Ok(records.into_iter().map(|(_, record)| record).collect())
    }

    /// All exports.
    pub async fn list(&self) -> Vec<Export> {
        self.open
            .lock()
            .await
            .exports
            .values()
            .map(|export| export.shown.clone())
            .collect()
    }

    /// Whether an export of that name is there.
    pub async fn has(&self, name: &str) -> bool {
        self.open.lock().await.exports.contains_key(name)
    }

    /// Offers `disk`, and remembers it.
    ///
    /// # Errors
    /// `Exists`, `Invalid` (the address), `Busy` (the address is taken), `Io`.
    pub async fn add(&self, request: &ExportAdd, disk: Served) -> Result<Export> {
        let name = name_of(request)?;
        let mut open = self.open.lock().await;
        if open.exports.contains_key(&name) {
            return Err(Error::exists("export", &name));
        }
        let serving = match (&request.nbd, &request.vhost) {
            (Some(address), None) => open.add_nbd(&name, address, request, disk).await?,
            (None, Some(socket)) => vhost(&name, socket, request, disk).await?,
            _ => {
                let message = format!("export {name} needs one address: nbd or vhost");
                return Err(Error::new(ErrorKind::Invalid, &name, message));
            }
        };
        let shown = serving.shown.clone();
        let record = ExportAdd {
            name: Some(name.clone()),
            ..request.clone()
        };
        open.exports.insert(name.clone(), serving);
        self.store.put(Kind::Export, &name, &record)?;
        Ok(shown)
    }

    /// Closes an export: its clients' requests in flight are finished.
    ///
    /// # Errors
    /// `NotFound`, or `Io` if the store cannot be written.
    pub async fn remove(&self, name: &str) -> Result<Export> {
        let mut open = self.open.lock().await;
        let serving = open
            .exports
            .remove(name)
            .ok_or_else(|| Error::not_found("export", name))?;
        let shown = serving.shown.clone();
        open.shut(name, serving).await;
        self.store.remove(Kind::Export, name)?;
        Ok(shown)
    }

    /// The disk that exports know as `from` is `to` from now on.
    ///
    /// # Errors
    /// `Io` if the store cannot be written; all know it by its old name then.
    pub async fn rename_disk(&self, from: &str, to: &str) -> Result<()> {
        let mut open = self.open.lock().await;
        let mut changed = Vec::new();
        for (name, record) in self.store.read::<ExportAdd>(Kind::Export)? {
            if disks::key(&record.disk) == from {
                let disk = to.to_owned();
                let record = ExportAdd { disk, ..record };
                let value = serde_json::to_value(record);
                let value = value.map_err(|error| {
                    Error::new(ErrorKind::Io, &name, format!("export {name}: {error}"))
                })?;
                changed.push((name, value));
            }
        }
        self.store.set_all(Kind::Export, &changed)?;
        for export in open.exports.values_mut() {
            if disks::key(&export.shown.disk) == from {
                export.shown.disk = to.to_owned();
            }
        }
        Ok(())
    }

    /// Closes all; the next daemon opens them again.
    pub async fn close(&self) {
        let mut open = self.open.lock().await;
        for (name, serving) in std::mem::take(&mut open.exports) {
            open.shut(&name, serving).await;
        }
    }
}

impl Open {
    async fn add_nbd(
        &mut self,
        name: &str,
        address: &str,
        request: &ExportAdd,
        disk: Served,
    ) -> Result<Serving> {
        let parsed: Address = address.parse().map_err(|error| {
            let message = format!("{address:?} is no address, use unix:PATH or HOST:PORT: {error}");
            Error::new(ErrorKind::Invalid, name, message)
        })?;
        if let Address::Unix(path) = &parsed {
            fits_a_socket(path)?;
        }
        let failed = |error: weft_block::Error| Error::from_block(name, &error);
        if !self.servers.contains_key(address) {
            let server = nbd::server::Server::start(&disk.home, &[parsed])
                .await
                .map_err(failed)?;
            self.servers.insert(address.to_owned(), server);
        }
        let server = &self.servers[address];
        let bound = server.addresses().first().cloned();
        let mut export = nbd::server::Export::new(disk.device);
        export.read_only |= request.read_only;
        if let Err(error) = server.add(name, export).await {
            self.close_if_unused(address).await;
            return Err(failed(error));
        }
        let url = match bound {
            Some(Address::Tcp(socket)) => format!("nbd://{socket}/{name}"),
            Some(Address::Unix(path)) => {
                format!("nbd+unix:///{name}?socket={}", path.display())
            }
            None => format!("nbd:{name}"),
        };
        let shown = shown(name, request, "nbd", address, url);
        Ok(Serving { shown, vhost: None })
    }

    async fn shut(&mut self, name: &str, serving: Serving) {
        if let Some(backend) = serving.vhost {
            return backend.close().await;
        }
        let address = serving.shown.address;
        if let Some(server) = self.servers.get(&address)
            && let Err(error) = server.remove(name).await
        {
            tracing::warn!(export = name, error = error.sentence(), "closed uncleanly");
        }
        self.close_if_unused(&address).await;
    }

    async fn close_if_unused(&mut self, address: &str) {
        let used = self
            .exports
            .values()
            .any(|export| export.shown.address == address);
        if !used && let Some(server) = self.servers.remove(address) {
            server.shutdown().await;
        }
    }
}

async fn vhost(name: &str, socket: &str, request: &ExportAdd, disk: Served) -> Result<Serving> {
    fits_a_socket(Path::new(socket))?;
    let read_only = request.read_only;
    let port = backends::Port::Disk {
        served: disk,
        serial: name.to_owned(),
        queues: 1,
        read_only,
    };
    let backend = Backend::serve(port, Path::new(socket)).await?;
    let address = format!("unix:{socket}");
    let shown = shown(name, request, "vhost-user-blk", &address, address.clone());
    Ok(Serving {
        shown,
        vhost: Some(backend),
    })
}

fn shown(name: &str, request: &ExportAdd, protocol: &str, address: &str, url: String) -> Export {
    Export {
        name: name.to_owned(),
        disk: request.disk.clone(),
        protocol: protocol.to_owned(),
        address: address.to_owned(),
        read_only: request.read_only,
        url,
    }
}
