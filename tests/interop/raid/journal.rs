//! The journal: a crash with a change that got to the journal and not to the members, put right by the other side, with
//! all members and without one.

use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use weft_raid::geometry::{Geometry, Shape};
use weft_raid::journal::{BLOCK_BYTES, BLOCK_SECTORS, MetaBlock, Seed};
use weft_raid::level::{Level, ParityLayout};
use weft_raid::superblock::Superblock;
use weft_raid::{ArrayState, SyncAction};
use weft_tests::data::bytes;
use weft_tests::temp_dir;

use super::guest::{guest, printed_sum, script, sum_of, text, write};
use super::ours::{CHUNK, Case, assembled, created, told};

/// Byte of the array at which the last 4 KiB are written: in the second chunk of the first row.
const CHANGED: u64 = CHUNK;
/// Blocks that the kernel writes before that.
const WRITTEN: u32 = 200;

/// RAID-5 and RAID-4, which lose a member in the crash, and RAID-6, which does not.
pub(crate) fn cases(folder: &Path) -> Vec<Case> {
    let layout = Some(ParityLayout::LeftSymmetric);
    vec![
        Case::journaled(folder, Level::Raid5, layout, 4),
        Case::journaled(folder, Level::Raid4, None, 3),
        Case::journaled(folder, Level::Raid6, layout, 4),
    ]
}

fn is_degraded(case: &Case) -> bool {
    case.level != Level::Raid6
}

/// What the crash leaves: nothing of the change has got to a member, and where a member is lost it is the one with the
/// first chunk, which is made of the others then.
fn crashed(case: &Case) -> Result<Vec<PathBuf>> {
    let layout = case.layout.unwrap_or(ParityLayout::ParityLast);
    let members = case.members() as u32;
    let geometry = Geometry::parity(case.level, layout, members, CHUNK, CHUNK).map_err(told)?;
    let Shape::Parity(rows) = geometry.shape() else {
        anyhow::bail!("{case:?} has parity");
    };
    spoil(&case.paths[rows.data_slot(0, 1) as usize])?;
    for parity in rows.parity_slots(0) {
        spoil(&case.paths[parity as usize])?;
    }
    let mut paths = case.paths.clone();
    if is_degraded(case) {
        paths.remove(rows.data_slot(0, 0) as usize);
    }
    Ok(paths)
}

/// Overwrites the first 4 KiB of a member's data.
fn spoil(path: &Path) -> Result<()> {
    let file = std::fs::File::options().read(true).write(true).open(path)?;
    let mut start = [0; 8];
    file.read_exact_at(&mut start, 4096 + 128)?;
    Ok(file.write_all_at(&[0x5a; 4096], u64::from_le_bytes(start) * 512)?)
}

/// Whether the log in a journal's file goes on at the start of its device.
fn goes_round(path: &Path) -> Result<bool> {
    let file = std::fs::File::open(path)?;
    let mut block = [0; BLOCK_BYTES];
    file.read_exact_at(&mut block, 4096)?;
    let superblock = Superblock::parse(&block, file.metadata()?.len() / 512)?;
    let seed = Seed::of(&superblock.set_uuid);
    let (mut at, mut seq) = (superblock.recovery_offset, None);
    loop {
        file.read_exact_at(&mut block, (superblock.data_offset + at) * 512)?;
        let Ok(meta) = MetaBlock::parse(&block, at, seed) else {
            return Ok(false);
        };
        if seq.is_some_and(|seq| seq != meta.seq) {
            return Ok(false);
        }
        (at, seq) = (at + meta.blocks() * BLOCK_SECTORS, Some(meta.seq + 1));
        if at >= superblock.data_size {
            // What comes next is the last change.
            return Ok(true);
        }
    }
}

/// mdadm takes every superblock of ours for one, and the last for a journal's.
fn examined(case: &Case) -> Result<()> {
    for (number, path) in case.paths.iter().enumerate() {
        let output = weft_tests::run("mdadm", ["--examine", text(path)?])?;
        let role = match number == case.members() {
            true => "Device Role : Journal".to_owned(),
            false => format!("Device Role : Active device {number}"),
        };
        ensure!(output.contains(&role), "{output}");
        ensure!(output.contains("- correct"), "{output}");
    }
    Ok(())
}

