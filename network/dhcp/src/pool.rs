//! Which address is whose, and which comes next.
//!
//! Every address that may be given is in one of these places:
//! - `unused`: nobody has ever had it, and it is not offered;
//! - `remembered`: it has a record (bound, released, expired or declined) and is not offered. It is ordered by the
//!   instant from which others may have it, so the one that has been free for longest comes first;
//! - `offers`: offered to a client that has not taken it yet. Offers are hints: they are lost with a restart, and when
//!   nothing else is left the oldest makes way;
//! - reserved for a station: in none of these, only in the records.

use std::collections::{BTreeSet, HashMap};
use std::net::Ipv4Addr;

use weft_wire::MacAddress;

use crate::config::Config;
use crate::{ClientId, Lease, LeaseState};

/// For how long an offer is kept for its client, in seconds.
const OFFER_TIME: u64 = 60;

/// Who asks for an address.
#[derive(Clone, Copy)]
pub(crate) struct Asker<'a> {
    pub(crate) client: &'a ClientId,
    pub(crate) mac: MacAddress,
}

#[derive(Debug)]
struct Offer {
    client: ClientId,
    until: u64,
}

#[derive(Debug)]
pub(crate) struct Pool {
    config: Config,
    /// The station for which an address is reserved, and the other way around.
    station_of: HashMap<Ipv4Addr, MacAddress>,
    reserved_for: HashMap<MacAddress, Ipv4Addr>,
    records: HashMap<Ipv4Addr, Lease>,
    /// The address of a client's latest record.
    address_of: HashMap<ClientId, Ipv4Addr>,
    unused: BTreeSet<Ipv4Addr>,
    remembered: BTreeSet<(u64, Ipv4Addr)>,
    offers: HashMap<Ipv4Addr, Offer>,
    offer_of: HashMap<ClientId, Ipv4Addr>,
    offer_order: BTreeSet<(u64, Ipv4Addr)>,
}

