//! Groups that come to be served: made, found on disks, or brought back.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::lock::Mutex;
use weft_lvm::{Disk, Group, GroupOptions, Host, scan};
use weft_uring::{ShardHandle, spawner};

use super::{Record, RunningGroup, problems_of, user};
use crate::api::{self, Advice, Error, ErrorKind, Result, VgCreate};
use crate::shards::on;
use crate::storage::disks::{self, Served};
use crate::storage::{State, Storage, host_name, object, unix_time};
use crate::store::Kind;

impl Storage {
    pub(in crate::storage) async fn restore_groups(&self, state: &mut State) {
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
                    object: object(&user(&name)),
                    message: format!(
                        "it could not be brought back: {error}; `weft vg deactivate {name}` leaves it"
                    ),
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
        state.is_no_trouble(&user(&name));
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

    pub(super) async fn open_group(
        &self,
        state: &mut State,
        wanted: Option<&str>,
        names: &[String],
    ) -> Result<api::Group> {
        let importing = user(wanted.unwrap_or("import"));
        let (mut taken, mut served, mut absent) = (Vec::new(), Vec::new(), Vec::new());
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
                Err(error) if wanted.is_some() && error.is_not_found() => {
                    absent.push(error.message);
                }
                Err(error) => {
                    state.release_all(&taken, &importing).await;
                    return Err(error);
                }
            }
        }
        if let (Some(name), true) = (wanted, taken.is_empty()) {
            return Err(disks::all_absent(name, &absent));
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

/// This host, to what groups write.
struct ThisHost;

impl Host for ThisHost {
    fn name(&self) -> String {
        host_name()
    }

    fn unix_time(&self) -> u64 {
        unix_time().as_secs()
    }

    fn random(&self, bytes: &mut [u8]) {
        for part in bytes.chunks_mut(16) {
            part.copy_from_slice(&uuid::Uuid::new_v4().as_bytes()[..part.len()]);
        }
    }
}

pub(super) fn devices(names: &[String], served: &[Served]) -> Vec<Disk> {
    let pairs = names.iter().zip(served);
    pairs
        .map(|(name, served)| Disk {
            name: name.clone(),
            device: served.device.clone(),
        })
        .collect()
}
