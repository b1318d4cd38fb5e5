//! Changes to a group: planned on a clone, committed, then followed by the active volumes.

use std::sync::Arc;

use weft_block::{BlockDevice, Error, ErrorKind, Request, Result, Spawner};

use super::areas::{HeaderState, Member};
use super::bytes::Bytes;
use super::commit::write_header;
use super::{Access, Group, new_id};
use crate::Volume;
use crate::format::{AreaHeader, Id};
use crate::model::{LogicalVolume, VolumeGroup, parse_metadata};
use crate::plan::{self, Amount, NewVolume, Stamp};
use crate::text::{Item, Value};
use crate::volume::Map;

/// Bytes at the start of a new volume that are zeroed, so that what was there before is not taken for its contents.
const ZEROED: u64 = 128 << 10;

impl Group {
    /// Makes a logical volume. Its first 128 KiB read as zeroes; the rest holds what the extents held before.
    ///
    /// # Errors
    /// `Invalid`, `NoSpace`, and as every change: `Offline` while a physical volume is missing, `ReadOnly`, `Unsupported`
    /// for groups that belong elsewhere, and what keeps the metadata from being written.
    pub async fn create_volume(&mut self, new: &NewVolume, spawner: &Spawner) -> Result<()> {
        self.check_changeable()?;
        let mut next = VolumeGroup::clone(&self.model);
        let stamp = Stamp {
            id: new_id(&*self.host),
            host: self.host.name(),
            time: self.host.unix_time(),
        };
        plan::create_volume(&mut next, new, stamp)?;
        self.zero_start(&next, &new.name, spawner).await?;
        let description = format!("weft: created volume {}/{}", next.name, new.name);
        self.commit(next, description, spawner).await
    }

    /// Grows or shrinks a logical volume; its active [`Volume`] follows at once.
    ///
    /// # Errors
    /// As [`create_volume`](Self::create_volume); `Busy` if it would shrink while a queue is open on it.
    pub async fn resize_volume(
        &mut self,
        name: &str,
        size: Amount,
        on: &[Id],
        spawner: &Spawner,
    ) -> Result<()> {
        self.check_changeable()?;
        let mut next = VolumeGroup::clone(&self.model);
        plan::resize_volume(&mut next, name, size, on)?;
        let extents = |model: &VolumeGroup| model.logical_volume(name).map(|lv| lv.extents());
        let shrinks = extents(&next) < extents(&self.model);
        if shrinks && self.active(name).is_some_and(|volume| volume.is_in_use()) {
            return Err(self.in_use(name, "shrunk"));
        }
        let description = format!("weft: resized volume {}/{name}", next.name);
        self.change(next, description, spawner).await
    }

    /// Gives a logical volume another name.
    ///
    /// # Errors
    /// As [`create_volume`](Self::create_volume).
    pub async fn rename_volume(
        &mut self,
        name: &str,
        new_name: &str,
        spawner: &Spawner,
    ) -> Result<()> {
        self.check_changeable()?;
        let mut next = VolumeGroup::clone(&self.model);
        plan::rename_volume(&mut next, name, new_name)?;
        let description = format!("weft: renamed volume {}/{name} to {new_name}", next.name);
        self.change(next, description, spawner).await
    }

    /// Removes a logical volume.
    ///
    /// # Errors
    /// As [`create_volume`](Self::create_volume); `Busy` while somebody holds the active volume.
    pub async fn remove_volume(&mut self, name: &str, spawner: &Spawner) -> Result<()> {
        self.check_changeable()?;
        let mut next = VolumeGroup::clone(&self.model);
        plan::remove_volume(&mut next, name)?;
        if self.active(name).is_some() {
            return Err(self.in_use(name, "removed"));
        }
        let description = format!("weft: removed volume {}/{name}", next.name);
        self.commit(next, description, spawner).await
    }

