//! The difference between what is declared and what is there.

use std::collections::BTreeSet;

use super::{Lab, LabStretch};
use crate::api::{Action, ArrayState, Change, Plan, Size, Status, VolumeSize};

/// What was found before a plan is made.
#[derive(Debug, Clone)]
pub struct Observed {
    /// What the daemon holds.
    pub status: Status,
    /// Which of the declared disk files exist.
    pub files: BTreeSet<String>,
    /// Which of the declared arrays are written on their disks.
    pub arrays: BTreeSet<String>,
    /// Which of the declared groups are written on their disks, as far as that can be told before the arrays below
    /// them run.
    pub groups: BTreeSet<String>,
}

fn change(action: Action, noun: &str, name: &str, detail: String) -> Change {
    Change {
        action,
        noun: noun.to_owned(),
        name: name.to_owned(),
        detail,
    }
}

/// What `up` does: everything declared that is not there, from the disks up.
pub fn up(lab: &Lab, observed: &Observed) -> Plan {
    let status = &observed.status;
    let mut changes = Vec::new();
    for disk in &lab.disks {
        let there = observed.files.contains(&disk.path);
        let action = if there { Action::Keep } else { Action::Create };
        changes.push(change(
            action,
            "disk",
            &disk.path,
            Size(disk.size_bytes).to_string(),
        ));
    }
    for array in &lab.arrays {
        let running = status
            .arrays
            .iter()
            .any(|found| found.name == array.name && found.state != ArrayState::Failed);
        let written = observed.arrays.contains(&array.name);
        let detail = format!("RAID-{} over {} disks", array.level, array.disks.len());
        changes.push(change(start(running, written), "raid", &array.name, detail));
    }
    for group in &lab.groups {
        let running = status.groups.iter().any(|found| found.name == group.name);
        let written = observed.groups.contains(&group.name);
        let detail = format!("over {}", group.disks.join(", "));
        changes.push(change(start(running, written), "vg", &group.name, detail));
    }
    volumes(lab, observed, &mut changes);
    lab.hosts_up(status, &mut changes);
    for network in &lab.networks {
        let there = status
            .networks
            .iter()
            .any(|found| found.name == network.name);
        let detail = format!("{}, DHCP {}", network.subnet, network.dhcp);
        changes.push(change(keep(there), "net", &network.name, detail));
    }
    tunnels(lab, status, &mut changes);
    for export in &lab.exports {
        let there = status.exports.iter().any(|found| found.name == export.name);
        changes.push(change(
            keep(there),
            "export",
            &export.name,
            export.disk.clone(),
        ));
    }
    for machine in &lab.machines {
        let running = status.machines.iter().any(|found| {
            found.name == machine.name && found.state == crate::api::MachineState::Running
        });
        let memory = Size(machine.memory_bytes);
        let detail = format!("{} CPUs, {memory}", machine.cpus);
        changes.push(change(keep(running), "vm", &machine.name, detail));
    }
    Plan {
        lab: lab.name.clone(),
        changes,
    }
}

fn tunnels(lab: &Lab, status: &Status, changes: &mut Vec<Change>) {
    for tunnel in &lab.tunnels {
        let there = status.tunnels.iter().any(|found| found.name == tunnel.name);
        let detail = format!(
            "{}, {} peers",
            tunnel.addresses.join(", "),
            tunnel.peers.len()
        );
        changes.push(change(keep(there), "vpn", &tunnel.name, detail));
    }
    for LabStretch { net, stretch } in &lab.stretches {
        let there = is_stretched(status, net);
        let detail = format!("to {} by {}", stretch.remotes.join(" and "), stretch.vpn);
        changes.push(change(keep(there), "stretch", net, detail));
    }
}

fn is_stretched(status: &Status, net: &str) -> bool {
    let mut networks = status.networks.iter();
    networks.any(|found| found.name == net && found.stretch.is_some())
}

fn volumes(lab: &Lab, observed: &Observed, changes: &mut Vec<Change>) {
    for volume in &lab.volumes {
        let name = format!("{}/{}", volume.vg, volume.name);
        let group = observed
            .status
            .groups
            .iter()
            .find(|found| found.name == volume.vg);
        let found = observed
            .status
            .volumes
            .iter()
            .find(|found| found.vg == volume.vg && found.name == volume.name);
        let action = match (found, volume.size) {
            (Some(found), VolumeSize::Bytes(bytes))
                if group.is_some_and(|group| {
                    bytes.next_multiple_of(group.extent_bytes.max(1)) > found.size_bytes
                }) =>
            {
                Action::Resize
            }
            (Some(_), _) => Action::Keep,
            (None, _) if group.is_none() && observed.groups.contains(&volume.vg) => Action::Start,
            (None, _) => Action::Create,
        };
        let detail = match volume.size {
            VolumeSize::Bytes(bytes) => Size(bytes).to_string(),
            other => other.to_string(),
        };
        changes.push(change(action, "lv", &name, detail));
    }
}

