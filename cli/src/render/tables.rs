//! Lists, one object a line.

use comfy_table::Table;
use comfy_table::presets::NOTHING;
use weft_service::api::{
    Array, ArrayState, Disk, DiskUse, Export, Group, Machine, MachineState, Network, Size, Volume,
    VolumeKind,
};

pub(super) fn table<const N: usize>(
    head: [&str; N],
    rows: impl Iterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    table.load_preset(NOTHING).set_header(head);
    let mut empty = true;
    for row in rows {
        table.add_row(row);
        empty = false;
    }
    if empty {
        "none\n".to_owned()
    } else {
        format!("{}\n", table.trim_fmt())
    }
}

pub(crate) fn disks(disks: &[Disk]) -> String {
    let row = |disk: &Disk| {
        let holds = match &disk.trouble {
            Some(trouble) => trouble.clone(),
            None if disk.signatures.is_empty() => "-".to_owned(),
            None => disk.signatures.join(", "),
        };
        let used = disk.used_by.as_ref().map_or("-".to_owned(), used_by);
        [
            disk.path.clone(),
            Size(disk.size_bytes).to_string(),
            used,
            holds,
        ]
    };
    table(["DISK", "SIZE", "USED BY", "HOLDS"], disks.iter().map(row))
}

pub(super) fn used_by(used: &DiskUse) -> String {
    format!("{} {}", used.noun, used.name)
}

/// The word for a state.
pub(super) fn state(state: ArrayState) -> &'static str {
    match state {
        ArrayState::Clean => "clean",
        ArrayState::Active => "active",
        ArrayState::Degraded => "degraded",
        ArrayState::Failed => "failed",
    }
}

pub(crate) fn arrays(arrays: &[Array]) -> String {
    let row = |array: &Array| {
        [
            array.name.clone(),
            format!("RAID-{}", array.level),
            Size(array.size_bytes).to_string(),
            state(array.state).to_owned(),
            array.members.len().to_string(),
        ]
    };
    table(
        ["ARRAY", "LEVEL", "SIZE", "STATE", "MEMBERS"],
        arrays.iter().map(row),
    )
}

pub(crate) fn groups(groups: &[Group]) -> String {
    let row = |group: &Group| {
        [
            group.name.clone(),
            Size(group.size_bytes).to_string(),
            Size(group.free_bytes).to_string(),
            group.pvs.len().to_string(),
            group.volumes.len().to_string(),
        ]
    };
    table(
        ["GROUP", "SIZE", "FREE", "DISKS", "VOLUMES"],
        groups.iter().map(row),
    )
}

/// The word for a kind.
pub(super) fn kind(kind: VolumeKind) -> &'static str {
    match kind {
        VolumeKind::Linear => "linear",
        VolumeKind::Striped => "striped",
        VolumeKind::Other => "other",
    }
}

pub(crate) fn volumes(volumes: &[Volume]) -> String {
    let row = |volume: &Volume| {
        [
            format!("{}/{}", volume.vg, volume.name),
            Size(volume.size_bytes).to_string(),
            kind(volume.kind).to_owned(),
            volume.state.clone(),
        ]
    };
    table(["VOLUME", "SIZE", "TYPE", "STATE"], volumes.iter().map(row))
}

pub(crate) fn exports(exports: &[Export]) -> String {
    let row = |export: &Export| {
        let access = if export.read_only {
            "read-only"
        } else {
            "read-write"
        };
        [
            export.name.clone(),
            export.disk.clone(),
            access.to_owned(),
            export.url.clone(),
        ]
    };
    table(["EXPORT", "DISK", "ACCESS", "URL"], exports.iter().map(row))
}

pub(crate) fn networks(networks: &[Network]) -> String {
    let row = |network: &Network| {
        [
            network.name.clone(),
            network.subnet.clone(),
            network.bridge.clone(),
            network.state.clone(),
            network.ports.len().to_string(),
            network.leases.len().to_string(),
        ]
    };
    table(
        ["NETWORK", "SUBNET", "BRIDGE", "STATE", "PORTS", "LEASES"],
        networks.iter().map(row),
    )
}

/// The word for a state.
pub(super) fn machine_state(state: MachineState) -> &'static str {
    match state {
        MachineState::Running => "running",
        MachineState::Stopped => "stopped",
    }
}

pub(crate) fn machines(machines: &[Machine]) -> String {
    let row = |machine: &Machine| {
        [
            machine.name.clone(),
            machine_state(machine.state).to_owned(),
            machine.engine.to_string(),
            machine.cpus.to_string(),
            Size(machine.memory_bytes).to_string(),
            machine.addresses.join(", "),
        ]
    };
    table(
        ["MACHINE", "STATE", "ENGINE", "CPUS", "MEMORY", "ADDRESS"],
        machines.iter().map(row),
    )
}
