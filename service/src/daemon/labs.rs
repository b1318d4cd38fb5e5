//! Bringing a lab up and taking it down: one command after the other, each told as it begins and ends.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use tokio::sync::mpsc::Sender;

use super::Daemon;
use crate::api::{Action, Change, Error, ErrorKind, Event, Plan, RaidAssemble, Result, Size};
use crate::lab::Lab;
use crate::lab::plan::{self, Observed};

/// How long `down` waits for a machine to power off before it ends it.
const POWER_OFF_LIMIT: Duration = Duration::from_secs(20);

/// The order in which `up` works: each noun rests on those before it.
const NOUNS: [&str; 11] = [
    "disk", "raid", "vg", "lv", "host", "link", "net", "vpn", "stretch", "export", "vm",
];

impl Daemon {
    /// What `up` would change.
    ///
    /// # Errors
    /// As [`status`](Self::status).
    pub async fn plan_up(&self, lab: &Lab) -> Result<Plan> {
        Ok(plan::up(lab, &self.observe(lab).await?))
    }

    /// Makes everything that `lab` declares and that is not there. What is done when a step fails stands, and the next
    /// `up` goes on from there.
    ///
    /// # Errors
    /// The first step's that fails.
    pub async fn up(&self, lab: &Lab, events: &Sender<Event>) -> Result<Plan> {
        let _one_at_a_time = self.lab.lock().await;
        if self.is_rootless() && !lab.networks.is_empty() {
            let text = "without root the networks live in a namespace of their own: guests reach the gateway and \
                        each other, and nothing outside";
            tell(
                events,
                Event::Note {
                    text: text.to_owned(),
                },
            )
            .await;
        }
        let mut done = Plan {
            lab: lab.name.clone(),
            changes: Vec::new(),
        };
        // Tunnels know each other by their keys, before the first of them is there.
        let there: BTreeSet<String> = self.tunnels.names().await;
        for tunnel in &lab.tunnels {
            if !there.contains(&tunnel.name) {
                let file = tunnel.key_file.as_deref();
                self.tunnels.prepare_key(&tunnel.name, file)?;
            }
        }
        for noun in NOUNS {
            // What a noun finds depends on those before it: a group shows only once its array runs.
            let plan = self.plan_up(lab).await?;
            for change in plan
                .changes
                .into_iter()
                .filter(|change| change.noun == noun)
            {
                tell(
                    events,
                    Event::Begin {
                        change: change.clone(),
                    },
                )
                .await;
                let note = match change.action {
                    Action::Keep => "is there".to_owned(),
                    _ => self.make(lab, &change).await?,
                };
                tell(
                    events,
                    Event::Done {
                        change: change.clone(),
                        note,
                    },
                )
                .await;
                done.changes.push(change);
            }
        }
        Ok(done)
    }

    /// Takes away everything that `lab` declares and that is there; disk files stay. A step that fails does not keep
    /// the others from being done.
    ///
    /// # Errors
    /// The first step's that failed.
    pub async fn down(&self, lab: &Lab, events: &Sender<Event>) -> Result<Plan> {
        let _one_at_a_time = self.lab.lock().await;
        let plan = plan::down(lab, &self.status().await?);
        let mut first_error = None;
        for change in &plan.changes {
            tell(
                events,
                Event::Begin {
                    change: change.clone(),
                },
            )
            .await;
            match self.unmake(change).await {
                Ok(note) => {
                    tell(
                        events,
                        Event::Done {
                            change: change.clone(),
                            note,
                        },
                    )
                    .await
                }
                Err(error) => {
                    tell(
                        events,
                        Event::Note {
                            text: error.message.clone(),
                        },
                    )
                    .await;
                    first_error.get_or_insert(error);
                }
            }
        }
        first_error.map_or(Ok(plan), Err)
    }

    async fn observe(&self, lab: &Lab) -> Result<Observed> {
        let files = lab.disks.iter().map(|disk| disk.path.clone());
        let files: BTreeSet<String> = files.filter(|path| Path::new(path).exists()).collect();
        let mut arrays = BTreeSet::new();
        for array in &lab.arrays {
            if self.storage.holds_array(&array.name, &array.disks).await {
                arrays.insert(array.name.clone());
            }
        }
        let mut groups = BTreeSet::new();
        for group in &lab.groups {
            if self.storage.holds_group(&group.name, &group.disks).await {
                groups.insert(group.name.clone());
            }
        }
        Ok(Observed {
            status: self.status().await?,
            files,
            arrays,
            groups,
        })
    }

