//! All that exists, and what to do about it.

use std::collections::BTreeSet;

use super::Daemon;
use crate::api::{
    Advice, Array, ArrayState, Group, Health, Member, MemberRole, MemberState, Network, Result,
    Status, SyncAction,
};

impl Daemon {
    /// All that exists.
    ///
    /// # Errors
    /// None of its own; what cannot be read is shown as trouble.
    pub async fn status(&self) -> Result<Status> {
        let mut status = Status {
            health: Health::Good,
            advice: self.storage.troubles().await,
            disks: self.storage.disks().await,
            arrays: self.storage.arrays().await,
            groups: self.storage.groups().await,
            volumes: self.storage.volumes().await,
            images: self.storage.images().await,
            exports: self.exports().await,
            hosts: self.hosts.list().await,
            networks: self.network.list().await,
            tunnels: self.tunnels.list().await,
            machines: self.machines().await,
        };
        status.advice.extend(self.hosts.troubles().await);
        status.advice.extend(self.network.troubles().await);
        let tunnels = self.tunnels.troubles(&status.tunnels).await;
        status.advice.extend(tunnels);
        judge(&mut status);
        Ok(status)
    }
}

impl Status {
    /// Whether there is nothing to serve.
    pub fn is_empty(&self) -> bool {
        self.arrays.is_empty()
            && self.groups.is_empty()
            && self.exports.is_empty()
            && self.hosts.is_empty()
            && self.networks.is_empty()
            && self.tunnels.is_empty()
            && self.machines.is_empty()
    }
}

/// Adds what follows from the objects' states to the advice, and sets the health of the whole.
fn judge(status: &mut Status) {
    let mut health = if status.advice.is_empty() {
        Health::Good
    } else {
        Health::Degraded
    };
    for array in &status.arrays {
        health = health.max(array_health(array));
        status.advice.extend(array_advice(array));
    }
    for group in &status.groups {
        if let Some(advice) = group_advice(group) {
            health = health.max(Health::Degraded);
            status.advice.push(advice);
        }
    }
    for image in &status.images {
        if let Some(trouble) = &image.trouble {
            health = health.max(Health::Degraded);
            status.advice.push(Advice {
                object: format!("image {}", image.disk),
                message: format!("what was done to it has failed, and it is as it was: {trouble}"),
                command: Some(format!("weft image show {}", image.disk)),
            });
        }
    }
    for network in &status.networks {
        if let Some(advice) = network_advice(network) {
            health = health.max(Health::Degraded);
            status.advice.push(advice);
        }
    }
    status.health = health;
}

fn array_health(array: &Array) -> Health {
    match (array.state, array.sync.action) {
        (ArrayState::Failed, _) => Health::Failed,
        (_, SyncAction::Recover | SyncAction::Resync) => Health::Recovering,
        (ArrayState::Degraded, _) => Health::Degraded,
        (ArrayState::Clean | ArrayState::Active, _) if disagreement(array) > 0 => Health::Degraded,
        (ArrayState::Clean | ArrayState::Active, _) => Health::Good,
    }
}

fn array_advice(array: &Array) -> Option<Advice> {
    let object = format!("raid {}", array.name);
    let lost = array
        .members
        .iter()
        .filter(|member| matches!(member.state, MemberState::Faulty | MemberState::Missing))
        .filter_map(|member| member.path.as_deref())
        .chain(array.away.iter().map(String::as_str))
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect::<Vec<_>>()
        .join(", ");
    let without = if lost.is_empty() {
        String::new()
    } else {
        format!(" without {lost}")
    };
    match (array.state, array.sync.action) {
        (ArrayState::Failed, _) => Some(Advice {
            object,
            message: format!("it does not serve data{without}; too many members are lost"),
            command: Some(format!("weft raid assemble {} DISK...", array.name)),
        }),
        (ArrayState::Degraded, _) if lacks_journal(array) => Some(Advice {
            object,
            message: "it can be read and takes no writes: its journal has failed".to_owned(),
            command: Some(format!("weft raid add {} DISK --journal", array.name)),
        }),
        (ArrayState::Degraded, SyncAction::Recover) => Some(Advice {
            object,
            message: "it is being rebuilt and serves data meanwhile".to_owned(),
            command: Some(format!("weft raid wait {}", array.name)),
        }),
        (ArrayState::Degraded, _) => {
            let spare = match (array.level, missing(array)) {
                (0, _) => "nothing of it can be lost",
                (4 | 5, 1) | (6, 2) => "another loss loses data",
                _ => "its redundancy is reduced",
            };
            let (back, disk) = match &array.away[..] {
                [] => ("", "DISK".to_owned()),
                // A shell takes some of its characters for its own.
                [away, ..] => ("; it is taken back when it answers", format!("'{away}'")),
            };
            Some(Advice {
                object,
                message: format!("it serves data{without}; {spare}{back}"),
                command: Some(format!("weft raid add {} {disk}", array.name)),
            })
        }
        (ArrayState::Clean | ArrayState::Active, _) => disagreement_advice(array),
    }
}

