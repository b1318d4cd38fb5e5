//! Doing a plan.

use super::{OnFailure, Operation, Plan};
use crate::link::{Links, VxlanEnds};
use crate::{Error, Result, Tap, TapOptions, forwarding, ipv6, nft};

impl Plan {
    /// Does the steps in order, in the namespace in which `links` was opened, which must be that of the calling
    /// thread.
    ///
    /// If one fails, those before it are undone, last first, or those behind it are done all the same, as the plan
    /// says. The error has the kind of the first failure and tells every one.
    pub async fn apply(&self, links: &Links) -> Result<()> {
        let mut failures = Vec::new();
        for (done, operation) in self.operations.iter().enumerate() {
            let Err(e) = perform(operation, links).await else {
                continue;
            };
            failures.push(e);
            if self.on_failure == OnFailure::Undo {
                // The one that failed as well: it may have done a part of its work.
                undo(&self.operations[..=done], links, &mut failures).await;
                break;
            }
        }
        match failures.is_empty() {
            true => Ok(()),
            false => Err(summary(self, &failures)),
        }
    }
}

async fn undo(operations: &[Operation], links: &Links, failures: &mut Vec<Error>) {
    for inverse in operations.iter().rev().filter_map(Operation::inverse) {
        let undone = perform(&inverse, links).await;
        let nothing_there = |e: &Error| {
            matches!(
                e.kind(),
                crate::ErrorKind::NotFound | crate::ErrorKind::Foreign
            )
        };
        // What the failed step never made need not be taken away, and what is not ours must not.
        failures.extend(undone.err().filter(|e| !nothing_there(e)));
    }
}

fn summary(plan: &Plan, failures: &[Error]) -> Error {
    let outcome = match plan.on_failure {
        OnFailure::Undo if failures.len() == 1 => "nothing was changed",
        OnFailure::Undo => "undoing it failed too",
        OnFailure::GoOn => "the rest was done",
    };
    let told: Vec<String> = failures.iter().map(Error::sentence).collect();
    let context = format!("{}: {} ({outcome})", plan.title, told.join("; "));
    Error::new(failures[0].kind(), context)
}

async fn perform(operation: &Operation, links: &Links) -> Result<()> {
    tracing::debug!(%operation, "network");
    match operation {
        Operation::CreateBridge {
            name,
            mac,
            mtu,
            owner,
        } => {
            links.create_bridge(name, *mac, *mtu, owner).await?;
            ipv6::disable(name)
        }
        Operation::CreateTap {
            name,
            user,
            multi_queue,
            owner,
        } => {
            let options = TapOptions {
                multi_queue: *multi_queue,
                exclusive: true,
                ..TapOptions::default()
            };
            let tap = Tap::open(name, &options)?;
            if let Some(user) = user {
                tap.set_owner(*user)?;
            }
            // The mark comes before persistence, so that a crash in between leaves nothing.
            links.set_owner(name, owner).await?;
            ipv6::disable(name)?;
            tap.set_persistent(true)
        }
        Operation::Mark { name, to, .. } => links.set_owner(name, to).await,
        Operation::SetMtu { name, to, .. } => links.set_mtu(name, *to).await,
        Operation::SetMac { name, to, .. } => links.set_mac(name, *to).await,
        Operation::AddAddress { name, address } => links.add_address(name, *address).await,
        Operation::RemoveAddress { name, address } => links.remove_address(name, *address).await,
        Operation::AddRoute { name, destination } => links.add_link_route(name, *destination).await,
        Operation::RemoveRoute { name, destination } => {
            links.remove_link_route(name, *destination).await
        }
        Operation::CreateVxlan {
            name,
            vni,
            lower,
            local,
            remotes,
            owner,
        } => {
            let ends = VxlanEnds {
                local: *local,
                remotes,
            };
            links.create_vxlan(name, *vni, lower, ends, owner).await?;
            ipv6::disable(name)
        }
        Operation::JoinBridge { name, bridge } => links.set_bridge(name, Some(bridge)).await,
        Operation::SetUp { name } => links.set_up(name, true).await,
        Operation::SetRules { rules, .. } => nft::replace(rules).await,
        Operation::DeleteRules { table } => nft::delete(table).await,
        Operation::SetForwarding { on } => forwarding::set(*on),
        Operation::DeleteLink { name, owner } => links.delete(name, owner).await,
    }
}
