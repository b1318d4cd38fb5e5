//! Links, addresses and routes of the host, through netlink.
//!
//! [`Links`] is a connection to the network namespace of the thread that opened it. What weft makes carries its mark,
//! an alias that starts with `weft:` ([`Owner`]), and only what carries the mark of its owner is ever changed or
//! deleted: a foreign link with the same name is safe.

mod connection;
mod owner;
mod read;
mod vxlan;

pub use connection::Links;
pub use owner::Owner;
pub use vxlan::VxlanEnds;

use std::net::Ipv4Addr;

use weft_wire::{Ipv4Cidr, MacAddress};

/// The group of all links that weft makes, by which rules tell them from others (`ip link show group 30565`).
pub const LINK_GROUP: u32 = 30_565;

/// A link of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The kernel's number of the link, which is not used again soon.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// What it is: `bridge`, `tun`, `veth`, ...; empty for hardware.
    pub kind: String,
    /// Its Ethernet address, if it has one.
    pub mac: Option<MacAddress>,
    /// The text that somebody gave it.
    pub alias: Option<String>,
    /// The group it is in; [`LINK_GROUP`] if weft made it.
    pub group: u32,
    /// The bridge of which it is a port.
    pub bridge: Option<u32>,
    /// The largest packet.
    pub mtu: u32,
    /// Whether it was set up by an administrator.
    pub up: bool,
}

impl Link {
    /// Whether it is the bridge of the network with this Ethernet address, made by weft and not marked yet: a crash
    /// between the two leaves it so. Group and address are given with its making, and nobody else gives them.
    pub fn is_unmarked_bridge(&self, mac: MacAddress) -> bool {
        let made_by_weft = self.kind == "bridge" && self.group == LINK_GROUP;
        made_by_weft && self.alias.is_none() && self.mac == Some(mac)
    }

    /// Who made it, if weft did.
    pub fn owner(&self) -> Option<Owner> {
        self.alias.as_deref().and_then(Owner::parse)
    }
}

/// An IPv4 address of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// The link.
    pub index: u32,
    /// The address and its subnet.
    pub address: Ipv4Cidr,
}

/// A unicast IPv4 route of the main table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Where it leads.
    pub destination: Ipv4Cidr,
    /// The next hop, if it is not on the link itself.
    pub gateway: Option<Ipv4Addr>,
    /// The link, if it is one.
    pub index: Option<u32>,
}
