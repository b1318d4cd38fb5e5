//! The two UDP ports of a tunnel, one for each IP version.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};

use weft_netio::udp::{IpVersion, Source, UdpPort};
use weft_netio::{Error, ErrorKind, Result};
use weft_vpn::{Endpoint, LocalAddress};

use crate::ways::Ways;

/// How often a free port is looked for that both versions have.
const ATTEMPTS: usize = 10;

#[derive(Debug)]
pub(crate) struct Ports {
    pub(crate) v4: Option<UdpPort>,
    pub(crate) v6: Option<UdpPort>,
    /// None where the host does not tell its routes.
    pub(crate) ways: Option<Ways>,
    mark: AtomicU32,
}

impl Ports {
    /// Opens the port for both versions, or for the one that the host has.
    pub(crate) fn open(port: u16) -> Result<Self> {
        let mut last = None;
        for _ in 0..ATTEMPTS {
            let v4 = missing_is_none(UdpPort::open(IpVersion::V4, port))?;
            let same = v4.as_ref().map_or(port, UdpPort::port);
            match UdpPort::open(IpVersion::V6, same) {
                Err(e) if e.kind() == ErrorKind::Busy && port == 0 => last = Some(e),
                v6 => {
                    let v6 = missing_is_none(v6)?;
                    return Ok(Self {
                        v4,
                        v6,
                        ways: ways(),
                        mark: AtomicU32::new(0),
                    });
                }
            }
        }
        Err(last.unwrap_or_else(|| Error::new(ErrorKind::Busy, "no UDP port is free")))
    }

    /// The number of the port.
    pub(crate) fn number(&self) -> u16 {
        let any = self.v4.as_ref().or(self.v6.as_ref());
        any.map_or(0, UdpPort::port)
    }

    pub(crate) fn set_mark(&self, mark: u32) -> Result<()> {
        let mut all = self.v4.iter().chain(&self.v6);
        all.try_for_each(|port| port.set_mark(mark))?;
        self.mark.store(mark, Ordering::Relaxed);
        self.ways.iter().for_each(Ways::doubt);
        Ok(())
    }

    /// Sends datagrams of `segment` bytes, from the address that the peer has reached us at for as long as the host's
    /// routes lead that way.
    pub(crate) fn send(&self, bytes: &[u8], segment: usize, to: &Endpoint) -> io::Result<()> {
        let source = to.local.map(source);
        let source = source.filter(|&source| self.keeps(source, to.remote));
        self.send_from(source, bytes, segment, to.remote)
    }

    /// Sends one datagram from the very address that was asked: an answer to whoever it is, who is not remembered.
    pub(crate) fn answer(&self, bytes: &[u8], to: &Endpoint) -> io::Result<()> {
        self.send_from(to.local.map(source), bytes, bytes.len(), to.remote)
    }

    fn keeps(&self, source: Source, to: SocketAddr) -> bool {
        let mark = self.mark.load(Ordering::Relaxed);
        let mut ways = self.ways.iter();
        ways.all(|ways| ways.keeps(source, self.number(), mark, to))
    }

    fn send_from(
        &self,
        from: Option<Source>,
        bytes: &[u8],
        segment: usize,
        to: SocketAddr,
    ) -> io::Result<()> {
        let mut all = self.v4.iter().chain(&self.v6);
        let port = all
            .find(|port| port.reaches(&to))
            .ok_or(io::ErrorKind::Unsupported)?;
        port.send(bytes, segment, to, from)
    }
}

fn ways() -> Option<Ways> {
    let opened = Ways::open();
    let told = |e: &Error| tracing::debug!("a tunnel does not see routes change: {}", e.sentence());
    opened.inspect_err(told).ok()
}

fn source(local: LocalAddress) -> Source {
    Source {
        ip: local.ip,
        interface: local.interface,
    }
}

/// The endpoint that datagrams came from.
pub(crate) fn endpoint(arrival: &weft_netio::udp::Arrival) -> Endpoint {
    Endpoint {
        remote: arrival.from,
        local: arrival.to.map(|to| LocalAddress {
            ip: to.ip,
            interface: to.interface,
        }),
    }
}

fn missing_is_none(port: Result<UdpPort>) -> Result<Option<UdpPort>> {
    match port {
        Ok(port) => Ok(Some(port)),
        Err(e) if e.kind() == ErrorKind::Unsupported => Ok(None),
        Err(e) => Err(e),
    }
}
