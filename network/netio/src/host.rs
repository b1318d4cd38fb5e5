//! Hosts that exist for a lab: network namespaces, joined to each other by pairs of links.
//!
//! All that a host has (its ends of links, addresses, routes, rules, switches) goes with its namespace, so taking one
//! away is one step, and a host that was made by half is taken away like a whole one.

use weft_wire::Ipv4Cidr;

use crate::link::Links;
use crate::{Error, InterfaceName, Namespace, Result, forwarding, nft};

const LOOPBACK: &str = "lo";

/// A pair of links between two hosts. Each end is named for the host at the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostLink {
    /// The host that it is declared at.
    pub from: InterfaceName,
    /// The other one.
    pub to: InterfaceName,
    /// The address of the first one's end.
    pub address: Ipv4Cidr,
    /// The address of the other end.
    pub peer: Ipv4Cidr,
    /// What the first one reaches by the other.
    pub routes: Vec<Ipv4Cidr>,
    /// Whether what the first one forwards to the other goes under its own address.
    pub masquerade: bool,
}

/// Makes a host whose loopback is up. [`crate::ErrorKind::Busy`] if a namespace has the name.
pub fn create(name: &InterfaceName, forwards: bool) -> Result<()> {
    let namespace = Namespace::create_named(name.as_str())?;
    let made = inside(&namespace, async |links| {
        links.set_up(&InterfaceName::new(LOOPBACK)?, true).await?;
        forwarding::set(forwards)
    });
    made.inspect_err(|_| {
        // The first error is the one to tell.
        let _ = remove(name);
    })
}

/// Takes a host away with all that it has. It is no error if there is none.
pub fn remove(name: &InterfaceName) -> Result<()> {
    match Namespace::remove_named(name.as_str()) {
        Err(error) if !exists(name)? => {
            tracing::debug!(host = %name, "it was gone: {}", error.sentence());
            Ok(())
        }
        result => result,
    }
}

/// Whether a namespace has the name.
pub fn exists(name: &InterfaceName) -> Result<bool> {
    let names = Namespace::names()?;
    Ok(names.iter().any(|found| found == name.as_str()))
}

/// Joins two hosts. If that fails, nothing of it is left.
pub fn join(link: &HostLink) -> Result<()> {
    let from = Namespace::open_named(link.from.as_str())?;
    let to = Namespace::open_named(link.to.as_str())?;
    // At each end the name is the other host's.
    let (here, there) = (&link.to, &link.from);
    inside(&from, async |links| {
        // One that a crash has left was never told of.
        links.delete_any(here).await?;
        links.create_veth(here, there, Some(&to)).await
    })?;
    let made = inside(&to, async |links| {
        links.add_address(there, link.peer.into()).await?;
        links.set_up(there, true).await
    })
    .and_then(|()| inside(&from, async |links| settle(link, here, links).await));
    made.inspect_err(|_| {
        let _ = part(&from, here);
    })
}

/// The first end's address, routes and rules.
async fn settle(link: &HostLink, here: &InterfaceName, links: &Links) -> Result<()> {
    links.add_address(here, link.address.into()).await?;
    links.set_up(here, true).await?;
    for &route in &link.routes {
        links.add_route(route, link.peer.address()).await?;
    }
    if link.masquerade {
        nft::replace(&nft::masquerade_rules(here)).await?;
    }
    Ok(())
}

/// Deletes a link, and with it its other end.
fn part(namespace: &Namespace, name: &InterfaceName) -> Result<()> {
    inside(namespace, async |links| links.delete_any(name).await)
}

/// Runs `work` in a namespace, on a thread of its own.
fn inside(
    namespace: &Namespace,
    work: impl AsyncFnOnce(&Links) -> Result<()> + Send,
) -> Result<()> {
    namespace.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| Error::system("starting work in a network namespace", e))?;
        runtime.block_on(async { work(&Links::open()?).await })
    })?
}
