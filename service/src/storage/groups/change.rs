//! What is done to groups that are served.

use weft_lvm::GroupOptions;
use weft_uring::spawner;

use super::open::devices;
use super::{Record, user};
use crate::api::{self, Error, ErrorKind, Result};
use crate::storage::Storage;
use crate::storage::disks;
use crate::store::Kind;

impl Storage {
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

    /// Stops serving a group; its volumes stay on the disks. One that could not be brought back is not tried again.
    ///
    /// # Errors
    /// `NotFound`, or `InUse` if a volume of it is used.
    pub async fn deactivate_group(&self, name: &str) -> Result<()> {
        let mut state = self.state.lock().await;
        if state.groups.contains_key(name) || !state.is_no_trouble(&user(name)) {
            state.refuse_busy_volumes(name)?;
        }
        if let Some(running) = state.groups.remove(name) {
            state.release_all(&running.disks, &user(name)).await;
        }
        self.store.remove(Kind::Group, name)
    }
}
