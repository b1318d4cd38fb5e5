//! Changes to logical volumes.

use std::sync::Arc;

use weft_block::{Bytes, Error, ErrorKind, Result, SECTOR};

use super::{Piece, allocate, capacity, invalid};
use crate::format::Id;
use crate::model::{
    LogicalVolume, MAX_SECTORS, Mapping, Run, Segment, Stripe, VolumeGroup, check_lv_name,
};

/// Chunk of a striped volume where none is asked for, in bytes.
const DEFAULT_STRIPE_BYTES: u64 = 64 << 10;

/// How large a volume is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Amount {
    /// Bytes, rounded up to whole extents.
    Bytes(u64),
    /// Extents, rounded up to whole stripes.
    Extents(u64),
    /// For a new volume, this share of what is free; for one that exists, its size and that share. Rounded down.
    PercentFree(u32),
}

/// A volume to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewVolume {
    /// Its name.
    pub name: String,
    /// Its size.
    pub size: Amount,
    /// Stripes: one is a linear volume.
    pub stripes: usize,
    /// Bytes in a chunk; zero for 64 KiB, or the extent size if that is less.
    pub stripe_size: u64,
    /// The physical volumes (identifiers) that it may use; none for all.
    pub on: Vec<Id>,
    /// Tags.
    pub tags: Vec<String>,
}

impl NewVolume {
    /// A linear volume anywhere in the group.
    pub fn linear(name: impl Into<String>, size: Amount) -> Self {
        Self {
            name: name.into(),
            size,
            stripes: 1,
            stripe_size: 0,
            on: Vec::new(),
            tags: Vec::new(),
        }
    }
}

/// What marks a new object: where and when it was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    /// Its identifier.
    pub id: Id,
    /// The host.
    pub host: String,
    /// Seconds since 1970.
    pub time: u64,
}

/// Adds a logical volume.
///
/// # Errors
/// `Invalid` for a name, size or stripe count that cannot be; `NoSpace` where free extents do not suffice.
pub fn create_volume(group: &mut VolumeGroup, new: &NewVolume, stamp: Stamp) -> Result<()> {
    check_lv_name(&new.name)?;
    let full_name = format!("{}/{}", group.name, new.name);
    if group.logical_volume(&new.name).is_some() {
        return Err(invalid(format!("volume {full_name} exists already")));
    }
    if group.max_lv != 0 && group.logical_volumes.len() as u64 >= group.max_lv {
        return Err(invalid(format!(
            "volume group {} takes {} volumes at most",
            group.name, group.max_lv
        )));
    }
    let stripe_size = stripe_sectors(group, new)?;
    let free = usable(group, &new.on)?;
    let room = capacity(&free, new.stripes);
    let length = stripe_length(group, &full_name, new.size, new.stripes, room)?;
    let wish = Wish {
        what: &full_name,
        stripes: new.stripes,
        length,
        after: &[],
    };
    let pieces = find_extents(group, free, &wish)?;
    let mut volume = LogicalVolume {
        name: new.name.clone(),
        id: stamp.id,
        status: ["READ", "WRITE", "VISIBLE"].map(String::from).to_vec(),
        flags: Vec::new(),
        tags: new.tags.clone(),
        creation_time: Some(stamp.time),
        creation_host: Some(stamp.host),
        segments: Vec::new(),
        rest: Vec::new(),
    };
    append(&mut volume, pieces, stripe_size);
    group.logical_volumes.push(volume.into());
    Ok(())
}

