//! The write hole: a crash with a change half done and a member that does not come back, made up for by the partial
//! parity log that the other side has written.

use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use weft_raid::geometry::{Geometry, Shape};
use weft_raid::{ArrayState, SyncAction};
use weft_tests::data::bytes;
use weft_tests::temp_dir;

use super::guest::{guest, printed_sum, script, sum_of, write};
use super::ours::{CHUNK, Case, assembled, created};

/// Byte of the array at which the last 4 KiB are written: in the second chunk of the first row.
const CHANGED: u64 = CHUNK;

/// What the crash leaves of a case's members: the parity of the change has not got to its member, and if `degraded` the
/// member with the first chunk is gone, which is made of that parity.
fn crashed(case: &Case, degraded: bool) -> Result<Vec<PathBuf>> {
    let layout = case.layout.context("RAID-5 has a layout")?;
    let members = case.paths.len() as u32;
    let geometry = Geometry::parity(case.level, layout, members, CHUNK, CHUNK);
    let geometry = geometry.map_err(super::ours::told)?;
    let Shape::Parity(rows) = geometry.shape() else {
        anyhow::bail!("RAID-5 has parity");
    };
    spoil(&case.paths[rows.parity_slot(0) as usize])?;
    let mut paths = case.paths.clone();
    if degraded {
        paths.remove(rows.data_slot(0, 0) as usize);
    }
    Ok(paths)
}

/// Overwrites the first 4 KiB of a member's data.
fn spoil(path: &Path) -> Result<()> {
    let mut options = std::fs::OpenOptions::new();
    let file = options.read(true).write(true).open(path)?;
    let mut start = [0; 8];
    file.read_exact_at(&mut start, 4096 + 128)?;
    Ok(file.write_all_at(&[0x5a; 4096], u64::from_le_bytes(start) * 512)?)
}

/// We crash in the middle of a change; the kernel starts the first array without a member, the second with all.
pub(crate) fn closed_for_the_kernel(cases: &[Case]) -> Result<()> {
    let folder = temp_dir();
    let (mut wanted, mut given) = (Vec::new(), Vec::new());
    for (number, case) in (0..).zip(cases) {
        let data = created(case, async |ours| {
            ours.fill(number).await?;
            let change = bytes(77, 4096);
            ours.write(CHANGED, &change).await?;
            let mut data = bytes(number, ours.size());
            data[CHANGED as usize..][..4096].copy_from_slice(&change);
            // No stop.
            Ok(data)
        })?;
        wanted.push(sum_of(folder.path(), &data)?);
        given.push(Case {
            paths: crashed(case, number == 0)?,
            ..case.clone()
        });
    }
    let (guest, disks) = guest("hole-ours", &given);
    let mut lines = Vec::new();
    for (number, disks) in disks.iter().enumerate() {
        lines.push(format!(
            "mdadm --assemble --run /dev/md{number} {}",
            disks.join(" ")
        ));
        lines.push(format!("settled md{number}; sum md{number}"));
    }
    lines.push("dmesg | grep 'starting dirty degraded array with PPL'".into());
    // A resync would have made up for it as well where all members are there.
    lines.push("! dmesg | grep 'resync of RAID array'".into());
    lines.push("check md1; mdadm --stop /dev/md0; mdadm --stop /dev/md1".into());
    let output = guest.run(&script(&lines))?.success();
    for (number, wanted) in wanted.iter().enumerate() {
        let read = printed_sum(&output, number, 0)?;
        ensure!(read == *wanted, "array {number} is read wrong\n{output}");
    }
    ensure!(output.contains("md1 mismatches 0"), "{output}");
    Ok(())
}

/// The kernel is killed after a change; we start the first array without a member, the second with all.
pub(crate) fn closed_for_us(cases: &[Case]) -> Result<()> {
    let (guest, disks) = guest("hole-theirs", cases);
    let mut lines = Vec::new();
    for (number, (case, disks)) in cases.iter().zip(&disks).enumerate() {
        lines.push(format!(
            "yes | mdadm --create /dev/md{number} --name={} {} {}; settled md{number}",
            case.name,
            case.mdadm(),
            disks.join(" ")
        ));
        // Stays dirty: the second write is the last that happens.
        let delay = format!("/sys/block/md{number}/md/safe_mode_delay");
        lines.push(format!("echo 10000 >{delay}"));
        lines.push(write(number, 'a', 0, 200));
        lines.push(write(number, 'z', (CHANGED / 4096) as u32, 1));
    }
    lines.push("sync; echo all is written; sleep 1000".into());
    let mut running = guest.start(&script(&lines))?;
    running.wait_for("all is written")?;
    drop(running);
    let mut data = vec![b'a'; 200 * 4096];
    data[CHANGED as usize..][..4096].fill(b'z');
    for (number, case) in cases.iter().enumerate() {
        let degraded = number == 0;
        assembled(&crashed(case, degraded)?, async |ours| {
            let status = ours.array.status();
            ensure!(
                (status.state == ArrayState::Degraded) == degraded,
                "{status:?}"
            );
            ensure!(status.sync.action != SyncAction::Resync, "{status:?}");
            let read = ours.read(0, data.len()).await?;
            ensure!(read == data, "{case:?} is read wrong");
            ensure!(degraded || ours.mismatches().await? == 0, "{case:?}");
            ours.stop().await
        })?;
    }
    Ok(())
}
