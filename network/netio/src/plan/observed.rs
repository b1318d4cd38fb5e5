//! What the host has already.

use crate::link::{Address, Link, Links, Owner, Route};
use crate::nft::{self, Blocking, Ruleset};
use crate::{Error, ErrorKind, NetworkName, Result, forwarding};

/// What the host has already, as far as networks are concerned.
#[derive(Debug, Clone, PartialEq)]
pub struct Observed {
    /// All links.
    pub links: Vec<Link>,
    /// All IPv4 addresses.
    pub addresses: Vec<Address>,
    /// All unicast IPv4 routes of the main table.
    pub routes: Vec<Route>,
    /// Whether the host forwards IPv4.
    pub forwarding: bool,
    /// The tables of rules that are weft's.
    pub rules: Rules,
    /// Chains of others that may stop what weft lets pass.
    pub blocking: Vec<Blocking>,
}

/// The tables of rules that are weft's, or that they cannot be known.
#[derive(Debug, Clone, PartialEq)]
pub enum Rules {
    /// Each with what it holds; those of one network alone after [`Observed::read_for`].
    Known(Vec<Ruleset>),
    /// Nobody looked.
    NotRead,
    /// The program that lists them is not installed.
    NoProgram,
}

/// A network that is there.
#[derive(Debug, Clone, PartialEq)]
pub struct MadeNetwork {
    /// Its name.
    pub name: String,
    /// Its bridge.
    pub bridge: Link,
    /// Its addresses.
    pub addresses: Vec<Address>,
    /// Its ports: all links that are joined to its bridge, weft's and others.
    pub ports: Vec<Link>,
}

impl Observed {
    /// Looks at everything in the namespace of the calling thread.
    pub async fn read(links: &Links) -> Result<Self> {
        let mut observed = Self::read_links(links).await?;
        (observed.rules, observed.blocking) = known_or_no_program(read_rules(None).await)?;
        Ok(observed)
    }

    /// As [`Observed::read`], but for what other networks' tables of rules hold: enough to set up or tear down this
    /// one, and as quick with a hundred networks as with one.
    pub async fn read_for(links: &Links, network: &NetworkName) -> Result<Self> {
        let mut observed = Self::read_links(links).await?;
        let table = network.table();
        (observed.rules, observed.blocking) = known_or_no_program(read_rules(Some(&table)).await)?;
        Ok(observed)
    }

    /// Links, addresses and routes alone: enough for ports. Starts no program.
    pub async fn read_links(links: &Links) -> Result<Self> {
        Ok(Self {
            links: links.links().await?,
            addresses: links.addresses().await?,
            routes: links.routes().await?,
            forwarding: forwarding::is_on()?,
            rules: Rules::NotRead,
            blocking: Vec::new(),
        })
    }

    /// The networks of weft's that are there, by name.
    pub fn networks(&self) -> Vec<MadeNetwork> {
        let mut networks: Vec<MadeNetwork> = self
            .bridges()
            .map(|(owner, bridge)| MadeNetwork {
                name: owner.network,
                addresses: self.addresses_of(bridge.index).copied().collect(),
                ports: self
                    .links
                    .iter()
                    .filter(|link| link.bridge == Some(bridge.index))
                    .cloned()
                    .collect(),
                bridge: bridge.clone(),
            })
            .collect();
        networks.sort_by(|a, b| a.name.cmp(&b.name));
        networks
    }

    /// The link of this name.
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    pub(super) fn link_by_index(&self, index: u32) -> Option<&Link> {
        self.links.iter().find(|link| link.index == index)
    }

    /// The link that carries this mark, whatever else the mark remembers.
    pub(super) fn marked(&self, owner: &Owner) -> Option<&Link> {
        let same = |link: &&Link| link.owner().is_some_and(|mark| mark.same(owner));
        self.links.iter().find(same)
    }

    /// All bridges of weft's with their marks.
    pub(super) fn bridges(&self) -> impl Iterator<Item = (Owner, &Link)> {
        self.links.iter().filter_map(|link| {
            let owner = link.owner().filter(|owner| owner.port.is_none())?;
            Some((owner, link))
        })
    }

    pub(super) fn addresses_of(&self, index: u32) -> impl Iterator<Item = &Address> {
        self.addresses
            .iter()
            .filter(move |address| address.index == index)
    }

    /// What this table holds, if it is there. [`ErrorKind::MissingProgram`] if it cannot be known, and
    /// [`ErrorKind::Invalid`] if nobody looked.
    pub(super) fn table(&self, name: &str) -> Result<Option<&Ruleset>> {
        match &self.rules {
            Rules::Known(tables) => Ok(tables.iter().find(|rules| rules.table() == name)),
            Rules::NotRead => Err(Error::new(
                ErrorKind::Invalid,
                format!("the rules of table {name} were not read"),
            )),
            Rules::NoProgram => Err(Error::new(
                ErrorKind::MissingProgram,
                "networks need the program nft, which is not installed: install the package nftables",
            )),
        }
    }
}

/// The rules of one table, or of all, and what of others' may be in the way.
async fn read_rules(only: Option<&str>) -> Result<(Rules, Vec<Blocking>)> {
    let tables = match only {
        Some(table) => vec![table.to_owned()],
        None => nft::tables().await?,
    };
    let mut known = Vec::new();
    for table in tables {
        known.extend(nft::list(&table).await?);
    }
    Ok((Rules::Known(known), nft::blocking_chains().await?))
}

fn known_or_no_program(read: Result<(Rules, Vec<Blocking>)>) -> Result<(Rules, Vec<Blocking>)> {
    match read {
        Err(e) if e.kind() == ErrorKind::MissingProgram => Ok((Rules::NoProgram, Vec::new())),
        other => other,
    }
}