/// Whether the array has lost its journal.
fn lacks_journal(array: &Array) -> bool {
    let works =
        |member: &Member| member.role == MemberRole::Journal && member.state == MemberState::InSync;
    array.consistency == "journal" && !array.members.iter().any(works)
}

/// Blocks that a check has found to differ and that nothing has mended.
fn disagreement(array: &Array) -> u64 {
    let scrub = array.scrub.as_ref();
    scrub.map_or(0, |scrub| scrub.mismatches - scrub.repaired)
}

fn disagreement_advice(array: &Array) -> Option<Advice> {
    let (scrub, differ) = (array.scrub.as_ref()?, disagreement(array));
    if differ == 0 {
        return None;
    }
    let (what, verb) = match scrub.located - scrub.repaired.min(scrub.located) {
        0 => ("nothing tells which member is wrong", "show"),
        located if located == differ => ("the members that are wrong are known", "repair"),
        _ => ("for some the member that is wrong is known", "repair"),
    };
    Some(Advice {
        object: format!("raid {}", array.name),
        message: format!("its members differ in {differ} blocks; {what}"),
        command: Some(format!("weft raid {verb} {}", array.name)),
    })
}

/// How many slots have no member in sync. A failed member is listed beside its empty slot.
fn missing(array: &Array) -> usize {
    let slots: BTreeSet<u32> = array
        .members
        .iter()
        .filter_map(|member| member.slot)
        .collect();
    let in_sync = array
        .members
        .iter()
        .filter(|member| member.state == MemberState::InSync);
    let whole: BTreeSet<u32> = in_sync.filter_map(|member| member.slot).collect();
    slots.len() - whole.len()
}

fn group_advice(group: &Group) -> Option<Advice> {
    let object = format!("vg {}", group.name);
    if group.pvs.iter().any(|pv| pv.path.is_none()) {
        return Some(Advice {
            object,
            message: "a disk of it is missing; volumes on that disk are not served".to_owned(),
            command: Some(format!("weft vg show {}", group.name)),
        });
    }
    let problem = group.problems.first()?;
    Some(Advice {
        object,
        message: problem.clone(),
        command: Some(format!("weft vg check {}", group.name)),
    })
}

fn network_advice(network: &Network) -> Option<Advice> {
    (network.state != "up").then(|| Advice {
        object: format!("net {}", network.name),
        message: "its bridge is not up".to_owned(),
        command: Some(format!("weft net show {}", network.name)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Member, MemberRole, Sync};

    fn array(state: ArrayState, action: SyncAction) -> Array {
        let member = |slot, state| Member {
            path: Some(format!("/d{slot}")),
            slot: Some(slot),
            role: MemberRole::Active,
            state,
            write_mostly: false,
        };
        Array {
            name: "tank".into(),
            uuid: String::new(),
            level: 5,
            layout: None,
            chunk_bytes: 0,
            size_bytes: 0,
            size_afterwards_bytes: None,
            state,
            consistency: "bitmap".into(),
            members: vec![
                member(0, MemberState::InSync),
                member(1, MemberState::Faulty),
                member(2, MemberState::InSync),
            ],
            away: Vec::new(),
            scrub: None,
            sync: Sync {
                action,
                done_bytes: 0,
                total_bytes: 0,
                rate_bytes: None,
                seconds_left: None,
                paused: false,
                floor_bytes: 0,
                ceiling_bytes: None,
            },
        }
    }

    #[test]
    fn an_array_without_its_journal_says_what_to_do() {
        let mut array = array(ArrayState::Degraded, SyncAction::Idle);
        array.consistency = "journal".into();
        let advice = array_advice(&array).unwrap();
        assert_eq!(
            advice.command.as_deref(),
            Some("weft raid add tank DISK --journal")
        );
        array.members[0].role = MemberRole::Journal;
        let advice = array_advice(&array).unwrap();
        assert_eq!(advice.command.as_deref(), Some("weft raid add tank DISK"));
    }

    #[test]
    fn a_degraded_array_says_what_to_do() {
        let advice = array_advice(&array(ArrayState::Degraded, SyncAction::Idle)).unwrap();
        assert_eq!(
            advice.message,
            "it serves data without /d1; another loss loses data"
        );
        assert_eq!(advice.command.as_deref(), Some("weft raid add tank DISK"));
    }

    #[test]
    fn a_rebuild_is_no_alarm() {
        let rebuilding = array(ArrayState::Degraded, SyncAction::Recover);
        assert_eq!(array_health(&rebuilding), Health::Recovering);
        assert_eq!(
            array_advice(&rebuilding).unwrap().command.as_deref(),
            Some("weft raid wait tank")
        );
    }
}
