//! Hosts that exist for a lab.

use serde::{Deserialize, Serialize};

/// A host of a lab: a network namespace, with links to others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Its name, which is its namespace's: `ip netns exec NAME …` runs a program on it.
    pub name: String,
    /// Whether it is a router.
    pub forward: bool,
    /// The links that are declared at it.
    pub links: Vec<HostLink>,
}

/// A pair of links between two hosts. Each end is named for the host at the other end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostLink {
    /// The host at the other end.
    pub to: String,
    /// The address at this end, such as `192.0.2.2/30`.
    pub address: String,
    /// The address at the other end.
    pub peer: String,
    /// What is reached by the other end.
    pub routes: Vec<String>,
    /// Whether what is forwarded to the other end goes under this end's address.
    pub masquerade: bool,
}
