//! One object, all that is known of it.

use weft_service::api::{
    Array, Examination, Group, Machine, Member, MemberRole, MemberState, Network, Scrub, Size,
    SyncAction, Volume,
};

use super::progress::{percent, speed, word};
use super::tables::{kind, machine_state, state};

/// Places of a check that are shown; JSON has more.
const PLACES_SHOWN: usize = 8;

/// Lines of a name and a value, the values in a column of their own.
pub(super) fn lines(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    pairs
        .iter()
        .map(|(name, value)| format!("{name:width$}  {value}\n"))
        .collect()
}

/// What an array does in the background, or nothing.
pub(super) fn sync(array: &Array) -> Option<String> {
    let sync = &array.sync;
    (sync.action != SyncAction::Idle)
        .then(|| format!("{} {} %{}", word(sync.action), percent(sync), speed(sync)))
}

/// The members to show: an empty slot is not told beside the failed member that had it.
pub(super) fn members(array: &Array) -> impl Iterator<Item = &Member> {
    array.members.iter().filter(|member| {
        let same_slot = |other: &&Member| other.slot == member.slot && other.path.is_some();
        member.path.is_some() || !array.members.iter().any(|other| same_slot(&other))
    })
}

/// The word for a member's state.
pub(super) fn member_state(member: &Member) -> &'static str {
    match (member.state, member.slot) {
        (MemberState::InSync, None) if member.role == MemberRole::Journal => "journal",
        (MemberState::Faulty, None) if member.role == MemberRole::Journal => "faulty journal",
        (MemberState::InSync, None) => "spare",
        (MemberState::InSync, Some(_)) => "in sync",
        (MemberState::Rebuilding, _) => "rebuilding",
        (MemberState::Faulty, _) => "faulty",
        (MemberState::Missing, _) => "missing",
    }
}

/// What a crash costs, and what the policy costs in turn.
fn after_a_crash(array: &Array) -> Option<&'static str> {
    let parity = matches!(array.level, 4..=6);
    Some(match (array.consistency.as_str(), parity) {
        ("ppl", _) => {
            "what was under way is put right, with a member away too; a member that was away is rebuilt whole"
        }
        ("journal", _) => {
            "what was under way is put right from the journal, with members away too: the write hole is closed"
        }
        ("bitmap", true) => {
            "what was under way is compared; degraded, a block of the missing member may be lost (the write hole)"
        }
        ("bitmap", false) => "what was under way is compared",
        ("resync", true) => {
            "everything is compared; degraded, a block of the missing member may be lost (the write hole)"
        }
        ("resync", false) => "everything is compared",
        _ => return None,
    })
}

/// What closes the write hole of an array that could have it closed: one that Linux has reshaped has lost its log, too.
fn what_closes_the_hole(array: &Array) -> Option<String> {
    let is_open = matches!(array.consistency.as_str(), "bitmap" | "resync");
    let is_at_rest = array.sync.action == SyncAction::Idle;
    (array.level == 5 && is_open && is_at_rest)
        .then(|| format!("weft raid grow {} --consistency ppl", array.name))
}

/// Its size, and what that will be.
fn size(array: &Array) -> String {
    let now = Size(array.size_bytes);
    match array.size_afterwards_bytes {
        Some(afterwards) if afterwards != array.size_bytes => {
            format!("{now}, {} when the reshape is done", Size(afterwards))
        }
        _ => now.to_string(),
    }
}

pub(crate) fn array(array: &Array) -> String {
    let mut pairs = vec![
        ("array", array.name.clone()),
        ("uuid", array.uuid.clone()),
        ("level", format!("RAID-{}", array.level)),
        ("size", size(array)),
        ("state", state(array.state).to_owned()),
        ("consistency", array.consistency.clone()),
    ];
    pairs.extend(after_a_crash(array).map(|words| ("after a crash", words.to_owned())));
    pairs.extend(what_closes_the_hole(array).map(|words| ("to close it", words)));
    if array.chunk_bytes != 0 {
        pairs.push(("chunk", Size(array.chunk_bytes).to_string()));
    }
    if let Some(layout) = &array.layout {
        pairs.push(("layout", layout.clone()));
    }
    if let Some(sync) = sync(array) {
        pairs.push(("background", sync));
    }
    for member in members(array) {
        let slot = member.slot.map_or("-".to_owned(), |slot| slot.to_string());
        let path = member.path.as_deref().unwrap_or("-");
        pairs.push((
            "member",
            format!(
                "{slot}  {path}  {}{}",
                member_state(member),
                if member.write_mostly {
                    ", write-mostly"
                } else {
                    ""
                }
            ),
        ));
    }
    let waited_for = array.away.iter();
    pairs.extend(waited_for.map(|disk| ("away", format!("{disk}  is taken back when it answers"))));
    if let Some(scrub) = &array.scrub {
        pairs.extend(scrub_lines(scrub));
    }
    lines(&pairs)
}

/// What a check or repair has found, and the first places.
fn scrub_lines(scrub: &Scrub) -> Vec<(&'static str, String)> {
    let name = word(scrub.action);
    let mut text = format!(
        "{} blocks differ, {} repaired",
        scrub.mismatches, scrub.repaired
    );
    if scrub.unreadable > 0 {
        text.push_str(&format!(", {} cannot be read", scrub.unreadable));
    }
    if !scrub.complete {
        text.push_str(" (so far)");
    }
    let mut pairs = vec![(name, text)];
    for place in scrub.places.iter().take(PLACES_SHOWN) {
        let wrong = match &place.wrong[..] {
            [] => "nothing tells which member is wrong".to_owned(),
            wrong => format!("{} is wrong", wrong.join(", ")),
        };
        let repaired = if place.repaired { ", repaired" } else { "" };
        let (bytes, start) = (place.length_bytes, place.offset_bytes);
        let at = format!("{bytes} bytes at byte {start} of the members");
        pairs.push(("differs", format!("{at}: {wrong}{repaired}")));
    }
    pairs
}