/// We crash with changes in the journal, the last of them at the start of the ring; the kernel starts the array.
pub(crate) fn ours_for_the_kernel(cases: &[Case]) -> Result<()> {
    let folder = temp_dir();
    let (mut wanted, mut given) = (Vec::new(), Vec::new());
    for (number, case) in (0..).zip(cases) {
        let data = created(case, async |ours| {
            ours.fill(number).await?;
            let mut data = bytes(number, ours.size());
            let mut blocks = (64..).step_by(3);
            while !goes_round(&case.paths[case.members()])? {
                let at = blocks.next().unwrap_or(0) * 4096 % data.len();
                data[at..at + 4096].copy_from_slice(&bytes(at as u64, 4096));
                ours.write(at as u64, &data[at..at + 4096]).await?;
            }
            let change = bytes(77, 4096);
            ours.write(CHANGED, &change).await?;
            data[CHANGED as usize..][..4096].copy_from_slice(&change);
            // No stop.
            Ok(data)
        })?;
        examined(case)?;
        wanted.push(sum_of(folder.path(), &data)?);
        given.push(Case {
            paths: crashed(case)?,
            ..case.clone()
        });
    }
    let (guest, disks) = guest("journal-ours", &given);
    let mut lines = Vec::new();
    for (number, disks) in disks.iter().enumerate() {
        let disks = disks.join(" ");
        lines.push(format!("mdadm --assemble --run /dev/md{number} {disks}"));
        lines.push(format!("settled md{number}; sum md{number}"));
        lines.push(write(number, 'k', 3, 1));
    }
    lines.push("! dmesg | grep 'resync of RAID array'".into());
    lines.push("check md2".into());
    lines.push("for md in 0 1 2; do mdadm --stop /dev/md$md; done".into());
    let output = guest.run(&script(&lines))?.success();
    for (number, wanted) in wanted.iter().enumerate() {
        let read = printed_sum(&output, number, 0)?;
        ensure!(read == *wanted, "array {number} is read wrong\n{output}");
    }
    ensure!(output.contains("md2 mismatches 0"), "{output}");
    for case in &given {
        assembled(&case.paths, async |ours| {
            let read = ours.read(3 * 4096, 4096).await?;
            ensure!(read == [b'k'; 4096], "{case:?} is read wrong");
            ours.stop().await
        })?;
    }
    Ok(())
}

/// The kernel is killed after a change; we start the array. RAID-6 has its journal in write-back: nothing of what was
/// written last is on its members.
pub(crate) fn theirs_for_us(cases: &[Case]) -> Result<()> {
    let (guest, disks) = guest("journal-theirs", cases);
    let mut lines = Vec::new();
    for (number, (case, disks)) in cases.iter().zip(&disks).enumerate() {
        let (journal, members) = disks.split_last().context("it has disks")?;
        lines.push(format!(
            "yes | mdadm --create /dev/md{number} --name={} {} --assume-clean {} --write-journal {journal}",
            case.name,
            case.mdadm(),
            members.join(" ")
        ));
        lines.push(format!("settled md{number}"));
        lines.push(write(number, 'a', 0, WRITTEN));
        if !is_degraded(case) {
            let mode = format!("/sys/block/md{number}/md/journal_mode");
            lines.push(format!("echo write-back >{mode}; cat {mode}"));
        }
        lines.push(write(number, 'z', (CHANGED / 4096) as u32, 1));
    }
    lines.push("sync; echo all is written; sleep 1000".into());
    let mut running = guest.start(&script(&lines))?;
    running.wait_for("all is written")?;
    drop(running);
    let mut data = vec![b'a'; WRITTEN as usize * 4096];
    data[CHANGED as usize..][..4096].fill(b'z');
    for case in cases {
        let paths = match is_degraded(case) {
            true => crashed(case)?,
            false => case.paths.clone(),
        };
        assembled(&paths, async |ours| {
            let status = ours.array.status();
            ensure!(
                (status.state == ArrayState::Degraded) == is_degraded(case),
                "{status:?}"
            );
            ensure!(status.sync.action != SyncAction::Resync, "{status:?}");
            ensure!(
                status
                    .messages
                    .iter()
                    .any(|told| told.contains("from the journal")),
                "{status:?}"
            );
            let read = ours.read(0, data.len()).await?;
            ensure!(read == data, "{case:?} is read wrong");
            ensure!(
                is_degraded(case) || ours.mismatches().await? == 0,
                "{case:?}"
            );
            ours.stop().await
        })?;
    }
    Ok(())
}
