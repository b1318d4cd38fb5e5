//! Starting an array from its members.
//!
//! Nothing is written before it is decided that the array starts. Then the members that take part are told who does,
//! durably, before any request is taken.

mod journal;
mod select;

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use weft_block::{Error, ErrorKind, Result, SECTOR, Spawner};

use crate::array::{Array, Duty, Intent, Lane, Member, MemberId, Meta, ReadErrors, Start, State};
use crate::bitmap::{BitmapHead, BitmapImage};
use crate::create::MemberDevice;
use crate::examine::{Examined, examine, read_bitmap, sync_size};
use crate::geometry::Geometry;
use crate::level::Level;
use crate::superblock::{CLEAN, Features, Superblock, Timestamp};
pub(crate) use select::shapes::same as same_shape;
pub(crate) use select::without_host;
use select::{Selection, Verdict, select};

/// How an array is to be started.
#[derive(Debug, Clone, Default)]
pub struct AssembleOptions {
    /// What it is called; the name in its superblocks without the host if none is given.
    pub name: Option<String>,
    /// Start a degraded array with parity that was not stopped cleanly. What was being written when it stopped may then
    /// be wrong in the data of the missing member.
    pub force: bool,
    /// The time.
    pub now: Timestamp,
}

/// Starts the array whose members are given; others may be missing as long as the redundancy suffices. Members that
/// are stale, failed or unusable are left out and named in the status' messages; a member that was away comes back by
/// the bitmap if that remembers all it has missed.
///
/// # Errors
/// One sentence: `Invalid` for members of different arrays, `Degraded` if too many are missing or a degraded array was
/// not stopped cleanly and is not forced, `Unsupported` for arrays of a kind that is not run. Nothing was written then.
pub async fn assemble(
    members: Vec<MemberDevice>,
    options: &AssembleOptions,
    spawner: &Spawner,
) -> Result<Array> {
    let mut found = Vec::new();
    for member in members {
        let examined = examine(&*member.device, spawner).await;
        found.push((member, examined));
    }
    let had_journal = found.iter().any(|(_, examined)| {
        let superblock = examined.as_ref().map(|examined| &examined.superblock);
        superblock.is_ok_and(|superblock| superblock.features.has(Features::JOURNAL))
    });
    let selection = select(found, options)?;
    let freshest = selection.freshest.clone();
    let bitmap = bitmap(&selection, spawner).await?;
    let whole_bits = bitmap.is_some();
    let torn_logs = torn_logs(&selection);
    let (array, changed) = start(selection, bitmap, options)?;
    let changed = array.guess_lost(&torn_logs) || changed;
    let dirty = freshest.resync_offset != CLEAN;
    let read_only = array
        .core
        .state()
        .members
        .iter()
        .any(|member| member.device.info().read_only);
    let journaled = array.shared().has_journal();
    // All members are told that there is none any more.
    let changed = changed || had_journal && !journaled;
    let logs = freshest.features.has_ppl() || journaled;
    if read_only && journaled {
        check_replayed(&array, spawner).await?;
    }
    if (changed || logs) && freshest.level != Level::Raid0 && !read_only {
        let (started, own, force) = (array.clone(), Rc::clone(spawner), options.force);
        Lane::to_the_end(spawner, async move {
            let lane = Lane::open(&started.shared(), &own)?;
            if dirty {
                started.recover_by_log(&lane, force).await?;
            }
            let replayed = started.recover_by_journal(&lane, force).await?;
            lane.begin_log().await?;
            if changed {
                lane.publish_start(whole_bits, &torn_logs).await?;
            }
            match replayed {
                true => lane.begin_journal_anew().await,
                false => Ok(()),
            }
        })
        .await?;
    }
    Ok(array)
}

/// Refuses an array that cannot be written and whose journal has what the members may not have.
async fn check_replayed(array: &Array, spawner: &Spawner) -> Result<()> {
    let lane = Lane::open(&array.shared(), spawner)?;
    if !array.awaits_replay(&lane).await? {
        return Ok(());
    }
    let why = format!(
        "array {} cannot start: its journal has what must be written to its members first, and one of its disks is read-only",
        array.name()
    );
    Err(Error::new(ErrorKind::ReadOnly, why))
}

/// The array's bitmap, from the first member in sync that has one that can be used. If the array has one and none can
/// be used, one with every bit set.
async fn bitmap(selection: &Selection, spawner: &Spawner) -> Result<Option<BitmapImage>> {
    let freshest = &selection.freshest;
    if !freshest.features.has(Features::BITMAP) || !freshest.level.is_redundant() {
        return Ok(None);
    }
    let in_sync = selection
        .chosen
        .iter()
        .filter(|(_, _, verdict)| matches!(verdict, Verdict::InSync(_)));
    let mut room = 0;
    for (member, examined, _) in in_sync {
        let superblock = &examined.superblock;
        room = superblock.bitmap_room();
        let queue = member.device.open(spawner)?;
        match read_bitmap(&*queue, superblock).await {
            // One that is behind the superblocks has missed what was written since.
            Ok(image) if !image.head().stale && image.head().events >= freshest.events => {
                return Ok(Some(image));
            }
            _ => {}
        }
    }
    let Some(mut head) = BitmapHead::choose(freshest.set_uuid, sync_size(freshest), room, None)
    else {
        let why = format!("the bitmap of array {} has no room", selection.name);
        return Err(Error::new(ErrorKind::Corrupt, why));
    };
    head.events = freshest.events;
    // Nobody who was away can be caught up by it.
    head.events_cleared = freshest.events;
    Ok(Some(BitmapImage::new(head, true, room)))
}

