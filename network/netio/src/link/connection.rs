//! A connection to the kernel's links.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;

use futures_util::TryStreamExt;
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::route::{RouteMessage, RouteScope};
use rtnetlink::{Handle, LinkBridge, LinkUnspec, LinkVeth, RouteMessageBuilder};
use weft_wire::{IpCidr, Ipv4Cidr, MacAddress};

use super::{Address, LINK_GROUP, Link, Owner, Route, read};
use crate::{Error, ErrorKind, InterfaceName, Namespace, Result};

/// A connection to the links of the network namespace in which it was opened. Needs a tokio runtime; changes need
/// CAP_NET_ADMIN.
#[derive(Debug)]
pub struct Links {
    pub(super) handle: Handle,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Links {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Links {
    /// Connects to the namespace of the calling thread.
    pub fn open() -> Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()
            .map_err(|e| Error::system("opening a netlink socket", e))?;
        let task = tokio::spawn(connection);
        Ok(Self { handle, task })
    }

    /// All links, by index.
    pub async fn links(&self) -> Result<Vec<Link>> {
        let mut links: Vec<Link> = self
            .handle
            .link()
            .get()
            .execute()
            .map_ok(|message| read::link(&message))
            .try_collect()
            .await
            .map_err(|e| error("listing links", &e))?;
        links.sort_by_key(|link| link.index);
        Ok(links)
    }

    /// The link of this name, if there is one.
    pub async fn link(&self, name: &str) -> Result<Option<Link>> {
        let request = self.handle.link().get().match_name(name.to_owned());
        let found: Result<Vec<LinkMessage>, _> = request.execute().try_collect().await;
        match found {
            Ok(messages) => Ok(messages.first().map(read::link)),
            Err(e) if errno(&e) == Some(libc::ENODEV) => Ok(None),
            Err(e) => Err(error(&format!("looking for link {name}"), &e)),
        }
    }

    /// The link of this name; [`ErrorKind::NotFound`] if there is none.
    pub async fn expect(&self, name: &str) -> Result<Link> {
        self.link(name)
            .await?
            .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("link {name} does not exist")))
    }

    /// All IPv4 addresses of the host.
    pub async fn addresses(&self) -> Result<Vec<Address>> {
        self.handle
            .address()
            .get()
            .execute()
            .try_filter_map(|message| std::future::ready(Ok(read::address(&message))))
            .try_collect()
            .await
            .map_err(|e| error("listing addresses", &e))
    }

    /// All unicast IPv4 routes of the main table.
    pub async fn routes(&self) -> Result<Vec<Route>> {
        let message = RouteMessageBuilder::<std::net::Ipv4Addr>::new().build();
        self.handle
            .route()
            .get(message)
            .execute()
            .try_filter_map(|message| std::future::ready(Ok(read::route(&message))))
            .try_collect()
            .await
            .map_err(|e| error("listing routes", &e))
    }

    /// Makes a bridge that is down, with its address and in weft's group at once, and then marks it as its owner's.
    /// [`ErrorKind::Foreign`] if the name is taken.
    pub async fn create_bridge(
        &self,
        name: &InterfaceName,
        mac: MacAddress,
        mtu: Option<u32>,
        owner: &Owner,
    ) -> Result<()> {
        let bridge = LinkBridge::new(name.as_str())
            .down()
            .address(mac.octets().to_vec())
            .link_group(LINK_GROUP)
            // A bridge with TAP ports has no loops to wait for.
            .forward_delay(0);
        let made = self.handle.link().add(bridge.build()).execute().await;
        made.map_err(|e| created(name, "bridge", &e))?;
        let mark = async {
            self.set_owner(name, owner).await?;
            // Not with the making: an MTU that is set later holds, whatever ports join.
            match mtu {
                Some(mtu) => self.set_mtu(name, mtu).await,
                None => Ok(()),
            }
        };
        let marked = mark.await;
        if marked.is_err()
            && let Ok(Some(link)) = self.link(name.as_str()).await
        {
            // A bridge that is not whole must not stay. The first error is the one to tell.
            let _ = self.handle.link().del(link.index).execute().await;
        }
        marked
    }

    /// Makes two Ethernet links that are joined to each other, the second in another namespace if one is given.
    pub async fn create_veth(
        &self,
        name: &InterfaceName,
        peer: &InterfaceName,
        peer_namespace: Option<&Namespace>,
    ) -> Result<()> {
        let pair = LinkVeth::new(name.as_str(), peer.as_str()).build();
        let made = self.handle.link().add(pair).execute().await;
        made.map_err(|e| created(name, "veth pair", &e))?;
        let Some(namespace) = peer_namespace else {
            return Ok(());
        };
        let index = self.expect(peer.as_str()).await?.index;
        let descriptor = std::os::fd::AsFd::as_fd(namespace).as_raw_fd();
        let message = LinkUnspec::new_with_index(index)
            .setns_by_fd(descriptor)
            .build();
        self.change(message, &format!("moving link {peer} to another namespace"))
            .await
    }

    /// Marks a link as its owner's.
    pub async fn set_owner(&self, name: &InterfaceName, owner: &Owner) -> Result<()> {
        let index = self.expect(name.as_str()).await?.index;
        let message = LinkUnspec::new_with_index(index)
            .alias(owner.to_string())
            .link_group(LINK_GROUP)
            .build();
        self.change(message, &format!("marking link {name}")).await
    }

    /// Sets the largest packet.
    pub async fn set_mtu(&self, name: &InterfaceName, mtu: u32) -> Result<()> {
        let index = self.expect(name.as_str()).await?.index;
        let message = LinkUnspec::new_with_index(index).mtu(mtu).build();
        self.change(message, &format!("setting the MTU of link {name} to {mtu}"))
            .await
    }

    /// Sets the Ethernet address.
    pub async fn set_mac(&self, name: &InterfaceName, mac: MacAddress) -> Result<()> {
        let index = self.expect(name.as_str()).await?.index;
        let message = LinkUnspec::new_with_index(index)
            .address(mac.octets().to_vec())
            .build();
        self.change(
            message,
            &format!("setting the address of link {name} to {mac}"),
        )
        .await
    }

    /// Makes a link a port of a bridge, or with none of no bridge.
    pub async fn set_bridge(
        &self,
        port: &InterfaceName,
        bridge: Option<&InterfaceName>,
    ) -> Result<()> {
        let index = self.expect(port.as_str()).await?.index;
        let (controller, doing) = match bridge {
            Some(bridge) => (
                self.expect(bridge.as_str()).await?.index,
                format!("joining link {port} to bridge {bridge}"),
            ),
            None => (0, format!("taking link {port} from its bridge")),
        };
        let message = LinkUnspec::new_with_index(index)
            .controller(controller)
            .build();
        self.change(message, &doing).await
    }

    /// Sets a link up or down.
    pub async fn set_up(&self, name: &InterfaceName, up: bool) -> Result<()> {
        let index = self.expect(name.as_str()).await?.index;
        let message = LinkUnspec::new_with_index(index);
        let (message, state) = match up {
            true => (message.up(), "up"),
            false => (message.down(), "down"),
        };
        self.change(message.build(), &format!("setting link {name} {state}"))
            .await
    }

    /// Gives a link an address. It is no error if it has it already.
    pub async fn add_address(&self, name: &InterfaceName, address: IpCidr) -> Result<()> {
        let index = self.expect(name.as_str()).await?.index;
        self.handle
            .address()
            .add(index, address.address(), address.prefix())
            .replace()
            .execute()
            .await
            .map_err(|e| error(&format!("giving link {name} the address {address}"), &e))
    }

    /// Takes an address from a link. It is no error if it has not got it.
    pub async fn remove_address(&self, name: &InterfaceName, address: IpCidr) -> Result<()> {
        let index = self.expect(name.as_str()).await?.index;
        let doing = format!("taking the address {address} from link {name}");
        let found: Vec<_> = self
            .handle
            .address()
            .get()
            .set_link_index_filter(index)
            .execute()
            .try_filter(|message| {
                let same = read::any_address(message) == Some(address);
                std::future::ready(same)
            })
            .try_collect()
            .await
            .map_err(|e| error(&doing, &e))?;
        for message in found {
            let removed = self.handle.address().del(message).execute().await;
            removed.map_err(|e| error(&doing, &e))?;
        }
        Ok(())
    }

    /// Adds a route of the main table.
    pub async fn add_route(
        &self,
        destination: Ipv4Cidr,
        gateway: std::net::Ipv4Addr,
    ) -> Result<()> {
        let message = RouteMessageBuilder::<std::net::Ipv4Addr>::new()
            .destination_prefix(destination.network().address(), destination.prefix())
            .gateway(gateway)
            .build();
        let added = self.handle.route().add(message).execute().await;
        added.map_err(|e| error(&format!("adding a route to {destination} by {gateway}"), &e))
    }

    /// Leads a subnet to a link, in the main table. [`ErrorKind::Busy`] if a route leads it elsewhere.
    pub async fn add_link_route(&self, name: &InterfaceName, destination: IpCidr) -> Result<()> {
        let index = self.expect(name.as_str()).await?.index;
        let message = link_route(index, destination);
        let added = self.handle.route().add(message).execute().await;
        added.map_err(|e| match errno(&e) {
            Some(libc::EEXIST) => Error::new(
                ErrorKind::Busy,
                format!("{destination} cannot be led to {name}: there is a route to it already"),
            ),
            _ => error(&format!("leading {destination} to {name}"), &e),
        })
    }

    /// Takes away a route that leads to a link. It is no error if there is none.
    pub async fn remove_link_route(&self, name: &InterfaceName, destination: IpCidr) -> Result<()> {
        let Some(link) = self.link(name.as_str()).await? else {
            return Ok(());
        };
        let message = link_route(link.index, destination);
        match self.handle.route().del(message).execute().await {
            Ok(()) => Ok(()),
            Err(e) if errno(&e) == Some(libc::ESRCH) => Ok(()),
            Err(e) => Err(error(
                &format!("taking the route to {destination} from {name}"),
                &e,
            )),
        }
    }

    /// Deletes the link of this name if it carries the mark of `owner`. It is no error if there is none;
    /// [`ErrorKind::Foreign`] if it is somebody else's, which is not touched.
    pub async fn delete(&self, name: &InterfaceName, owner: &Owner) -> Result<()> {
        let Some(link) = self.link(name.as_str()).await? else {
            return Ok(());
        };
        if !link.owner().is_some_and(|mark| mark.same(owner)) {
            return Err(Error::new(
                ErrorKind::Foreign,
                format!("link {name} does not carry the mark {owner} and is left as it is"),
            ));
        }
        match self.handle.link().del(link.index).execute().await {
            Ok(()) => Ok(()),
            Err(e) if errno(&e) == Some(libc::ENODEV) => Ok(()),
            Err(e) => Err(error(&format!("deleting link {name}"), &e)),
        }
    }

    /// Deletes the link of this name, whoever's it is: for namespaces that are ours with all that is in them. It is no
    /// error if there is none.
    pub(crate) async fn delete_any(&self, name: &InterfaceName) -> Result<()> {
        let Some(link) = self.link(name.as_str()).await? else {
            return Ok(());
        };
        let deleted = self.handle.link().del(link.index).execute().await;
        deleted.map_err(|e| error(&format!("deleting link {name}"), &e))
    }

    async fn change(&self, message: LinkMessage, doing: &str) -> Result<()> {
        let changed = self.handle.link().change(message).execute().await;
        changed.map_err(|e| error(doing, &e))
    }
}

