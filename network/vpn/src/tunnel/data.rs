//! Packets on their way.

use std::net::IpAddr;
use std::sync::Arc;

use super::Tunnel;
use super::jitter;
use crate::indices::Named;
use crate::ip::{IpPacket, padded_length};
use crate::message::{DATA_HEADER, OVERHEAD};
use crate::timing::{REKEY_AFTER_TIME, REKEY_ON_RECEIVE_AFTER};
use crate::{Bytes, Delivery, Endpoint, Now, Output, PeerId, Refusal, Session, Tally};

/// What packets to a peer are sealed with, and where they go.
#[derive(Debug, Clone)]
pub struct Lane {
    /// The keys.
    pub session: Arc<Session>,
    /// Where the peer is.
    pub endpoint: Endpoint,
}

impl Tunnel {
    /// The peer that has `destination`.
    pub fn route(&self, destination: IpAddr) -> Option<PeerId> {
        self.allowed.find(destination)
    }

    /// Whether the peer may send packets from `source`.
    pub fn permits(&self, peer: PeerId, source: IpAddr) -> bool {
        self.allowed.find(source) == Some(peer)
    }

    /// What a batch of packets to the peer can be sealed with now. If there is nothing, [`Tunnel::stage`] the first of
    /// them, which opens a handshake. Tell what was sealed by [`Tunnel::departed`].
    pub fn lane(&self, peer: PeerId, now: Now) -> Option<Lane> {
        let peer = &self.peers[self.slot(peer)?];
        let session = peer.keys.current()?;
        // Among many peers none of this is in the cache, and one wait is less than four.
        peer.state.fetch();
        session.fetch_for_sealing();
        session.may_send(now.monotonic).then(|| {
            Some(Lane {
                session: session.clone(),
                endpoint: peer.state.endpoint?,
            })
        })?
    }

    /// Sends a packet to the peer that has its destination, or keeps it until there is a session.
    pub fn send(
        &mut self,
        packet: &[u8],
        now: Now,
        outputs: &mut Vec<Output>,
    ) -> Result<PeerId, Refusal> {
        let parsed = IpPacket::parse(packet).ok_or(Refusal::NotIp)?;
        let peer = self.route(parsed.destination).ok_or(Refusal::NoRoute)?;
        self.stage(peer, &packet[..parsed.length], now, outputs)?;
        Ok(peer)
    }

    /// Sends a packet to a peer if there is a session with it; otherwise keeps it, within bounds, and opens a
    /// handshake.
    pub fn stage(
        &mut self,
        peer: PeerId,
        packet: &[u8],
        now: Now,
        outputs: &mut Vec<Output>,
    ) -> Result<(), Refusal> {
        let slot = self.slot(peer).ok_or(Refusal::UnknownPeer)?;
        let peer = &mut self.peers[slot];
        if peer.state.endpoint.is_none() {
            return Err(Refusal::NoEndpoint);
        }
        peer.state.staged.push(packet);
        self.flush(slot, now, outputs);
        Ok(())
    }

    /// Notes that messages were sealed with the lane's session and sent.
    pub fn departed(
        &mut self,
        session: &Session,
        tally: Tally,
        now: Now,
        outputs: &mut Vec<Output>,
    ) {
        let Some(slot) = self.slot(session.peer()) else {
            return;
        };
        let peer = &mut self.peers[slot];
        peer.state.sent_bytes += tally.bytes;
        peer.state.timers.sent(now.monotonic);
        if tally.data {
            let entropy = &mut *self.entropy;
            peer.state
                .timers
                .data_sent(|| jitter(entropy), now.monotonic);
        }
        let old = session.is_initiator() && session.age(now.monotonic) >= REKEY_AFTER_TIME;
        if old || session.sent() > self.rekey_after_messages {
            self.want_handshake(slot, now, outputs);
        }
        self.schedule(slot);
    }

