//! What a server is told.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use thiserror::Error;
use weft_wire::{Ipv4Cidr, Ipv4Range, MacAddress};

/// The most addresses in a pool: the bound of a server's memory.
pub const LARGEST_POOL: u64 = 65_536;

/// The shortest time for which a lease is given, whatever a client asks for.
pub(crate) const SHORTEST_LEASE: Duration = Duration::from_secs(60);

/// What a server is told. [`crate::Server::new`] checks it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The server's own address in the subnet that it serves.
    pub server: Ipv4Cidr,
    /// The addresses to give. The server's own, the first and the last of the subnet are left out.
    pub range: Ipv4Range,
    /// For how long an address is given; a client may ask for less, down to a minute.
    pub lease_time: Duration,
    /// The router, usually the server's own address; none in an isolated network.
    pub router: Option<Ipv4Addr>,
    /// Name servers, best first; may be empty.
    pub dns: Vec<Ipv4Addr>,
    /// The domain in which short names are sought.
    pub domain: Option<String>,
    /// The largest packet on the link.
    pub mtu: Option<u16>,
    /// Addresses that are kept for certain stations, inside or outside of the range.
    pub reservations: Vec<Reservation>,
}

/// An address that is kept for one station, whatever identity it sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    /// The station.
    pub mac: MacAddress,
    /// The address it always gets.
    pub address: Ipv4Addr,
    /// The name that it is told to have.
    pub hostname: Option<String>,
}

impl Config {
    /// A server at `server` that is the router of its subnet and gives the addresses of `range` for an hour.
    pub fn new(server: Ipv4Cidr, range: Ipv4Range) -> Self {
        Self {
            server,
            range,
            lease_time: Duration::from_secs(3600),
            router: Some(server.address()),
            dns: Vec::new(),
            domain: None,
            mtu: None,
            reservations: Vec::new(),
        }
    }

    /// The range to give when nobody names one: all hosts of the subnet behind the server's address, or those before
    /// it if there are more of them.
    pub fn default_range(server: Ipv4Cidr) -> Result<Ipv4Range, ConfigError> {
        let hosts = server.hosts();
        let own = server.address().to_bits();
        let behind = Ipv4Range::new(own.saturating_add(1).into(), hosts.last());
        let before = Ipv4Range::new(hosts.first(), own.saturating_sub(1).into());
        let size = |range: &Option<Ipv4Range>| range.map_or(0, Ipv4Range::size);
        let best = if size(&behind) >= size(&before) {
            behind
        } else {
            before
        };
        let range = best.ok_or(ConfigError::TooSmall {
            subnet: server.network(),
        })?;
        let most = LARGEST_POOL.min(range.size());
        Ok(Ipv4Range::new(range.first(), range.nth_wrapping(most - 1)).unwrap_or(range))
    }

    /// Checks all of it; the error is one sentence that names what is wrong.
    pub fn check(&self) -> Result<(), ConfigError> {
        let subnet = self.server.network();
        if subnet.hosts().size() < 2 || !subnet.hosts().contains(self.server.address()) {
            return Err(ConfigError::TooSmall { subnet });
        }
        let Self { range, .. } = *self;
        if !subnet.contains(range.first()) || !subnet.contains(range.last()) {
            return Err(ConfigError::RangeOutside { range, subnet });
        }
        if range.size() > LARGEST_POOL {
            return Err(ConfigError::RangeTooLarge { range });
        }
        if !range.iter().any(|address| self.may_be_given(address)) {
            return Err(ConfigError::TooSmall { subnet });
        }
        if self.lease_time < SHORTEST_LEASE {
            return Err(ConfigError::LeaseTooShort {
                lease: self.lease_time,
            });
        }
        let name_fits = |name: &String| is_domain_name(name);
        if let Some(domain) = self.domain.as_ref().filter(|name| !name_fits(name)) {
            return Err(ConfigError::BadName {
                name: domain.clone(),
            });
        }
        self.check_reservations()
    }

    fn check_reservations(&self) -> Result<(), ConfigError> {
        let (mut stations, mut addresses) = (HashSet::new(), HashSet::new());
        for reservation in &self.reservations {
            let Reservation {
                mac,
                address,
                ref hostname,
            } = *reservation;
            if !self.may_be_given(address) {
                return Err(ConfigError::ReservationOutside {
                    mac,
                    address,
                    subnet: self.server.network(),
                });
            }
            if !stations.insert(mac) || !addresses.insert(address) {
                return Err(ConfigError::ReservedTwice { mac, address });
            }
            if let Some(name) = hostname.as_ref().filter(|name| !is_domain_name(name)) {
                return Err(ConfigError::BadName { name: name.clone() });
            }
        }
        Ok(())
    }

