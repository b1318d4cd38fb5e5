//! What a network is to be.

use std::collections::HashSet;
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use weft_wire::{Ipv4Cidr, MacAddress, stable_hash};

use crate::{Error, ErrorKind, InterfaceName, LONGEST_INTERFACE_NAME, Result};

/// The longest name of a network in bytes, so that everything named after it fits.
pub const LONGEST_NETWORK_NAME: usize = 63;

/// The smallest MTU with which IPv4 works (RFC 791), and the largest of a bridge.
const MTU: std::ops::RangeInclusive<u32> = 68..=65_535;

/// The name of a network: a letter or digit, then letters, digits, `-`, `_` and `.`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetworkName(String);

impl NetworkName {
    /// Checks `name`; the error is of kind [`ErrorKind::Invalid`].
    pub fn new(name: impl Into<String>) -> Result<Self> {
        let name = name.into();
        let fits = (1..=LONGEST_NETWORK_NAME).contains(&name.len())
            && name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name
                .bytes()
                .all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(&c));
        if !fits {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "network name {name:?} is not 1 to {LONGEST_NETWORK_NAME} letters, digits, - _ and ., beginning \
                     with a letter or digit"
                ),
            ));
        }
        Ok(Self(name))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of its bridge when nobody gives one: `weft-NAME`, or a digest of the name if that is too long.
    pub fn bridge(&self) -> InterfaceName {
        self.interface("weft-", &self.0)
    }

    /// The Ethernet address of its bridge when nobody gives one. It follows from the name.
    pub fn bridge_mac(&self) -> MacAddress {
        MacAddress::derived(&format!("weft:{}", self.0))
    }

    /// The name of a port's TAP device when nobody gives one.
    pub fn tap(&self, port: &str) -> InterfaceName {
        self.interface("wt-", &format!("{}-{port}", self.0))
    }

    fn interface(&self, prefix: &str, rest: &str) -> InterfaceName {
        let plain = format!("{prefix}{rest}");
        let digest = format!("{prefix}{:08x}", stable_hash(rest.as_bytes()) as u32);
        let name = if plain.len() <= LONGEST_INTERFACE_NAME {
            plain
        } else {
            digest
        };
        InterfaceName::new(name).expect("letters and digits that were made to fit")
    }

    /// The name of its table of rules.
    pub fn table(&self) -> String {
        format!("weft_{}", self.0)
    }
}

impl fmt::Display for NetworkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for NetworkName {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::new(name)
    }
}

/// How a network meets the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Guests reach each other and the host.
    Isolated,
    /// Guests reach everything but other networks of weft's, under the host's addresses; nobody reaches them but by
    /// port forwards.
    Nat,
    /// The host is a router between the guests, under their own addresses, and everything else.
    Routed,
}

impl Mode {
    /// The word for it on the command line and in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Isolated => "isolated",
            Self::Nat => "nat",
            Self::Routed => "routed",
        }
    }

    /// Whether the host forwards for it.
    pub fn forwards(self) -> bool {
        self != Self::Isolated
    }
}

impl FromStr for Mode {
    type Err = Error;

    fn from_str(word: &str) -> Result<Self> {
        [Self::Isolated, Self::Nat, Self::Routed]
            .into_iter()
            .find(|mode| mode.name() == word)
            .ok_or_else(|| {
                Error::new(
                    ErrorKind::Invalid,
                    format!("{word:?} is no mode of a network: isolated, nat or routed"),
                )
            })
    }
}

/// What a forwarded port carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Transport {
    /// `tcp` or `udp`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// A port of the host that leads to a guest. As text: `tcp:8080:10.0.0.5:80`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PortForward {
    /// TCP or UDP.
    pub transport: Transport,
    /// The port on all of the host's addresses.
    pub port: u16,
    /// The guest.
    pub to: Ipv4Addr,
    /// Its port.
    pub to_port: u16,
}

