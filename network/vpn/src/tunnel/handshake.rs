//! Handshakes: opened, answered, finished; and cookies.

use std::net::SocketAddr;
use std::sync::Arc;

use smallvec::SmallVec;

use super::{Identity, Tunnel, jitter};
use crate::cookie::Proof;
use crate::entropy::draw_secret;
use crate::indices::Named;
use crate::message::{CookieReply, Initiation, Macs, Response};
use crate::noise::{self, Accepted};
use crate::peer::Pending;
use crate::tai64n::Timestamp;
use crate::timing::{BETWEEN_INITIATIONS, REKEY_TIMEOUT};
use crate::{Endpoint, Event, HandshakeSecrets, Now, Output, PrivateKey, Refusal, Session};

impl Tunnel {
    /// Opens a handshake, unless a message of one has left within [`REKEY_TIMEOUT`].
    pub(super) fn want_handshake(&mut self, slot: usize, now: Now, outputs: &mut Vec<Output>) {
        let peer = &mut self.peers[slot];
        let recently = |at| now.monotonic.saturating_sub(at) < REKEY_TIMEOUT;
        if !peer.state.handshake_sent.is_some_and(recently) {
            peer.state.timers.handshake_wanted();
            self.open_handshake(slot, now, outputs);
        }
    }

    /// Sends an initiation, if it is known where to. One that was not answered yet is given up.
    pub(super) fn open_handshake(&mut self, slot: usize, now: Now, outputs: &mut Vec<Output>) {
        let Some(identity) = &self.identity else {
            return;
        };
        let peer = &mut self.peers[slot];
        let Some(to) = peer.state.endpoint else {
            return;
        };
        let entropy = &mut *self.entropy;
        let timestamp = Timestamp::after(peer.state.sent_timestamp, now.wall);
        let ephemeral = draw_secret(entropy);
        if let Some(log) = &mut self.key_log {
            log.handshake(&HandshakeSecrets {
                local: &identity.private,
                remote: &peer.state.public,
                ephemeral: &PrivateKey::new(*ephemeral),
                preshared: &peer.state.psk,
            });
        }
        let opened = noise::open(&identity.private, &peer.state.public, ephemeral, timestamp);
        let Some((opened, noise)) = opened else {
            return;
        };
        if let Some(pending) = peer.state.pending.take() {
            self.indices.remove(pending.index);
        }
        let index = self.indices.add(entropy, |_| Named::Handshake(peer.id));
        let mut message = Initiation::emit(index, &noise);
        peer.state.jar.sign(&mut message, now.monotonic);
        peer.state.pending = Some(Pending { index, opened });
        peer.state.sent_timestamp = Some(timestamp);
        peer.state.handshake_sent = Some(now.monotonic);
        peer.state.sent_bytes += message.len() as u64;
        peer.state.timers.sent(now.monotonic);
        peer.state
            .timers
            .initiation_sent(jitter(entropy), now.monotonic);
        outputs.push(Output::Send {
            to,
            bytes: message.into(),
        });
        self.schedule(slot);
    }

    /// Answers an initiation.
    pub(super) fn answer(
        &mut self,
        initiation: &Initiation<'_>,
        from: Endpoint,
        now: Now,
        outputs: &mut Vec<Output>,
    ) -> Result<(), Refusal> {
        self.admit(initiation.sender(), initiation.macs(), from, now, outputs)?;
        let identity = self.identity.as_ref().ok_or(Refusal::NoPrivateKey)?;
        let ephemeral = draw_secret(&mut *self.entropy);
        let logged = self.key_log.is_some().then(|| ephemeral.clone());
        let accepted = noise::accept(&identity.private, ephemeral, initiation.noise())
            .ok_or(Refusal::Forged)?;
        let slot = self
            .peer(&accepted.peer)
            .and_then(|id| self.slot(id))
            .ok_or(Refusal::UnknownPeer)?;
        let peer = &mut self.peers[slot];
        let too_soon = |at| now.monotonic.saturating_sub(at) < BETWEEN_INITIATIONS;
        let is_old = peer
            .state
            .seen_timestamp
            .is_some_and(|seen| accepted.timestamp <= seen);
        if is_old || peer.state.initiation_taken.is_some_and(too_soon) {
            return Err(Refusal::Stale);
        }
        if let (Some(log), Some(ephemeral)) = (&mut self.key_log, logged) {
            log.handshake(&HandshakeSecrets {
                local: &identity.private,
                remote: &peer.state.public,
                ephemeral: &PrivateKey::new(*ephemeral),
                preshared: &peer.state.psk,
            });
        }
        peer.state.seen_timestamp = Some(accepted.timestamp);
        peer.state.initiation_taken = Some(now.monotonic);
        peer.state.received_bytes += crate::message::INITIATION as u64;
        self.respond(slot, accepted, initiation.sender(), from, now, outputs)
    }

