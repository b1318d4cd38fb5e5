//! Volume groups.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::lock::Mutex;
use serde::{Deserialize, Serialize};
use weft_lvm::{Disk, Group, GroupOptions, Host, Volume, scan};
use weft_uring::{ShardHandle, spawner};

use super::describe;
use super::disks::{self, Served};
use super::{State, Storage};
use crate::api::{self, Advice, DiskUse, Error, ErrorKind, Result, VgCreate};
use crate::shards::on;
use crate::store::Kind;

/// A group that is served.
pub(super) struct RunningGroup {
    /// Locked by one change at a time; changes run on the group's shard.
    pub(super) group: Arc<Mutex<Group>>,
    /// The volumes that can be served, held active.
    pub(super) volumes: BTreeMap<String, Arc<Volume>>,
    pub(super) home: ShardHandle,
    disks: Vec<String>,
    devices: Vec<Disk>,
    problems: Vec<String>,
}

/// What the store keeps of a group.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    disks: Vec<String>,
}

/// The user that a group is, to its disks.
pub(super) fn user(name: &str) -> DiskUse {
    DiskUse {
        noun: "vg".to_owned(),
        name: name.to_owned(),
    }
}

/// This host, to what groups write.
struct ThisHost;

impl Host for ThisHost {
    fn name(&self) -> String {
        super::host_name()
    }

    fn unix_time(&self) -> u64 {
        super::unix_time().as_secs()
    }

    fn random(&self, bytes: &mut [u8]) {
        for part in bytes.chunks_mut(16) {
            part.copy_from_slice(&uuid::Uuid::new_v4().as_bytes()[..part.len()]);
        }
    }
}

fn devices(names: &[String], served: &[Served]) -> Vec<Disk> {
    let pairs = names.iter().zip(served);
    pairs
        .map(|(name, served)| Disk {
            name: name.clone(),
            device: served.device.clone(),
        })
        .collect()
}

impl RunningGroup {
    /// The volume of that name, if it can be served.
    pub(super) fn served(&self, vg: &str, lv: &str) -> Result<Served> {
        let volume = self.volumes.get(lv).ok_or_else(|| {
            let name = format!("{vg}/{lv}");
            Error::not_found("volume", &name)
        })?;
        Ok(Served::here(volume.clone(), self.home.clone()))
    }

    /// Activates what can be and is not active yet.
    pub(super) async fn activate(&mut self) {
        let mut group = self.group.lock().await;
        for report in group.volume_reports() {
            if self.volumes.contains_key(&report.name) {
                continue;
            }
            match group.volume(&report.name) {
                Ok(volume) => drop(self.volumes.insert(report.name, volume)),
                Err(error) => tracing::info!(error = error.sentence(), "volume not served"),
            }
        }
    }

    pub(super) async fn describe(&self) -> api::Group {
        describe::group(&*self.group.lock().await, &self.problems)
    }
}

impl Storage {
    pub(super) async fn restore_groups(&self, state: &mut State) {
        let records = self
            .store
            .read::<Record>(Kind::Group)
            .unwrap_or_else(|error| {
                tracing::error!(error = error.message, "groups cannot be brought back");
                Vec::new()
            });
        for (name, record) in records {
            if let Err(error) = self.open_group(state, Some(&name), &record.disks).await {
                state.troubles.push(Advice {
                    object: format!("vg {name}"),
                    message: format!("it could not be brought back: {error}"),
                    command: Some(format!("weft vg import {}", record.disks.join(" "))),
                });
            }
        }
    }

