//! The shape of a machine that answers datagrams on a link: DHCP now, DNS and others later.
//!
//! The machine decides and never waits: it takes a datagram and the time, and gives outputs. Who runs it owns the
//! sockets and the store, keeps the order of the outputs, and lets nothing pass a [`Output::Store`] until that is
//! durable: what was promised to a client on the wire is never forgotten.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::SystemTime;

use crate::MacAddress;

/// A datagram that arrived, without what the edge needs to know for itself.
#[derive(Debug, Clone, Copy)]
pub struct Received<'a> {
    /// Who sent it.
    pub source: SocketAddrV4,
    /// The address that it was sent to, which may be a broadcast.
    pub destination: Ipv4Addr,
    /// What it says.
    pub payload: &'a [u8],
}

/// Whom a datagram is for, below the network layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkTarget {
    /// A station, whether or not it answers ARP for the address yet (DHCP replies, RFC 2131 4.1).
    Station(MacAddress),
    /// Every station of the link.
    Everyone,
    /// Whoever has the address, found by the host's routing and ARP.
    Routed,
}

/// A datagram to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transmit {
    /// The port that it is sent from; the address is the host's on the link.
    pub source_port: u16,
    /// Where it goes.
    pub destination: SocketAddrV4,
    /// Whom it is for on the link.
    pub link: LinkTarget,
    /// What it says.
    pub payload: Vec<u8>,
}

/// What a machine wants done, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output<C> {
    /// A change of state to be made durable before any later output happens.
    Store(C),
    /// A datagram to send. It may be lost, as any may.
    Send(Transmit),
}

/// A machine that answers datagrams.
pub trait DatagramMachine {
    /// A change of the state that survives a restart.
    type Change;

    /// Takes a datagram and appends what follows from it.
    fn handle(
        &mut self,
        datagram: Received<'_>,
        now: SystemTime,
        outputs: &mut Vec<Output<Self::Change>>,
    );

    /// When [`DatagramMachine::handle_timeout`] is to be called next, if ever. An instant in the past means at once.
    fn poll_timeout(&self) -> Option<SystemTime>;

    /// Does what time alone brings about.
    fn handle_timeout(&mut self, now: SystemTime, outputs: &mut Vec<Output<Self::Change>>);
}