    /// Whether a client may have this address at all.
    pub(crate) fn may_be_given(&self, address: Ipv4Addr) -> bool {
        let subnet = self.server.network();
        subnet.contains(address)
            && subnet.hosts().contains(address)
            && address != self.server.address()
            && self.router != Some(address)
    }
}

/// Whether `name` is made of labels of letters, digits and hyphens (RFC 1123 2.1), of 253 bytes at most.
pub(crate) fn is_domain_name(name: &str) -> bool {
    let label_fits = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    name.len() <= 253 && name.split('.').all(label_fits)
}

/// Why a [`Config`] is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// No room for a gateway and at least one client.
    #[error("subnet {subnet} is too small for a gateway and a DHCP range")]
    TooSmall {
        /// The subnet.
        subnet: Ipv4Cidr,
    },
    /// The range leaves the subnet.
    #[error("DHCP range {range} is outside of the subnet {subnet}")]
    RangeOutside {
        /// The range.
        range: Ipv4Range,
        /// The subnet.
        subnet: Ipv4Cidr,
    },
    /// More addresses than a server takes on.
    #[error("DHCP range {range} has more than {LARGEST_POOL} addresses")]
    RangeTooLarge {
        /// The range.
        range: Ipv4Range,
    },
    /// Shorter than a minute.
    #[error("a lease of {lease:?} is shorter than {SHORTEST_LEASE:?}")]
    LeaseTooShort {
        /// The time.
        lease: Duration,
    },
    /// An address that no client can have.
    #[error("address {address}, reserved for {mac}, is none that a client of {subnet} can have")]
    ReservationOutside {
        /// The station.
        mac: MacAddress,
        /// Its address.
        address: Ipv4Addr,
        /// The subnet.
        subnet: Ipv4Cidr,
    },
    /// Two reservations of one station or address.
    #[error("station {mac} or address {address} is reserved twice")]
    ReservedTwice {
        /// The station of the second.
        mac: MacAddress,
        /// The address of the second.
        address: Ipv4Addr,
    },
    /// A name that is none.
    #[error("{name:?} is no domain or host name")]
    BadName {
        /// The name.
        name: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(server: &str, range: &str) -> Config {
        Config::new(
            server.parse().expect("a subnet"),
            range.parse().expect("a range"),
        )
    }

    #[test]
    fn bad_ones_are_refused_in_a_sentence() {
        let sentence = |config: Config| config.check().unwrap_err().to_string();
        assert_eq!(config("10.0.0.1/24", "10.0.0.2-10.0.0.9").check(), Ok(()));
        assert_eq!(
            sentence(config("10.0.0.1/24", "10.0.0.200-10.0.1.9")),
            "DHCP range 10.0.0.200-10.0.1.9 is outside of the subnet 10.0.0.0/24"
        );
        assert_eq!(
            sentence(config("10.0.0.1/32", "10.0.0.1-10.0.0.1")),
            "subnet 10.0.0.1/32 is too small for a gateway and a DHCP range"
        );
        assert_eq!(
            sentence(config("10.0.0.1/24", "10.0.0.1-10.0.0.1")),
            "subnet 10.0.0.0/24 is too small for a gateway and a DHCP range"
        );
        assert_eq!(
            sentence(config("10.0.0.1/8", "10.0.0.2-10.9.0.0")),
            "DHCP range 10.0.0.2-10.9.0.0 has more than 65536 addresses"
        );
        let mut twice = config("10.0.0.1/24", "10.0.0.2-10.0.0.9");
        let reservation = Reservation {
            mac: MacAddress([2; 6]),
            address: Ipv4Addr::new(10, 0, 0, 5),
            hostname: None,
        };
        twice.reservations = vec![reservation.clone(), reservation];
        assert_eq!(
            sentence(twice.clone()),
            "station 02:02:02:02:02:02 or address 10.0.0.5 is reserved twice"
        );
        twice.reservations.truncate(1);
        twice.reservations[0].address = Ipv4Addr::new(10, 0, 0, 1);
        assert!(sentence(twice).contains("is none that a client of 10.0.0.0/24 can have"));
        let mut named = config("10.0.0.1/24", "10.0.0.2-10.0.0.9");
        named.domain = Some("lab..example".into());
        assert_eq!(
            sentence(named),
            "\"lab..example\" is no domain or host name"
        );
    }

    #[test]
    fn a_range_follows_from_the_subnet() {
        let range = |server: &str| Config::default_range(server.parse().unwrap());
        assert_eq!(
            range("10.0.0.1/24").unwrap().to_string(),
            "10.0.0.2-10.0.0.254"
        );
        assert_eq!(
            range("10.0.0.254/24").unwrap().to_string(),
            "10.0.0.1-10.0.0.253"
        );
        assert_eq!(range("10.0.0.1/8").unwrap().size(), LARGEST_POOL);
        assert!(range("10.0.0.1/32").is_err());
    }
}
