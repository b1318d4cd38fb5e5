//! WireGuard tunnels: those that the daemon keeps, and [`run`], which serves one as a program of its own.
//!
//! The store is the truth but for secrets, which are files of their owner's alone in the state folder. A tunnel's
//! interface lives as long as the daemon does: it goes with it, however the daemon ends, and so nothing leaves the host
//! unsealed by a route that is left; the next daemon makes it again, with the port that it had. Sessions are lost then,
//! and WireGuard opens others by itself.

mod declared;
mod quick;
mod run;
mod running;
mod secrets;

pub use run::{generate_key, run};

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use weft_netio::TunnelWay;
use weft_vpn::{PresharedKey, PrivateKey, PublicKey};

use super::Networks;
use crate::api::{
    Advice, Error, ErrorKind, PeerAdd, Result, Vpn, VpnCreate, VpnExport, VpnExported, VpnImport,
    VpnImported,
};
use crate::store::{Kind, Store};
use declared::{Declared, Record};
use running::{Running, advice, in_use, look_up, not_found};
use secrets::{Secrets, read_key};

/// How often names are looked up again of peers that nobody knew, or that do not answer.
const LOOK_UP_AGAIN: Duration = Duration::from_secs(15);
/// How long to wait for what a killed daemon had.
const LET_GO: Duration = Duration::from_secs(3);
const LET_GO_POLL: Duration = Duration::from_millis(20);

/// The tunnels of one daemon.
pub struct Tunnels {
    store: Arc<dyn Store>,
    secrets: Secrets,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    tunnels: BTreeMap<String, Running>,
    /// What could not be brought back, and why.
    lost: BTreeMap<String, String>,
}

impl Tunnels {
    /// No tunnel yet; [`restore`](Self::restore) brings back what the store remembers.
    pub fn start(store: Arc<dyn Store>, secrets: PathBuf) -> Self {
        Self {
            store,
            secrets: Secrets::in_folder(secrets),
            state: Mutex::default(),
        }
    }

    /// Makes the tunnels that the store remembers. What cannot be made is a trouble that `status` shows.
    pub async fn restore(&self, networks: &Networks) {
        let records = self
            .store
            .read::<Record>(Kind::Vpn)
            .unwrap_or_else(|error| {
                tracing::error!(error = error.message, "tunnels cannot be brought back");
                Vec::new()
            });
        let mut state = self.state.lock().await;
        for (name, record) in records {
            match self.make_again(record, networks).await {
                Ok(running) => drop(state.tunnels.insert(name, running)),
                Err(error) => drop(state.lost.insert(name, error.message)),
            }
        }
    }

    /// Looks up names again that nobody knew, or whose peers do not answer where they were, for as long as it is awaited.
    pub async fn keep(&self) {
        loop {
            tokio::time::sleep(LOOK_UP_AGAIN).await;
            let wanted: Vec<_> = {
                let state = self.state.lock().await;
                let of =
                    |(name, running): (&String, &Running)| (name.clone(), running.to_look_up());
                state.tunnels.iter().map(of).collect()
            };
            // Others may look at tunnels meanwhile: a name server takes its time.
            for (name, peers) in wanted {
                for (key, endpoint) in peers {
                    let found = look_up(&endpoint).await;
                    let mut state = self.state.lock().await;
                    if let Some(running) = state.tunnels.get_mut(&name) {
                        running.resolve(key, &found);
                    }
                }
            }
        }
    }

    /// Makes a tunnel that an earlier daemon had. One that was killed holds the interface and the port until the kernel
    /// has closed all that it had open, which may be after its lock is free.
    async fn make_again(&self, record: Record, networks: &Networks) -> Result<Running> {
        let deadline = Instant::now() + LET_GO;
        loop {
            let error = match self.make(record.clone(), networks).await {
                Ok(running) => return Ok(running),
                Err(error) => error,
            };
            let taken = [ErrorKind::Busy, ErrorKind::Foreign, ErrorKind::Exists];
            if !taken.contains(&error.kind) || Instant::now() > deadline {
                return Err(error);
            }
            tokio::time::sleep(LET_GO_POLL).await;
        }
    }

    /// Starts a tunnel and joins it to its network.
    async fn make(&self, record: Record, networks: &Networks) -> Result<Running> {
        let running = Running::start(record, &self.secrets).await?;
        let request = &running.record.tunnel;
        if let Some(net) = &request.net {
            let way = TunnelWay {
                interface: running.spec().interface.clone(),
                masquerade: request.nat,
            };
            networks.open_way(net, way).await?;
        }
        Ok(running)
    }

    /// Makes a tunnel and remembers it.
    ///
    /// # Errors
    /// `Exists`, `Invalid`, `NotFound`, `Busy` (the port), or what the kernel refuses; nothing is left then.
    pub async fn create(&self, request: &VpnCreate, networks: &Networks) -> Result<Vpn> {
        let private = match &request.key_file {
            Some(file) => Some(read_key(Path::new(file))?),
            None => None,
        };
        self.create_with(request, private, Vec::new(), networks)
            .await
    }

