//! A tunnel that runs: its interface, its datapath's thread, and the socket on which `wg` finds it.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use weft_netio::Namespace;
use weft_netio::link::Links;
use weft_netio::plan::{self, Plan, TunnelSpec};
use weft_tunnel::{Device, Tun, Uapi, entropy};
use weft_vpn::uapi::{AllowedChange, DeviceChange, PeerChange};
use weft_vpn::{HandshakeSecrets, PeerStatus, PublicKey, Tunnel};

use super::declared::{Declared, Peer, Record};
use super::secrets::Secrets;
use crate::api::{Advice, Error, ErrorKind, PeerAdd, PeerState, Result, Vpn, VpnPeer, VpnState};
use crate::network::from_netio;

/// For how long packets move after a handshake (whitepaper, 6.1: reject after 180 seconds).
const SESSION: Duration = Duration::from_secs(180);
/// How long a first handshake may take before somebody should look.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long a command waits for the address of a name; it is looked up again in the background.
const LOOK_UP: Duration = Duration::from_secs(5);

pub(super) struct Running {
    pub(super) record: Record,
    spec: TunnelSpec,
    device: Arc<Device>,
    /// Kept while it runs.
    uapi: Option<Uapi>,
    /// The namespace of its interface, if it is another.
    inside: Option<Namespace>,
    /// Since when each peer is known.
    since: HashMap<PublicKey, Instant>,
    /// Endpoints whose names could not be looked up yet.
    unresolved: Vec<(PublicKey, String)>,
}

impl Running {
    /// Makes the interface and starts to move packets. If something fails, nothing is left.
    ///
    /// # Errors
    /// `Exists` or `Foreign` for a name that is taken, `Busy` for a port that is, `NotFound` without a namespace or a
    /// key log's folder, `Permission` without the right to make interfaces.
    pub(super) async fn start(record: Record, secrets: &Secrets) -> Result<Self> {
        let request = &record.tunnel;
        let name = request.name.clone();
        let failed = |error: weft_netio::Error| from_netio(&name, &error);
        let declared = Declared::of(request)?;
        let spec = declared.spec;
        let open = |name: &Option<String>| name.as_deref().map(Namespace::open_named).transpose();
        let inside = open(&request.netns).map_err(failed)?;
        let outside = open(&request.socket_netns).map_err(failed)?;

        let mut machine = Tunnel::new(entropy());
        machine.set_mtu(spec.mtu as usize);
        if let Some(file) = &request.key_log {
            machine.set_key_log(Some(Box::new(key_log(&name, file)?)));
        }
        let tun = within(inside.as_ref(), || Tun::create(&spec.interface)).map_err(failed)?;
        let port = request.listen.or(record.port).unwrap_or(0);
        let device = within(outside.as_ref(), || {
            Device::start(machine, Box::new(tun), port)
        })
        .map_err(failed)?;
        let device = Arc::new(device);
        device
            .set_mark(request.fwmark.unwrap_or(0))
            .map_err(failed)?;
        let private_key = secrets.private_or_new(&name)?;
        device.with(|machine, now, outputs| {
            let change = DeviceChange {
                private_key: Some(Some(private_key)),
                ..DeviceChange::default()
            };
            machine.apply(change, now, outputs);
        });
        let mut running = Self {
            spec,
            device,
            uapi: None,
            inside,
            since: HashMap::new(),
            unresolved: Vec::new(),
            record,
        };
        for peer in &declared.peers {
            running.take_peer(peer, secrets).await?;
        }
        running
            .perform(|links, spec| async move {
                let mtu = links.expect(spec.interface.as_str()).await?.mtu;
                plan::tunnel(&spec, mtu).apply(&links).await
            })
            .await?;
        running.uapi = running.listen()?;
        running.record.port = Some(running.device.port());
        Ok(running)
    }

    /// The socket of `wg`; none where its folder cannot be had, which a user without root has no right to.
    fn listen(&self) -> Result<Option<Uapi>> {
        match Uapi::listen(&self.spec.interface, &self.device) {
            Ok(uapi) => Ok(Some(uapi)),
            Err(error) if error.kind() == weft_netio::ErrorKind::Denied => {
                tracing::warn!("wg does not see this tunnel: {}", error.sentence());
                Ok(None)
            }
            Err(error) => Err(from_netio(&self.record.tunnel.name, &error)),
        }
    }

