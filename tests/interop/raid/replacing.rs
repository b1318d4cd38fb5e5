//! Members that one side begins to replace and the other side goes on with.

use anyhow::{Result, ensure};
use weft_raid::SyncAction;
use weft_raid::level::{Level, ParityLayout};
use weft_tests::temp_dir;

use super::guest::{guest, printed_sum, script, sum_of, text};
use super::ours::{Case, assembled, created};

/// The member that is replaced, by the last of the case's files.
const OLD: usize = 1;

/// A case whose last file is not a member at first.
fn members(case: &Case) -> Case {
    let mut members = case.clone();
    members.paths.pop();
    members
}

/// We begin, the kernel goes on.
pub(crate) fn ours_first(cases: &[Case]) -> Result<()> {
    let folder = temp_dir();
    let mut sums = Vec::new();
    for (seed, case) in (0..).zip(cases) {
        let data = created(&members(case), async |ours| {
            ours.fill(seed).await?;
            let new = &case.paths[case.paths.len() - 1];
            ours.replace(text(&case.paths[OLD])?, new).await?;
            let progress = ours.step().await?;
            ensure!(progress.action == SyncAction::Recover, "{progress:?}");
            ours.stop().await?;
            Ok(weft_tests::data::bytes(seed, ours.size()))
        })?;
        sums.push(sum_of(folder.path(), &data)?);
    }
    let (guest, disks) = guest("replace-ours", cases);
    let mut lines = Vec::new();
    for (number, disks) in disks.iter().enumerate() {
        let (old, new) = (&disks[OLD], &disks[disks.len() - 1]);
        lines.push(format!(
            "mdadm --assemble /dev/md{number} {}; mdadm --readwrite /dev/md{number} || true",
            disks.join(" ")
        ));
        // The old member is let go at the end, and the new one answers alone.
        lines.push(format!(
            "settled md{number}; mdadm --detail /dev/md{number}"
        ));
        lines.push(format!(
            "mdadm --detail /dev/md{number} | grep 'faulty.*{old}$'; check md{number}"
        ));
        lines.push(format!(
            "mdadm --detail /dev/md{number} | grep 'active sync.*{new}$'"
        ));
        lines.push(format!(
            "mdadm /dev/md{number} --fail {}; sum md{number}; mdadm --stop /dev/md{number}",
            disks[0]
        ));
    }
    let output = guest.run(&script(&lines))?.success();
    for (number, sum) in sums.iter().enumerate() {
        ensure!(
            output.contains(&format!("md{number} mismatches 0")),
            "{output}"
        );
        ensure!(printed_sum(&output, number, 0)? == *sum, "{output}");
    }
    Ok(())
}

/// The kernel begins, we go on.
pub(crate) fn theirs_first(cases: &[Case]) -> Result<()> {
    let folder = temp_dir();
    let (guest, disks) = guest("replace-theirs", cases);
    let mut lines = Vec::new();
    for (number, (case, disks)) in cases.iter().zip(&disks).enumerate() {
        let (old, new) = (&disks[OLD], &disks[disks.len() - 1]);
        let first = members(case);
        lines.push(format!(
            "yes | mdadm --create /dev/md{number} --name={} {} {}; settled md{number}",
            case.name,
            first.mdadm(),
            disks[..disks.len() - 1].join(" ")
        ));
        lines.push(format!(
            "dd if=/dev/urandom of=/dev/md{number} bs=1M status=none 2>&- || true; sync; sum md{number}"
        ));
        lines.push(format!(
            "echo 100 >/sys/block/md{number}/md/sync_speed_min; echo 200 >/sys/block/md{number}/md/sync_speed_max"
        ));
        lines.push(format!(
            "mdadm /dev/md{number} --add {new}; mdadm /dev/md{number} --replace {old} --with {new}; sleep 1"
        ));
        lines.push(format!(
            "grep -A3 md{number} /proc/mdstat; mdadm --stop /dev/md{number}"
        ));
    }
    let output = guest.run(&script(&lines))?.success();
    for (number, case) in cases.iter().enumerate() {
        let sum = printed_sum(&output, number, 0)?;
        assembled(&case.paths, async |ours| {
            let status = ours.array.status();
            ensure!(status.sync.action == SyncAction::Recover, "{status:?}");
            ours.sync().await?;
            ensure!(ours.mismatches().await? == 0, "{case:?}");
            let status = ours.array.status();
            let new = text(&case.paths[case.paths.len() - 1])?;
            ensure!(
                status.members[OLD].path.as_deref() == Some(new),
                "{status:?}"
            );
            let failed = ours.array.fail(text(&case.paths[0])?, &ours.spawner);
            failed.await.map_err(super::ours::told)?;
            let data = ours.read(0, ours.size()).await?;
            ensure!(
                sum_of(folder.path(), &data)? == sum,
                "{case:?} is read wrong"
            );
            ours.stop().await
        })?;
    }
    Ok(())
}

/// The cases: one of copies, one of parity with a log.
pub(crate) fn cases(folder: &std::path::Path) -> Vec<Case> {
    vec![
        Case::new(folder, Level::Raid1, None, 3),
        Case::logged(folder, "r5-replace", ParityLayout::LeftSymmetric, 4),
    ]
}