    /// Whether one of `disks` is a physical volume of the group, as far as they can be opened now.
    pub async fn holds_group(&self, name: &str, disks: &[String]) -> bool {
        let mut state = self.state.lock().await;
        let mut found = Vec::new();
        for disk in disks {
            if let Ok(served) = state.find(&self.shards, disk, true).await {
                found.push((disk.clone(), served));
            }
        }
        let Some((_, first)) = found.first() else {
            return false;
        };
        let home = first.home.clone();
        let (names, served): (Vec<_>, Vec<_>) = found.into_iter().unzip();
        let (devices, wanted) = (devices(&names, &served), name.to_owned());
        let holds = on(&home, name, move || async move {
            Ok(scan(&devices, &spawner()).await.take(&wanted).is_ok())
        });
        holds.await.unwrap_or(false)
    }

    /// All groups.
    pub async fn groups(&self) -> Vec<api::Group> {
        let state = self.state.lock().await;
        let mut list = Vec::new();
        for running in state.groups.values() {
            list.push(running.describe().await);
        }
        list
    }

    /// One group.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn group(&self, name: &str) -> Result<api::Group> {
        let state = self.state.lock().await;
        Ok(state.running_group(name)?.describe().await)
    }

    /// Makes a group and serves it.
    ///
    /// # Errors
    /// `Exists`, `Foreign` (a disk holds something), `InUse`, `Invalid`; the disks are as they were then.
    pub async fn create_group(&self, request: &VgCreate) -> Result<api::Group> {
        let mut state = self.state.lock().await;
        let name = request.name.clone();
        if state.groups.contains_key(&name) {
            return Err(Error::exists("group", &name));
        }
        let user = user(&name);
        let served = state.take_all(&self.shards, &request.disks, &user).await?;
        let made = make_group(request, &served).await;
        match made {
            Ok(made) => self.keep_group(&mut state, made, &request.disks).await,
            Err(error) => {
                state.release_all(&request.disks, &user).await;
                Err(error)
            }
        }
    }

    async fn keep_group(
        &self,
        state: &mut State,
        opened: Opened,
        disks: &[String],
    ) -> Result<api::Group> {
        let Opened {
            name,
            group,
            home,
            devices,
            problems,
        } = opened;
        let mut running = RunningGroup {
            group: Arc::new(Mutex::new(group)),
            volumes: BTreeMap::new(),
            home,
            disks: disks.to_vec(),
            devices,
            problems,
        };
        running.activate().await;
        let shown = running.describe().await;
        state.groups.insert(name.clone(), running);
        self.store.put(
            Kind::Group,
            &name,
            &Record {
                disks: disks.to_vec(),
            },
        )?;
        Ok(shown)
    }

    /// Serves the group that `disks` hold, mending its stale metadata copies.
    ///
    /// # Errors
    /// `NotFound` if they hold none, `Invalid` if they hold several, `Exists`, `InUse`, `Corrupt`.
    pub async fn import_group(&self, disks: &[String]) -> Result<api::Group> {
        let mut state = self.state.lock().await;
        self.open_group(&mut state, None, disks).await
    }

    async fn open_group(
        &self,
        state: &mut State,
        wanted: Option<&str>,
        names: &[String],
    ) -> Result<api::Group> {
        let importing = user(wanted.unwrap_or("import"));
        let (mut taken, mut served) = (Vec::new(), Vec::new());
        for name in names {
            // A group lives on without a disk that is gone; it says which volumes are lost.
            match state
                .take_all(&self.shards, std::slice::from_ref(name), &importing)
                .await
            {
                Ok(one) => {
                    taken.push(name.clone());
                    served.extend(one);
                }
                Err(error) if wanted.is_some() && error.is_not_found() => {}
                Err(error) => {
                    state.release_all(&taken, &importing).await;
                    return Err(error);
                }
            }
        }
        match open(&taken, &served, wanted).await {
            Ok(opened) if state.groups.contains_key(&opened.name) => {
                state.release_all(&taken, &importing).await;
                Err(Error::exists("group", &opened.name))
            }
            Ok(opened) => {
                for disk in &taken {
                    state
                        .claims
                        .release_to(disk, &importing, user(&opened.name));
                }
                self.keep_group(state, opened, names).await
            }
            Err(error) => {
                state.release_all(&taken, &importing).await;
                Err(error)
            }
        }
    }

    /// Gives a group more disks.
    ///
    /// # Errors
    /// As [`create_group`](Self::create_group).
    pub async fn extend_group(&self, name: &str, disks: &[String]) -> Result<api::Group> {
        let mut state = self.state.lock().await;
        state.running_group(name)?;
        let user = user(name);
        let served = state.take_all(&self.shards, disks, &user).await?;
        let new = devices(disks, &served);
        let extended = async {
            for (disk, served) in disks.iter().zip(&served) {
                disks::refuse_used(disk, served, false).await?;
            }
            let devices = new.clone();
            state
                .change_group(name, move |group| {
                    Box::pin(async move {
                        let options = GroupOptions::default();
                        group.extend(&devices, &options, &spawner()).await
                    })
                })
                .await
        }
        .await;
        if let Err(error) = extended {
            state.release_all(disks, &user).await;
            return Err(error);
        }
        let running = state.running_group_mut(name)?;
        running.disks.extend_from_slice(disks);
        running.devices.extend(new);
        self.store.put(
            Kind::Group,
            name,
            &Record {
                disks: running.disks.clone(),
            },
        )?;
        Ok(running.describe().await)
    }

    /// Takes in what disks of a group have grown by; all of them if none is named.
    ///
    /// # Errors
    /// `NotFound`, `Invalid` if none has grown or one is not in the group.
    pub async fn grow_group(&self, name: &str, disks: &[String]) -> Result<api::Group> {
        let state = self.state.lock().await;
        let disks = disks.to_vec();
        state
            .change_group(name, move |group| {
                Box::pin(async move {
                    let disks: Vec<&str> = disks.iter().map(String::as_str).collect();
                    group.take_growth(&disks, &spawner()).await
                })
            })
            .await?;
        Ok(state.running_group(name)?.describe().await)
    }

    /// Takes unused disks out of a group.
    ///
    /// # Errors
    /// `NotFound`, `InUse` if a volume lies on one, `Invalid` if one is not in the group.
    pub async fn reduce_group(&self, name: &str, disks: &[String]) -> Result<api::Group> {
        let mut state = self.state.lock().await;
        let leaving = disks.to_vec();
        state
            .change_group(name, move |group| {
                Box::pin(async move {
                    let leaving: Vec<&str> = leaving.iter().map(String::as_str).collect();
                    group.reduce(&leaving, &spawner()).await
                })
            })
            .await?;
        state.release_all(disks, &user(name)).await;
        let running = state.running_group_mut(name)?;
        running.disks.retain(|disk| !disks.contains(disk));
        running.devices.retain(|disk| !disks.contains(&disk.name));
        self.store.put(
            Kind::Group,
            name,
            &Record {
                disks: running.disks.clone(),
            },
        )?;
        Ok(running.describe().await)
    }

    /// Renames a group that nobody uses.
    ///
    /// # Errors
    /// `NotFound`, `Exists`, `InUse`, `Invalid`.
    pub async fn rename_group(&self, name: &str, to: &str) -> Result<api::Group> {
        let mut state = self.state.lock().await;
        state.refuse_busy_volumes(name)?;
        if state.groups.contains_key(to) {
            return Err(Error::exists("group", to));
        }
        let new = to.to_owned();
        state
            .change_group(name, move |group| {
                Box::pin(async move { group.rename(&new, &spawner()).await })
            })
            .await?;
        let Some(running) = state.groups.remove(name) else {
            return Err(Error::not_found("group", name));
        };
        self.store.put(
            Kind::Group,
            to,
            &Record {
                disks: running.disks.clone(),
            },
        )?;
        self.store.remove(Kind::Group, name)?;
        state.claims.rename_user(&user(name), &user(to));
        let shown = running.describe().await;
        state.groups.insert(to.to_owned(), running);
        Ok(shown)
    }

    /// Removes a group without volumes: its disks carry no label afterwards.
    ///
    /// # Errors
    /// `NotFound`, or `InUse` if it has volumes.
    pub async fn remove_group(&self, name: &str) -> Result<()> {
        let mut state = self.state.lock().await;
        let count = state
            .running_group(name)?
            .group
            .lock()
            .await
            .model()
            .logical_volumes
            .len();
        if count > 0 {
            let message = format!("group {name} has {count} volumes; remove them first");
            return Err(Error::new(ErrorKind::InUse, name, message));
        }
        state
            .change_group(name, move |group| {
                Box::pin(async move { group.remove(&spawner()).await })
            })
            .await?;
        let Some(running) = state.groups.remove(name) else {
            return Ok(());
        };
        for disk in &running.disks {
            if let Ok(served) = state.find(&self.shards, disk, false).await {
                disks::wipe(disk, &served).await?;
            }
        }
        state.release_all(&running.disks, &user(name)).await;
        self.store.remove(Kind::Group, name)
    }

    /// Looks at all metadata copies again; stale ones are mended when nobody uses the group.
    ///
    /// # Errors
    /// `NotFound`, `Io`.
    pub async fn check_group(&self, name: &str) -> Result<api::Group> {
        let mut state = self.state.lock().await;
        state.running_group(name)?;
        if state.refuse_busy_volumes(name).is_ok() {
            let Some(running) = state.groups.remove(name) else {
                return Err(Error::not_found("group", name));
            };
            let disks = running.disks.clone();
            drop(running);
            state.release_all(&disks, &user(name)).await;
            return self.open_group(&mut state, Some(name), &disks).await;
        }
        let running = state.running_group_mut(name)?;
        running.problems = running.rescan(name).await?;
        Ok(running.describe().await)
    }

    /// Stops serving a group; its volumes stay on the disks.
    ///
    /// # Errors
    /// `NotFound`, or `InUse` if a volume of it is used.
    pub async fn deactivate_group(&self, name: &str) -> Result<()> {
        let mut state = self.state.lock().await;
        state.refuse_busy_volumes(name)?;
        let Some(running) = state.groups.remove(name) else {
            return Err(Error::not_found("group", name));
        };
        state.release_all(&running.disks, &user(name)).await;
        self.store.remove(Kind::Group, name)
    }
}

