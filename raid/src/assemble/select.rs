//! Which members an array starts with. Decides and does nothing.

pub(super) mod shapes;

use std::collections::BTreeMap;

use weft_block::{Error, ErrorKind, Result};

use super::AssembleOptions;
use super::journal::{check_journal, has_journal};
use crate::create::MemberDevice;
use crate::examine::Examined;
use crate::geometry::Geometry;
use crate::level::Level;
use crate::superblock::{CLEAN, Features, Role, Superblock};

/// What is known of a member before its bitmap is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It holds this slot's data.
    InSync(u32),
    /// It holds the first sectors of this slot's data.
    Rebuilding {
        slot: u32,
        done: u64,
        by_bitmap: bool,
    },
    /// It holds the first sectors of this slot's data beside the member that it is to replace.
    Replacing { slot: u32, done: u64 },
    /// It waits for a slot.
    Spare,
    /// It holds the journal.
    Journal,
    /// It held this slot until these events; the bitmap may remember what it has missed.
    Away { slot: u32, events: u64 },
}

impl Verdict {
    pub(super) fn slot(&self) -> Option<u32> {
        match self {
            Self::InSync(slot)
            | Self::Rebuilding { slot, .. }
            | Self::Replacing { slot, .. }
            | Self::Away { slot, .. } => Some(*slot),
            Self::Spare | Self::Journal => None,
        }
    }
}

/// An array that can start.
pub(super) struct Selection {
    pub(super) name: String,
    /// The superblock that is believed.
    pub(super) freshest: Superblock,
    pub(super) chosen: Vec<(MemberDevice, Examined, Verdict)>,
    /// Who was left out and why.
    pub(super) notices: Vec<String>,
    /// Some member had not heard yet of a change of shape that began or was done.
    pub(super) unheard: bool,
}

type Found = (MemberDevice, Examined);

/// Decides.
pub(super) fn select(
    found: Vec<(MemberDevice, Result<Examined>)>,
    options: &AssembleOptions,
) -> Result<Selection> {
    let mut notices = Vec::new();
    let mut good: Vec<Found> = Vec::new();
    let mut first_error = None;
    for (member, examined) in found {
        match examined {
            Ok(examined) => good.push((member, examined)),
            Err(error) => {
                let path = &member.path;
                notices.push(format!("{path} cannot be used: {}", error.sentence()));
                let why = format!("{path} is no member that can be used");
                first_error = first_error.or(Some(error.in_context(why)));
            }
        }
    }
    let Some(mut freshest) = freshest(&good) else {
        return Err(
            first_error.unwrap_or_else(|| Error::new(ErrorKind::Invalid, "no member was given"))
        );
    };
    let name = options
        .name
        .clone()
        .unwrap_or_else(|| without_host(&freshest.name()).to_owned());
    check_one_array(&name, &good)?;
    let unheard = shapes::agree(&name, &freshest, &mut good)?;
    check_features(&name, &freshest, &good)?;
    for (member, examined) in &good {
        if let Some(why) = &examined.from_copy {
            notices.push(format!(
                "{}: its copy was taken, because {why}",
                member.path
            ));
        }
    }
    let mut chosen: Vec<(MemberDevice, Examined, Verdict)> = Vec::new();
    for (member, examined) in good {
        match judge(&freshest, &examined.superblock) {
            Ok(verdict) => chosen.push((member, examined, verdict)),
            Err(why) => notices.push(format!("{} was left out: {why}", member.path)),
        }
    }
    let dirty = freshest.resync_offset != CLEAN;
    place_replacements(freshest.size, dirty, &mut chosen);
    drop_rivals(&name, &mut chosen, &mut notices)?;
    if has_journal(&freshest, &chosen) {
        check_journal(
            &name,
            &mut freshest,
            &mut chosen,
            &mut notices,
            options.force,
        )?;
    }
    check_enough(&name, &freshest, &chosen, &notices, options.force)?;
    Ok(Selection {
        name,
        freshest,
        chosen,
        notices,
        unheard,
    })
}

/// The superblock with the most events; of several, the one that claims least to be in sync. A journal's says where the
/// journal's data lies, not where a member's does, so a member's that is a step behind it is as good.
fn freshest(good: &[Found]) -> Option<Superblock> {
    let superblocks = good.iter().map(|(_, examined)| &examined.superblock);
    let most = superblocks
        .clone()
        .map(|superblock| superblock.events)
        .max();
    let freshest = superblocks.max_by_key(|superblock| {
        let is_journal = superblock.role() == Role::Journal;
        (
            superblock.events - u64::from(is_journal).min(superblock.events),
            !is_journal,
            std::cmp::Reverse(superblock.resync_offset),
        )
    });
    let mut freshest = freshest.cloned()?;
    freshest.events = most.unwrap_or(freshest.events);
    Some(freshest)
}

