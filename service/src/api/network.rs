//! Networks, their ports and leases.

use serde::{Deserialize, Serialize};

/// How a network meets the host's other links.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NetMode {
    /// Guests reach out behind the host's address.
    #[default]
    Nat,
    /// Guests reach out with their own addresses.
    Routed,
    /// Guests reach the host and each other only.
    Isolated,
}

/// Who hands out addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum DhcpSetting {
    /// weft, from the upper half of the subnet.
    Default,
    /// Nobody.
    Off,
    /// weft, from the first to the last address.
    Range(std::net::Ipv4Addr, std::net::Ipv4Addr),
}

impl std::fmt::Display for DhcpSetting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Off => f.write_str("off"),
            Self::Range(first, last) => write!(f, "{first}-{last}"),
        }
    }
}

impl std::str::FromStr for DhcpSetting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "default" => return Ok(Self::Default),
            "off" => return Ok(Self::Off),
            _ => {}
        }
        let wrong =
            || format!("{text:?} is not a range; write it as 10.0.0.100-10.0.0.200, or off");
        let (first, last) = text.split_once('-').ok_or_else(wrong)?;
        let first = first.trim().parse().map_err(|_| wrong())?;
        let last = last.trim().parse().map_err(|_| wrong())?;
        Ok(Self::Range(first, last))
    }
}

impl From<DhcpSetting> for String {
    fn from(setting: DhcpSetting) -> Self {
        setting.to_string()
    }
}

impl TryFrom<String> for DhcpSetting {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// Make a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetCreate {
    /// Its name.
    pub name: String,
    /// The subnet, such as `10.77.0.0/24`; the gateway is its first address.
    pub subnet: String,
    /// How it meets the host's other links.
    #[serde(default)]
    pub mode: NetMode,
    /// Who hands out addresses.
    #[serde(default = "default_dhcp")]
    pub dhcp: DhcpSetting,
    /// Ports of the host that lead to guests, such as `tcp:8080:10.77.0.5:80`.
    #[serde(default)]
    pub forwards: Vec<String>,
}

fn default_dhcp() -> DhcpSetting {
    DhcpSetting::Default
}

/// An address that a guest holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The guest's hardware address.
    pub mac: String,
    /// Its address.
    pub address: String,
    /// The name it gave itself.
    pub hostname: Option<String>,
    /// When it ends, RFC 3339.
    pub expires: String,
}

/// A place where a guest or the host is plugged in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// Its name in the network.
    pub name: String,
    /// The link on the host.
    pub tap: String,
    /// The vhost-user socket that serves it, if one does.
    pub socket: Option<String>,
    /// The machine that uses it.
    pub machine: Option<String>,
}

/// Make a port.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PortAdd {
    /// Its name in the network.
    pub port: String,
    /// The name of the link on the host; by default made from the two names.
    pub tap: Option<String>,
    /// Serve it as vhost-user-net on this socket.
    pub vhost: Option<String>,
}

/// A network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Its name.
    pub name: String,
    /// The subnet.
    pub subnet: String,
    /// The host's address in it.
    pub gateway: String,
    /// How it meets the host's other links.
    pub mode: NetMode,
    /// The range that is handed out, or `off`.
    pub dhcp: DhcpSetting,
    /// Ports of the host that lead to guests.
    pub forwards: Vec<String>,
    /// The bridge on the host.
    pub bridge: String,
    /// `up` or `down`.
    pub state: String,
    /// Its ports.
    pub ports: Vec<Port>,
    /// The addresses that guests hold.
    pub leases: Vec<Lease>,
    /// Tunnels whose peers its guests reach.
    pub tunnels: Vec<String>,
    /// How it is joined to other hosts' bridges.
    pub stretch: Option<NetStretched>,
}

/// Join a network to the bridges of other hosts, by VXLAN through a tunnel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetStretch {
    /// The tunnel.
    pub vpn: String,
    /// The VXLAN network identifier, the same on all hosts.
    pub vni: u32,
    /// The IPv4 addresses in the tunnel of all other hosts.
    pub remotes: Vec<String>,
}

/// How a network is joined to other hosts' bridges.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetStretched {
    /// The tunnel.
    pub vpn: String,
    /// The VXLAN network identifier.
    pub vni: u32,
    /// The other hosts' addresses in the tunnel.
    pub remotes: Vec<String>,
    /// This host's.
    pub local: String,
    /// The largest packet of guests that fits.
    pub mtu: u32,
}
