//! The machine: verbs only.

use std::net::Ipv4Addr;
use std::time::{Duration, SystemTime};

use weft_wire::machine::{DatagramMachine, Output, Received};

use crate::config::SHORTEST_LEASE;
use crate::pool::{Asker, Pool};
use crate::reply::{self, Answer};
use crate::request::{Asks, Request};
use crate::{Config, ConfigError, Lease, LeaseState};

/// For how long a declined address is given to nobody, in seconds; longer if the lease was.
const QUARANTINE: u64 = 600;
/// A release that comes so soon after the client asked for the address, in seconds, was overtaken on its way and is
/// older than the lease. Such a lease runs out by itself.
const RELEASE_SETTLES: u64 = 3;

/// A DHCP server for one subnet. See the crate for what it promises and [`DatagramMachine`] for how to run it.
#[derive(Debug)]
pub struct Server {
    pool: Pool,
    counters: Counters,
}

/// How often something happened since the server was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Messages that were answered or obeyed.
    pub handled: u64,
    /// Messages that were no requests, were meant for another server or made no sense.
    pub ignored: u64,
    /// Offers.
    pub offers: u64,
    /// Leases given or extended.
    pub acks: u64,
    /// Refusals.
    pub naks: u64,
    /// Clients that found no address left.
    pub exhausted: u64,
    /// Addresses found in use elsewhere.
    pub declined: u64,
}

impl Server {
    /// A server with the leases of an earlier run, as they were stored: the latest record of each address, in any
    /// order. Records of addresses that this configuration does not give are left out.
    pub fn new(
        config: Config,
        leases: impl IntoIterator<Item = Lease>,
    ) -> Result<Self, ConfigError> {
        config.check()?;
        Ok(Self {
            pool: Pool::new(config, leases),
            counters: Counters::default(),
        })
    }

    /// What the server was told.
    pub fn config(&self) -> &Config {
        self.pool.config()
    }

    /// What is remembered of every address that was ever given, by address. [`Lease::is_bound`] says which are held.
    pub fn leases(&self) -> Vec<Lease> {
        let mut leases: Vec<Lease> = self.pool.records().cloned().collect();
        leases.sort_by_key(|lease| lease.address);
        leases
    }

    /// How often something happened.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// What a client's message leads to.
    fn decide(
        &mut self,
        request: &Request,
        now: u64,
        outputs: &mut Vec<Output<Lease>>,
    ) -> Option<()> {
        let asker = Asker {
            client: &request.client,
            mac: request.mac,
        };
        let own = self.config().server.address();
        match request.asks {
            Asks::Discover { requested } => self.discover(request, requested, now, outputs)?,
            Asks::Select { server, .. } if server != own => {
                self.pool.withdraw_offer_to(&request.client);
            }
            Asks::Select { address, .. } | Asks::Reboot { address } | Asks::Extend { address } => {
                if self.pool.is_available(address, asker, now) {
                    self.grant(request, address, now, outputs);
                } else {
                    self.counters.naks += 1;
                    self.answer(Answer::Nak, request, outputs);
                }
            }
            Asks::Decline { server, .. } | Asks::Release { server, .. }
                if server.is_some_and(|server| server != own) =>
            {
                return None;
            }
            Asks::Decline { address, .. } => self.decline(request, address, now, outputs)?,
            Asks::Release { address, .. } => self.release(request, address, now, outputs)?,
            Asks::Inform { address } => {
                let inside = self.config().server.network().hosts().contains(address);
                inside.then(|| self.answer(Answer::Inform { address }, request, outputs))?;
            }
        }
        Some(())
    }

    fn discover(
        &mut self,
        request: &Request,
        requested: Option<Ipv4Addr>,
        now: u64,
        outputs: &mut Vec<Output<Lease>>,
    ) -> Option<()> {
        let asker = Asker {
            client: &request.client,
            mac: request.mac,
        };
        let Some(address) = self.pool.choose(asker, requested, now) else {
            self.counters.exhausted += 1;
            return None;
        };
        self.pool.offer(address, &request.client, now);
        self.counters.offers += 1;
        let lease = self.lease_time(request);
        self.answer(Answer::Offer { address, lease }, request, outputs);
        Some(())
    }

