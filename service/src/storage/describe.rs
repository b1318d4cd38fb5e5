//! The layers' own descriptions in the API's words.

use weft_block::SECTOR;
use weft_lvm as lvm;
use weft_raid as raid;

use super::rebuild::Upkeep;
use crate::api::{
    Array, ArrayState, Examination, Group, Member, MemberRole, MemberState, Mismatch,
    PhysicalVolume, Scrub, Segment, Stripe, Sync, SyncAction, Volume, VolumeKind,
};

fn uuid_text(uuid: [u8; 16]) -> String {
    uuid::Uuid::from_bytes(uuid).to_string()
}

/// An array, by the name that it runs under.
pub(super) fn array(
    name: &str,
    status: &raid::Status,
    scrub: Option<raid::ScrubReport>,
    upkeep: &Upkeep,
) -> Array {
    Array {
        name: name.to_owned(),
        uuid: uuid_text(status.uuid),
        level: u32::try_from(status.level.number()).unwrap_or(0),
        layout: Some(status.layout.clone()).filter(|layout| !layout.is_empty()),
        chunk_bytes: status.chunk_bytes,
        size_bytes: status.size_bytes,
        size_afterwards_bytes: status.size_afterwards,
        state: match status.state {
            raid::ArrayState::Clean => ArrayState::Clean,
            raid::ArrayState::Active => ArrayState::Active,
            raid::ArrayState::Degraded => ArrayState::Degraded,
            raid::ArrayState::Failed => ArrayState::Failed,
        },
        consistency: status.consistency.to_owned(),
        members: status.members.iter().map(member).collect(),
        away: Vec::new(),
        sync: sync(status.sync, upkeep),
        scrub: scrub.map(|report| scrub_report(report, status)),
    }
}

fn scrub_report(report: raid::ScrubReport, status: &raid::Status) -> Scrub {
    let path = |slot: &u32| {
        let mut members = status.members.iter();
        let member = members.find(|member| member.slot == Some(*slot))?;
        member.path.clone()
    };
    let mismatch = |place: raid::Mismatch| Mismatch {
        offset_bytes: place.offset,
        length_bytes: place.len,
        wrong: place.liars.iter().filter_map(path).collect(),
        repaired: place.repaired,
    };
    Scrub {
        action: match report.scrub {
            raid::Scrub::Check => SyncAction::Check,
            raid::Scrub::Repair | raid::Scrub::RepairFromData => SyncAction::Repair,
        },
        complete: report.complete,
        mismatches: report.mismatches,
        located: report.located,
        repaired: report.repaired,
        unreadable: report.unreadable,
        places: report.places.into_iter().map(mismatch).collect(),
    }
}

fn member(member: &raid::MemberStatus) -> Member {
    Member {
        path: member.path.clone(),
        slot: member.slot,
        role: match member.role {
            raid::MemberRole::Active => MemberRole::Active,
            raid::MemberRole::Spare => MemberRole::Spare,
            raid::MemberRole::Journal => MemberRole::Journal,
        },
        state: match member.state {
            raid::MemberState::InSync => MemberState::InSync,
            raid::MemberState::Rebuilding => MemberState::Rebuilding,
            raid::MemberState::Faulty => MemberState::Faulty,
            raid::MemberState::Missing => MemberState::Missing,
        },
        write_mostly: member.write_mostly,
    }
}

fn sync(progress: raid::Progress, upkeep: &Upkeep) -> Sync {
    let rate = upkeep.rate().filter(|_| !progress.is_idle());
    let left = progress.total.saturating_sub(progress.done);
    let pace = upkeep.pace();
    Sync {
        action: match progress.action {
            raid::SyncAction::Idle => SyncAction::Idle,
            raid::SyncAction::Resync => SyncAction::Resync,
            raid::SyncAction::Recover => SyncAction::Recover,
            raid::SyncAction::Check => SyncAction::Check,
            raid::SyncAction::Repair => SyncAction::Repair,
            raid::SyncAction::Reshape => SyncAction::Reshape,
        },
        done_bytes: progress.done,
        total_bytes: progress.total,
        rate_bytes: rate,
        seconds_left: rate
            .filter(|&rate| rate > 0)
            .map(|rate| left.div_ceil(rate)),
        paused: pace.paused,
        floor_bytes: pace.floor,
        ceiling_bytes: pace.ceiling,
    }
}

/// What a disk's superblock says.
pub(super) fn examination(path: &str, found: &raid::Examined) -> Examination {
    use raid::superblock::Role;
    let superblock = &found.superblock;
    Examination {
        path: path.to_owned(),
        name: superblock.name(),
        uuid: uuid_text(superblock.set_uuid),
        device_uuid: uuid_text(superblock.device_uuid),
        level: superblock.level.number(),
        layout: Some(raid::level::layout_name(
            superblock.level,
            superblock.layout,
        ))
        .filter(|layout| !layout.is_empty()),
        raid_disks: superblock.raid_disks,
        chunk_bytes: u64::from(superblock.chunk) * SECTOR,
        member_bytes: superblock.size * SECTOR,
        data_offset_bytes: superblock.data_offset * SECTOR,
        events: superblock.events,
        role: match superblock.role() {
            Role::Active(slot) => slot.to_string(),
            Role::Spare => "spare".to_owned(),
            Role::Faulty => "faulty".to_owned(),
            Role::Journal => "journal".to_owned(),
        },
        clean: superblock.resync_offset == raid::superblock::CLEAN,
    }
}

/// A group.
pub(super) fn group(group: &lvm::Group, problems: &[String]) -> Group {
    let model = group.model();
    let pvs = group.physical_volume_reports();
    Group {
        name: model.name.clone(),
        uuid: model.id.to_string(),
        seqno: model.seqno,
        extent_bytes: model.extent_bytes(),
        size_bytes: pvs.iter().map(|pv| pv.size).sum(),
        free_bytes: pvs.iter().map(|pv| pv.free).sum(),
        pvs: pvs
            .into_iter()
            .map(|pv| PhysicalVolume {
                path: Some(pv.disk).filter(|_| !pv.missing),
                uuid: pv.id.to_string(),
                size_bytes: pv.size,
                free_bytes: pv.free,
            })
            .collect(),
        volumes: group
            .volume_reports()
            .into_iter()
            .map(|volume| volume.name)
            .collect(),
        problems: problems.to_vec(),
    }
}

/// The volumes of a group.
pub(super) fn volumes(group: &lvm::Group) -> Vec<Volume> {
    let vg = group.name();
    let describe = |report: lvm::VolumeReport| Volume {
        vg: vg.to_owned(),
        kind: match report.kind.as_str() {
            "linear" => VolumeKind::Linear,
            "striped" => VolumeKind::Striped,
            _ => VolumeKind::Other,
        },
        name: report.name,
        uuid: report.id.to_string(),
        size_bytes: report.size,
        state: report.state.name().to_owned(),
        segments: report.segments.into_iter().map(segment).collect(),
    };
    group.volume_reports().into_iter().map(describe).collect()
}

fn segment(segment: lvm::SegmentReport) -> Segment {
    let stripes = segment.stripes.into_iter();
    Segment {
        offset_bytes: segment.offset,
        size_bytes: segment.size,
        kind: segment.kind,
        stripe_bytes: segment.stripe_size,
        stripes: stripes
            .map(|(disk, offset_bytes)| Stripe { disk, offset_bytes })
            .collect(),
    }
}
