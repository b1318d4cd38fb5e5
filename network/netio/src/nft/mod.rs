//! Packet rules, in a table of weft's own for each network.
//!
//! A [`Ruleset`] is one table with everything in it. It is put in force as one transaction that replaces whatever the
//! table held before, through the program `nft`; it is listed back in the same form, so what is in force can be
//! compared with what ought to be. Other tables are never touched.

mod program;
mod rules;

pub use program::{Blocking, blocking_chains, delete, list, replace, tables};
pub use rules::{masquerade_rules, network_rules};

use serde_json::Value;

/// One table of the family `inet` with its chains and rules, in the order in which they count.
#[derive(Debug, Clone, PartialEq)]
pub struct Ruleset {
    table: String,
    /// Chains and rules as libnftables-json(5) has them, without handles.
    objects: Vec<Value>,
}

impl Ruleset {
    /// The table's name.
    pub fn table(&self) -> &str {
        &self.table
    }

    /// Chains and rules as libnftables-json(5) has them, without handles.
    pub fn objects(&self) -> &[Value] {
        &self.objects
    }
}