/// An array's name without the host that made it.
pub(crate) fn without_host(name: &str) -> &str {
    match name.split_once(':') {
        Some((_, short)) if !short.is_empty() => short,
        _ => name,
    }
}

fn check_one_array(name: &str, good: &[Found]) -> Result<()> {
    let invalid = |why: String| Err(Error::new(ErrorKind::Invalid, why));
    let mut numbers: BTreeMap<[u8; 16], &str> = BTreeMap::new();
    let Some((first_member, first)) = good.first() else {
        return Ok(());
    };
    for (member, examined) in good {
        let (one, other) = (&first.superblock, &examined.superblock);
        if one.set_uuid != other.set_uuid {
            return invalid(format!(
                "{} and {} are members of different arrays, {} and {}",
                first_member.path,
                member.path,
                one.name(),
                other.name()
            ));
        }
        if let Some(twin) = numbers.insert(other.device_uuid, &member.path) {
            return invalid(format!(
                "array {name} cannot start: {twin} and {} are the same member twice, one is a copy of the other",
                member.path
            ));
        }
    }
    Ok(())
}

fn check_features(name: &str, freshest: &Superblock, good: &[Found]) -> Result<()> {
    let all = good.iter().fold(Features::default(), |all, (_, examined)| {
        all.with(examined.superblock.features)
    });
    let refused = all.with(freshest.features).refused().names();
    if refused.is_empty() {
        return Ok(());
    }
    let why = format!(
        "array {name} cannot start: it uses what is not supported yet ({})",
        refused.join(", ")
    );
    Err(Error::new(ErrorKind::Unsupported, why))
}

/// What a member is, by the freshest superblock's word and its own.
fn judge(freshest: &Superblock, own: &Superblock) -> std::result::Result<Verdict, String> {
    let listed = freshest.role_of(own.dev_number);
    if own.role_of(freshest.dev_number) == Role::Faulty
        && matches!(freshest.role(), Role::Active(_))
    {
        return Err("it says that the others were failed: the array has been split; wipe it and add it again".into());
    }
    if listed == Role::Faulty {
        return Err("it was failed; add it again to rebuild it".into());
    }
    // One step apart is as good as level: the power may have gone between two superblocks.
    let current = own.events + 1 >= freshest.events;
    let recovering = own.features.has(Features::RECOVERY_OFFSET);
    let changing = freshest.features.has(Features::RESHAPE);
    // No bitmap tells what has been moved without it.
    let missed = changing && own.role() != Role::Spare;
    if !current && (missed || !shapes::same(freshest, own)) {
        return Err(
            "it missed a change of the array's shape; add it again when that is done, to rebuild it"
                .into(),
        );
    }
    match (listed, own.role()) {
        (Role::Active(slot), Role::Active(own_slot)) if current && slot == own_slot => {
            let slot = u32::from(slot);
            let replaces = own.features.has(Features::REPLACEMENT);
            Ok(match recovering {
                _ if replaces => Verdict::Replacing {
                    slot,
                    done: own.recovery_offset.min(freshest.size),
                },
                false => Verdict::InSync(slot),
                // How far it is was said of one shape, and what is moved lies in another.
                true if changing => Verdict::Rebuilding {
                    slot,
                    done: 0,
                    by_bitmap: false,
                },
                true => Verdict::Rebuilding {
                    slot,
                    done: own.recovery_offset.min(freshest.size),
                    by_bitmap: own.features.has(Features::RECOVERY_BITMAP),
                },
            })
        }
        // The slot comes with a change of shape that has moved nothing yet.
        (Role::Active(slot), Role::Spare) if current && shapes::is_coming(freshest, slot) => {
            Ok(Verdict::InSync(u32::from(slot)))
        }
        // It was given the slot, but has not heard of it: nothing is rebuilt.
        (Role::Active(slot), Role::Spare) if current => Ok(Verdict::Rebuilding {
            slot: u32::from(slot),
            done: 0,
            by_bitmap: false,
        }),
        (Role::Spare, Role::Spare) => Ok(Verdict::Spare),
        (Role::Journal, Role::Journal) if current => Ok(Verdict::Journal),
        (_, Role::Active(slot)) if !recovering && u32::from(slot) < freshest.raid_disks => {
            Ok(Verdict::Away {
                slot: u32::from(slot),
                events: own.events,
            })
        }
        (_, Role::Faulty) => Err("it was failed; add it again to rebuild it".into()),
        _ => Err(format!(
            "it is out of date ({} events of {}); add it again to rebuild it",
            own.events, freshest.events
        )),
    }
}

