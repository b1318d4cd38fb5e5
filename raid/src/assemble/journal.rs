//! Whether the journal of an array that has one is there.

use weft_block::{Error, ErrorKind, Result};

use super::select::Verdict;
use crate::create::MemberDevice;
use crate::examine::Examined;
use crate::journal::{BLOCK_SECTORS, least_blocks};
use crate::superblock::{Features, Role, Superblock};

/// Whether some member says that there is a journal. One that had none any more when the power went may not have told all.
pub(super) fn has_journal(
    freshest: &Superblock,
    chosen: &[(MemberDevice, Examined, Verdict)],
) -> bool {
    let members = chosen.iter().map(|(_, examined, _)| &examined.superblock);
    let mut superblocks = members.chain([freshest]);
    superblocks.any(|superblock| superblock.features.has(Features::JOURNAL))
}

/// Sees that the journal is there. Without it an array starts only if it is told to, and goes on without a journal.
pub(super) fn check_journal(
    name: &str,
    freshest: &mut Superblock,
    chosen: &mut [(MemberDevice, Examined, Verdict)],
    notices: &mut Vec<String>,
    force: bool,
) -> Result<()> {
    let is_journal = |one: &&(MemberDevice, Examined, Verdict)| one.2 == Verdict::Journal;
    let mut journals = chosen.iter().filter(is_journal);
    let refused = |kind: ErrorKind, why: String| {
        Err(Error::new(
            kind,
            format!("array {name} cannot start: {why}"),
        ))
    };
    match (journals.next(), journals.next()) {
        (Some((one, ..)), Some((other, ..))) => {
            let why = format!("{} and {} both hold its journal", one.path, other.path);
            return refused(ErrorKind::Invalid, why);
        }
        (Some((member, examined, _)), None) => {
            let (has, needs) = (
                examined.superblock.data_size / BLOCK_SECTORS,
                least_blocks(freshest.raid_disks),
            );
            if has < needs {
                let why = format!(
                    "its journal {} has {has} blocks, it needs {needs}",
                    member.path
                );
                return refused(ErrorKind::Unsupported, why);
            }
            return Ok(());
        }
        // It was started without one before.
        (None, _) if !freshest.features.has(Features::JOURNAL) => {}
        (None, _) if !force && !freshest.roles.contains(&Role::Journal) => {
            let why = "its journal has failed; assemble it by force to go on without a journal";
            return refused(ErrorKind::Offline, why.into());
        }
        (None, _) if !force => {
            let why = "its journal is missing, which may hold what was being written when it stopped; bring that disk \
                       as well, or assemble it by force to go on without a journal";
            // Not `Degraded`: nobody may force it but by name.
            return refused(ErrorKind::Offline, why.into());
        }
        (None, _) => {}
    }
    // Only while there is a journal do the superblocks say that all is at rest when it is not.
    if freshest.roles.contains(&Role::Journal) {
        freshest.resync_offset = 0;
    }
    let superblocks = chosen
        .iter_mut()
        .map(|(_, examined, _)| &mut examined.superblock);
    for superblock in superblocks.chain([freshest]) {
        superblock.features = superblock.features.without(Features::JOURNAL);
        for role in &mut superblock.roles {
            if *role == Role::Journal {
                *role = Role::Spare;
            }
        }
    }
    notices.push(
        "it was started by force without its journal and has none any more; its policy is resync"
            .into(),
    );
    Ok(())
}
