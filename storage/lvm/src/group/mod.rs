//! Volume groups on their disks.
//!
//! The disks are the truth: [`scan`] reads labels and every copy of the metadata, the highest sequence number wins, and
//! [`Group`] keeps what was read and changes it. A change is planned on a clone of the model (`plan`), checked, and
//! committed: text to every metadata area, flush, location to the precommit slot, flush, location to the commit slot,
//! flush. A power cut at any instant leaves the old or the new state; a step that fails leaves the old one.

mod areas;
mod bytes;
mod commit;
mod create;
mod history;
mod label;
mod operate;
mod repair;
mod report;
mod scan;

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use weft_block::{BlockDevice, Error, ErrorKind, Result};

use crate::Volume;
use crate::format::Id;
use crate::model::VolumeGroup;
use crate::volume::Map;

pub use create::{GroupOptions, wipe};
pub use history::Version;
pub use report::{PhysicalVolumeReport, SegmentReport, VolumeReport, VolumeState};
pub use scan::{Found, Scan, UnusedVolume, scan};

use areas::Member;

/// A device and the name that messages give it.
#[derive(Clone)]
pub struct Disk {
    /// The name: a path, an array's name.
    pub name: String,
    /// The device.
    pub device: Arc<dyn BlockDevice>,
}

/// What the host gives a group: a name for what it writes, the time, and randomness for identifiers.
pub trait Host: Send + Sync {
    /// The host's name.
    fn name(&self) -> String;
    /// Seconds since 1970.
    fn unix_time(&self) -> u64;
    /// Fills `bytes` at random.
    fn random(&self, bytes: &mut [u8]);
}

/// A volume group in use: the model, its disks, and the volumes that are active.
///
/// Every change is committed before it returns. Dropping a group leaves the disks as they are; volumes that are still
/// held go on working, so whoever opens the group again must have given them up first.
pub struct Group {
    model: Arc<VolumeGroup>,
    members: Vec<Member>,
    problems: Vec<String>,
    host: Arc<dyn Host>,
    active: BTreeMap<Id, Weak<Volume>>,
    access: Access,
}

/// What may be done with a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    Read,
    Write,
    /// A commit failed in a way that leaves open what the disks say.
    Unknown,
}

impl Group {
    /// The name.
    pub fn name(&self) -> &str {
        &self.model.name
    }

    /// What the metadata says.
    pub fn model(&self) -> &VolumeGroup {
        &self.model
    }

    /// What is wrong with the group or was repaired when it was opened, in sentences.
    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    /// The metadata in the form of LVM2's backup files, which `vgcfgrestore` reads.
    pub fn backup_text(&self) -> String {
        crate::model::metadata_text(&self.model)
    }

    /// Activates a logical volume, or gives it again if it is active. It is active as long as somebody holds it.
    ///
    /// # Errors
    /// `Invalid` if there is none of that name; `Offline` if a physical volume that it needs is missing; `Unsupported`
    /// for a segment type not known here, a hidden part of another volume, or an exported group; `Corrupt` where a disk
    /// is smaller than the metadata says.
    pub fn volume(&mut self, name: &str) -> Result<Arc<Volume>> {
        let Some(lv) = self.model.logical_volume(name) else {
            let vg = &self.model.name;
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("volume {vg}/{name} does not exist"),
            ));
        };
        if let Some(volume) = self.active.get(&lv.id).and_then(Weak::upgrade) {
            return Ok(volume);
        }
        let refusal = if self.model.is_exported() {
            Some("its group is exported".to_owned())
        } else if !lv.is_visible() {
            Some("it is a hidden part of another volume".to_owned())
        } else {
            None
        };
        if let Some(reason) = refusal {
            let vg = &self.model.name;
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("volume {vg}/{name} is not activated: {reason}"),
            ));
        }
        let map = Map::new(&self.model, lv, &self.devices(&self.model))?;
        let (id, volume) = (lv.id, Arc::new(Volume::new(map)));
        self.active.insert(id, Arc::downgrade(&volume));
        Ok(volume)
    }

    /// The active volume with that identifier.
    fn active_volume(&self, id: Id) -> Option<Arc<Volume>> {
        self.active.get(&id).and_then(Weak::upgrade)
    }

    fn member(&self, id: Id) -> Option<&Member> {
        self.members.iter().find(|member| member.label.id == id)
    }

    /// The device of each physical volume of `model`, as far as it is here and up to date.
    fn devices(&self, model: &VolumeGroup) -> Vec<Option<Arc<dyn BlockDevice>>> {
        let device = |pv: &crate::model::PhysicalVolume| {
            let member = self.member(pv.id).filter(|_| !pv.is_marked_missing())?;
            Some(Arc::clone(&member.disk.device))
        };
        model.physical_volumes.iter().map(device).collect()
    }
}

fn new_id(host: &dyn Host) -> Id {
    let mut bytes = [0; 32];
    host.random(&mut bytes);
    Id::from_random(bytes)
}
