//! Crashes on one side, made up for on the other.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use weft_raid::SyncAction;
use weft_tests::data::bytes;
use weft_tests::temp_dir;

use super::guest::{guest, printed_sum, script, sum_of, write};
use super::ours::{Case, MIB, assembled, created};

/// Lets the kernel make up for our crash, and leaves its arrays dirty.
fn resync_and_write(disks: &[Vec<String>]) -> Vec<String> {
    let mut lines = Vec::new();
    for (number, disks) in disks.iter().enumerate() {
        let all = disks.join(" ");
        lines.push(format!("mdadm --assemble /dev/md{number} {all}"));
        // Debian starts arrays without a write, and so without a resync, until they are used.
        lines.push(format!(
            "mdadm --readwrite /dev/md{number}; settled md{number}"
        ));
        lines.push(format!("dmesg | grep 'resync of RAID array md{number}'"));
        lines.push(format!("check md{number}; sum md{number}"));
        // Stays dirty: the write below is the last that happens.
        let delay = format!("/sys/block/md{number}/md/safe_mode_delay");
        lines.push(format!("echo 10000 >{delay}"));
        lines.push(write(number, 'y', 7, 50));
    }
    lines.push("sync; echo all is written; sleep 1000".into());
    lines
}

/// What the kernel's resync left, and ours of what it left dirty.
fn judge(folder: &Path, case: &Case, number: usize, size: usize, output: &str) -> Result<()> {
    let scrubbed = format!("md{number} mismatches 0");
    ensure!(output.contains(&scrubbed), "{case:?}\n{output}");
    // The parity was spoiled, not the data; of the mirror, the second leg.
    let mut data = bytes(number as u64, size);
    let mine = sum_of(folder, &data)?;
    ensure!(
        printed_sum(output, number, 0)? == mine,
        "{case:?} is read wrong"
    );
    data[7 * 4096..57 * 4096].fill(b'y');
    assembled(&case.paths, async |ours| {
        let status = ours.array.status();
        let resyncs = status.sync.action == SyncAction::Resync;
        ensure!(resyncs, "{case:?}: {status:?}");
        ours.sync().await?;
        let read = ours.read(0, data.len()).await?;
        ensure!(read == data, "{case:?} comes back wrong");
        ours.stop().await
    })
}

/// Leaves every array dirty and a member wrong; the kernel makes up for it, is killed, and so do we.
pub(crate) fn both_ways(cases: &[Case]) -> Result<()> {
    let folder = temp_dir();
    let mut sizes = Vec::new();
    for (seed, case) in (0..).zip(cases) {
        sizes.push(created(case, async |ours| {
            ours.fill(seed).await?;
            // No stop. What a power cut may leave behind: a row of which one member has not got its part.
            Ok(ours.size())
        })?);
        spoil(case.paths.last().context("it has members")?)?;
    }
    let (guest, disks) = guest("raid-crash", cases);
    let lines = resync_and_write(&disks);
    let mut guest = guest.start(&script(&lines))?;
    guest.wait_for("all is written")?;
    let output = guest.output();
    drop(guest);
    for (number, case) in cases.iter().enumerate() {
        judge(folder.path(), case, number, sizes[number], &output)?;
    }
    Ok(())
}

/// Changes the first block of a member's data: P of the first row (left-symmetric), a mirror's second leg, or a second copy.
fn spoil(path: &Path) -> Result<()> {
    use std::os::unix::fs::FileExt;
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)?;
    let mut superblock = [0; 512];
    file.read_exact_at(&mut superblock, 4096)?;
    let start = superblock[128..136]
        .iter()
        .rev()
        .fold(0, |sum, &byte| sum * 256 + u64::from(byte));
    ensure!(start * 512 == MIB, "the data starts at 1 MiB");
    Ok(file.write_all_at(&[0x5a; 4096], start * 512)?)
}
