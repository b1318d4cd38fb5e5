//! What an administrator sees and changes, all of it while packets flow.

use std::collections::HashSet;
use std::time::Duration;

use super::{Identity, Tunnel};
use crate::cookie::Checker;
use crate::peer::Peer;
use crate::uapi::{AllowedChange, DeviceChange, PeerChange};
use crate::{
    Endpoint, Now, Output, PeerId, PeerStatus, Prefix, PresharedKey, PrivateKey, PublicKey,
};

impl Tunnel {
    /// Who we are, if there is a private key.
    pub fn public_key(&self) -> Option<PublicKey> {
        self.identity.as_ref().map(|identity| identity.public)
    }

    /// The private key, if there is one.
    pub fn private_key(&self) -> Option<&PrivateKey> {
        self.identity.as_ref().map(|identity| &identity.private)
    }

    /// Sets who we are, or takes that away. All sessions end, and a peer with the same key is removed.
    pub fn set_private_key(&mut self, private: Option<PrivateKey>) {
        let slots: Vec<usize> = self.peers.iter().map(|(slot, _)| slot).collect();
        for slot in slots {
            self.end_sessions(slot);
        }
        self.identity = private.map(|private| {
            let public = private.public();
            Identity {
                checker: Checker::new(&public),
                private,
                public,
            }
        });
        let own = self.public_key().and_then(|own| self.peer(&own));
        if let Some(own) = own {
            self.remove_peer(own);
        }
    }

    /// Changes what an administrator asks for, but the port and the mark, which are not the machine's.
    pub fn apply(&mut self, change: DeviceChange, now: Now, outputs: &mut Vec<Output>) {
        if let Some(private) = change.private_key {
            let same = match (&private, self.private_key()) {
                (Some(new), Some(old)) => new.expose() == old.expose(),
                (new, old) => new.is_none() && old.is_none(),
            };
            // To say what is so already ends no session.
            if !same {
                self.set_private_key(private);
            }
        }
        if change.replace_peers {
            let named: HashSet<PublicKey> = change.peers.iter().map(|p| p.public_key).collect();
            let gone: Vec<PeerId> = self
                .peers()
                .filter(|peer| !named.contains(&peer.public_key))
                .map(|peer| peer.id)
                .collect();
            gone.into_iter().for_each(|id| self.remove_peer(id));
        }
        for peer in change.peers {
            self.apply_peer(peer, now, outputs);
        }
    }

    fn apply_peer(&mut self, change: PeerChange, now: Now, outputs: &mut Vec<Output>) {
        let known = self.peer(&change.public_key);
        if change.remove {
            if let Some(id) = known {
                self.remove_peer(id);
            }
            return;
        }
        let id = match known {
            None if change.update_only => None,
            None => self.add_peer(change.public_key),
            known => known,
        };
        // Our own key is no peer's, and that is no mistake of the one who sends all keys to all.
        let Some(id) = id else { return };
        if let Some(psk) = change.preshared_key {
            self.set_preshared_key(id, psk);
        }
        if let Some(endpoint) = change.endpoint {
            self.set_endpoint(id, Endpoint::new(endpoint), now, outputs);
        }
        if change.replace_allowed_ips {
            self.disallow_all(id);
        }
        for allowed in change.allowed_ips {
            match allowed {
                AllowedChange::Add(prefix) => self.allow(id, prefix),
                AllowedChange::Remove(prefix) => self.disallow(id, prefix),
            }
        }
        if let Some(seconds) = change.persistent_keepalive {
            self.set_persistent_keepalive(id, seconds, now, outputs);
        }
    }

    /// The largest packet that the interface carries, beyond which nothing is padded; 0 for no bound.
    pub fn mtu(&self) -> usize {
        self.mtu
    }

    /// Changes the MTU.
    pub fn set_mtu(&mut self, mtu: usize) {
        self.mtu = mtu;
    }

    /// The peer with this key.
    pub fn peer(&self, public: &PublicKey) -> Option<PeerId> {
        self.by_key.get(public).copied()
    }