    /// Works on the links of the interface's namespace.
    async fn perform<F>(&self, work: impl FnOnce(Links, TunnelSpec) -> F) -> Result<()>
    where
        F: Future<Output = weft_netio::Result<()>>,
    {
        let failed = |error: weft_netio::Error| from_netio(&self.record.tunnel.name, &error);
        let runtime = tokio::runtime::Handle::current();
        let links = within(self.inside.as_ref(), || {
            let _runtime = runtime.enter();
            Links::open()
        })
        .map_err(failed)?;
        work(links, self.spec.clone()).await.map_err(failed)
    }

    /// Lets the machine know a peer. An endpoint whose name nobody knows now is tried again later.
    async fn take_peer(&mut self, peer: &Peer, secrets: &Secrets) -> Result<()> {
        let mut change = PeerChange::new(peer.public);
        change.preshared_key = Some(secrets.preshared(&self.record.tunnel.name, &peer.public)?);
        change.replace_allowed_ips = true;
        change.allowed_ips = peer
            .allowed
            .iter()
            .copied()
            .map(AllowedChange::Add)
            .collect();
        change.persistent_keepalive = Some(peer.keepalive);
        if let Some(endpoint) = &peer.endpoint {
            change.endpoint = look_up(endpoint).await.first().copied();
            if change.endpoint.is_none() {
                self.unresolved.push((peer.public, endpoint.clone()));
            }
        }
        self.since.insert(peer.public, Instant::now());
        self.change(change);
        Ok(())
    }

    fn change(&self, change: PeerChange) {
        let change = DeviceChange {
            peers: vec![change],
            ..DeviceChange::default()
        };
        self.device
            .with(|machine, now, outputs| machine.apply(change, now, outputs));
    }

    /// Changes the peers to those of `record`. If the routes cannot be had, nothing has changed.
    ///
    /// # Errors
    /// What keeps the routes from being made.
    pub(super) async fn set_peers(&mut self, record: Record, secrets: &Secrets) -> Result<()> {
        let before = Declared::of(&self.record.tunnel)?;
        let after = Declared::of(&record.tunnel)?;
        let plan: Plan = plan::reroute(&before.spec, &after.spec);
        self.perform(|links, _| async move { plan.apply(&links).await })
            .await?;
        let had = |peers: &[Peer], key: PublicKey| peers.iter().any(|peer| peer.public == key);
        for gone in &before.peers {
            if !had(&after.peers, gone.public) {
                let mut change = PeerChange::new(gone.public);
                change.remove = true;
                self.change(change);
                self.since.remove(&gone.public);
                self.unresolved.retain(|(key, _)| *key != gone.public);
            }
        }
        self.record.tunnel = record.tunnel;
        self.spec = after.spec;
        for come in &after.peers {
            if !had(&before.peers, come.public) {
                self.take_peer(come, secrets).await?;
            }
        }
        Ok(())
    }

    /// Peers whose names are to be looked up: nobody has known them, or the peer does not answer where it was.
    pub(super) fn to_look_up(&self) -> Vec<(PublicKey, String)> {
        let declared = self.record.tunnel.peers.iter();
        let mut names: Vec<_> = declared.filter_map(named_endpoint).collect();
        if !names.is_empty() {
            let unanswered = self.unanswered();
            names.retain(|(key, _)| unanswered.contains_key(key));
        }
        let known = |(key, _): &&(PublicKey, String)| !names.iter().any(|(other, _)| other == key);
        let unresolved: Vec<_> = self.unresolved.iter().filter(known).cloned().collect();
        names.extend(unresolved);
        names
    }

