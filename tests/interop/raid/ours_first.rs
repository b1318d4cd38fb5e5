//! Arrays that we make: the kernel runs them, and we take them back.

use std::path::Path;

use anyhow::{Result, ensure};
use weft_raid::ArrayState;
use weft_tests::data::bytes;
use weft_tests::temp_dir;

use super::guest::{guest, printed_sum, script, sum_of, write};
use super::ours::{Case, assembled, created};

/// Reads, scrubs, loses members of, and writes each array.
fn degrade_and_write(cases: &[Case], disks: &[Vec<String>]) -> Vec<String> {
    let mut lines = Vec::new();
    for (number, (case, disks)) in cases.iter().zip(disks).enumerate() {
        let all = disks.join(" ");
        lines.push(format!("mdadm --assemble /dev/md{number} {all}"));
        lines.push(format!("sum md{number}; check md{number}"));
        for lost in &disks[case.lost()] {
            lines.push(format!(
                "mdadm /dev/md{number} --fail {lost} --remove {lost}; sum md{number}"
            ));
        }
        lines.push(write(number, 'x', 5, 33));
        lines.push(format!("sum md{number}; mdadm --stop /dev/md{number}"));
    }
    lines
}

/// What the kernel wrote is read, degraded and after the members that it let go are back.
fn take_back(case: &Case, data: &[u8]) -> Result<()> {
    assembled(&case.paths, async |ours| {
        let read = ours.read(0, data.len()).await?;
        ensure!(read == data, "{case:?} comes back wrong");
        let degraded = ours.array.status().state == ArrayState::Degraded;
        if degraded && ours.array.progress().is_idle() {
            for path in &case.paths[case.lost()] {
                ours.add(path, [3; 16]).await?;
            }
        }
        ours.sync().await?;
        let status = ours.array.status();
        ensure!(status.state != ArrayState::Degraded, "{status:?}");
        let read = ours.read(0, data.len()).await?;
        ensure!(read == data, "{case:?} is rebuilt wrong");
        ours.stop().await
    })
}

/// What the guest's `output` says of an array of `size` bytes, and what it must hold now.
fn judge(folder: &Path, case: &Case, number: usize, size: usize, output: &str) -> Result<Vec<u8>> {
    let mut data = bytes(number as u64, size);
    let mine = sum_of(folder, &data)?;
    ensure!(
        printed_sum(output, number, 0)? == mine,
        "{case:?} is read wrong"
    );
    let losses = case.lost().len();
    if losses > 0 {
        let scrubbed = format!("md{number} mismatches 0");
        ensure!(output.contains(&scrubbed), "{case:?}\n{output}");
    }
    for nth in 1..=losses {
        ensure!(
            printed_sum(output, number, nth)? == mine,
            "{case:?} is read wrong when {nth} are lost"
        );
    }
    data[5 * 4096..38 * 4096].fill(b'x');
    let written = sum_of(folder, &data)?;
    ensure!(
        printed_sum(output, number, losses + 1)? == written,
        "{case:?}"
    );
    Ok(data)
}

/// Makes every array, fills it, and gives it to the kernel and back.
pub(crate) fn there_and_back(name: &str, cases: &[Case]) -> Result<()> {
    let folder = temp_dir();
    let mut sizes = Vec::new();
    for (seed, case) in (0..).zip(cases) {
        sizes.push(created(case, async |ours| {
            ours.fill(seed).await?;
            ours.stop().await?;
            Ok(ours.size())
        })?);
    }
    let (guest, disks) = guest(name, cases);
    let lines = degrade_and_write(cases, &disks);
    let output = guest.run(&script(&lines))?.success();
    for (number, case) in cases.iter().enumerate() {
        let data = judge(folder.path(), case, number, sizes[number], &output)?;
        take_back(case, &data)?;
    }
    Ok(())
}
