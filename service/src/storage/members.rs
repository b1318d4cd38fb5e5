//! The members of arrays that run: what is done to them by name.

use weft_raid::MemberRole;
use weft_uring::spawner;

use super::Storage;
use super::arrays::{examine, member, random, user};
use super::disks::{self, Access};
use super::pace::LEAST_CEILING;
use crate::api::{Array, Error, ErrorKind, RaidMember, RaidSync, Result};
use crate::shards::on;
use crate::store::Kind;

impl Storage {
    /// Fails a member.
    ///
    /// # Errors
    /// `NotFound`, or `Invalid` if the array cannot do without it.
    pub async fn fail_member(&self, name: &str, disk: &str) -> Result<Array> {
        let path = disk.to_owned();
        let fail = |array: weft_raid::Array| async move { array.fail(&path, &spawner()).await };
        self.change_array(name, fail).await?;
        let mut state = self.state.lock().await;
        let running = state.running_array_mut(name)?;
        running.away.is_out(disk);
        Ok(running.describe(name))
    }

    /// Takes a failed member or a spare out.
    ///
    /// # Errors
    /// `NotFound`, or `Invalid` if it is in use.
    pub async fn remove_member(&self, name: &str, disk: &str) -> Result<Array> {
        let path = disk.to_owned();
        let remove = |array: weft_raid::Array| async move { array.remove(&path, &spawner()).await };
        self.change_array(name, remove).await?;
        let mut state = self.state.lock().await;
        state.release(disk, &user(name)).await;
        let running = state.running_array_mut(name)?;
        running.is_out_for_good(disk);
        self.store.put(Kind::Array, name, &running.record())?;
        Ok(running.describe(name))
    }

    /// Gives an array a disk, as a member or as its journal.
    ///
    /// # Errors
    /// `NotFound`, `InUse`, `Foreign`, `Invalid` (too small, or an array that takes none).
    pub async fn add_member(&self, name: &str, request: &RaidMember) -> Result<Array> {
        let (disk, force, journal) = (&request.disk, request.force, request.journal);
        let mut state = self.state.lock().await;
        let uuid = state.running_array(name)?.array.status().uuid;
        let served = state.take_member(&self.shards, name, disk).await?;
        drop(state);
        let added = async {
            // A member that was away may come back; anything else on the disk is somebody's.
            let was_ours = examine(disk, &served).await;
            if !was_ours.is_ok_and(|found| found.superblock.set_uuid == uuid) {
                disks::refuse_used(disk, &served, force).await?;
            }
            let member = member(disk, &served);
            self.change_array(name, move |array| async move {
                match journal {
                    true => array.add_journal(member, random(), &spawner()).await,
                    false => array.add(member, random(), &spawner()).await.map(drop),
                }
            })
            .await
        }
        .await;
        let mut state = self.state.lock().await;
        let running = state.running_array_mut(name)?;
        match added.is_ok() {
            true => running.away.is_forgotten(disk),
            false if running.disks().iter().any(|known| known == disk) => {}
            false => state.release(disk, &user(name)).await,
        }
        added
    }

    /// Copies the member `old` onto another disk, in the background, which takes its place when it is whole.
    ///
    /// # Errors
    /// `NotFound`, `InUse`, `Foreign`, or `Invalid` (`old` holds no data that could be copied, or the disk is too small).
    pub async fn replace_member(
        &self,
        name: &str,
        old: &str,
        disk: &str,
        force: bool,
    ) -> Result<Array> {
        let mut state = self.state.lock().await;
        let running = state.running_array(name)?;
        let (array, old) = (running.array.clone(), old.to_owned());
        let spare = array.status().members.into_iter().find(|member| {
            member.role == MemberRole::Spare && member.path.as_deref() == Some(disk)
        });
        if spare.is_some() {
            drop(state);
            let spare = disk.to_owned();
            let replace = |array: weft_raid::Array| async move {
                array.replace_by_spare(&old, &spare, &spawner()).await
            };
            return self.change_array(name, replace).await;
        }
        let served = state
            .take(&self.shards, disk, user(name), Access::Exclusive)
            .await?;
        drop(state);
        let begun = async {
            disks::refuse_used(disk, &served, force).await?;
            let member = member(disk, &served);
            let replace = |array: weft_raid::Array| async move {
                array.replace(&old, member, random(), &spawner()).await
            };
            self.change_array(name, replace).await
        }
        .await;
        if begun.is_err() {
            self.state.lock().await.release(disk, &user(name)).await;
        }
        begun
    }

    /// Says of a member of a mirror whether reads go to it only where they must.
    ///
    /// # Errors
    /// `NotFound`, or `Invalid` if it is no member or the level has no copies.
    pub async fn set_write_mostly(
        &self,
        name: &str,
        disk: &str,
        write_mostly: bool,
    ) -> Result<Array> {
        let path = disk.to_owned();
        let set = move |array: weft_raid::Array| async move {
            array
                .set_write_mostly(&path, write_mostly, &spawner())
                .await
        };
        self.change_array(name, set).await
    }

    /// Pauses or resumes what an array does in the background, or says how fast it may go.
    ///
    /// # Errors
    /// `NotFound`, or `Invalid` for a ceiling below the floor or 64 KiB a second.
    pub async fn pace_array(&self, name: &str, request: &RaidSync) -> Result<Array> {
        let mut state = self.state.lock().await;
        let running = state
            .arrays
            .get_mut(name)
            .ok_or_else(|| Error::not_found("array", name))?;
        let mut pace = running.upkeep.pace();
        pace.paused = request.paused.unwrap_or(pace.paused);
        pace.floor = request.floor_bytes.unwrap_or(pace.floor);
        if let Some(ceiling) = request.ceiling_bytes {
            pace.ceiling = (ceiling > 0).then_some(ceiling);
            if let (Some(ceiling), None) = (pace.ceiling, request.floor_bytes) {
                pace.floor = pace.floor.min(ceiling);
            }
        }
        let least = pace.floor.max(LEAST_CEILING);
        if pace.ceiling.is_some_and(|ceiling| ceiling < least) {
            let why = format!(
                "array {name}: a ceiling is at least the floor and {LEAST_CEILING} bytes a second, here {least}"
            );
            return Err(Error::new(ErrorKind::Invalid, name, why));
        }
        running.upkeep.set_pace(pace);
        self.store.put(Kind::Array, name, &running.record())?;
        Ok(running.describe(name))
    }

    /// Makes a change on the array's shard, and remembers its members.
    pub(super) async fn change_array<F>(
        &self,
        name: &str,
        change: impl FnOnce(weft_raid::Array) -> F + Send + 'static,
    ) -> Result<Array>
    where
        F: Future<Output = weft_block::Result<()>> + 'static,
    {
        let mut state = self.state.lock().await;
        let running = state.running_array(name)?;
        let (array, home) = (running.array.clone(), running.home.clone());
        on(&home, name, move || change(array)).await?;
        let running = state
            .arrays
            .get_mut(name)
            .ok_or_else(|| Error::not_found("array", name))?;
        running.upkeep.wake();
        self.store.put(Kind::Array, name, &running.record())?;
        Ok(running.describe(name))
    }
}