    async fn make(&self, lab: &Lab, change: &Change) -> Result<String> {
        match change.noun.as_str() {
            "disk" => {
                let disk = declared(&lab.disks, change, |disk| &disk.path)?;
                let made = self.storage.create_disk(&disk.create()).await?;
                Ok(Size(made.size_bytes).to_string())
            }
            "raid" => self.make_array(lab, change).await,
            "vg" => {
                let group = declared(&lab.groups, change, |group| &group.name)?;
                let group = match change.action {
                    Action::Start => self.storage.import_group(&group.disks).await?,
                    _ => self.storage.create_group(&group.create()).await?,
                };
                Ok(format!(
                    "{}, {} free",
                    Size(group.size_bytes),
                    Size(group.free_bytes)
                ))
            }
            "lv" => self.make_volume(lab, change).await,
            "host" => {
                let host = declared(&lab.hosts, change, |host| &host.name)?;
                self.hosts.create(&host.name, host.forward).await?;
                Ok(format!("ip netns exec {} …", host.name))
            }
            "link" => self.make_link(lab, change).await,
            "net" => {
                let network = declared(&lab.networks, change, |network| &network.name)?;
                let network = self.network.create(network).await?;
                Ok(format!(
                    "{}, gateway {}, DHCP {}",
                    network.subnet, network.gateway, network.dhcp
                ))
            }
            "vpn" => {
                let tunnel = declared(&lab.tunnels, change, |tunnel| &tunnel.name)?;
                let tunnel = self.tunnels.create(tunnel, &self.network).await?;
                Ok(format!(
                    "UDP port {}, key {}",
                    tunnel.listen_port, tunnel.public_key
                ))
            }
            "stretch" => {
                let stretch = declared(&lab.stretches, change, |stretch| &stretch.net)?;
                let network = self.stretch(&stretch.net, &stretch.stretch).await?;
                let mtu = network.stretch.map_or(0, |stretch| stretch.mtu);
                Ok(format!("guests' packets up to {mtu} bytes"))
            }
            "export" => {
                let export = declared(&lab.exports, change, |export| &export.name)?;
                Ok(self.add_export(&export.create()).await?.url)
            }
            "vm" => {
                let machine = declared(&lab.machines, change, |machine| &machine.name)?;
                let machine = self.run_machine(machine).await?;
                Ok(format!(
                    "runs on {} ({})",
                    machine.engine, machine.engine_reason
                ))
            }
            other => Err(Error::general(
                ErrorKind::Invalid,
                format!("{other} is no noun"),
            )),
        }
    }

    async fn make_link(&self, lab: &Lab, change: &Change) -> Result<String> {
        let (host, link) = lab.link(change).ok_or_else(|| undeclared(change))?;
        self.hosts.join(host, link).await?;
        Ok(format!("{} to {}", link.address, link.peer))
    }

    async fn make_array(&self, lab: &Lab, change: &Change) -> Result<String> {
        let declared = declared(&lab.arrays, change, |array| &array.name)?;
        let array = match change.action {
            Action::Start => {
                let own = declared.needed();
                let disks = self.storage.disks_of(&declared.name, &own).await;
                let request = RaidAssemble {
                    name: declared.name.clone(),
                    disks,
                    force: false,
                };
                self.storage.assemble_array(&request).await?
            }
            _ => self.storage.create_array(&declared.create()).await?,
        };
        Ok(format!("RAID-{}, {}", array.level, Size(array.size_bytes)))
    }

    async fn make_volume(&self, lab: &Lab, change: &Change) -> Result<String> {
        let find = |volume: &&crate::lab::file::LabVolume| {
            change
                .name
                .strip_prefix(&volume.vg)
                .and_then(|rest| rest.strip_prefix('/'))
                == Some(&volume.name)
        };
        let declared = lab
            .volumes
            .iter()
            .find(find)
            .ok_or_else(|| undeclared(change))?;
        let (vg, lv) = (&declared.vg, &declared.name);
        let volume = match change.action {
            Action::Resize => self.storage.resize_volume(vg, lv, declared.size).await?,
            _ => {
                self.storage
                    .create_volume(vg, lv, &declared.create())
                    .await?
            }
        };
        Ok(Size(volume.size_bytes).to_string())
    }

    async fn unmake(&self, change: &Change) -> Result<String> {
        let name = change.name.as_str();
        match change.noun.as_str() {
            "vm" => {
                let stopped = self.attach.stop(name, POWER_OFF_LIMIT).await;
                if stopped.is_err() {
                    self.attach.kill(name).await?;
                }
                self.remove_machine(name).await?;
                Ok(if stopped.is_ok() {
                    "powered off"
                } else {
                    "did not power off; ended"
                }
                .to_owned())
            }
            "export" => self.remove_export(name).await.map(|()| "closed".to_owned()),
            "stretch" => self
                .network
                .unstretch(name)
                .await
                .map(|_| "ended".to_owned()),
            "vpn" => self
                .tunnels
                .remove(name, &self.network)
                .await
                .map(|()| "taken away".to_owned()),
            "host" => {
                let removed = self.hosts.remove(name).await;
                removed.map(|()| "taken away".to_owned())
            }
            "net" => self
                .network
                .remove(name)
                .await
                .map(|()| "taken away".to_owned()),
            "vg" => self
                .storage
                .deactivate_group(name)
                .await
                .map(|()| "stopped".to_owned()),
            "raid" => self
                .storage
                .stop_array(name)
                .await
                .map(|()| "stopped, clean".to_owned()),
            other => Err(Error::general(
                ErrorKind::Invalid,
                format!("{other} is no noun"),
            )),
        }
    }
}

fn declared<'a, T>(list: &'a [T], change: &Change, name: impl Fn(&T) -> &String) -> Result<&'a T> {
    list.iter()
        .find(|item| *name(item) == change.name)
        .ok_or_else(|| undeclared(change))
}

fn undeclared(change: &Change) -> Error {
    Error::not_found(&change.noun, &change.name)
}

async fn tell(events: &Sender<Event>, event: Event) {
    // Whoever asked may have gone; the work goes on.
    let _ = events.send(event).await;
}

impl Plan {
    /// Whether everything is as declared.
    pub fn is_done(&self) -> bool {
        self.changes
            .iter()
            .all(|change| change.action == Action::Keep)
    }
}