impl FromStr for PortForward {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parse = || {
            let mut parts = text.split(':');
            let transport = match parts.next()? {
                "tcp" => Transport::Tcp,
                "udp" => Transport::Udp,
                _ => return None,
            };
            let forward = Self {
                transport,
                port: parts.next()?.parse().ok()?,
                to: parts.next()?.parse().ok()?,
                to_port: parts.next()?.parse().ok()?,
            };
            let whole = parts.next().is_none() && forward.port != 0 && forward.to_port != 0;
            whole.then_some(forward)
        };
        parse().ok_or_else(|| {
            Error::new(
                ErrorKind::Invalid,
                format!("{text:?} is no port forward like tcp:8080:10.0.0.5:80"),
            )
        })
    }
}

impl fmt::Display for PortForward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            transport,
            port,
            to,
            to_port,
        } = self;
        write!(f, "{}:{port}:{to}:{to_port}", transport.name())
    }
}

/// What a network is to be. Made by [`NetworkSpec::new`] and checked by [`NetworkSpec::check`], which a plan does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkSpec {
    /// Its name.
    pub name: NetworkName,
    /// Its bridge.
    pub bridge: InterfaceName,
    /// The bridge's Ethernet address.
    pub mac: MacAddress,
    /// The host's own address in the subnet, which is the guests' gateway.
    pub address: Ipv4Cidr,
    /// How it meets the world.
    pub mode: Mode,
    /// The largest packet; the kernel's 1,500 if none is given.
    pub mtu: Option<u32>,
    /// Ports of the host that lead to guests; for mode [`Mode::Nat`].
    pub forwards: Vec<PortForward>,
    /// Tunnels of the host through which guests reach others, whatever the mode is.
    pub tunnels: Vec<TunnelWay>,
}

/// A way out of a network, through a tunnel of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelWay {
    /// The tunnel's interface.
    pub interface: InterfaceName,
    /// Guests go under the interface's own address, and nobody behind it begins a connection. Otherwise they have their
    /// own addresses there, and connections begin on both sides.
    pub masquerade: bool,
}

impl NetworkSpec {
    /// A network of this name whose gateway is `address`, or the subnet's first host if `address` is the subnet itself.
    pub fn new(name: NetworkName, address: Ipv4Cidr, mode: Mode) -> Self {
        let gateway = if address.is_network() {
            address
                .nth(1)
                .and_then(|first| Ipv4Cidr::new(first, address.prefix()))
        } else {
            None
        };
        Self {
            bridge: name.bridge(),
            mac: name.bridge_mac(),
            name,
            address: gateway.unwrap_or(address),
            mode,
            mtu: None,
            forwards: Vec::new(),
            tunnels: Vec::new(),
        }
    }

    /// Whether the host forwards for it.
    pub fn forwards(&self) -> bool {
        self.mode.forwards() || !self.tunnels.is_empty()
    }

    /// Checks what can be checked without looking at the host; the error is of kind [`ErrorKind::Invalid`].
    pub fn check(&self) -> Result<()> {
        let Self { name, address, .. } = self;
        let refuse = |why: String| {
            Err(Error::new(
                ErrorKind::Invalid,
                format!("network {name}: {why}"),
            ))
        };
        let subnet = address.network();
        if subnet.prefix() > 30 {
            return refuse(format!(
                "subnet {subnet} is too small for a gateway and a guest"
            ));
        }
        let ip = address.address();
        let usable = !(ip.is_loopback()
            || ip.is_multicast()
            || ip.is_unspecified()
            || ip.octets()[0] >= 240);
        if !usable || subnet.prefix() < 8 || !subnet.hosts().contains(ip) {
            return refuse(format!("{address} is no address that a gateway can have"));
        }
        if let Some(mtu) = self.mtu.filter(|mtu| !MTU.contains(mtu)) {
            return refuse(format!(
                "an MTU of {mtu} is not within {} to {}",
                MTU.start(),
                MTU.end()
            ));
        }
        if !self.forwards.is_empty() && self.mode != Mode::Nat {
            return refuse(format!(
                "port forwards need mode nat, not {}",
                self.mode.name()
            ));
        }
        let mut taken = HashSet::new();
        for forward in &self.forwards {
            if !subnet.contains(forward.to) || forward.to == ip {
                return refuse(format!(
                    "port forward {forward} leads to no guest of {subnet}"
                ));
            }
            if !taken.insert((forward.transport, forward.port)) {
                let transport = forward.transport.name();
                return refuse(format!(
                    "{transport} port {} is forwarded twice",
                    forward.port
                ));
            }
        }
        Ok(())
    }
}