    /// Takes physical volumes, named by their disks' names or identifiers, out of the group and their labels off them.
    ///
    /// # Errors
    /// As [`create_volume`](Self::create_volume); `Busy` if a logical volume rests on one of them.
    pub async fn reduce(&mut self, disks: &[&str], spawner: &Spawner) -> Result<()> {
        self.check_changeable()?;
        let mut next = VolumeGroup::clone(&self.model);
        let mut leaving = Vec::new();
        for disk in disks {
            let id = self.physical_volume(disk)?;
            plan::remove_physical_volume(&mut next, id)?;
            leaving.push(id);
        }
        let description = format!(
            "weft: reduced volume group {} by {}",
            next.name,
            disks.join(" ")
        );
        self.leave(next, &leaving, description, spawner).await
    }

    /// Takes in what disks, named as in [`reduce`](Self::reduce), have grown by; all that the group has if none is named.
    ///
    /// # Errors
    /// `Invalid` if none of them has grown by an extent; `Unsupported` for a physical volume with metadata behind its
    /// extents; and as every change.
    pub async fn take_growth(&mut self, disks: &[&str], spawner: &Spawner) -> Result<()> {
        self.check_changeable()?;
        let mut next = VolumeGroup::clone(&self.model);
        let named: Vec<Id> = disks
            .iter()
            .map(|disk| self.physical_volume(disk))
            .collect::<Result<_>>()?;
        let is_meant = |id: &Id| named.is_empty() || named.contains(id);
        let mut grown = Vec::new();
        for member in &self.members {
            let (id, size) = (member.label.id, member.disk.device.info().size);
            if !is_meant(&id) || !plan::resize_physical_volume(&mut next, id, size)? {
                continue;
            }
            if member.has_metadata_behind_data() {
                let why = format!(
                    "{} has metadata behind its extents, which would be in their way",
                    member.disk.name
                );
                return Err(Error::new(ErrorKind::Unsupported, why));
            }
            grown.push((id, size));
        }
        if grown.is_empty() {
            let why = format!(
                "no disk of volume group {} has grown by an extent",
                next.name
            );
            return Err(Error::new(ErrorKind::Invalid, why));
        }
        let description = format!("weft: resized physical volumes of {}", next.name);
        self.change(next, description, spawner).await?;
        for member in &mut self.members {
            let size = grown.iter().find(|(id, _)| *id == member.label.id);
            let Some((_, size)) = size else { continue };
            let bytes = Bytes::open(&member.disk, spawner)?;
            // The text counts; the label is a hint.
            if let Err(error) = member.mark_size(&bytes, *size).await {
                self.problems.push(error.sentence());
            }
        }
        Ok(())
    }

    /// Takes the physical volumes that are missing out of the group.
    ///
    /// # Errors
    /// `Busy` if a logical volume rests on one of them: remove it first, see [`remove_lost_volume`](Self::remove_lost_volume).
    pub async fn remove_missing(&mut self, spawner: &Spawner) -> Result<()> {
        self.check_access()?;
        let mut next = VolumeGroup::clone(&self.model);
        let missing = self.missing();
        plan::remove_missing(&mut next, &missing)?;
        let description = format!(
            "weft: removed missing disks from volume group {}",
            next.name
        );
        self.leave(next, &missing, description, spawner).await
    }

    /// Removes a logical volume that rests on a missing physical volume, which no other change allows.
    ///
    /// # Errors
    /// As [`remove_volume`](Self::remove_volume), but for the missing ones.
    pub async fn remove_lost_volume(&mut self, name: &str, spawner: &Spawner) -> Result<()> {
        self.check_access()?;
        let mut next = VolumeGroup::clone(&self.model);
        plan::remove_volume(&mut next, name)?;
        if self.active(name).is_some() {
            return Err(self.in_use(name, "removed"));
        }
        let description = format!("weft: removed lost volume {}/{name}", next.name);
        self.commit(next, description, spawner).await
    }

