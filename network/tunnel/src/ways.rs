//! Whether peers are still to be reached from where their datagrams came in.
//!
//! A peer is answered from the address that it has asked. That is right until the host's routing leads elsewhere: when
//! a better link comes, the old one and its address often stay, and all that leaves from there goes the old way or
//! nowhere. So a way that the routing has led is left with it, at once. One that it has never led was chosen by the
//! peer (it has asked an address behind a link that is not our way to it), and is kept.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use weft_netio::Result;
use weft_netio::routes::{Journey, Routes};
use weft_netio::udp::Source;

/// The most ways that are remembered: those of some thousand peers. One more, and all are asked for anew.
const MOST_KNOWN: usize = 8192;

/// The ways of one pair of ports.
#[derive(Debug)]
pub(crate) struct Ways {
    routes: Routes,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// How often the host's routing has changed.
    changes: u64,
    /// Whether it leads to a peer from this source, and as of which change that is known.
    leads: HashMap<(SocketAddr, Source), (bool, u64)>,
    /// The interfaces by which it leads to a peer, or has.
    led: HashSet<(SocketAddr, u32)>,
}

impl Ways {
    /// Of the calling thread's network namespace.
    pub(crate) fn open() -> Result<Self> {
        Ok(Self {
            routes: Routes::open()?,
            known: Mutex::default(),
        })
    }

    /// Notes it if the routing has changed.
    pub(crate) fn look(&self) {
        if self.routes.have_changed() {
            self.doubt();
        }
    }

    /// Asks for all anew.
    pub(crate) fn doubt(&self) {
        self.known().changes += 1;
    }

    /// Whether a datagram that may leave from `source` is to do so.
    pub(crate) fn keeps(&self, source: Source, port: u16, mark: u32, to: SocketAddr) -> bool {
        let mut known = self.known();
        let asked = known.leads.get(&(to, source)).copied();
        let leads = match asked.filter(|&(_, change)| change == known.changes) {
            Some((leads, _)) => leads,
            None => {
                let journey = Journey {
                    to,
                    from: source.ip,
                    port,
                    mark,
                };
                let Ok(interface) = self.routes.interface(&journey) else {
                    return true;
                };
                known.note(to, source, interface)
            }
        };
        leads || !known.led.contains(&(to, source.interface))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsFd for Ways {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.routes.as_fd()
    }
}

impl Known {
    /// Notes by which interface a datagram from `source` would leave, and tells whether it is the source's.
    fn note(&mut self, to: SocketAddr, source: Source, interface: Option<u32>) -> bool {
        if self.leads.len().max(self.led.len()) >= MOST_KNOWN {
            self.leads.clear();
            self.led.clear();
        }
        self.led.extend(interface.map(|interface| (to, interface)));
        let leads = interface == Some(source.interface);
        self.leads.insert((to, source), (leads, self.changes));
        leads
    }
}