impl RunningGroup {
    /// What is wrong with the copies on the disks, without changing them.
    async fn rescan(&self, name: &str) -> Result<Vec<String>> {
        let (disks, wanted) = (self.devices.clone(), name.to_owned());
        on(&self.home, name, move || async move {
            problems_of(&disks, &wanted).await
        })
        .await
    }
}

async fn problems_of(disks: &[Disk], name: &str) -> weft_block::Result<Vec<String>> {
    let found = scan(disks, &spawner()).await.take(name)?;
    Ok(found.problems().to_vec())
}

async fn make_group(request: &VgCreate, served: &[Served]) -> Result<Opened> {
    let name = &request.name;
    for (disk, served) in request.disks.iter().zip(served) {
        disks::refuse_used(disk, served, request.force).await?;
    }
    let Some(first) = served.first() else {
        let message = format!("group {name} needs one disk at least");
        return Err(Error::new(ErrorKind::Invalid, name, message));
    };
    let mut options = GroupOptions {
        force: request.force,
        ..GroupOptions::default()
    };
    if let Some(bytes) = request.extent_bytes {
        options.extent_size = bytes;
    }
    if let Some(bytes) = request.metadata_bytes {
        options.metadata_size = bytes;
    }
    options.metadata_copies = request.metadata_copies.unwrap_or(0).into();
    let (home, devices) = (first.home.clone(), devices(&request.disks, served));
    let (new, members) = (name.clone(), devices.clone());
    let group = on(&home, name, move || async move {
        Group::create(&new, &members, &options, Arc::new(ThisHost), &spawner()).await
    })
    .await?;
    Ok(Opened {
        name: name.clone(),
        group,
        home,
        devices,
        problems: Vec::new(),
    })
}