    /// Where each of the peers is, as far as is known, that do not answer.
    fn unanswered(&self) -> HashMap<PublicKey, Option<SocketAddr>> {
        self.device.see(|machine| {
            let peers = machine.peers().filter(|peer| peer.unanswered);
            let place = |peer: PeerStatus<'_>| {
                let remote = peer.endpoint.map(|endpoint| endpoint.remote);
                (peer.public_key, remote)
            };
            peers.map(place).collect()
        })
    }

    /// Tells the addresses that the name of one of them has now. A peer that answers meanwhile, or is tried at one of
    /// them, is left where it is.
    pub(super) fn resolve(&mut self, key: PublicKey, found: &[SocketAddr]) {
        let Some(&first) = found.first() else { return };
        let before = self.unresolved.len();
        self.unresolved.retain(|(unresolved, _)| *unresolved != key);
        let is_new = self.unresolved.len() < before;
        let lost = self.unanswered().get(&key).copied();
        let moved = lost.is_some_and(|at| at.is_none_or(|at| !found.contains(&at)));
        if is_new || moved {
            let mut change = PeerChange::new(key);
            change.update_only = true;
            change.endpoint = Some(first);
            self.change(change);
        }
    }

    /// The interface.
    pub(super) fn spec(&self) -> &TunnelSpec {
        &self.spec
    }

    pub(super) fn describe(&self) -> Vpn {
        let request = &self.record.tunnel;
        let (public_key, mtu, mut peers) = self.device.with(|machine, _, _| {
            let peers: Vec<VpnPeer> = machine.peers().map(|peer| self.peer(&peer)).collect();
            let public_key = machine.public_key().map(|key| key.to_string());
            (public_key.unwrap_or_default(), machine.mtu(), peers)
        });
        let place = |peer: &VpnPeer| {
            let declared = request.peers.iter();
            let mut keys = declared.map(|declared| declared.key.as_deref());
            keys.position(|key| key == Some(peer.public_key.as_str()))
                .unwrap_or(usize::MAX)
        };
        peers.sort_by_key(|peer| (place(peer), peer.public_key.clone()));
        Vpn {
            name: request.name.clone(),
            public_key,
            addresses: request.addresses.clone(),
            listen_port: self.device.port(),
            mtu: mtu as u32,
            fwmark: self.device.mark(),
            routes: !request.no_routes,
            netns: request.netns.clone(),
            socket_netns: request.socket_netns.clone(),
            net: request.net.clone(),
            nat: request.nat,
            key_log: request.key_log.clone(),
            uapi: self
                .uapi
                .as_ref()
                .map(|_| Uapi::path(&self.spec.interface).display().to_string()),
            state: match self.device.is_gone() {
                true => VpnState::Down,
                false => VpnState::Up,
            },
            peers,
        }
    }

    fn peer(&self, peer: &PeerStatus<'_>) -> VpnPeer {
        let public_key = peer.public_key.to_string();
        let declared = &self.record.tunnel.peers;
        let declared = declared
            .iter()
            .find(|declared| declared.key.as_deref() == Some(public_key.as_str()));
        let told = |at: SystemTime| OffsetDateTime::from(at).format(&Rfc3339).ok();
        VpnPeer {
            name: declared.and_then(|declared| declared.name.clone()),
            endpoint: declared.and_then(|declared| declared.endpoint.clone()),
            address: peer.endpoint.map(|endpoint| endpoint.remote.to_string()),
            allowed: peer.allowed_ips.iter().map(ToString::to_string).collect(),
            keepalive_seconds: peer.persistent_keepalive,
            preshared: peer.preshared_key.is_some(),
            state: self.state(peer),
            last_handshake: peer.last_handshake.and_then(told),
            received_bytes: peer.received_bytes,
            sent_bytes: peer.sent_bytes,
            public_key,
        }
    }

    fn state(&self, peer: &PeerStatus<'_>) -> PeerState {
        let elapsed = |at: SystemTime| at.elapsed().unwrap_or(Duration::ZERO);
        if peer.last_handshake.is_some_and(|at| elapsed(at) < SESSION) {
            return PeerState::Up;
        }
        // A keepalive that goes out opens a handshake, so one is owed; without it silence is no trouble.
        let named = self
            .unresolved
            .iter()
            .any(|(key, _)| *key == peer.public_key);
        if peer.persistent_keepalive == 0 || (peer.endpoint.is_none() && !named) {
            return PeerState::Idle;
        }
        let young = |since: &Instant| since.elapsed() < PATIENCE;
        match self.since.get(&peer.public_key).is_some_and(young) {
            true => PeerState::Connecting,
            false => PeerState::Silent,
        }
    }
}

/// What to do about a tunnel.
pub(super) fn advice(vpn: &Vpn) -> Vec<Advice> {
    let object = format!("vpn {}", vpn.name);
    if vpn.state == VpnState::Down {
        return vec![Advice {
            object,
            message: "somebody took its interface away, and nothing moves; make it again"
                .to_owned(),
            command: Some(format!("weft vpn remove {}", vpn.name)),
        }];
    }
    let silent = |peer: &&VpnPeer| peer.state == PeerState::Silent;
    let tell = |peer: &VpnPeer| {
        let who = peer.name.as_deref().unwrap_or(&peer.public_key);
        let at = peer.address.as_ref().or(peer.endpoint.as_ref());
        let at = at.map_or(String::new(), |at| format!(" at {at}"));
        let since = match &peer.last_handshake {
            Some(at) => format!("since the handshake of {at}"),
            None => "to any handshake".to_owned(),
        };
        Advice {
            object: object.clone(),
            message: format!(
                "peer {who}{at} does not answer {since}: see that it runs, that UDP gets there, and that it knows \
                 this tunnel's key {}",
                vpn.public_key
            ),
            command: Some(format!("weft vpn show {}", vpn.name)),
        }
    };
    vpn.peers.iter().filter(silent).map(tell).collect()
}