/// A route of the main table to what is on a link itself.
fn link_route(index: u32, destination: IpCidr) -> RouteMessage {
    let (subnet, prefix) = (destination.network().address(), destination.prefix());
    match subnet {
        IpAddr::V4(subnet) => RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(subnet, prefix)
            .scope(RouteScope::Link)
            .output_interface(index)
            .build(),
        IpAddr::V6(subnet) => RouteMessageBuilder::<std::net::Ipv6Addr>::new()
            .destination_prefix(subnet, prefix)
            .output_interface(index)
            .build(),
    }
}

pub(super) fn created(name: &InterfaceName, kind: &str, e: &rtnetlink::Error) -> Error {
    if errno(e) == Some(libc::EEXIST) {
        return Error::new(
            ErrorKind::Foreign,
            format!("{kind} {name} cannot be made: a link of this name exists"),
        );
    }
    error(&format!("making {kind} {name}"), e)
}

/// The kernel's errno, positive.
pub(super) fn errno(error: &rtnetlink::Error) -> Option<i32> {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.code.map(|code| code.get().abs()),
        _ => None,
    }
}

pub(super) fn error(doing: &str, error: &rtnetlink::Error) -> Error {
    match errno(error) {
        Some(errno) => Error::system(doing, std::io::Error::from_raw_os_error(errno)),
        None => Error::new(ErrorKind::Io, doing).with_source(error.to_string()),
    }
}