    /// Sends the answer to an initiation that is genuine and new.
    fn respond(
        &mut self,
        slot: usize,
        accepted: Accepted,
        remote: u32,
        from: Endpoint,
        now: Now,
        outputs: &mut Vec<Output>,
    ) -> Result<(), Refusal> {
        let peer = &mut self.peers[slot];
        let (noise, keys) = accepted.answer(&peer.state.psk).ok_or(Refusal::Forged)?;
        let mut made = None;
        let local = self.indices.add(&mut *self.entropy, |local| {
            let session = Session::new(peer.id, local, remote, false, &keys, now.monotonic);
            let session = Arc::new(session);
            made = Some(session.clone());
            Named::Session(session)
        });
        self.indices
            .remove_all(made.into_iter().flat_map(|made| peer.keys.answered(made)));
        let mut message = Response::emit(local, remote, &noise);
        peer.state.jar.sign(&mut message, now.monotonic);
        peer.state.handshake_sent = Some(now.monotonic);
        peer.state.sent_bytes += message.len() as u64;
        peer.state.timers.session_made(now.monotonic);
        peer.state.timers.received(now.monotonic);
        peer.state.timers.sent(now.monotonic);
        self.found(slot, from, outputs);
        outputs.push(Output::Send {
            to: from,
            bytes: SmallVec::from_slice(&message),
        });
        self.schedule(slot);
        Ok(())
    }

    /// Takes the answer to a handshake of ours.
    pub(super) fn finish(
        &mut self,
        response: &Response<'_>,
        from: Endpoint,
        now: Now,
        outputs: &mut Vec<Output>,
    ) -> Result<(), Refusal> {
        self.admit(response.sender(), response.macs(), from, now, outputs)?;
        let index = response.receiver();
        let Some(&Named::Handshake(id)) = self.indices.find(index) else {
            return Err(Refusal::UnknownSession);
        };
        let slot = self.slot(id).ok_or(Refusal::UnknownSession)?;
        let peer = &mut self.peers[slot];
        let pending = peer.state.pending.as_mut().ok_or(Refusal::UnknownSession)?;
        let keys = pending
            .opened
            .finish(&peer.state.psk, response.noise())
            .ok_or(Refusal::Forged)?;
        peer.state.pending = None;
        let session = Session::new(id, index, response.sender(), true, &keys, now.monotonic);
        let session = Arc::new(session);
        self.indices.replace(index, session.clone());
        self.indices.remove_all(peer.keys.confirmed(session));
        peer.state.received_bytes += crate::message::RESPONSE as u64;
        peer.state.timers.session_made(now.monotonic);
        peer.state.timers.received(now.monotonic);
        self.found(slot, from, outputs);
        self.completed(slot, now, outputs);
        // The peer does not send before it has heard us with the new keys.
        if self.peers[slot].state.staged.is_empty() {
            self.keep_alive(slot, now, outputs);
        } else {
            self.flush(slot, now, outputs);
        }
        Ok(())
    }

    /// Both sides have a new session.
    pub(super) fn completed(&mut self, slot: usize, now: Now, outputs: &mut Vec<Output>) {
        let peer = &mut self.peers[slot];
        peer.state.timers.handshake_completed();
        peer.state.succession_begun = false;
        peer.state.last_handshake = Some(now.wall);
        outputs.push(Output::Event(Event::HandshakeCompleted(peer.id)));
    }

    /// Notes where something genuine came from.
    pub(super) fn found(&mut self, slot: usize, from: Endpoint, outputs: &mut Vec<Output>) {
        let peer = &mut self.peers[slot];
        let before = peer.state.endpoint.replace(from);
        if before.is_some_and(|before| before.remote != from.remote) {
            outputs.push(Output::Event(Event::Roamed(peer.id, from.remote)));
        }
    }

    /// Keeps a cookie that answers a handshake message of ours.
    pub(super) fn take_cookie(&mut self, reply: &CookieReply<'_>, now: Now) -> Result<(), Refusal> {
        let id = match self.indices.find(reply.receiver()) {
            Some(Named::Handshake(id)) => *id,
            Some(Named::Session(session)) => session.peer(),
            None => return Err(Refusal::UnknownSession),
        };
        let slot = self.slot(id).ok_or(Refusal::UnknownSession)?;
        let taken = self.peers[slot].state.jar.take(reply, now.monotonic);
        taken.then_some(()).ok_or(Refusal::Forged)
    }

    /// Decides whether a handshake message is worth the work that it makes. Costs two MACs at most.
    fn admit(
        &mut self,
        sender: u32,
        macs: Macs<'_>,
        from: Endpoint,
        now: Now,
        outputs: &mut Vec<Output>,
    ) -> Result<(), Refusal> {
        let remote: SocketAddr = from.remote;
        let identity: &mut Identity = self.identity.as_mut().ok_or(Refusal::NoPrivateKey)?;
        let proof = identity.checker.prove(macs, remote, now.monotonic);
        if proof == Proof::Nothing {
            return Err(Refusal::WrongMac);
        }
        if !self.load.is_high(now.monotonic) {
            return Ok(());
        }
        let entropy = &mut *self.entropy;
        if proof == Proof::Receives {
            let allowed = self.load.allows(remote.ip(), now.monotonic, entropy);
            return allowed.then_some(()).ok_or(Refusal::TooMany);
        }
        let reply = identity
            .checker
            .reply(sender, macs, remote, now.monotonic, entropy);
        outputs.push(Output::Send {
            to: from,
            bytes: SmallVec::from_slice(&reply),
        });
        Err(Refusal::CookieSent)
    }
}