    /// The peer with this key, which is added if there is none. `None` for our own key.
    pub fn add_peer(&mut self, public: PublicKey) -> Option<PeerId> {
        if self.public_key() == Some(public) {
            return None;
        }
        if let Some(id) = self.peer(&public) {
            return Some(id);
        }
        let entry = self.peers.vacant_entry();
        self.generations = self.generations.wrapping_add(1);
        let id = PeerId {
            slot: u32::try_from(entry.key()).ok()?,
            generation: self.generations,
        };
        entry.insert(Peer::new(id, public));
        self.by_key.insert(public, id);
        Some(id)
    }

    /// Removes a peer with all that is known of it.
    pub fn remove_peer(&mut self, id: PeerId) {
        let Some(slot) = self.slot(id) else { return };
        self.disallow_all(id);
        self.end_sessions(slot);
        let mut peer = self.peers.remove(slot);
        self.deadlines.cancel(id, &mut peer.state.scheduled);
        self.by_key.remove(&peer.state.public);
    }

    /// All peers, in no order.
    pub fn peers(&self) -> impl Iterator<Item = PeerStatus<'_>> {
        self.peers.iter().map(|(_, peer)| peer.into())
    }

    /// What is known of a peer.
    pub fn status(&self, id: PeerId) -> Option<PeerStatus<'_>> {
        self.slot(id).map(|slot| (&self.peers[slot]).into())
    }

    /// Changes the secret that the peer and we have besides. The next handshake uses it; sessions go on.
    pub fn set_preshared_key(&mut self, id: PeerId, psk: PresharedKey) {
        if let Some(slot) = self.slot(id) {
            self.peers[slot].state.psk = psk;
        }
    }

    /// Sets where the peer is. It may tell otherwise at any time.
    pub fn set_endpoint(
        &mut self,
        id: PeerId,
        endpoint: Endpoint,
        now: Now,
        outputs: &mut Vec<Output>,
    ) {
        let Some(slot) = self.slot(id) else { return };
        let peer = &mut self.peers[slot];
        let first = peer.state.endpoint.replace(endpoint).is_none();
        if first && peer.state.timers.interval().is_some() {
            self.keep_alive(slot, now, outputs);
        }
    }

    /// Sets how often a keepalive goes to the peer, in seconds; 0 for never. If none did before, one goes at once.
    pub fn set_persistent_keepalive(
        &mut self,
        id: PeerId,
        seconds: u16,
        now: Now,
        outputs: &mut Vec<Output>,
    ) {
        let Some(slot) = self.slot(id) else { return };
        let timers = &mut self.peers[slot].state.timers;
        let interval = (seconds > 0).then(|| Duration::from_secs(seconds.into()));
        let begins = timers.interval().is_none() && interval.is_some();
        timers.set_interval(interval, now.monotonic);
        if begins {
            self.keep_alive(slot, now, outputs);
        }
        self.schedule(slot);
    }

    /// Gives addresses to the peer, from another one if they were its.
    pub fn allow(&mut self, id: PeerId, prefix: Prefix) {
        let Some(slot) = self.slot(id) else { return };
        let before = self.allowed.insert(prefix, id);
        if let Some(before) = before.and_then(|before| self.slot(before)) {
            self.peers[before].state.allowed.remove(&prefix);
        }
        self.peers[slot].state.allowed.insert(prefix);
    }

    /// Takes addresses from the peer, if they are its.
    pub fn disallow(&mut self, id: PeerId, prefix: Prefix) {
        let Some(slot) = self.slot(id) else { return };
        if self.peers[slot].state.allowed.remove(&prefix) {
            self.allowed.remove(prefix);
        }
    }

    /// Takes all addresses from the peer.
    pub fn disallow_all(&mut self, id: PeerId) {
        let Some(slot) = self.slot(id) else { return };
        for prefix in std::mem::take(&mut self.peers[slot].state.allowed) {
            self.allowed.remove(prefix);
        }
    }

    /// Forgets all keys of a peer, of sessions and of handshakes, and what waited for them.
    pub(super) fn end_sessions(&mut self, slot: usize) {
        let peer = &mut self.peers[slot];
        self.indices.remove_all(peer.keys.drain());
        if let Some(pending) = peer.state.pending.take() {
            self.indices.remove(pending.index);
        }
        peer.state.staged.clear();
        peer.state.timers.stop();
        peer.state.handshake_sent = None;
        peer.state.succession_begun = false;
    }
}
