//! What netlink's messages say.

use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType,
};
use weft_wire::{IpCidr, Ipv4Cidr, MacAddress};

use super::{Address, Link, Route};

pub(super) fn link(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        kind: String::new(),
        mac: None,
        alias: None,
        group: 0,
        bridge: None,
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias.clone()),
            LinkAttribute::Address(bytes) => {
                link.mac = <[u8; 6]>::try_from(&bytes[..]).ok().map(MacAddress);
            }
            LinkAttribute::Controller(index) => link.bridge = Some(*index),
            LinkAttribute::Group(group) => link.group = *group,
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    if let LinkInfo::Kind(kind) = info {
                        link.kind = kind.to_string();
                    }
                }
            }
            _ => {}
        }
    }
    link
}

/// The IPv4 address of a message; `None` for other families.
pub(super) fn address(message: &AddressMessage) -> Option<Address> {
    let found = any_address(message)?;
    let IpAddr::V4(ip) = found.address() else {
        return None;
    };
    Some(Address {
        index: message.header.index,
        address: Ipv4Cidr::new(ip, found.prefix())?,
    })
}

/// The address of a message, of either version.
pub(super) fn any_address(message: &AddressMessage) -> Option<IpCidr> {
    let find = |wanted: fn(&AddressAttribute) -> Option<IpAddr>| {
        message.attributes.iter().find_map(wanted)
    };
    // Local is the address itself; Address is the peer's on a point-to-point link.
    let local = find(|attribute| match attribute {
        AddressAttribute::Local(ip) => Some(*ip),
        _ => None,
    });
    let address = local.or_else(|| {
        find(|attribute| match attribute {
            AddressAttribute::Address(ip) => Some(*ip),
            _ => None,
        })
    });
    IpCidr::new(address?, message.header.prefix_len)
}

/// The IPv4 unicast route of a message, if it is in the main table.
pub(super) fn route(message: &RouteMessage) -> Option<Route> {
    let header = &message.header;
    let mut table = u32::from(header.table);
    let mut destination = Ipv4Addr::UNSPECIFIED;
    let (mut gateway, mut index) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Destination(RouteAddress::Inet(ip)) => destination = *ip,
            RouteAttribute::Gateway(RouteAddress::Inet(ip)) => gateway = Some(*ip),
            RouteAttribute::Oif(number) => index = Some(*number),
            _ => {}
        }
    }
    let wanted = header.address_family == AddressFamily::Inet
        && header.kind == RouteType::Unicast
        && table == u32::from(RouteHeader::RT_TABLE_MAIN);
    let destination = Ipv4Cidr::new(destination, header.destination_prefix_length)?;
    wanted.then_some(Route {
        destination,
        gateway,
        index,
    })
}
