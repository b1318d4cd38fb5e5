//! One step of a plan.

use std::fmt;
use std::net::Ipv4Addr;

use weft_wire::{IpCidr, MacAddress};

use crate::InterfaceName;
use crate::link::Owner;
use crate::nft::Ruleset;

/// One step of a plan. Each tells what was before as far as undoing it needs.
#[derive(Debug, Clone, PartialEq)]
pub enum Operation {
    /// Make a bridge, down, and mark it.
    CreateBridge {
        /// Its name.
        name: InterfaceName,
        /// Its Ethernet address.
        mac: MacAddress,
        /// Its largest packet, if not the kernel's own.
        mtu: Option<u32>,
        /// Its mark.
        owner: Owner,
    },
    /// Make a persistent TAP device, down, and mark it.
    CreateTap {
        /// Its name.
        name: InterfaceName,
        /// The user who may open it.
        user: Option<u32>,
        /// Whether it may have several queues.
        multi_queue: bool,
        /// Its mark.
        owner: Owner,
    },
    /// Change a link's mark.
    Mark {
        /// The link.
        name: InterfaceName,
        /// Its mark before, if any.
        from: Option<Owner>,
        /// Its mark from now on.
        to: Owner,
    },
    /// Change a link's largest packet.
    SetMtu {
        /// The link.
        name: InterfaceName,
        /// Before.
        from: u32,
        /// From now on.
        to: u32,
    },
    /// Change a link's Ethernet address.
    SetMac {
        /// The link.
        name: InterfaceName,
        /// Before, if it had one.
        from: Option<MacAddress>,
        /// From now on.
        to: MacAddress,
    },
    /// Give a link an address.
    AddAddress {
        /// The link.
        name: InterfaceName,
        /// The address.
        address: IpCidr,
    },
    /// Take an address from a link.
    RemoveAddress {
        /// The link.
        name: InterfaceName,
        /// The address.
        address: IpCidr,
    },
    /// Lead a subnet to a link, in the main table.
    AddRoute {
        /// The link.
        name: InterfaceName,
        /// The subnet.
        destination: IpCidr,
    },
    /// Lead a subnet to a link no more.
    RemoveRoute {
        /// The link.
        name: InterfaceName,
        /// The subnet.
        destination: IpCidr,
    },
    /// Make a VXLAN device (RFC 7348), down, and mark it. It goes when `lower` goes.
    CreateVxlan {
        /// Its name.
        name: InterfaceName,
        /// The network identifier, of 24 bits.
        vni: u32,
        /// The link that its packets leave by.
        lower: InterfaceName,
        /// Where its packets come from.
        local: Ipv4Addr,
        /// The hosts that they go to.
        remotes: Vec<Ipv4Addr>,
        /// Its mark.
        owner: Owner,
    },
    /// Make a link a port of a bridge.
    JoinBridge {
        /// The link.
        name: InterfaceName,
        /// The bridge.
        bridge: InterfaceName,
    },
    /// Set a link up.
    SetUp {
        /// The link.
        name: InterfaceName,
    },
    /// Put a table of rules in force in place of the one before.
    SetRules {
        /// The table.
        rules: Ruleset,
        /// What it held before, if it was there.
        before: Option<Ruleset>,
    },
    /// Delete a table of rules.
    DeleteRules {
        /// The table's name.
        table: String,
    },
    /// Turn IPv4 forwarding on or off.
    SetForwarding {
        /// On or off.
        on: bool,
    },
    /// Delete a link that carries this mark.
    DeleteLink {
        /// Its name.
        name: InterfaceName,
        /// Its mark.
        owner: Owner,
    },
}