/// What `down` does: everything declared that runs is stopped, from the machines down; disk files stay.
pub fn down(lab: &Lab, status: &Status) -> Plan {
    let mut changes = Vec::new();
    let mut each = |action, noun: &str, name: &str, there: bool, detail: &str| {
        if there {
            changes.push(change(action, noun, name, detail.to_owned()));
        }
    };
    for machine in &lab.machines {
        let there = status
            .machines
            .iter()
            .any(|found| found.name == machine.name);
        each(Action::Remove, "vm", &machine.name, there, "powered off");
    }
    for export in &lab.exports {
        let there = status.exports.iter().any(|found| found.name == export.name);
        each(Action::Remove, "export", &export.name, there, "closed");
    }
    for LabStretch { net, .. } in &lab.stretches {
        let there = is_stretched(status, net);
        each(Action::Remove, "stretch", net, there, "the network stays");
    }
    for tunnel in &lab.tunnels {
        let there = status.tunnels.iter().any(|found| found.name == tunnel.name);
        each(
            Action::Remove,
            "vpn",
            &tunnel.name,
            there,
            "interface, routes and keys",
        );
    }
    for network in &lab.networks {
        let there = status
            .networks
            .iter()
            .any(|found| found.name == network.name);
        each(
            Action::Remove,
            "net",
            &network.name,
            there,
            "bridge, rules and leases",
        );
    }
    for group in lab.groups.iter().rev() {
        let there = status.groups.iter().any(|found| found.name == group.name);
        each(
            Action::Stop,
            "vg",
            &group.name,
            there,
            "its volumes stay on the disks",
        );
    }
    for array in lab.arrays.iter().rev() {
        let there = status.arrays.iter().any(|found| found.name == array.name);
        each(Action::Stop, "raid", &array.name, there, "marked clean");
    }
    lab.hosts_down(status, &mut changes);
    Plan {
        lab: lab.name.clone(),
        changes,
    }
}

fn start(running: bool, written: bool) -> Action {
    match (running, written) {
        (true, _) => Action::Keep,
        (false, true) => Action::Start,
        (false, false) => Action::Create,
    }
}

fn keep(there: bool) -> Action {
    if there { Action::Keep } else { Action::Create }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Health;

    fn lab() -> Lab {
        let text = r#"
            [disk.a]
            path = "a"
            size = "1G"
            [raid.tank]
            level = 0
            disks = ["a"]
            [vg.data]
            disks = ["tank"]
            [lv.data.root]
            size = "100M"
            [net.lan]
            subnet = "10.0.0.0/24"
            "#;
        Lab::parse(std::path::Path::new("/l/x.toml"), text).unwrap()
    }

    fn nothing() -> Observed {
        Observed {
            status: Status {
                health: Health::Good,
                advice: vec![],
                disks: vec![],
                arrays: vec![],
                groups: vec![],
                volumes: vec![],
                images: vec![],
                exports: vec![],
                hosts: vec![],
                networks: vec![],
                tunnels: vec![],
                machines: vec![],
            },
            files: BTreeSet::new(),
            arrays: BTreeSet::new(),
            groups: BTreeSet::new(),
        }
    }

    fn actions(plan: &Plan) -> Vec<(Action, &str)> {
        plan.changes
            .iter()
            .map(|change| (change.action, change.noun.as_str()))
            .collect()
    }

    #[test]
    fn on_a_bare_host_everything_is_made_from_the_disks_up() {
        let create = Action::Create;
        assert_eq!(
            actions(&up(&lab(), &nothing())),
            [
                (create, "disk"),
                (create, "raid"),
                (create, "vg"),
                (create, "lv"),
                (create, "net")
            ]
        );
    }

    #[test]
    fn what_stands_on_disk_is_started() {
        let mut observed = nothing();
        observed.files.insert("/l/a".into());
        observed.arrays.insert("tank".into());
        observed.groups.insert("data".into());
        assert_eq!(
            actions(&up(&lab(), &observed)),
            [
                (Action::Keep, "disk"),
                (Action::Start, "raid"),
                (Action::Start, "vg"),
                (Action::Start, "lv"),
                (Action::Create, "net")
            ]
        );
    }

    #[test]
    fn down_on_a_bare_host_does_nothing() {
        assert_eq!(down(&lab(), &nothing().status).changes, []);
    }
}