    /// Gives the group another name.
    ///
    /// # Errors
    /// `Invalid` if it cannot be, and as every change.
    pub async fn rename(&mut self, name: &str, spawner: &Spawner) -> Result<()> {
        self.check_changeable()?;
        let mut next = VolumeGroup::clone(&self.model);
        plan::rename_group(&mut next, name)?;
        let description = format!("weft: renamed volume group {} to {name}", self.model.name);
        self.change(next, description, spawner).await
    }

    /// Removes the group. Its disks are physical volumes without a group afterwards.
    ///
    /// # Errors
    /// `Busy` if it has logical volumes, and as every change. A power cut in between leaves the group whole or gone.
    pub async fn remove(&mut self, spawner: &Spawner) -> Result<()> {
        self.check_changeable()?;
        let name = &self.model.name;
        if !self.model.logical_volumes.is_empty() {
            let count = self.model.logical_volumes.len();
            return Err(Error::new(
                ErrorKind::Busy,
                format!("volume group {name} has {count} volumes; remove them first"),
            ));
        }
        self.access = Access::Unknown;
        for member in &mut self.members {
            let bytes = Bytes::open(&member.disk, spawner)?;
            member.forget_group(&bytes).await?;
        }
        Ok(())
    }

    /// Goes back to an earlier version of this group, from [`history`](Self::history) or a backup file.
    ///
    /// # Errors
    /// `Invalid` if the text is of another group or of other physical volumes; `Busy` while volumes are active; and as
    /// every change.
    pub async fn restore(&mut self, text: &str, spawner: &Spawner) -> Result<()> {
        self.check_changeable()?;
        let old = parse_metadata(text.as_bytes())?;
        let name = &self.model.name;
        let ids = |model: &VolumeGroup| {
            let mut ids: Vec<Id> = model.physical_volumes.iter().map(|pv| pv.id).collect();
            ids.sort_unstable();
            ids
        };
        if old.id != self.model.id || ids(&old) != ids(&self.model) {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("the text is not of volume group {name} with the disks that it has now"),
            ));
        }
        let active = |lv: &&Arc<LogicalVolume>| self.active_volume(lv.id).is_some();
        if let Some(lv) = self.model.logical_volumes.iter().find(active) {
            return Err(self.in_use(&lv.name, "restored"));
        }
        let description = format!("weft: restored version {} of {name}", old.seqno);
        self.commit(old, description, spawner).await
    }

    /// Refuses changes while a physical volume is missing, or to a group that is not ours to change.
    pub(super) fn check_changeable(&self) -> Result<()> {
        self.check_access()?;
        let name = &self.model.name;
        if let Some(reason) = foreign(&self.model) {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("volume group {name} is not changed: {reason}"),
            ));
        }
        match self.missing().first() {
            None => Ok(()),
            Some(id) => Err(Error::new(
                ErrorKind::Offline,
                format!(
                    "volume group {name} is not changed while physical volume {id} is missing: attach its disk or remove the missing ones from the group"
                ),
            )),
        }
    }

    /// The physical volumes that are not here, or hold old data.
    pub fn missing(&self) -> Vec<Id> {
        let pvs = self.model.physical_volumes.iter();
        pvs.filter(|pv| pv.is_marked_missing() || self.member(pv.id).is_none())
            .map(|pv| pv.id)
            .collect()
    }

    /// Commits, and lets the active volumes follow.
    async fn change(
        &mut self,
        next: VolumeGroup,
        description: String,
        spawner: &Spawner,
    ) -> Result<()> {
        let devices = self.devices(&next);
        let mut maps: Vec<(Arc<Volume>, Map)> = Vec::new();
        for lv in &next.logical_volumes {
            if let Some(volume) = self.active_volume(lv.id) {
                maps.push((volume, Map::new(&next, lv, &devices)?));
            }
        }
        self.commit(next, description, spawner).await?;
        for (volume, map) in maps {
            volume.set_map(map);
        }
        Ok(())
    }

    /// Commits without some members, then takes the group off them.
    async fn leave(
        &mut self,
        next: VolumeGroup,
        leaving: &[Id],
        description: String,
        spawner: &Spawner,
    ) -> Result<()> {
        let (gone, kept): (Vec<Member>, Vec<Member>) = std::mem::take(&mut self.members)
            .into_iter()
            .partition(|member| leaving.contains(&member.label.id));
        self.members = kept;
        if let Err(error) = self.commit(next, description, spawner).await {
            self.members.extend(gone);
            return Err(error);
        }
        for mut member in gone {
            let forgotten = match Bytes::open(&member.disk, spawner) {
                Ok(bytes) => member.forget_group(&bytes).await,
                Err(error) => Err(error),
            };
            // It has left already; opening the group again with this disk would mend it.
            self.problems
                .extend(forgotten.err().map(|error| error.sentence()));
        }
        Ok(())
    }

    async fn zero_start(&self, next: &VolumeGroup, name: &str, spawner: &Spawner) -> Result<()> {
        let Some(lv) = next.logical_volume(name) else {
            return Ok(());
        };
        let volume = Volume::new(Map::new(next, lv, &self.devices(next))?);
        zero(&volume, ZEROED, spawner).await.map_err(|error| {
            error.in_context(format!("volume {} cannot be cleared", volume.name()))
        })
    }

    fn active(&self, name: &str) -> Option<Arc<Volume>> {
        let lv = self.model.logical_volume(name)?;
        self.active_volume(lv.id)
    }

    fn in_use(&self, name: &str, verb: &str) -> Error {
        let vg = &self.model.name;
        Error::new(
            ErrorKind::Busy,
            format!("volume {vg}/{name} cannot be {verb}: it is in use"),
        )
    }

    /// The identifier of a physical volume that is named by its disk or its identifier.
    pub fn physical_volume(&self, name: &str) -> Result<Id> {
        let is_it =
            |member: &&Member| member.disk.name == name || member.label.id.to_string() == name;
        match self.members.iter().find(is_it) {
            Some(member) => Ok(member.label.id),
            None => Err(Error::new(
                ErrorKind::Invalid,
                format!("{name} is not in volume group {}", self.model.name),
            )),
        }
    }
}