    /// As [`create`](Self::create), with secrets that are known already.
    async fn create_with(
        &self,
        request: &VpnCreate,
        private: Option<PrivateKey>,
        preshared: Vec<(PublicKey, PresharedKey)>,
        networks: &Networks,
    ) -> Result<Vpn> {
        crate::attach::check_name("tunnel", &request.name)?;
        let name = &request.name;
        let mut state = self.state.lock().await;
        if state.tunnels.contains_key(name) {
            return Err(Error::exists("tunnel", name));
        }
        if let Some(net) = &request.net {
            networks.show(net).await?;
        }
        let made = async {
            if let Some(private) = &private {
                self.secrets.set_private(name, private)?;
            }
            for (peer, key) in &preshared {
                self.secrets.set_preshared(name, peer, key)?;
            }
            let record = Record {
                tunnel: self.without_secrets(request)?,
                port: None,
            };
            Declared::of(&record.tunnel)?;
            let running = self.make(record, networks).await?;
            let kept = self.store.put(Kind::Vpn, name, &running.record);
            if let Err(error) = kept {
                self.leave_network(&running, networks).await?;
                return Err(error);
            }
            Ok(running)
        };
        match made.await {
            Ok(running) => {
                let shown = running.describe();
                state.lost.remove(name);
                state.tunnels.insert(name.clone(), running);
                Ok(shown)
            }
            Err(error) => {
                // A tunnel that could not be brought back keeps its key.
                if !state.lost.contains_key(name) {
                    self.secrets.forget(name)?;
                }
                Err(error)
            }
        }
    }

    /// What the store keeps of a request. Secrets of peers go into files.
    fn without_secrets(&self, request: &VpnCreate) -> Result<VpnCreate> {
        let peers = request.peers.iter();
        let peers = peers.map(|peer| self.peer_without_secrets(&request.name, peer));
        Ok(VpnCreate {
            key_file: None,
            peers: peers.collect::<Result<_>>()?,
            ..request.clone()
        })
    }

    fn peer_without_secrets(&self, tunnel: &str, peer: &PeerAdd) -> Result<PeerAdd> {
        let public = match (&peer.key, &peer.tunnel) {
            (Some(key), None) => key.parse().map_err(|error| {
                let message = format!("tunnel {tunnel}: peer {key}: {error}");
                Error::new(ErrorKind::Invalid, tunnel, message)
            })?,
            (None, Some(other)) => self.secrets.private_or_new(other)?.public(),
            (None, None) => self.secrets.new_peer(tunnel)?,
            (Some(_), Some(_)) => {
                let message = format!("tunnel {tunnel}: a peer has a key or is a tunnel, not both");
                return Err(Error::new(ErrorKind::Invalid, tunnel, message));
            }
        };
        if let Some(file) = &peer.psk_file {
            let key = read_key(Path::new(file))?;
            self.secrets.set_preshared(tunnel, &public, &key)?;
        }
        Ok(PeerAdd {
            key: Some(public.to_string()),
            tunnel: None,
            psk_file: None,
            ..peer.clone()
        })
    }

    /// Gives a tunnel that is about to be made its key, so that others can have it as a peer.
    ///
    /// # Errors
    /// As for [`create`](Self::create).
    pub fn prepare_key(&self, tunnel: &str, key_file: Option<&str>) -> Result<()> {
        crate::attach::check_name("tunnel", tunnel)?;
        match key_file {
            Some(file) => {
                let key = read_key(Path::new(file))?;
                self.secrets.set_private(tunnel, &key)
            }
            None => self.secrets.private_or_new(tunnel).map(drop),
        }
    }

    /// Takes a tunnel away, with its keys.
    ///
    /// # Errors
    /// `NotFound`, or `InUse` if a network is stretched through it.
    pub async fn remove(&self, name: &str, networks: &Networks) -> Result<()> {
        let mut state = self.state.lock().await;
        if let Some(net) = networks.stretched_through(name).await {
            let message = format!(
                "network {net} is stretched through tunnel {name}; first: weft net unstretch {net}"
            );
            return Err(in_use(name, message));
        }
        let known = state.tunnels.contains_key(name) || state.lost.contains_key(name);
        if !known {
            return Err(not_found(name));
        }
        self.store.remove(Kind::Vpn, name)?;
        state.lost.remove(name);
        if let Some(running) = state.tunnels.remove(name) {
            self.leave_network(&running, networks).await?;
        }
        self.secrets.forget(name)
    }

    async fn leave_network(&self, running: &Running, networks: &Networks) -> Result<()> {
        match &running.record.tunnel.net {
            Some(net) => networks.close_way(net, &running.spec().interface).await,
            None => Ok(()),
        }
    }

