//! Logical volumes.

use weft_lvm::{Amount, NewVolume};
use weft_uring::spawner;

use super::{State, Storage, describe};
use crate::api::{Error, ErrorKind, LvCreate, Result, Volume, VolumeKind, VolumeSize};

/// How many disks a striped volume is spread over when nobody says.
const DEFAULT_STRIPES: u32 = 2;

impl Storage {
    /// All volumes of all groups.
    pub async fn volumes(&self) -> Vec<Volume> {
        let state = self.state.lock().await;
        let mut list = Vec::new();
        for running in state.groups.values() {
            list.extend(describe::volumes(&*running.group.lock().await));
        }
        list
    }

    /// One volume.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn volume(&self, vg: &str, lv: &str) -> Result<Volume> {
        self.state.lock().await.show_volume(vg, lv).await
    }

    /// Makes a volume.
    ///
    /// # Errors
    /// `NotFound` (the group), `Exists`, `NoSpace`, `Invalid`.
    pub async fn create_volume(&self, vg: &str, lv: &str, request: &LvCreate) -> Result<Volume> {
        let mut state = self.state.lock().await;
        if state
            .running_group(vg)?
            .group
            .lock()
            .await
            .model()
            .logical_volume(lv)
            .is_some()
        {
            return Err(Error::exists("volume", &format!("{vg}/{lv}")));
        }
        let invalid = |what: &str| {
            let name = format!("{vg}/{lv}");
            Err(Error::new(
                ErrorKind::Invalid,
                &name,
                format!("volume {name}: {what}"),
            ))
        };
        let stripes = match (request.kind, request.stripes) {
            (VolumeKind::Linear, None | Some(1)) => 1,
            (VolumeKind::Linear, Some(_)) => return invalid("a linear volume has one stripe"),
            (VolumeKind::Striped, stripes) => stripes.unwrap_or(DEFAULT_STRIPES),
            (VolumeKind::Other, _) => return invalid("weft makes linear and striped volumes"),
        };
        let size = match request.size {
            VolumeSize::Bytes(bytes) => Amount::Bytes(bytes),
            VolumeSize::PercentFree(percent) => Amount::PercentFree(percent.into()),
            VolumeSize::More(_) => return invalid("a new volume has no size to add to"),
        };
        let new = NewVolume {
            stripes: stripes as usize,
            stripe_size: request.stripe_bytes.unwrap_or(0),
            ..NewVolume::linear(lv, size)
        };
        state
            .change_group(vg, move |group| {
                Box::pin(async move { group.create_volume(&new, &spawner()).await })
            })
            .await?;
        state.running_group_mut(vg)?.activate().await;
        state.show_volume(vg, lv).await
    }

    /// Grows or shrinks a volume; data beyond a smaller size is lost.
    ///
    /// # Errors
    /// `NotFound`, `NoSpace`, `Invalid`, or `InUse` if a used volume would shrink.
    pub async fn resize_volume(&self, vg: &str, lv: &str, size: VolumeSize) -> Result<Volume> {
        let state = self.state.lock().await;
        let now = state.show_volume(vg, lv).await?.size_bytes;
        let amount = match size {
            VolumeSize::Bytes(bytes) => Amount::Bytes(bytes),
            VolumeSize::More(more) => Amount::Bytes(now.saturating_add(more)),
            VolumeSize::PercentFree(percent) => Amount::PercentFree(percent.into()),
        };
        let name = format!("{vg}/{lv}");
        if let (Amount::Bytes(bytes), Some(user)) = (amount, state.claims.user(&name))
            && bytes < now
        {
            let message = format!(
                "volume {name} cannot shrink while {} {} uses it",
                user.noun, user.name
            );
            return Err(Error::new(ErrorKind::InUse, name, message));
        }
        let volume = lv.to_owned();
        state
            .change_group(vg, move |group| {
                Box::pin(async move { group.resize_volume(&volume, amount, &[], &spawner()).await })
            })
            .await?;
        state.show_volume(vg, lv).await
    }

    /// Renames a volume that nobody uses.
    ///
    /// # Errors
    /// `NotFound`, `Exists`, `InUse`, `Invalid`.
    pub async fn rename_volume(&self, vg: &str, lv: &str, to: &str) -> Result<Volume> {
        let mut state = self.state.lock().await;
        state.show_volume(vg, lv).await?;
        state.refuse_used_volume(vg, lv)?;
        if state.show_volume(vg, to).await.is_ok() {
            return Err(Error::exists("volume", &format!("{vg}/{to}")));
        }
        let (from, new) = (lv.to_owned(), to.to_owned());
        state
            .change_group(vg, move |group| {
                Box::pin(async move { group.rename_volume(&from, &new, &spawner()).await })
            })
            .await?;
        let running = state.running_group_mut(vg)?;
        if let Some(volume) = running.volumes.remove(lv) {
            running.volumes.insert(to.to_owned(), volume);
        }
        state.show_volume(vg, to).await
    }

    /// Removes a volume that nobody uses, and its data with it.
    ///
    /// # Errors
    /// `NotFound`, or `InUse`.
    pub async fn remove_volume(&self, vg: &str, lv: &str) -> Result<()> {
        let mut state = self.state.lock().await;
        state.show_volume(vg, lv).await?;
        state.refuse_used_volume(vg, lv)?;
        state.running_group_mut(vg)?.volumes.remove(lv);
        let volume = lv.to_owned();
        let removed = state.change_group(vg, move |group| {
            Box::pin(async move { group.remove_volume(&volume, &spawner()).await })
        });
        let removed = removed.await;
        state.running_group_mut(vg)?.activate().await;
        removed
    }
}

impl State {
    async fn show_volume(&self, vg: &str, lv: &str) -> Result<Volume> {
        let group = self.running_group(vg)?.group.lock().await;
        let found = describe::volumes(&group)
            .into_iter()
            .find(|volume| volume.name == lv);
        found.ok_or_else(|| Error::not_found("volume", &format!("{vg}/{lv}")))
    }

    fn refuse_used_volume(&self, vg: &str, lv: &str) -> Result<()> {
        let name = format!("{vg}/{lv}");
        match self.claims.user(&name) {
            None => Ok(()),
            Some(user) => {
                let message = format!("volume {name} is used by {} {}", user.noun, user.name);
                Err(Error::new(ErrorKind::InUse, name, message))
            }
        }
    }
}
