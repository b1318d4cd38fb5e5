//! Arrays that the kernel makes: we run them, and it takes them back.

use anyhow::{Result, ensure};
use weft_raid::{ArrayState, Consistency};
use weft_tests::data::bytes;
use weft_tests::temp_dir;

use super::guest::{guest, printed_sum, script, sum_of, text};
use super::ours::{Case, assembled, told};

/// Makes and fills every array.
fn create(cases: &[Case], disks: &[Vec<String>]) -> Vec<String> {
    let mut lines = Vec::new();
    for (number, (case, disks)) in cases.iter().zip(disks).enumerate() {
        lines.push(format!(
            "yes | mdadm --create /dev/md{number} --name={} {} {}",
            case.name,
            case.mdadm(),
            disks.join(" ")
        ));
        lines.push(format!(
            "dd if=/dev/urandom of=/dev/md{number} bs=1M status=none 2>&- || true"
        ));
        lines.push(format!(
            "sync; settled md{number}; sum md{number}; mdadm --stop /dev/md{number}"
        ));
    }
    lines
}

/// Reads, degrades, writes and mends an array that the kernel made; what it holds then.
fn use_theirs(case: &Case, theirs: &str) -> Result<Vec<u8>> {
    let folder = temp_dir();
    assembled(&case.paths, async |ours| {
        let status = ours.array.status();
        let clean = status.name == case.name && status.state == ArrayState::Clean;
        ensure!(clean, "{status:?}");
        let mut data = ours.read(0, ours.size()).await?;
        let sum = sum_of(folder.path(), &data)?;
        ensure!(sum == theirs, "{case:?} is read wrong");
        for path in &case.paths[case.lost()] {
            let failed = ours.array.fail(text(path)?, &ours.spawner).await;
            failed.map_err(told)?;
            ensure!(ours.read(0, data.len()).await? == data, "{case:?} degraded");
        }
        let change = bytes(9, 777 * 512);
        ours.write(1000 * 512, &change).await?;
        data[1000 * 512..][..change.len()].copy_from_slice(&change);
        for path in &case.paths[case.lost()] {
            // The file is locked as long as the array knows it.
            let removed = ours.array.remove(text(path)?, &ours.spawner).await;
            removed.map_err(told)?;
            let caught_up = ours.add(path, [1; 16]).await?;
            let remembers = case.consistency == Consistency::Bitmap;
            ensure!(caught_up == remembers, "{case:?}: only a bitmap remembers");
        }
        ours.sync().await?;
        ours.stop().await?;
        Ok(data)
    })
}

/// Lets the kernel make every array, uses it, and gives it back.
pub(crate) fn there_and_back(name: &str, cases: &[Case]) -> Result<()> {
    let folder = temp_dir();
    let (first, disks) = guest(name, cases);
    let output = first.run(&script(&create(cases, &disks)))?.success();
    let mut sums = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        let theirs = printed_sum(&output, number, 0)?;
        let data = use_theirs(case, &theirs)?;
        sums.push(sum_of(folder.path(), &data)?);
    }
    let (second, disks) = guest(&format!("{name}-again"), cases);
    let lines: Vec<String> = disks
        .iter()
        .enumerate()
        .map(|(number, disks)| {
            format!(
                "mdadm --assemble /dev/md{number} {}; sum md{number}; check md{number}; mdadm --stop /dev/md{number}",
                disks.join(" ")
            )
        })
        .collect();
    let output = second.run(&script(&lines))?.success();
    for (number, case) in cases.iter().enumerate() {
        ensure!(
            printed_sum(&output, number, 0)? == sums[number],
            "{case:?} goes back wrong"
        );
        if case.level.is_redundant() {
            let scrubbed = format!("md{number} mismatches 0");
            ensure!(output.contains(&scrubbed), "{case:?}\n{output}");
        }
    }
    Ok(())
}
