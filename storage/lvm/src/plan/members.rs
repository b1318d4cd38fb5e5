//! Changes to which physical volumes a group has, and to the group itself.

use std::sync::Arc;

use weft_block::{Bytes, Error, ErrorKind, Result, SECTOR};

use super::invalid;
use crate::format::Id;
use crate::model::{Mapping, Origin, PhysicalVolume, VolumeGroup, check_vg_name};

/// The smallest extent, in bytes.
const MIN_EXTENT: u64 = 1024;

/// A group to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewGroup {
    /// Its name.
    pub name: String,
    /// Its identifier.
    pub id: Id,
    /// Bytes in an extent, a power of two.
    pub extent_size: u64,
    /// How many metadata areas are to be used; zero for all.
    pub metadata_copies: u64,
}

/// A group without volumes of either kind, never committed yet.
///
/// # Errors
/// `Invalid` for a name or extent size that cannot be.
pub fn new_group(new: NewGroup) -> Result<VolumeGroup> {
    check_vg_name(&new.name)?;
    let size = new.extent_size;
    if !size.is_power_of_two() || !(MIN_EXTENT..1 << 40).contains(&size) {
        return Err(invalid(format!(
            "an extent size of {size} bytes is not a power of two from 1 KiB up"
        )));
    }
    Ok(VolumeGroup {
        name: new.name,
        id: new.id,
        seqno: 0,
        status: ["RESIZEABLE", "READ", "WRITE"].map(String::from).to_vec(),
        flags: Vec::new(),
        tags: Vec::new(),
        extent_size: size / SECTOR,
        max_lv: 0,
        max_pv: 0,
        metadata_copies: new.metadata_copies,
        physical_volumes: Vec::new(),
        logical_volumes: Vec::new(),
        rest: Vec::new(),
        origin: Origin::default(),
    })
}

/// Adds a physical volume whose extents start at `data_start` bytes of a device of `device_size` bytes.
///
/// # Errors
/// `Invalid` if the device is too small for one extent, or is in the group already.
pub fn add_physical_volume(
    group: &mut VolumeGroup,
    id: Id,
    device: &str,
    device_size: u64,
    data_start: u64,
) -> Result<()> {
    let name = &group.name;
    if group.physical_volumes.iter().any(|pv| pv.id == id) {
        return Err(invalid(format!(
            "{device} is in volume group {name} already"
        )));
    }
    if group.max_pv != 0 && group.physical_volumes.len() as u64 >= group.max_pv {
        return Err(invalid(format!(
            "volume group {name} takes {} physical volumes at most",
            group.max_pv
        )));
    }
    let extent_count = device_size.saturating_sub(data_start) / group.extent_bytes();
    if extent_count == 0 {
        return Err(invalid(format!(
            "{device} of {} is too small: metadata takes {} and an extent {}",
            Bytes(device_size),
            Bytes(data_start),
            Bytes(group.extent_bytes())
        )));
    }
    let key = (0..)
        .map(|number| format!("pv{number}"))
        .find(|key| group.physical_volumes.iter().all(|pv| pv.key != *key))
        .unwrap_or_default();
    group.physical_volumes.push(PhysicalVolume {
        key,
        id,
        device: device.to_owned(),
        status: vec!["ALLOCATABLE".into()],
        flags: Vec::new(),
        tags: Vec::new(),
        device_size: device_size / SECTOR,
        extent_start: data_start / SECTOR,
        extent_count,
        rest: Vec::new(),
    });
    Ok(())
}

/// Takes in what the device of a physical volume has grown by. Whether it has grown by an extent or more.
///
/// # Errors
/// `Invalid` if it is not in the group, or has become smaller than what the group knows of.
pub fn resize_physical_volume(group: &mut VolumeGroup, id: Id, device_size: u64) -> Result<bool> {
    let (name, extent) = (group.name.clone(), group.extent_bytes());
    let Some(pv) = group.physical_volumes.iter_mut().find(|pv| pv.id == id) else {
        return Err(invalid(format!(
            "physical volume {id} is not in volume group {name}"
        )));
    };
    let extents = device_size.saturating_sub(pv.extent_start * SECTOR) / extent;
    if extents < pv.extent_count {
        return Err(invalid(format!(
            "{} has become smaller: volume group {name} has {} extents there, and it has room for {extents}",
            pv.device, pv.extent_count
        )));
    }
    let grows = extents > pv.extent_count;
    (pv.extent_count, pv.device_size) = (extents, device_size / SECTOR);
    Ok(grows)
}

/// Takes a physical volume out of the group.
///
/// # Errors
/// `Invalid` if it is not in the group or is its last; `Busy` if a logical volume rests on it.
pub fn remove_physical_volume(group: &mut VolumeGroup, id: Id) -> Result<()> {
    let name = &group.name;
    let Some(index) = group.physical_volumes.iter().position(|pv| pv.id == id) else {
        return Err(invalid(format!(
            "physical volume {id} is not in volume group {name}"
        )));
    };
    let device = &group.physical_volumes[index].device;
    let users = group.volumes_on(index);
    if !users.is_empty() {
        let users = users.join(", ");
        return Err(Error::new(
            ErrorKind::Busy,
            format!(
                "{device} cannot leave volume group {name}: it holds extents of {users}; move or remove them first"
            ),
        ));
    }
    if group.physical_volumes.len() == 1 {
        return Err(invalid(format!(
            "{device} is the last physical volume of group {name}; remove the group instead"
        )));
    }
    group.physical_volumes.remove(index);
    for lv in &mut group.logical_volumes {
        for segment in &mut Arc::make_mut(lv).segments {
            if let Mapping::Striped { stripes, .. } = &mut segment.mapping {
                for stripe in stripes.iter_mut().filter(|stripe| stripe.pv > index) {
                    stripe.pv -= 1;
                }
            }
        }
    }
    Ok(())
}

/// Takes out the physical volumes that are gone.
///
/// # Errors
/// As [`remove_physical_volume`]: a logical volume that rests on one of them must be removed first.
pub fn remove_missing(group: &mut VolumeGroup, missing: &[Id]) -> Result<()> {
    for &id in missing {
        remove_physical_volume(group, id)?;
    }
    Ok(())
}

/// Gives the group another name.
///
/// # Errors
/// `Invalid` if it cannot be.
pub fn rename_group(group: &mut VolumeGroup, name: &str) -> Result<()> {
    check_vg_name(name)?;
    group.name = name.to_owned();
    Ok(())
}