/// Finds out what a member is that was to replace another: if that one is not there, it holds the slot as far as it had
/// come. What was being written at an unclean stop may not have reached both, so the copying begins anew.
fn place_replacements(size: u64, dirty: bool, chosen: &mut [(MemberDevice, Examined, Verdict)]) {
    let held: Vec<u32> = chosen
        .iter()
        .filter_map(|(_, _, verdict)| match verdict {
            Verdict::InSync(slot) => Some(*slot),
            _ => None,
        })
        .collect();
    for (_, _, verdict) in chosen {
        let (slot, done) = match *verdict {
            Verdict::Replacing { slot, done } => (slot, done),
            // It was to replace one that is there, but has not heard of it.
            Verdict::Rebuilding { slot, .. } if held.contains(&slot) => (slot, 0),
            _ => continue,
        };
        let by_bitmap = false;
        *verdict = match (held.contains(&slot), dirty) {
            (true, true) => Verdict::Replacing { slot, done: 0 },
            (true, false) => Verdict::Replacing { slot, done },
            (false, _) if done >= size => Verdict::InSync(slot),
            (false, dirty) => Verdict::Rebuilding {
                slot,
                done: if dirty { 0 } else { done },
                by_bitmap,
            },
        };
    }
}

/// Leaves out members whose slot somebody better holds.
fn drop_rivals(
    name: &str,
    chosen: &mut Vec<(MemberDevice, Examined, Verdict)>,
    notices: &mut Vec<String>,
) -> Result<()> {
    let mut holders: BTreeMap<u32, String> = BTreeMap::new();
    for (member, _, verdict) in chosen.iter() {
        let (Verdict::InSync(slot) | Verdict::Rebuilding { slot, .. }) = verdict else {
            continue;
        };
        if let Some(other) = holders.insert(*slot, member.path.clone()) {
            let why = format!(
                "array {name} cannot start: {other} and {} both claim slot {slot}",
                member.path
            );
            return Err(Error::new(ErrorKind::Invalid, why));
        }
    }
    chosen.retain(|(member, _, verdict)| {
        let Verdict::Away { slot, .. } = verdict else {
            return true;
        };
        if let Some(rival) = holders.get(slot) {
            notices.push(format!(
                "{} was left out: {rival} has taken its slot {slot}",
                member.path
            ));
            return false;
        }
        holders.insert(*slot, member.path.clone());
        true
    });
    Ok(())
}

fn check_enough(
    name: &str,
    freshest: &Superblock,
    chosen: &[(MemberDevice, Examined, Verdict)],
    notices: &[String],
    force: bool,
) -> Result<()> {
    let whole = |slot: u32| {
        let holds = |verdict: &Verdict| *verdict == Verdict::InSync(slot);
        chosen.iter().any(|(_, _, verdict)| holds(verdict))
    };
    let missing: Vec<u32> = (0..freshest.raid_disks)
        .filter(|&slot| !whole(slot))
        .collect();
    let spare = match freshest.level {
        Level::Raid0 => 0,
        Level::Raid1 => freshest.raid_disks - 1,
        Level::Raid4 | Level::Raid5 => 1,
        Level::Raid6 => 2,
        Level::Raid10 => match Geometry::of(freshest, &[]) {
            // Which of them are missing matters, not how many.
            Ok(geometry) if geometry.survives(|slot| missing.contains(&slot)) => {
                freshest.raid_disks
            }
            Ok(_) => 0,
            // Refused later, with the reason.
            Err(_) => freshest.raid_disks,
        },
    };
    if missing.len() > spare as usize {
        let slots: Vec<String> = missing.iter().map(u32::to_string).collect();
        let reasons = match notices {
            [] => String::new(),
            notices => format!(" ({})", notices.join("; ")),
        };
        let why = format!(
            "array {name} cannot start: {} of its {} members are missing or incomplete, slot {}{reasons}",
            missing.len(),
            freshest.raid_disks,
            slots.join(" and ")
        );
        return Err(Error::new(ErrorKind::Degraded, why));
    }
    let parity = matches!(freshest.level, Level::Raid4 | Level::Raid5 | Level::Raid6);
    let dirty = freshest.resync_offset != CLEAN;
    // A partial parity log puts right what was being written, and is asked later.
    let unprotected = parity && !freshest.features.has_ppl();
    let geometry = Geometry::of(freshest, &[]).ok();
    let holds_data = |slot: &&u32| {
        let geometry = geometry.as_ref();
        geometry.is_none_or(|geometry| geometry.holds_data(**slot))
    };
    // Parity that lacks is made of the data again.
    let lost = missing.iter().find(holds_data);
    if let Some(slot) = lost.filter(|_| unprotected && dirty && !force) {
        let why = format!(
            "array {name} cannot start: it is degraded and was not stopped cleanly, so what was being written then may \
             be wrong in the data of slot {slot}; bring that member back, or assemble it by force"
        );
        return Err(Error::new(ErrorKind::Degraded, why));
    }
    Ok(())
}
