//! Members that do not agree about the array's shape, because the power went while they were told of a change of it.

use weft_block::{Error, ErrorKind, Result, SECTOR};

use super::{Found, Verdict};
use crate::create::MemberDevice;
use crate::examine::Examined;
use crate::lifecycle::{adopt, finish_superblock, same_form};
use crate::reshape::Change;
use crate::superblock::{Features, Superblock};

/// Whether two superblocks tell of the same shape.
pub(crate) fn same(one: &Superblock, other: &Superblock) -> bool {
    let change = |sb: &Superblock| {
        sb.features.has(Features::RESHAPE).then_some((
            sb.reshape.new_layout,
            sb.reshape.new_chunk,
            sb.reshape.delta_disks,
        ))
    };
    same_form(one, other) && change(one) == change(other)
}

/// Lets members that are current, but have not heard of the beginning or the end of a change of shape, hear of it.
/// Whether there was one.
pub(super) fn agree(name: &str, freshest: &Superblock, good: &mut [Found]) -> Result<bool> {
    let mut unheard = false;
    for (member, examined) in good {
        let own = &mut examined.superblock;
        // One that is older is judged by its events.
        if same(freshest, own) || own.events + 1 < freshest.events {
            continue;
        }
        let changing = |sb: &Superblock| sb.features.has(Features::RESHAPE);
        match (changing(freshest), changing(own)) {
            (true, false) => hear(own, freshest),
            (false, true) => finish_superblock(own),
            // What the array becomes at once holds for all members.
            (false, false) if own.events < freshest.events => {
                adopt(own, freshest);
                // Of a slot that there is no more.
                own.roles.clone_from(&freshest.roles);
            }
            _ => {}
        }
        let sectors = member.device.info().size / SECTOR;
        if !same(freshest, own) || own.validate(sectors).is_err() {
            let path = &member.path;
            let why = format!(
                "array {name} cannot start: {path} and the others disagree about its shape"
            );
            return Err(Error::new(ErrorKind::Corrupt, why));
        }
        unheard = true;
    }
    Ok(unheard)
}

/// The beginning of a change: all members' data moves by as much.
fn hear(own: &mut Superblock, freshest: &Superblock) {
    let change = Features::RESHAPE
        .with(Features::RESHAPE_BACKWARDS)
        .with(Features::NEW_OFFSET);
    let log = Features::PPL.with(Features::MULTIPLE_PPLS);
    let heard = [change, log]
        .into_iter()
        .fold(own.features, Features::without);
    let told = freshest.features.only(change);
    own.features = heard.with(told);
    own.reshape = freshest.reshape;
    own.raid_disks = freshest.raid_disks;
}

/// Whether a slot comes with a change of shape that has moved nothing yet.
pub(super) fn is_coming(freshest: &Superblock, slot: u16) -> bool {
    let change = Change::of(freshest).ok().flatten();
    change.is_some_and(|change| {
        change.moves.done(change.position) == 0 && u32::from(slot) >= change.before.members()
    })
}

/// The change of shape that a superblock tells of, if the members can go on with it.
pub(in crate::assemble) fn change(
    name: &str,
    freshest: &Superblock,
    chosen: &[(MemberDevice, Examined, Verdict)],
) -> Result<Option<Change>> {
    let cannot = |error: Error| error.in_context(format!("array {name} cannot start"));
    let change = Change::of(freshest).map_err(cannot)?;
    let Some(change) = change else {
        return Ok(None);
    };
    let mut all = chosen.iter();
    if all.any(|(_, examined, _)| !examined.bad_blocks.is_empty()) {
        let why = format!(
            "array {name} cannot start: blocks are marked as lost while its shape is being changed at byte {}; Linux can \
             go on with it",
            freshest.reshape.position.saturating_mul(SECTOR)
        );
        return Err(Error::new(ErrorKind::Unsupported, why));
    }
    let slotted = chosen
        .iter()
        .filter(|(_, _, verdict)| verdict.slot().is_some());
    let shifts = slotted.map(|(_, examined, _)| examined.superblock.shift() * SECTOR as i64);
    let moves = change.moves.over(shifts);
    // Whoever stopped there may have written over what it had not moved: md asks mdadm for it then.
    if change.position != moves.last() && moves.step(change.position, 0).is_none() {
        let why = format!(
            "array {name} cannot start: its data is moved in place, and what belongs at byte {} of it may be nowhere \
             but in mdadm's backup file; mdadm --assemble --backup-file goes on with it",
            change.position
        );
        return Err(Error::new(ErrorKind::Unsupported, why));
    }
    Ok(Some(Change { moves, ..change }))
}