    /// Gives a tunnel a peer.
    ///
    /// # Errors
    /// `NotFound`, `Exists`, `Invalid`, or what keeps its routes from being made; nothing has changed then.
    pub async fn add_peer(&self, name: &str, peer: &PeerAdd) -> Result<Vpn> {
        let mut state = self.state.lock().await;
        let running = state.tunnels.get_mut(name).ok_or_else(|| not_found(name))?;
        let taken = |known: &PeerAdd| {
            (known.key.is_some() && known.key == peer.key)
                || (known.name.is_some() && known.name == peer.name)
        };
        if running.record.tunnel.peers.iter().any(taken) {
            let who = peer.name.as_ref().or(peer.key.as_ref());
            return Err(Error::exists("peer", who.map_or("", |who| who)));
        }
        let peer = self.peer_without_secrets(name, peer)?;
        let key = peer.key.clone().unwrap_or_default();
        let mut record = running.record.clone();
        record.tunnel.peers.push(peer);
        let changed = self.change(running, record).await;
        if changed.is_err()
            && let Ok(public) = key.parse()
        {
            self.secrets.forget_peer(name, &public);
        }
        changed
    }

    /// Takes a peer, by its name or key, from a tunnel.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn remove_peer(&self, name: &str, peer: &str) -> Result<Vpn> {
        let mut state = self.state.lock().await;
        let running = state.tunnels.get_mut(name).ok_or_else(|| not_found(name))?;
        let mut record = running.record.clone();
        let place = place_of(&record, peer)?;
        let gone = record.tunnel.peers.remove(place);
        let shown = self.change(running, record).await?;
        if let Some(Ok(public)) = gone.key.map(|key| key.parse()) {
            self.secrets.forget_peer(name, &public);
        }
        Ok(shown)
    }

    /// Changes a tunnel's peers, first where it can fail.
    async fn change(&self, running: &mut Running, record: Record) -> Result<Vpn> {
        let before = running.record.clone();
        Declared::of(&record.tunnel)?;
        running.set_peers(record, &self.secrets).await?;
        let name = running.record.tunnel.name.clone();
        if let Err(error) = self.store.put(Kind::Vpn, &name, &running.record) {
            running.set_peers(before, &self.secrets).await?;
            return Err(error);
        }
        Ok(running.describe())
    }

    /// All tunnels that run.
    pub async fn list(&self) -> Vec<Vpn> {
        let state = self.state.lock().await;
        state.tunnels.values().map(Running::describe).collect()
    }

    /// The names of all tunnels, also of those that could not be brought back.
    pub async fn names(&self) -> BTreeSet<String> {
        let state = self.state.lock().await;
        let names = state.tunnels.keys().chain(state.lost.keys());
        names.cloned().collect()
    }

    /// One tunnel.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn show(&self, name: &str) -> Result<Vpn> {
        let state = self.state.lock().await;
        let running = state.tunnels.get(name).ok_or_else(|| not_found(name))?;
        Ok(running.describe())
    }

    /// What to do about tunnels, some of which are `shown`.
    pub async fn troubles(&self, shown: &[Vpn]) -> Vec<Advice> {
        let state = self.state.lock().await;
        let lost = state.lost.iter().map(|(name, why)| Advice {
            object: format!("vpn {name}"),
            message: format!("it could not be brought back: {why}"),
            command: Some(format!("weft vpn remove {name}")),
        });
        lost.chain(shown.iter().flat_map(advice)).collect()
    }

    /// Makes a tunnel of a wg-quick file.
    ///
    /// # Errors
    /// `Invalid` with the line that cannot be taken, and as for [`create`](Self::create).
    pub async fn import(&self, request: &VpnImport, networks: &Networks) -> Result<VpnImported> {
        let file = quick::read(request)?;
        let vpn = self
            .create_with(&file.request, file.private, file.preshared, networks)
            .await?;
        let left_out = file.left_out;
        Ok(VpnImported { vpn, left_out })
    }

    /// The wg-quick file of a peer.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn export(
        &self,
        name: &str,
        request: &VpnExport,
        networks: &Networks,
    ) -> Result<VpnExported> {
        let state = self.state.lock().await;
        let running = state.tunnels.get(name).ok_or_else(|| not_found(name))?;
        let place = place_of(&running.record, &request.peer)?;
        let subnet = match &running.record.tunnel.net {
            Some(net) if !running.record.tunnel.nat => Some(networks.show(net).await?.subnet),
            _ => None,
        };
        quick::write(running, place, request, subnet.as_deref(), &self.secrets)
    }

    /// Ends all tunnels; the next daemon makes them again.
    pub async fn close(&self) {
        self.state.lock().await.tunnels.clear();
    }
}

/// Which peer is meant by its name or its key.
fn place_of(record: &Record, peer: &str) -> Result<usize> {
    let named =
        |known: &PeerAdd| known.name.as_deref() == Some(peer) || known.key.as_deref() == Some(peer);
    let peers = &record.tunnel.peers;
    peers
        .iter()
        .position(named)
        .ok_or_else(|| Error::not_found("peer", peer))
}