struct Opened {
    name: String,
    group: Group,
    home: ShardHandle,
    devices: Vec<Disk>,
    problems: Vec<String>,
}

/// Opens the group on the disks: the one of that name, or the only one.
async fn open(names: &[String], served: &[Served], wanted: Option<&str>) -> Result<Opened> {
    let all = names.join(", ");
    let nothing = || Error::new(ErrorKind::NotFound, &all, format!("{all}: no volume group"));
    let home = served.first().ok_or_else(nothing)?.home.clone();
    let (devices, wanted) = (devices(names, served), wanted.map(str::to_owned));
    let members = devices.clone();
    let opened = on(&home, &all, move || async move {
        let mut found = scan(&members, &spawner()).await;
        let names: Vec<String> = found
            .groups
            .iter()
            .map(|group| group.model().name.clone())
            .collect();
        let name = match (wanted, names.as_slice()) {
            (Some(wanted), _) => wanted,
            (None, [one]) => one.clone(),
            (None, names) => return Ok(Err((names.to_vec(), found.problems))),
        };
        let found = found.take(&name)?;
        let group = Group::open(found, Arc::new(ThisHost), &spawner()).await?;
        let problems = problems_of(&members, &name).await?;
        Ok(Ok((name, group, problems)))
    })
    .await?;
    match opened {
        Ok((name, group, problems)) => Ok(Opened {
            name,
            group,
            home,
            devices,
            problems,
        }),
        Err((names, problems)) if names.is_empty() => Err(match problems.first() {
            Some(problem) => Error::new(ErrorKind::Corrupt, &all, problem),
            None => nothing(),
        }),
        Err((names, _)) => {
            let message = format!(
                "these disks hold several groups ({}); name the disks of one",
                names.join(", ")
            );
            Err(Error::new(ErrorKind::Invalid, &all, message))
        }
    }
}