/// Grows or shrinks a logical volume to `size`, rounded up to whole stripes; what grows takes extents of `on` or, if
/// that is empty, of any physical volume.
///
/// # Errors
/// `Invalid` if there is no such volume or the size is none; `Unsupported` if its type is not known here; `NoSpace`.
pub fn resize_volume(group: &mut VolumeGroup, name: &str, size: Amount, on: &[Id]) -> Result<()> {
    let index = changeable(group, name)?;
    let full_name = format!("{}/{name}", group.name);
    let old = group.logical_volumes[index].extents();
    let last = group.logical_volumes[index].segments.last().cloned();
    let (stripes, stripe_size) = match last.as_ref().map(|last| &last.mapping) {
        Some(Mapping::Striped {
            stripe_size,
            stripes,
        }) => (stripes.len(), *stripe_size),
        _ => (1, 0),
    };
    let free = usable(group, on)?;
    let room = capacity(&free, stripes);
    let wanted = match size {
        Amount::PercentFree(_) => {
            let length = stripe_length(group, &full_name, size, stripes, room)?;
            old + length * stripes as u64
        }
        _ => stripe_length(group, &full_name, size, 1, room)?,
    };
    if wanted <= old {
        shrink(Arc::make_mut(&mut group.logical_volumes[index]), wanted);
        return Ok(());
    }
    let length = (wanted - old).div_ceil(stripes as u64);
    let after: Vec<Stripe> = last.iter().flat_map(end_of).collect();
    let wish = Wish {
        what: &full_name,
        stripes,
        length,
        after: &after,
    };
    let pieces = find_extents(group, free, &wish)?;
    let volume = Arc::make_mut(&mut group.logical_volumes[index]);
    append(volume, pieces, stripe_size);
    Ok(())
}

/// Gives a logical volume another name.
///
/// # Errors
/// As [`resize_volume`]; `Invalid` if the new name is taken or cannot be.
pub fn rename_volume(group: &mut VolumeGroup, name: &str, new_name: &str) -> Result<()> {
    let index = changeable(group, name)?;
    check_lv_name(new_name)?;
    if group.logical_volume(new_name).is_some() {
        let vg = &group.name;
        return Err(invalid(format!("volume {vg}/{new_name} exists already")));
    }
    Arc::make_mut(&mut group.logical_volumes[index]).name = new_name.to_owned();
    Ok(())
}

/// Removes a logical volume; its extents are free afterwards.
///
/// # Errors
/// As [`resize_volume`].
pub fn remove_volume(group: &mut VolumeGroup, name: &str) -> Result<()> {
    let index = changeable(group, name)?;
    group.logical_volumes.remove(index);
    Ok(())
}

/// The index of a volume of which every segment is known and that is no part of another.
fn changeable(group: &VolumeGroup, name: &str) -> Result<usize> {
    let vg = &group.name;
    let position = |lv: &Arc<LogicalVolume>| lv.name == name;
    let Some(index) = group.logical_volumes.iter().position(position) else {
        return Err(invalid(format!("volume {vg}/{name} does not exist")));
    };
    if let Some(kind) = group.logical_volumes[index].unknown_type() {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "volume {vg}/{name} has segments of type {kind}, which weft keeps but does not change"
            ),
        ));
    }
    if let Some(user) = group.volume_that_uses(name) {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("volume {vg}/{name} is a part of {vg}/{user}"),
        ));
    }
    Ok(index)
}

fn stripe_sectors(group: &VolumeGroup, new: &NewVolume) -> Result<u64> {
    let extent = group.extent_bytes();
    match new.stripes {
        0 => Err(invalid("a volume has one stripe at least")),
        1 => Ok(0),
        _ => {
            let bytes = match new.stripe_size {
                0 => DEFAULT_STRIPE_BYTES.min(extent),
                bytes => bytes,
            };
            // LVM2 takes powers of two from 4 KiB to the extent size; the last follows from the division.
            if !bytes.is_power_of_two() || bytes < 4096 || !extent.is_multiple_of(bytes) {
                return Err(invalid(format!(
                    "a stripe size of {bytes} bytes is not a power of two from 4096 up that divides the extent size of {}",
                    Bytes(extent)
                )));
            }
            Ok(bytes / SECTOR)
        }
    }
}

/// The free runs on the physical volumes that may be used.
fn usable(group: &VolumeGroup, on: &[Id]) -> Result<Vec<Vec<Run>>> {
    for id in on {
        let Some(pv) = group.physical_volumes.iter().find(|pv| pv.id == *id) else {
            let name = &group.name;
            return Err(invalid(format!(
                "physical volume {id} is not in volume group {name}"
            )));
        };
        if !pv.is_allocatable() {
            return Err(invalid(format!(
                "physical volume {id} is not open for allocation"
            )));
        }
    }
    let mut free = group.free_runs();
    for (pv, runs) in group.physical_volumes.iter().zip(&mut free) {
        if !pv.is_allocatable() || !on.is_empty() && !on.contains(&pv.id) {
            runs.clear();
        }
    }
    Ok(free)
}