impl Operation {
    /// What undoes it, if that can be done.
    pub fn inverse(&self) -> Option<Self> {
        Some(match self.clone() {
            Self::CreateBridge { name, owner, .. }
            | Self::CreateTap { name, owner, .. }
            | Self::CreateVxlan { name, owner, .. } => Self::DeleteLink { name, owner },
            Self::Mark { name, from, to } => Self::Mark {
                name,
                to: from?,
                from: Some(to),
            },
            Self::SetMtu { name, from, to } => Self::SetMtu {
                name,
                from: to,
                to: from,
            },
            Self::SetMac { name, from, to } => Self::SetMac {
                name,
                to: from?,
                from: Some(to),
            },
            Self::AddAddress { name, address } => Self::RemoveAddress { name, address },
            Self::RemoveAddress { name, address } => Self::AddAddress { name, address },
            Self::AddRoute { name, destination } => Self::RemoveRoute { name, destination },
            Self::RemoveRoute { name, destination } => Self::AddRoute { name, destination },
            Self::SetRules { rules, before } => match before {
                Some(before) => Self::SetRules {
                    rules: before,
                    before: Some(rules),
                },
                None => Self::DeleteRules {
                    table: rules.table().to_owned(),
                },
            },
            Self::SetForwarding { on } => Self::SetForwarding { on: !on },
            // A link that was down and in no bridge is deleted with what made it, or harmless.
            Self::JoinBridge { .. } | Self::SetUp { .. } => return None,
            Self::DeleteRules { .. } | Self::DeleteLink { .. } => return None,
        })
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateBridge {
                name,
                mac,
                mtu,
                owner,
            } => {
                write!(f, "make bridge {name} with address {mac}")?;
                if let Some(mtu) = mtu {
                    write!(f, " and MTU {mtu}")?;
                }
                write!(f, ", marked {owner}")
            }
            Self::CreateTap {
                name,
                user,
                multi_queue,
                owner,
            } => {
                let queues = if *multi_queue {
                    "several queues"
                } else {
                    "one queue"
                };
                write!(f, "make TAP device {name} with {queues}")?;
                if let Some(user) = user {
                    write!(f, " for user {user}")?;
                }
                write!(f, ", marked {owner}")
            }
            Self::Mark { name, to, .. } => write!(f, "mark link {name} as {to}"),
            Self::SetMtu { name, from, to } => {
                write!(f, "set the MTU of {name} from {from} to {to}")
            }
            Self::SetMac { name, to, .. } => {
                write!(f, "set the Ethernet address of {name} to {to}")
            }
            Self::AddAddress { name, address } => write!(f, "give {name} the address {address}"),
            Self::RemoveAddress { name, address } => {
                write!(f, "take the address {address} from {name}")
            }
            Self::AddRoute { name, destination } => write!(f, "lead {destination} to {name}"),
            Self::RemoveRoute { name, destination } => {
                write!(f, "lead {destination} to {name} no more")
            }
            Self::CreateVxlan {
                name,
                vni,
                lower,
                remotes,
                owner,
                ..
            } => {
                let remotes: Vec<String> = remotes.iter().map(ToString::to_string).collect();
                let to = remotes.join(" and ");
                write!(
                    f,
                    "make VXLAN device {name}, network {vni}, by {lower} to {to}, marked {owner}"
                )
            }
            Self::JoinBridge { name, bridge } => write!(f, "join {name} to bridge {bridge}"),
            Self::SetUp { name } => write!(f, "set {name} up"),
            Self::SetRules { rules, before } => fmt_rules(rules, before.is_some(), f),
            Self::DeleteRules { table } => write!(f, "delete the rules of table inet {table}"),
            Self::SetForwarding { on } => {
                write!(f, "turn IPv4 forwarding {}", if *on { "on" } else { "off" })
            }
            Self::DeleteLink { name, .. } => write!(f, "delete link {name}"),
        }
    }
}

fn fmt_rules(rules: &Ruleset, replaced: bool, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let is_rule = |object: &&serde_json::Value| object.get("rule").is_some();
    let count = rules.objects().iter().filter(is_rule).count();
    let verb = if replaced { "replace" } else { "set" };
    let table = rules.table();
    write!(f, "{verb} the rules of table inet {table} ({count} rules)")
}