/// What a port of a network is to be: a persistent TAP device that a VMM or a backend opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortSpec {
    /// The network.
    pub network: NetworkName,
    /// Its bridge.
    pub bridge: InterfaceName,
    /// The port's name in the network.
    pub port: String,
    /// The TAP device.
    pub tap: InterfaceName,
    /// The user who may open the device without privileges.
    pub owner: Option<u32>,
    /// Whether the device may have several queues. Whoever opens it must ask for the same.
    pub multi_queue: bool,
    /// The largest packet; that of the bridge.
    pub mtu: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(address: &str, mode: Mode) -> NetworkSpec {
        let name = NetworkName::new("lab").expect("a good name");
        NetworkSpec::new(name, address.parse().expect("a subnet"), mode)
    }

    #[test]
    fn names_that_follow_from_a_name_always_fit() {
        let short = NetworkName::new("lab").unwrap();
        assert_eq!(short.bridge().as_str(), "weft-lab");
        assert_eq!(short.tap("vm1").as_str(), "wt-lab-vm1");
        let long = NetworkName::new("a-network-with-a-long-name").unwrap();
        assert_eq!(long.bridge().as_str().len(), 13);
        assert_ne!(long.tap("vm1"), long.tap("vm2"));
        for bad in ["", "-x", "a b", "a/b", "ä", &"x".repeat(64)] {
            assert!(NetworkName::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_subnet_gets_its_first_host_as_gateway() {
        assert_eq!(
            spec("10.0.0.0/24", Mode::Nat).address.to_string(),
            "10.0.0.1/24"
        );
        assert_eq!(
            spec("10.0.0.9/24", Mode::Nat).address.to_string(),
            "10.0.0.9/24"
        );
    }

    #[test]
    fn what_cannot_work_is_refused_in_a_sentence() {
        let sentence = |spec: NetworkSpec| spec.check().unwrap_err().sentence();
        assert_eq!(
            sentence(spec("10.0.0.0/31", Mode::Nat)),
            "network lab: subnet 10.0.0.0/31 is too small for a gateway and a guest"
        );
        assert_eq!(
            sentence(spec("127.0.0.0/8", Mode::Nat)),
            "network lab: 127.0.0.1/8 is no address that a gateway can have"
        );
        assert_eq!(
            sentence(spec("10.0.0.255/24", Mode::Nat)),
            "network lab: 10.0.0.255/24 is no address that a gateway can have"
        );
        let mut forwards = spec("10.0.0.0/24", Mode::Isolated);
        forwards.forwards = vec!["tcp:80:10.0.0.5:80".parse().unwrap()];
        assert_eq!(
            sentence(forwards.clone()),
            "network lab: port forwards need mode nat, not isolated"
        );
        forwards.mode = Mode::Nat;
        assert!(forwards.check().is_ok());
        forwards
            .forwards
            .push("tcp:80:10.0.0.6:81".parse().unwrap());
        assert_eq!(
            sentence(forwards.clone()),
            "network lab: tcp port 80 is forwarded twice"
        );
        forwards.forwards = vec!["udp:80:10.0.1.5:80".parse().unwrap()];
        assert_eq!(
            sentence(forwards),
            "network lab: port forward udp:80:10.0.1.5:80 leads to no guest of 10.0.0.0/24"
        );
        let mut mtu = spec("10.0.0.0/24", Mode::Nat);
        mtu.mtu = Some(20);
        assert_eq!(
            sentence(mtu),
            "network lab: an MTU of 20 is not within 68 to 65535"
        );
        for bad in [
            "tcp:0:10.0.0.5:80",
            "sctp:1:10.0.0.5:80",
            "tcp:1:10.0.0.5",
            "tcp:1:10.0.0.5:80:9",
        ] {
            assert!(bad.parse::<PortForward>().is_err(), "{bad}");
        }
    }
}