/// Extents in each stripe for a size, of which there is `room` for.
fn stripe_length(
    group: &VolumeGroup,
    what: &str,
    size: Amount,
    stripes: usize,
    room: u64,
) -> Result<u64> {
    let stripes = stripes as u64;
    let length = match size {
        Amount::Bytes(bytes) => bytes.div_ceil(group.extent_bytes()).div_ceil(stripes),
        Amount::Extents(extents) => extents.div_ceil(stripes),
        Amount::PercentFree(percent) if percent > 100 => {
            return Err(invalid(format!("{percent} % of what is free is too much")));
        }
        Amount::PercentFree(percent) => (u128::from(room) * u128::from(percent) / 100) as u64,
    };
    if length == 0 {
        return Err(match size {
            Amount::PercentFree(_) => Error::new(
                ErrorKind::NoSpace,
                format!("volume group {} has no free extents for {what}", group.name),
            ),
            _ => invalid(format!("volume {what} cannot have a size of zero")),
        });
    }
    let sectors = length
        .checked_mul(stripes)
        .and_then(|extents| extents.checked_mul(group.extent_size));
    match sectors {
        Some(sectors) if sectors <= MAX_SECTORS => Ok(length),
        _ => Err(invalid(format!("volume {what} cannot be that large"))),
    }
}

/// Extents that are asked for.
struct Wish<'a> {
    what: &'a str,
    stripes: usize,
    length: u64,
    after: &'a [Stripe],
}

fn find_extents(group: &VolumeGroup, free: Vec<Vec<Run>>, wish: &Wish<'_>) -> Result<Vec<Piece>> {
    let room = capacity(&free, wish.stripes);
    allocate(free, wish.stripes, wish.length, wish.after).ok_or_else(|| {
        let bytes = |extents: u64| Bytes(extents * wish.stripes as u64 * group.extent_bytes());
        let over = match wish.stripes {
            1 => String::new(),
            stripes => format!(" over {stripes} physical volumes"),
        };
        Error::new(
            ErrorKind::NoSpace,
            format!(
                "volume {} needs {} more{over}, volume group {} has {} free for it",
                wish.what,
                bytes(wish.length),
                group.name,
                bytes(room)
            ),
        )
    })
}

/// Where the extents after a segment would be.
fn end_of(segment: &Segment) -> Vec<Stripe> {
    let count = segment.stripe_extents();
    let stripes = segment.stripes().iter();
    stripes
        .map(|stripe| Stripe {
            pv: stripe.pv,
            start: stripe.start + count,
        })
        .collect()
}

/// Adds pieces at the end, joined with the last segment where they go on from it.
fn append(volume: &mut LogicalVolume, pieces: Vec<Piece>, stripe_size: u64) {
    for piece in pieces {
        let count = piece.count * piece.stripes.len() as u64;
        let start = volume.extents();
        if let Some(last) = volume.segments.last_mut() {
            let same_chunk = matches!(&last.mapping, Mapping::Striped { stripe_size: old, .. } if *old == stripe_size);
            if same_chunk
                && last.rest.is_empty()
                && last.tags.is_empty()
                && end_of(last) == piece.stripes
            {
                last.count += count;
                continue;
            }
        }
        volume.segments.push(Segment {
            start,
            count,
            tags: Vec::new(),
            mapping: Mapping::Striped {
                stripe_size,
                stripes: piece.stripes,
            },
            rest: Vec::new(),
        });
    }
}

/// Cuts a volume to `extents`, rounded up to whole stripes of the segment that the new end is in.
fn shrink(volume: &mut LogicalVolume, extents: u64) {
    volume.segments.retain(|segment| segment.start < extents);
    if let Some(last) = volume.segments.last_mut() {
        let width = last.stripes().len() as u64;
        let kept = (extents - last.start).next_multiple_of(width);
        last.count = last.count.min(kept);
    }
}
