//! Volume groups.

mod change;
mod open;

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::lock::Mutex;
use serde::{Deserialize, Serialize};
use weft_lvm::{Disk, Group, Volume, scan};
use weft_uring::{ShardHandle, spawner};

use super::disks::Served;
use super::{State, Storage, describe};
use crate::api::{self, DiskUse, Error, ErrorKind, Result};
use crate::shards::on;

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

/// What is wrong with the copies of a group on disks.
async fn problems_of(disks: &[Disk], name: &str) -> weft_block::Result<Vec<String>> {
    let found = scan(disks, &spawner()).await.take(name)?;
    Ok(found.problems().to_vec())
}

impl Storage {
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