pub(crate) fn examination(found: &Examination) -> String {
    lines(&[
        ("disk", found.path.clone()),
        ("array", found.name.clone()),
        ("uuid", found.uuid.clone()),
        ("device uuid", found.device_uuid.clone()),
        ("level", found.level.to_string()),
        (
            "layout",
            found.layout.clone().unwrap_or_else(|| "-".to_owned()),
        ),
        ("raid disks", found.raid_disks.to_string()),
        ("chunk", Size(found.chunk_bytes).to_string()),
        ("member size", Size(found.member_bytes).to_string()),
        ("data offset", Size(found.data_offset_bytes).to_string()),
        ("events", found.events.to_string()),
        ("role", found.role.clone()),
        (
            "state",
            if found.clean { "clean" } else { "active" }.to_owned(),
        ),
    ])
}

pub(crate) fn group(group: &Group) -> String {
    let mut pairs = vec![
        ("group", group.name.clone()),
        ("uuid", group.uuid.clone()),
        ("seqno", group.seqno.to_string()),
        ("extent", Size(group.extent_bytes).to_string()),
        ("size", Size(group.size_bytes).to_string()),
        ("free", Size(group.free_bytes).to_string()),
    ];
    for pv in &group.pvs {
        let path = pv.path.as_deref().unwrap_or("(missing)");
        let (size, free) = (Size(pv.size_bytes), Size(pv.free_bytes));
        pairs.push(("disk", format!("{path}  {size}, {free} free")));
    }
    for volume in &group.volumes {
        pairs.push(("volume", format!("{}/{volume}", group.name)));
    }
    for problem in &group.problems {
        pairs.push(("problem", problem.clone()));
    }
    lines(&pairs)
}

pub(crate) fn volume(volume: &Volume) -> String {
    let mut pairs = vec![
        ("volume", format!("{}/{}", volume.vg, volume.name)),
        ("uuid", volume.uuid.clone()),
        ("type", kind(volume.kind).to_owned()),
        ("size", Size(volume.size_bytes).to_string()),
        ("state", volume.state.clone()),
    ];
    for segment in &volume.segments {
        let places: Vec<String> = segment
            .stripes
            .iter()
            .map(|stripe| format!("{} at {}", stripe.disk, Size(stripe.offset_bytes)))
            .collect();
        let (from, size) = (Size(segment.offset_bytes), Size(segment.size_bytes));
        pairs.push((
            "segment",
            format!("{size} from {from}: {}", places.join(", ")),
        ));
    }
    lines(&pairs)
}

pub(crate) fn network(network: &Network) -> String {
    let mode = serde_json::to_value(network.mode).ok();
    let mode = mode
        .as_ref()
        .and_then(|mode| mode.as_str())
        .unwrap_or_default()
        .to_owned();
    let mut pairs = vec![
        ("network", network.name.clone()),
        ("subnet", network.subnet.clone()),
        ("gateway", network.gateway.clone()),
        ("mode", mode),
        ("dhcp", network.dhcp.to_string()),
        ("bridge", network.bridge.clone()),
        ("state", network.state.clone()),
    ];
    let forwards = network.forwards.iter();
    pairs.extend(forwards.map(|forward| ("forward", forward.clone())));
    let tunnels = network.tunnels.iter();
    pairs.extend(tunnels.map(|tunnel| ("tunnel", tunnel.clone())));
    if let Some(stretch) = &network.stretch {
        let text = format!(
            "to {} by tunnel {}, VXLAN network {}, packets up to {} bytes",
            stretch.remotes.join(" and "),
            stretch.vpn,
            stretch.vni,
            stretch.mtu
        );
        pairs.push(("stretched", text));
    }
    for port in &network.ports {
        let user = port
            .machine
            .as_deref()
            .map_or(String::new(), |vm| format!(", machine {vm}"));
        pairs.push(("port", format!("{} on link {}{user}", port.name, port.tap)));
    }
    for lease in &network.leases {
        let name = lease.hostname.as_deref().unwrap_or("-");
        let text = format!(
            "{} to {} ({name}) until {}",
            lease.address, lease.mac, lease.expires
        );
        pairs.push(("lease", text));
    }
    lines(&pairs)
}

pub(crate) fn machine(machine: &Machine) -> String {
    let mut pairs = vec![
        ("machine", machine.name.clone()),
        ("state", machine_state(machine.state).to_owned()),
        (
            "engine",
            format!("{} ({})", machine.engine, machine.engine_reason),
        ),
        ("cpus", machine.cpus.to_string()),
        ("memory", Size(machine.memory_bytes).to_string()),
    ];
    if let Some(pid) = machine.pid {
        pairs.push(("process", pid.to_string()));
    }
    pairs.extend(machine.disks.iter().map(|disk| ("disk", disk.clone())));
    for (net, mac) in machine.nets.iter().zip(&machine.macs) {
        pairs.push(("network", format!("{net}, {mac}")));
    }
    pairs.extend(
        machine
            .addresses
            .iter()
            .map(|address| ("address", address.clone())),
    );
    pairs.push(("console", machine.console.socket.clone()));
    lines(&pairs)
}
