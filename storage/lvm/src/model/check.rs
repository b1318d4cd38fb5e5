//! Whether what a text says can be. Everything deeper relies on it.

use std::collections::HashSet;
use std::fmt::Display;
use std::hash::Hash;

use weft_block::{Error, ErrorKind, Result};

use super::{LogicalVolume, Mapping, PhysicalVolume, Segment, VolumeGroup, check_vg_name};

/// Sectors of the largest device or volume: offsets in bytes stay well inside 63 bits.
pub const MAX_SECTORS: u64 = 1 << 53;

/// Checks sizes, counts, names, references and overlaps.
///
/// # Errors
/// `Corrupt`, naming the first object that cannot be.
pub fn check(group: &VolumeGroup) -> Result<()> {
    check_vg_name(&group.name).map_err(|error| corrupt(error.to_string()))?;
    if group.extent_size == 0 || group.extent_size > MAX_SECTORS {
        return Err(corrupt(format!(
            "volume group {} has extents of {} sectors",
            group.name, group.extent_size
        )));
    }
    let (pvs, lvs) = (&group.physical_volumes, &group.logical_volumes);
    unique("physical volumes", "name", pvs.iter().map(|pv| &pv.key))?;
    unique("physical volumes", "id", pvs.iter().map(|pv| pv.id))?;
    unique("logical volumes", "name", lvs.iter().map(|lv| &lv.name))?;
    unique("logical volumes", "id", lvs.iter().map(|lv| lv.id))?;
    for pv in pvs {
        check_pv(pv, group.extent_size)?;
    }
    for lv in lvs {
        check_lv(lv, group)?;
    }
    check_overlaps(group)
}

fn corrupt(problem: impl Into<String>) -> Error {
    Error::new(ErrorKind::Corrupt, problem)
}

fn unique<T: Hash + Eq + Display + Copy>(
    what: &str,
    attribute: &str,
    all: impl Iterator<Item = T>,
) -> Result<()> {
    let mut seen = HashSet::with_capacity(all.size_hint().0);
    for one in all {
        if !seen.insert(one) {
            return Err(corrupt(format!("two {what} have the {attribute} {one}")));
        }
    }
    Ok(())
}

fn check_pv(pv: &PhysicalVolume, extent_size: u64) -> Result<()> {
    let key = &pv.key;
    let end = pv
        .extent_count
        .checked_mul(extent_size)
        .and_then(|sectors| sectors.checked_add(pv.extent_start))
        .filter(|&end| end <= MAX_SECTORS)
        .ok_or_else(|| corrupt(format!("physical volume {key} is impossibly large")))?;
    // pvresize leaves what the extents may take there, without what lies before them.
    if pv.device_size != 0 && end - pv.extent_start > pv.device_size {
        return Err(corrupt(format!(
            "the extents of physical volume {key} end beyond its {} sectors",
            pv.device_size
        )));
    }
    Ok(())
}

fn check_lv(lv: &LogicalVolume, group: &VolumeGroup) -> Result<()> {
    check_vg_name(&lv.name).map_err(|error| corrupt(error.to_string()))?;
    let name = &lv.name;
    let mut next = 0_u64;
    for segment in &lv.segments {
        if segment.start != next || segment.count == 0 {
            return Err(corrupt(format!(
                "logical volume {name} has a gap or an overlap at extent {next}"
            )));
        }
        next = next
            .checked_add(segment.count)
            .filter(|extents| {
                extents
                    .checked_mul(group.extent_size)
                    .is_some_and(|sectors| sectors <= MAX_SECTORS)
            })
            .ok_or_else(|| corrupt(format!("logical volume {name} is impossibly large")))?;
        check_stripes(name, segment, group)?;
    }
    Ok(())
}

fn check_stripes(name: &str, segment: &Segment, group: &VolumeGroup) -> Result<()> {
    let Mapping::Striped {
        stripe_size,
        stripes,
    } = &segment.mapping
    else {
        return Ok(());
    };
    let (start, width) = (segment.start, stripes.len() as u64);
    if width == 0 || !segment.count.is_multiple_of(width) {
        return Err(corrupt(format!(
            "{} extents of logical volume {name} from {start} on do not fill {width} stripes",
            segment.count
        )));
    }
    let sectors = segment.count / width * group.extent_size;
    if width > 1 && (*stripe_size == 0 || !sectors.is_multiple_of(*stripe_size)) {
        return Err(corrupt(format!(
            "the stripes of logical volume {name} are no multiple of {stripe_size} sectors"
        )));
    }
    for stripe in stripes {
        let pv = &group.physical_volumes[stripe.pv];
        let end = stripe.start.checked_add(segment.count / width);
        if end.is_none_or(|end| end > pv.extent_count) {
            return Err(corrupt(format!(
                "logical volume {name} uses extents that physical volume {} does not have",
                pv.key
            )));
        }
    }
    Ok(())
}

/// No extent is used twice. Segments of unknown types are guessed at, so only the known ones are held against each other.
fn check_overlaps(group: &VolumeGroup) -> Result<()> {
    let mut used: Vec<(usize, u64, u64, &str)> = Vec::new();
    for lv in &group.logical_volumes {
        for segment in &lv.segments {
            let count = segment.stripe_extents();
            let stripes = segment.stripes().iter();
            used.extend(stripes.map(|stripe| (stripe.pv, stripe.start, count, lv.name.as_str())));
        }
    }
    used.sort_unstable();
    for pair in used.windows(2) {
        let [(pv, start, count, one), (next_pv, next, _, other)] = pair else {
            continue;
        };
        if pv == next_pv && start + count > *next {
            let key = &group.physical_volumes[*pv].key;
            return Err(corrupt(format!(
                "logical volumes {one} and {other} share extent {next} of physical volume {key}"
            )));
        }
    }
    Ok(())
}