    /// The session by which data messages for `receiver` ([`crate::Data::receiver`]) are opened. Tell what was opened
    /// by [`Tunnel::arrived`].
    pub fn incoming(&self, receiver: u32, now: Now) -> Result<Arc<Session>, Refusal> {
        let Some(Named::Session(session)) = self.indices.find(receiver) else {
            return Err(Refusal::UnknownSession);
        };
        session.fetch_for_opening();
        if let Some(slot) = self.slot(session.peer()) {
            self.peers[slot].state.fetch();
        }
        if !session.is_alive(now.monotonic) {
            return Err(Refusal::UnknownSession);
        }
        Ok(session.clone())
    }

    /// Notes that genuine messages of the session came from `from`.
    pub fn arrived(
        &mut self,
        session: &Session,
        tally: Tally,
        from: Endpoint,
        now: Now,
        outputs: &mut Vec<Output>,
    ) {
        let Some(slot) = self.slot(session.peer()) else {
            return;
        };
        self.found(slot, from, outputs);
        let peer = &mut self.peers[slot];
        peer.state.received_bytes += tally.bytes;
        peer.state.timers.received(now.monotonic);
        if tally.data {
            peer.state.timers.data_received(now.monotonic);
        }
        let (confirmed, out) = peer.keys.heard(session.local_index());
        self.indices.remove_all(out);
        if confirmed {
            self.completed(slot, now, outputs);
            self.flush(slot, now, outputs);
        }
        let late = session.is_initiator() && session.age(now.monotonic) >= REKEY_ON_RECEIVE_AFTER;
        let peer = &mut self.peers[slot];
        if late && !peer.state.succession_begun {
            peer.state.succession_begun = true;
            self.want_handshake(slot, now, outputs);
        }
        self.schedule(slot);
    }

    /// Opens one data message.
    pub(super) fn deliver(
        &mut self,
        receiver: u32,
        datagram: &mut [u8],
        from: Endpoint,
        now: Now,
        outputs: &mut Vec<Output>,
    ) -> Result<Option<Delivery>, Refusal> {
        let session = self.incoming(receiver, now)?;
        let range = session.open(datagram)?;
        let tally = Tally {
            bytes: datagram.len() as u64,
            data: !range.is_empty(),
        };
        self.arrived(&session, tally, from, now, outputs);
        if range.is_empty() {
            return Ok(None);
        }
        let parsed = IpPacket::parse(&datagram[range.clone()]).ok_or(Refusal::NotIp)?;
        if !self.permits(session.peer(), parsed.source) {
            return Err(Refusal::NotAllowed);
        }
        Ok(Some(Delivery {
            peer: session.peer(),
            packet: range.start..range.start + parsed.length,
        }))
    }

    /// Sends all that waits for a session, or wants one.
    pub(super) fn flush(&mut self, slot: usize, now: Now, outputs: &mut Vec<Output>) {
        while let Some(lane) = self.lane(self.peers[slot].id, now) {
            let Some(packet) = self.peers[slot].state.staged.pop() else {
                return;
            };
            self.seal(&lane, &packet, now, outputs);
        }
        if !self.peers[slot].state.staged.is_empty() {
            self.want_handshake(slot, now, outputs);
        }
    }

    /// Tells the peer that we are there, by a handshake if there is no session.
    pub(super) fn keep_alive(&mut self, slot: usize, now: Now, outputs: &mut Vec<Output>) {
        match self.lane(self.peers[slot].id, now) {
            Some(lane) => self.seal(&lane, &[], now, outputs),
            None => self.want_handshake(slot, now, outputs),
        }
    }

    fn seal(&mut self, lane: &Lane, packet: &[u8], now: Now, outputs: &mut Vec<Output>) {
        let length = OVERHEAD + padded_length(packet.len(), self.mtu);
        let mut bytes = Bytes::from_elem(0, length);
        bytes[DATA_HEADER..][..packet.len()].copy_from_slice(packet);
        if lane.session.seal(&mut bytes).is_err() {
            return;
        }
        outputs.push(Output::Send {
            to: lane.endpoint,
            bytes,
        });
        let tally = Tally {
            bytes: length as u64,
            data: !packet.is_empty(),
        };
        self.departed(&lane.session, tally, now, outputs);
    }
}