impl Pool {
    /// A pool with the records of an earlier run. Those of addresses that this configuration does not give are left
    /// out.
    pub(crate) fn new(config: Config, records: impl IntoIterator<Item = Lease>) -> Self {
        let station_of: HashMap<_, _> = config
            .reservations
            .iter()
            .map(|reservation| (reservation.address, reservation.mac))
            .collect();
        let reserved_for = station_of.iter().map(|(&ip, &mac)| (mac, ip)).collect();
        let unused = config
            .range
            .iter()
            .filter(|&address| config.may_be_given(address) && !station_of.contains_key(&address))
            .collect();
        let mut pool = Self {
            config,
            station_of,
            reserved_for,
            records: HashMap::new(),
            address_of: HashMap::new(),
            unused,
            remembered: BTreeSet::new(),
            offers: HashMap::new(),
            offer_of: HashMap::new(),
            offer_order: BTreeSet::new(),
        };
        let mut records: Vec<Lease> = records.into_iter().collect();
        // A client's latest record is the one it is known by, so that goes in last.
        records.sort_by_key(|lease| (lease.free_from(), lease.address));
        for lease in records {
            if pool.gives(lease.address) {
                pool.record(lease);
            }
        }
        pool
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    pub(crate) fn records(&self) -> impl Iterator<Item = &Lease> {
        self.records.values()
    }

    pub(crate) fn lease(&self, address: Ipv4Addr) -> Option<&Lease> {
        self.records.get(&address)
    }

    /// Whether this configuration gives the address to anybody.
    fn gives(&self, address: Ipv4Addr) -> bool {
        self.station_of.contains_key(&address)
            || (self.config.range.contains(address) && self.config.may_be_given(address))
    }

    /// Whether the asker may have this address now.
    pub(crate) fn is_available(&self, address: Ipv4Addr, asker: Asker<'_>, now: u64) -> bool {
        let reserved = self.station_of.get(&address);
        if !self.gives(address) || reserved.is_some_and(|&mac| mac != asker.mac) {
            return false;
        }
        let Some(record) = self.records.get(&address) else {
            return true;
        };
        if !record.blocks(now) {
            return true;
        }
        // A reserved address is the station's, under whatever identity it starts next (firmware, then a system). On
        // the other hand copies of one guest may share an identity: while one holds an address, another station does
        // not get it.
        let same = record.client == *asker.client || reserved.is_some();
        record.is_bound(now) && record.mac == asker.mac && same
    }

    /// The address for a client that asks for any, best first: the one reserved for it, the one it has or had, the one
    /// it was offered, the one it would like, one nobody had, the one free for longest, the one offered longest ago.
    pub(crate) fn choose(
        &self,
        asker: Asker<'_>,
        requested: Option<Ipv4Addr>,
        now: u64,
    ) -> Option<Ipv4Addr> {
        let available = |address: &Ipv4Addr| self.is_available(*address, asker, now);
        let free = |address: &Ipv4Addr| available(address) && !self.offers.contains_key(address);
        let own = |address: &Ipv4Addr| {
            let elsewhere = |offer: &Offer| offer.client != *asker.client;
            available(address) && !self.offers.get(address).is_some_and(elsewhere)
        };
        None.or_else(|| self.reserved_for.get(&asker.mac).copied().filter(available))
            .or_else(|| self.address_of.get(asker.client).copied().filter(own))
            .or_else(|| self.offer_of.get(asker.client).copied().filter(available))
            .or_else(|| requested.filter(free))
            .or_else(|| self.unused_for(asker.client))
            .or_else(|| self.free_for_longest(now))
            .or_else(|| self.offer_order.first().map(|&(_, address)| address))
    }

    /// The first unused address at or behind the one that the client's identity points to, around the end.
    fn unused_for(&self, client: &ClientId) -> Option<Ipv4Addr> {
        let start = self.config.range.nth_wrapping(client.hash());
        self.unused
            .range(start..)
            .next()
            .or_else(|| self.unused.first())
            .copied()
    }

    fn free_for_longest(&self, now: u64) -> Option<Ipv4Addr> {
        self.remembered
            .first()
            .filter(|&&(free_from, _)| free_from <= now)
            .map(|&(_, address)| address)
    }

    /// Keeps `address` for the client for a minute. What it was offered before is free again.
    pub(crate) fn offer(&mut self, address: Ipv4Addr, client: &ClientId, now: u64) {
        self.withdraw_offer_to(client);
        self.withdraw_offer_of(address);
        let held = self
            .records
            .get(&address)
            .is_some_and(|lease| lease.blocks(now));
        if held || self.station_of.contains_key(&address) {
            return; // Nobody else can get it anyway.
        }
        self.unused.remove(&address);
        if let Some(record) = self.records.get(&address) {
            self.remembered.remove(&(record.free_from(), address));
        }
        let until = now + OFFER_TIME;
        self.offer_order.insert((until, address));
        self.offer_of.insert(client.clone(), address);
        let client = client.clone();
        self.offers.insert(address, Offer { client, until });
    }

    /// The address that the client was offered and has not taken.
    pub(crate) fn offered(&self, client: &ClientId) -> Option<Ipv4Addr> {
        self.offer_of.get(client).copied()
    }

    /// Frees what was offered to the client, if anything.
    pub(crate) fn withdraw_offer_to(&mut self, client: &ClientId) {
        if let Some(&address) = self.offer_of.get(client) {
            self.withdraw_offer_of(address);
        }
    }

    fn withdraw_offer_of(&mut self, address: Ipv4Addr) {
        let Some(offer) = self.offers.remove(&address) else {
            return;
        };
        self.offer_of.remove(&offer.client);
        self.offer_order.remove(&(offer.until, address));
        self.put_back(address);
    }

    /// Puts an address that is not offered where it belongs.
    fn put_back(&mut self, address: Ipv4Addr) {
        if self.station_of.contains_key(&address) {
            return;
        }
        match self.records.get(&address) {
            Some(record) => {
                self.remembered.insert((record.free_from(), address));
            }
            None => {
                self.unused.insert(address);
            }
        }
    }

    /// Replaces what is remembered of an address; an offer of it ends.
    pub(crate) fn record(&mut self, lease: Lease) {
        let address = lease.address;
        self.withdraw_offer_of(address);
        self.unused.remove(&address);
        if let Some(old) = self.records.remove(&address) {
            self.remembered.remove(&(old.free_from(), address));
            if self.address_of.get(&old.client) == Some(&address) {
                self.address_of.remove(&old.client);
            }
        }
        if !matches!(lease.state, LeaseState::Declined { .. }) {
            self.address_of.insert(lease.client.clone(), address);
        }
        self.records.insert(address, lease);
        self.put_back(address);
    }

    /// When the oldest offer ends.
    pub(crate) fn next_expiry(&self) -> Option<u64> {
        self.offer_order.first().map(|&(until, _)| until)
    }

    /// Ends the offers that were not taken in time.
    pub(crate) fn expire_offers(&mut self, now: u64) {
        while let Some(&(until, address)) = self.offer_order.first()
            && until <= now
        {
            self.withdraw_offer_of(address);
        }
    }

    /// How many entries its tables hold, for tests of its bounds.
    #[cfg(test)]
    pub(crate) fn entries(&self) -> usize {
        self.records.len()
            + self.address_of.len()
            + self.unused.len()
            + self.remembered.len()
            + self.offers.len()
            + self.offer_of.len()
            + self.offer_order.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(addresses: u8) -> Pool {
        let range = format!("10.0.0.2-10.0.0.{}", addresses + 1);
        let config = Config::new(
            "10.0.0.1/24".parse().expect("a subnet"),
            range.parse().expect("a range"),
        );
        Pool::new(config, [])
    }

    #[test]
    fn a_flood_of_made_up_clients_is_bounded_and_keeps_nobody_out() {
        let mut pool = pool(100);
        let mut most = 0;
        for n in 0..20_000_u32 {
            let [a, b, c, d] = n.to_be_bytes();
            let mac = MacAddress([2, 0, a, b, c, d]);
            let client = ClientId::of_mac(mac);
            let asker = Asker {
                client: &client,
                mac,
            };
            let address = pool.choose(asker, None, 1000).expect("offers make way");
            pool.offer(address, &client, 1000);
            most = most.max(pool.entries());
        }
        assert!(most <= 7 * 100, "{most}");
        assert_eq!(pool.offers.len(), 100);
        pool.expire_offers(1000 + OFFER_TIME);
        assert_eq!((pool.offers.len(), pool.unused.len()), (0, 100));
        assert_eq!(pool.next_expiry(), None);
    }
}