/// A change of a group, made on its shard.
type Change = Box<
    dyn for<'a> FnOnce(
            &'a mut Group,
        )
            -> std::pin::Pin<Box<dyn Future<Output = weft_block::Result<()>> + 'a>>
        + Send,
>;

impl State {
    pub(super) fn running_group(&self, name: &str) -> Result<&RunningGroup> {
        self.groups
            .get(name)
            .ok_or_else(|| Error::not_found("group", name))
    }

    pub(super) fn running_group_mut(&mut self, name: &str) -> Result<&mut RunningGroup> {
        self.groups
            .get_mut(name)
            .ok_or_else(|| Error::not_found("group", name))
    }

    /// Makes a change on the group's shard.
    pub(super) async fn change_group<F>(&self, name: &str, change: F) -> Result<()>
    where
        F: for<'a> FnOnce(
                &'a mut Group,
            )
                -> std::pin::Pin<Box<dyn Future<Output = weft_block::Result<()>> + 'a>>
            + Send
            + 'static,
    {
        let running = self.running_group(name)?;
        let group = running.group.clone();
        let change: Change = Box::new(change);
        let changed = on(&running.home, name, move || async move {
            change(&mut *group.lock().await).await
        });
        changed.await.map_err(|mut error| {
            // What keeps a group from being changed is a volume that rests there, not another process.
            if error.kind == ErrorKind::Busy {
                error.kind = ErrorKind::InUse;
            }
            error
        })
    }

    /// That nobody uses a volume of the group.
    fn refuse_busy_volumes(&self, name: &str) -> Result<()> {
        let running = self.running_group(name)?;
        for volume in running.volumes.keys() {
            let disk = format!("{name}/{volume}");
            if let Some(user) = self.claims.user(&disk) {
                let message = format!("{disk} is used by {} {}", user.noun, user.name);
                return Err(Error::new(ErrorKind::InUse, name, message));
            }
        }
        Ok(())
    }
}