    /// Binds the address to the client, and stores that before the client is told.
    fn grant(
        &mut self,
        request: &Request,
        address: Ipv4Addr,
        now: u64,
        outputs: &mut Vec<Output<Lease>>,
    ) {
        let lease = self.lease_time(request);
        // An earlier ACK may have promised more, and this one may get lost.
        let held = self.held(request, address, now);
        let promised = held.map_or(0, Lease::free_from);
        // One second more than promised: `now` was rounded down.
        let expires = promised.max(now + 1 + lease.as_secs());
        let record = Lease {
            address,
            client: request.client.clone(),
            mac: request.mac,
            hostname: request.hostname.clone(),
            state: LeaseState::Bound {
                renewed: now,
                expires,
            },
        };
        self.pool.withdraw_offer_to(&request.client);
        self.pool.record(record.clone());
        self.counters.acks += 1;
        outputs.push(Output::Store(record));
        self.answer(Answer::Ack { address, lease }, request, outputs);
    }

    fn decline(
        &mut self,
        request: &Request,
        address: Ipv4Addr,
        now: u64,
        outputs: &mut Vec<Output<Lease>>,
    ) -> Option<()> {
        let bound = self.held(request, address, now);
        let offered = self.pool.offered(&request.client) == Some(address);
        if bound.is_none() && !offered {
            return None;
        }
        // Never shorter than the lease: a decline that was overtaken finds the client using the address.
        let until = bound.map_or(0, Lease::free_from).max(now + QUARANTINE);
        self.counters.declined += 1;
        self.change(request, address, LeaseState::Declined { until }, outputs);
        Some(())
    }

    fn release(
        &mut self,
        request: &Request,
        address: Ipv4Addr,
        now: u64,
        outputs: &mut Vec<Output<Lease>>,
    ) -> Option<()> {
        let lease = self.held(request, address, now)?;
        let settled = |renewed| now >= renewed + RELEASE_SETTLES;
        if !matches!(lease.state, LeaseState::Bound { renewed, .. } if settled(renewed)) {
            return None;
        }
        self.change(request, address, LeaseState::Released { at: now }, outputs);
        Some(())
    }

    /// The lease by which the client of `request` holds `address`, if it does.
    fn held(&self, request: &Request, address: Ipv4Addr, now: u64) -> Option<&Lease> {
        self.pool.lease(address).filter(|lease| {
            lease.is_bound(now) && lease.client == request.client && lease.mac == request.mac
        })
    }

    fn change(
        &mut self,
        request: &Request,
        address: Ipv4Addr,
        state: LeaseState,
        outputs: &mut Vec<Output<Lease>>,
    ) {
        let known = self.pool.lease(address);
        let hostname = known.and_then(|lease| lease.hostname.clone());
        let record = Lease {
            address,
            client: request.client.clone(),
            mac: request.mac,
            hostname,
            state,
        };
        self.pool.record(record.clone());
        outputs.push(Output::Store(record));
    }

    fn answer(&self, answer: Answer, request: &Request, outputs: &mut Vec<Output<Lease>>) {
        let reserved = |reservation: &&crate::Reservation| reservation.mac == request.mac;
        let hostname = self
            .config()
            .reservations
            .iter()
            .find(reserved)
            .and_then(|reservation| reservation.hostname.as_deref());
        let transmit = reply::transmit(answer, request, hostname, self.config());
        outputs.push(Output::Send(transmit));
    }

    /// What the client would like, within what the server gives.
    fn lease_time(&self, request: &Request) -> Duration {
        let most = self.config().lease_time;
        request.lease_time.map_or(most, |seconds| {
            Duration::from_secs(seconds.into()).clamp(SHORTEST_LEASE, most)
        })
    }
}

impl DatagramMachine for Server {
    type Change = Lease;

    fn handle(
        &mut self,
        datagram: Received<'_>,
        now: SystemTime,
        outputs: &mut Vec<Output<Lease>>,
    ) {
        let now = seconds(now);
        self.pool.expire_offers(now);
        let handled = Request::parse(datagram.payload)
            .filter(|request| {
                // A relay on another subnet asks for addresses that this server does not have.
                let relay = request.giaddr;
                relay.is_unspecified() || self.config().server.contains(relay)
            })
            .and_then(|request| self.decide(&request, now, outputs));
        match handled {
            Some(()) => self.counters.handled += 1,
            None => self.counters.ignored += 1,
        }
    }

    fn poll_timeout(&self) -> Option<SystemTime> {
        let at = self.pool.next_expiry()?;
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(at))
    }

    fn handle_timeout(&mut self, now: SystemTime, _outputs: &mut Vec<Output<Lease>>) {
        self.pool.expire_offers(seconds(now));
    }
}

/// Whole seconds since 1970, rounded down.
fn seconds(now: SystemTime) -> u64 {
    now.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}
