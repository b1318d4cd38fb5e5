//! What takes a network away.

use super::{Observed, OnFailure, Operation, Plan, Rules};
use crate::link::{Link, Owner};
use crate::{InterfaceName, NetworkName, Result};

/// What takes away all that weft made for the network of this name, whatever part of it is there. Links of others that
/// were joined to its bridge stay. Empty if there is nothing.
pub fn tear_down(name: &NetworkName, observed: &Observed) -> Result<Plan> {
    let mut operations = Vec::new();
    // First, for the bridge's mark is what remembers how forwarding was found.
    if observed.forwarding && last_that_remembers(name, observed) {
        operations.push(Operation::SetForwarding { on: false });
    }
    // Ports before their bridge, and both before the rules.
    let mine = |link: &&Link| {
        let owner = link.owner();
        owner.is_some_and(|owner| owner.network == name.as_str())
    };
    let mut links: Vec<&Link> = observed.links.iter().filter(mine).collect();
    links.sort_by_key(|link| link.owner().is_none_or(|owner| owner.port.is_none()));
    for link in &links {
        operations.push(delete(link)?);
    }
    let unmarked = |link: &&Link| link.is_unmarked_bridge(name.bridge_mac());
    if let Some(link) = observed.links.iter().find(unmarked) {
        let owner = Owner::bridge(name.as_str());
        let link = InterfaceName::new(link.name.clone())?;
        operations.push(Operation::Mark {
            name: link.clone(),
            from: None,
            to: owner.clone(),
        });
        operations.push(Operation::DeleteLink { name: link, owner });
    }
    let table = name.table();
    let mut warnings = Vec::new();
    match &observed.rules {
        Rules::Known(tables) if tables.iter().any(|rules| rules.table() == table) => {
            operations.push(Operation::DeleteRules { table });
        }
        Rules::Known(_) => {}
        Rules::NotRead => warnings.push(format!(
            "nobody looked for rules; if there is a table inet {table}, it stays"
        )),
        Rules::NoProgram => warnings.push(format!(
            "the program nft is not installed; if there is a table inet {table}, it stays"
        )),
    }
    Ok(Plan {
        title: format!("network {name}, to be removed"),
        operations,
        warnings,
        on_failure: OnFailure::GoOn,
    })
}

pub(super) fn delete(link: &Link) -> Result<Operation> {
    let owner = link.owner().unwrap_or_else(|| Owner::bridge(""));
    Ok(Operation::DeleteLink {
        name: InterfaceName::new(link.name.clone())?,
        owner,
    })
}

/// Whether forwarding was off when weft turned it on, and no other network needs it any more.
fn last_that_remembers(name: &NetworkName, observed: &Observed) -> bool {
    let remembering = || {
        observed
            .bridges()
            .filter(|(owner, _)| owner.forwarding_was_off)
            .map(|(owner, _)| owner.network == name.as_str())
    };
    remembering().any(|mine| mine) && remembering().all(|mine| mine)
}
