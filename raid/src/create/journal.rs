//! The device of a new journal.

use weft_block::{Bytes, Result, SECTOR};

use super::{MemberDevice, Writes, invalid};
use crate::journal::{BLOCK_BYTES, BLOCK_SECTORS, MOST_MEMBERS, MetaBlock, Seed, least_blocks};
use crate::layout::Layout;
use crate::level::Level;
use crate::superblock::{SUPER_BYTE, Superblock};

/// Refuses a journal for an array that cannot have one.
pub(super) fn check_journal(name: &str, level: Level, members: usize) -> Result<()> {
    if !matches!(level, Level::Raid4 | Level::Raid5 | Level::Raid6) {
        return invalid(format!(
            "array {name}: only RAID-4, 5 and 6 take a journal, {level} does not"
        ));
    }
    if members > MOST_MEMBERS as usize {
        return invalid(format!(
            "array {name}: an array with a journal has at most {MOST_MEMBERS} members"
        ));
    }
    Ok(())
}

/// What is written to the device of a new journal, which `template` names by its number: an empty log.
pub(crate) fn journal_writes(
    name: &str,
    template: &Superblock,
    member: &MemberDevice,
    uuid: [u8; 16],
) -> Result<Writes> {
    let block = member.device.info().logical_block as usize;
    let (superblock, log) = journal_superblock(name, template, member, uuid)?;
    let bytes = superblock.to_bytes(block);
    let mut writes = vec![(superblock.data_offset * SECTOR, log)];
    if let Some(at) = superblock.copy_sector(0) {
        writes.push((at * SECTOR, bytes.clone()));
    }
    writes.push((SUPER_BYTE, bytes));
    Ok(writes)
}

/// The superblock of a new journal, and the block that its log begins with.
pub(crate) fn journal_superblock(
    name: &str,
    template: &Superblock,
    member: &MemberDevice,
    uuid: [u8; 16],
) -> Result<(Superblock, Vec<u8>)> {
    let sectors = member.device.info().size / SECTOR;
    let layout = Layout::choose(sectors, u64::from(template.chunk), false);
    let room = sectors.saturating_sub(layout.data_offset) / BLOCK_SECTORS;
    let least = least_blocks(template.raid_disks);
    if room < least {
        let needs = layout.data_offset * SECTOR + least * BLOCK_BYTES as u64;
        return invalid(format!(
            "array {name}: {} is too small for a journal: it has {}, a journal needs {}",
            member.path,
            Bytes(sectors * SECTOR),
            Bytes(needs)
        ));
    }
    let superblock = Superblock {
        data_offset: layout.data_offset,
        data_size: room * BLOCK_SECTORS,
        recovery_offset: 0,
        device_uuid: uuid,
        devflags: 0,
        bblog_size: 0,
        bblog_offset: 0,
        bblog_shift: 0,
        ..template.clone()
    };
    let beginning = MetaBlock {
        // Far from any number that an older log of this array has there.
        seq: template.utime.seconds() << 20,
        position: 0,
        payloads: Vec::new(),
    };
    Ok((superblock, beginning.to_bytes(Seed::of(&template.set_uuid))))
}