/// Runs `work` in a namespace, or here.
fn within<T: Send>(
    namespace: Option<&Namespace>,
    work: impl FnOnce() -> weft_netio::Result<T> + Send,
) -> weft_netio::Result<T> {
    match namespace {
        Some(namespace) => namespace.run(work)?,
        None => work(),
    }
}

/// The addresses of `HOST:PORT`, those that are known soon.
pub(super) async fn look_up(endpoint: &str) -> Vec<SocketAddr> {
    let found = tokio::net::lookup_host(endpoint);
    match tokio::time::timeout(LOOK_UP, found).await {
        Ok(Ok(found)) => found.collect(),
        _ => Vec::new(),
    }
}

/// A declared peer that is somewhere by name.
fn named_endpoint(peer: &PeerAdd) -> Option<(PublicKey, String)> {
    let key = peer.key.as_deref()?.parse().ok()?;
    let endpoint = peer.endpoint.clone()?;
    let is_name = endpoint.parse::<SocketAddr>().is_err();
    is_name.then_some((key, endpoint))
}

/// Writes each handshake's secrets to the end of `file`, which is its owner's alone.
fn key_log(tunnel: &str, file: &str) -> Result<impl FnMut(&HandshakeSecrets<'_>) + Send + use<>> {
    let opened = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(file)
        .and_then(|opened| {
            opened.set_permissions(std::fs::Permissions::from_mode(0o600))?;
            Ok(opened)
        });
    let mut opened = opened.map_err(|error| {
        let tried = format!("the key log {file} of tunnel {tunnel} cannot be opened");
        Error::from_io(file, &tried, &error)
    })?;
    tracing::warn!(tunnel, file, "the secrets of its handshakes are logged");
    let tunnel = tunnel.to_owned();
    Ok(move |secrets: &HandshakeSecrets<'_>| {
        if let Err(error) = opened.write_all(secrets.expose_lines().as_bytes()) {
            tracing::warn!(tunnel, "a handshake's secrets cannot be logged: {error}");
        }
    })
}

/// A tunnel that is not there.
pub(super) fn not_found(name: &str) -> Error {
    Error::not_found("tunnel", name)
}

/// Something that stands in the way of a change.
pub(super) fn in_use(name: &str, message: String) -> Error {
    Error::new(ErrorKind::InUse, name, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vpn(state: VpnState, peer: PeerState) -> Vpn {
        let peer = VpnPeer {
            name: Some("b".into()),
            public_key: "KEY-B".into(),
            endpoint: Some("site-b:7".into()),
            address: None,
            allowed: Vec::new(),
            keepalive_seconds: 25,
            preshared: false,
            state: peer,
            last_handshake: None,
            received_bytes: 0,
            sent_bytes: 0,
        };
        Vpn {
            name: "wg0".into(),
            public_key: "KEY-A".into(),
            addresses: Vec::new(),
            listen_port: 7,
            mtu: 1420,
            fwmark: 0,
            routes: true,
            netns: None,
            socket_netns: None,
            net: None,
            nat: false,
            key_log: None,
            uapi: None,
            state,
            peers: vec![peer],
        }
    }

    #[test]
    fn a_peer_that_owes_an_answer_is_told_of_and_one_that_is_silent_by_choice_is_not() {
        for quiet in [PeerState::Up, PeerState::Idle, PeerState::Connecting] {
            assert_eq!(advice(&vpn(VpnState::Up, quiet)), []);
        }
        let told = advice(&vpn(VpnState::Up, PeerState::Silent));
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].object, "vpn wg0");
        for word in ["peer b at site-b:7", "to any handshake", "KEY-A"] {
            assert!(told[0].message.contains(word), "{}", told[0].message);
        }
        let down = advice(&vpn(VpnState::Down, PeerState::Up));
        assert!(down[0].message.contains("interface"));
    }
}
