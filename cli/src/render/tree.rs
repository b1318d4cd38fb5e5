//! All that exists, what rests on what, and its health.

use std::collections::BTreeSet;
use std::fmt::Write;

use weft_service::api::{
    Array, Group, Health, Host, ImageDisk, Machine, Size, Status, Volume, Vpn,
};
use weft_service::storage::disks::key;

use super::details::{member_state, sync};
use super::progress::{percent, speed, word};
use super::tables::{kind, machine_state, state};
use super::tunnels;

pub(crate) fn status(status: &Status) -> String {
    let mut tree = Tree {
        status,
        text: String::new(),
        shown: BTreeSet::new(),
    };
    let word = match status.health {
        Health::Good => "all is well",
        Health::Recovering => "recovering by itself",
        Health::Degraded => "degraded",
        Health::Failed => "failed",
    };
    tree.line(0, format!("weft: {word}"));
    for advice in &status.advice {
        tree.line(1, format!("! {}: {}", advice.object, advice.message));
        if let Some(command) = &advice.command {
            tree.line(2, format!("next: {command}"));
        }
    }
    for machine in &status.machines {
        tree.machine(machine);
    }
    for export in &status.exports {
        tree.line(1, format!("export {}  {}", export.name, export.url));
        tree.disk(2, &export.disk);
    }
    for group in &status.groups {
        tree.group(group);
    }
    for array in &status.arrays {
        if !tree.shown.contains(&array.name) {
            tree.array(1, array);
        }
    }
    for host in &status.hosts {
        tree.host(host);
    }
    for network in &status.networks {
        tree.network(network);
    }
    for tunnel in &status.tunnels {
        tree.tunnel(tunnel);
    }
    if status.machines.is_empty()
        && status.groups.is_empty()
        && status.arrays.is_empty()
        && status.hosts.is_empty()
        && status.networks.is_empty()
        && status.tunnels.is_empty()
        && status.exports.is_empty()
    {
        tree.line(
            1,
            "nothing is declared; begin with `weft up FILE`".to_owned(),
        );
    }
    tree.text
}

struct Tree<'a> {
    status: &'a Status,
    text: String,
    shown: BTreeSet<String>,
}

impl<'a> Tree<'a> {
    fn line(&mut self, depth: usize, text: String) {
        let indent = "  ".repeat(depth);
        let _ = writeln!(self.text, "{indent}{text}");
    }

    fn machine(&mut self, machine: &Machine) {
        let word = machine_state(machine.state);
        let (cpus, memory) = (machine.cpus, Size(machine.memory_bytes));
        self.line(
            1,
            format!(
                "vm {}  {word}, {}, {cpus} CPUs, {memory}",
                machine.name, machine.engine
            ),
        );
        for disk in &machine.disks {
            match self.image(disk) {
                Some(_) => self.disk(2, disk),
                None => self.line(2, format!("disk {disk}")),
            }
        }
        for net in &machine.nets {
            let addresses = machine.addresses.join(", ");
            self.line(2, format!("net {net}  {addresses}"));
        }
    }

    fn group(&mut self, group: &Group) {
        let (size, free) = (Size(group.size_bytes), Size(group.free_bytes));
        self.line(1, format!("vg {}  {size}, {free} free", group.name));
        let volumes: Vec<&Volume> = self
            .status
            .volumes
            .iter()
            .filter(|volume| volume.vg == group.name)
            .collect();
        for volume in volumes {
            let (size, kind) = (Size(volume.size_bytes), kind(volume.kind));
            let name = &volume.name;
            self.line(
                2,
                format!("lv {}/{name}  {size}, {kind}, {}", group.name, volume.state),
            );
        }
        for pv in &group.pvs {
            match &pv.path {
                Some(path) => self.disk(2, path),
                None => self.line(2, format!("disk {}  missing", pv.uuid)),
            }
        }
    }

    fn disk(&mut self, depth: usize, disk: &str) {
        let arrays = &self.status.arrays;
        if let Some(image) = self.image(disk) {
            let mut text = format!("image {disk}  {}", Size(image.size_bytes));
            if let Some(job) = &image.job {
                let _ = write!(
                    text,
                    ", {} {} %{}",
                    word(job.action),
                    percent(job),
                    speed(job)
                );
            }
            self.line(depth, text);
            for link in &image.chain {
                match arrays.iter().find(|array| array.name == link.disk) {
                    Some(array) => self.array(depth + 1, array),
                    None => {
                        let text = format!("disk {}  {}", link.disk, link.format);
                        self.line(depth + 1, text);
                    }
                }
            }
            return;
        }
        match arrays.iter().find(|array| array.name == disk) {
            Some(array) => self.array(depth, array),
            None => self.line(depth, format!("disk {disk}")),
        }
    }

    /// The open image that `disk` is, if it is one.
    fn image(&self, disk: &str) -> Option<&'a ImageDisk> {
        let key = key(disk);
        self.status.images.iter().find(|image| image.disk == key)
    }

    fn array(&mut self, depth: usize, array: &Array) {
        self.shown.insert(array.name.clone());
        let (size, word) = (Size(array.size_bytes), state(array.state));
        let mut text = format!("raid {}  RAID-{}, {size}, {word}", array.name, array.level);
        if let Some(sync) = sync(array) {
            let _ = write!(text, ", {sync}");
        }
        self.line(depth, text);
        for member in super::details::members(array) {
            let path = member.path.as_deref().unwrap_or("-");
            self.line(depth + 1, format!("disk {path}  {}", member_state(member)));
        }
    }

    fn tunnel(&mut self, tunnel: &Vpn) {
        let (word, port) = (tunnels::state(tunnel.state), tunnel.listen_port);
        let addresses = tunnel.addresses.join(", ");
        let name = &tunnel.name;
        self.line(
            1,
            format!("vpn {name}  {addresses}, UDP port {port}, {word}"),
        );
        if let Some(net) = &tunnel.net {
            self.line(2, format!("net {net}"));
        }
        for peer in &tunnel.peers {
            let (who, how) = (tunnels::who(peer), tunnels::how(peer));
            self.line(2, format!("peer {who}  {how}"));
        }
    }

    fn host(&mut self, host: &Host) {
        let kind = if host.forward { "router" } else { "host" };
        self.line(1, format!("host {}  {kind}", host.name));
        for link in &host.links {
            let hidden = if link.masquerade {
                ", masquerading"
            } else {
                ""
            };
            let (to, address, peer) = (&link.to, &link.address, &link.peer);
            self.line(2, format!("link to {to}  {address} to {peer}{hidden}"));
        }
    }

    fn network(&mut self, network: &weft_service::api::Network) {
        self.line(
            1,
            format!(
                "net {}  {}, gateway {}, bridge {}, {}",
                network.name, network.subnet, network.gateway, network.bridge, network.state
            ),
        );
        if let Some(stretch) = &network.stretch {
            let (vpn, remotes) = (&stretch.vpn, stretch.remotes.join(" and "));
            self.line(2, format!("stretched to {remotes} by vpn {vpn}"));
        }
        for port in &network.ports {
            let user = port
                .machine
                .as_deref()
                .map_or(String::new(), |vm| format!("  vm {vm}"));
            self.line(2, format!("port {}  link {}{user}", port.name, port.tap));
        }
        for lease in &network.leases {
            self.line(2, format!("lease {}  {}", lease.address, lease.mac));
        }
    }
}