/// Members whose bad-block log cannot be read, by the place they are given.
fn torn_logs(selection: &Selection) -> Vec<MemberId> {
    let members = (0..).zip(&selection.chosen);
    let torn = members.filter(|(_, (_, examined, _))| examined.bad_block_log_torn);
    torn.map(|(id, _)| id).collect()
}

/// Puts the running array together. Whether something has to be written before it takes requests.
fn start(
    selection: Selection,
    mut bitmap: Option<BitmapImage>,
    options: &AssembleOptions,
) -> Result<(Array, bool)> {
    let Selection {
        name,
        freshest,
        chosen,
        mut notices,
        unheard,
    } = selection;
    let mut sizes = vec![0; freshest.raid_disks as usize];
    for (_, examined, verdict) in &chosen {
        if let Some(slot) = verdict.slot() {
            sizes[slot as usize] = examined.superblock.used() * SECTOR;
        }
    }
    let change = select::shapes::change(&name, &freshest, &chosen)?;
    let geometry = match &change {
        Some(change) => change.before.clone(),
        None => Geometry::of(&freshest, &sizes)
            .map_err(|error| error.in_context(format!("array {name} cannot start")))?,
    };
    let mut changed = unheard;
    let next_id = chosen.len() as u32;
    let members: Vec<Member> = (0..)
        .zip(chosen)
        .filter_map(|(id, (member, examined, verdict))| {
            changed |= examined.from_copy.is_some();
            let duty = duty(
                &verdict,
                &member,
                bitmap.as_ref(),
                &mut changed,
                &mut notices,
            )?;
            Some(new_member(id, member, &examined, duty))
        })
        .collect();
    if let Some(image) = &mut bitmap {
        image.change_head(|head| head.stale = false);
    }
    let mut state = State::at_rest(members, Intent::of(&geometry, bitmap.as_ref()), options.now);
    state.next_id = next_id;
    state.notices = notices;
    state.roles.clone_from(&freshest.roles);
    if freshest.resync_offset != CLEAN && geometry.level() != Level::Raid0 {
        let from = freshest.resync_offset.saturating_mul(SECTOR);
        state.intent.resync_from(from);
        state.resync_total = state.intent.resync_bytes();
        changed = true;
    }
    let slots = change.as_ref().map_or(&geometry, |change| &change.after);
    if !state.is_whole(slots) {
        state.intent.missed_recorded();
        changed = true;
    }
    state.reshaping = change;
    let meta = Meta {
        events: freshest.events,
        bitmap,
    };
    let array = Array::new(Start {
        name,
        geometry,
        superblock: freshest,
        state,
        meta,
    });
    Ok((array, changed))
}

/// What a member does from the start on; none if it is left out.
fn duty(
    verdict: &Verdict,
    member: &MemberDevice,
    bitmap: Option<&BitmapImage>,
    changed: &mut bool,
    notices: &mut Vec<String>,
) -> Option<Duty> {
    let rebuilding = |slot: u32, done: u64, by_bitmap: bool| Duty::Rebuilding {
        slot,
        done: Arc::new(AtomicU64::new(done)),
        recorded: done,
        by_bitmap,
    };
    match verdict {
        Verdict::InSync(slot) => Some(Duty::InSync(*slot)),
        Verdict::Spare => Some(Duty::Spare),
        Verdict::Journal => Some(Duty::Journal),
        Verdict::Replacing { slot, done } => Some(Duty::Replacing {
            slot: *slot,
            done: Arc::new(AtomicU64::new(done * SECTOR)),
            recorded: done * SECTOR,
        }),
        Verdict::Rebuilding {
            slot,
            done,
            by_bitmap,
        } => Some(rebuilding(
            *slot,
            done * SECTOR,
            *by_bitmap && bitmap.is_some(),
        )),
        Verdict::Away { slot, events } => {
            let remembers = bitmap.is_some_and(|image| image.head().events_cleared <= *events);
            let path = &member.path;
            if !remembers {
                notices.push(format!(
                    "{path} missed changes that no bitmap remembers and was left out; add it again to rebuild it"
                ));
                return None;
            }
            *changed = true;
            notices.push(format!(
                "{path} was away; what it missed is being copied to it"
            ));
            Some(rebuilding(*slot, 0, true))
        }
    }
}

/// A member of a running array.
pub(crate) fn new_member(id: u32, member: MemberDevice, examined: &Examined, duty: Duty) -> Member {
    let superblock: Superblock = examined.superblock.clone();
    let data = superblock.data_offset;
    let bad = examined.bad_blocks.iter().map(|bad| {
        let sector = |at: u64| at.saturating_sub(data).saturating_mul(SECTOR);
        sector(bad.start)..sector(bad.end)
    });
    Member {
        id,
        path: member.path,
        device: member.device,
        bad: bad.collect(),
        read_errors: ReadErrors::default(),
        superblock,
        duty,
    }
}