impl Member {
    fn has_metadata_behind_data(&self) -> bool {
        let data = self.label.data_areas.iter().map(|area| area.offset).min();
        let data = data.unwrap_or(u64::MAX);
        self.areas.iter().any(|area| area.place.offset >= data)
    }

    /// Empties the metadata areas and takes the mark off the label, so that the volume belongs to no group.
    pub(super) async fn forget_group(&mut self, bytes: &Bytes) -> Result<()> {
        for area in &mut self.areas {
            if area.header == HeaderState::Unusable {
                continue;
            }
            let header = AreaHeader::empty(area.place.offset, area.place.size);
            write_header(bytes, &header).await?;
            area.header = HeaderState::Known(header);
            area.copy = None;
        }
        bytes.flush().await?;
        self.mark_used(bytes, false).await
    }
}

/// Why a group is not ours to change, if it is not.
fn foreign(model: &VolumeGroup) -> Option<String> {
    let text = |key: &str| {
        model.rest.iter().find_map(|entry| match &entry.item {
            Item::Value(Value::Text(text)) if entry.key == key && !text.is_empty() => Some(text),
            _ => None,
        })
    };
    if model.is_exported() {
        return Some("it is exported; import it first".into());
    }
    if let Some(system) = text("system_id") {
        return Some(format!("it belongs to the host {system}"));
    }
    match text("lock_type") {
        Some(lock) if lock != "none" => Some(format!("it is shared by the lock manager {lock}")),
        _ if !model.status.iter().any(|word| word == "WRITE") => Some("it is read-only".into()),
        _ => None,
    }
}

/// Zeroes the first `len` bytes of a volume durably.
async fn zero(volume: &Volume, len: u64, spawner: &Spawner) -> Result<()> {
    let queue = volume.open(spawner)?;
    let end = len.min(volume.info().size);
    queue
        .submit(Request::write_zeroes(0, end, false))
        .await
        .result?;
    queue.submit(Request::flush()).await.result
}
