//! Arrays, both ways between weft and Linux: mdadm on plain files, and the kernel's md in the Linux guest.

#![allow(clippy::too_many_lines)] // A scenario is one story, from disks to verdict.

mod ours;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use weft_raid::level::{Level, ParityLayout};
use weft_raid::{ArrayState, SyncAction};
use weft_tests::data::{bytes, sha256};
use weft_tests::guest::LinuxGuest;
use weft_tests::{require, run, temp_dir};

use ours::{Case, MIB, assembled, created};

/// Every level, and RAID-5 in every layout.
fn cases(folder: &Path) -> Vec<Case> {
    let mut cases = vec![
        Case::new(folder, Level::Raid0, None, 3),
        Case::new(folder, Level::Raid1, None, 2),
        Case::new(folder, Level::Raid4, None, 3),
    ];
    let layouts = ParityLayout::ALL.into_iter().enumerate();
    // Few members: the guest has room for some two dozen disks.
    cases.extend(layouts.map(|(number, layout)| {
        Case::new(
            folder,
            Level::Raid5,
            Some(layout),
            2 + usize::from(number < 4),
        )
    }));
    cases
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("the path is text")
}

/// The guest's name of its disk `number`.
fn disk(number: usize) -> String {
    format!("/dev/vd{}", char::from(b'a' + number as u8))
}

/// A guest with the cases' files as disks, and for each case its number and its disks.
fn guest(name: &str, cases: &[Case]) -> (LinuxGuest, Vec<Vec<String>>) {
    let mut next = 0;
    let mut names = Vec::new();
    for case in cases {
        names.push((next..next + case.paths.len()).map(disk).collect());
        next += case.paths.len();
    }
    let paths: Vec<PathBuf> = cases.iter().flat_map(|case| case.paths.clone()).collect();
    let guest = LinuxGuest::new(name)
        .disks(&paths)
        .module("raid0")
        .module("raid1")
        .module("raid456")
        .cpus(2)
        .time_limit(std::time::Duration::from_secs(300));
    (guest, names)
}

/// Shell functions of the guest's scripts.
const SHELL: &str = r#"
settled() { # array: waits until nothing is synced
    waited=0
    while [ "$(cat /sys/block/$1/md/sync_action 2>/dev/null || echo idle)" != idle ]; do
        sleep 0.2
        waited=$((waited + 1))
        [ $waited -lt 500 ] || { cat /proc/mdstat; dmesg | grep md | tail -30; exit 1; }
    done
}
check() { # array: compares every row
    [ -e /sys/block/$1/md/sync_action ] || return 0
    settled $1
    echo check >/sys/block/$1/md/sync_action
    settled $1
    echo "$1 mismatches $(cat /sys/block/$1/md/mismatch_cnt)"
}
sum() { echo "$1 sum $(sha256sum </dev/$1 | cut -d' ' -f1)"; }
echo 200000 >/proc/sys/dev/raid/speed_limit_min
udevadm() { true; }
"#;

fn script(lines: &[String]) -> String {
    format!("{SHELL}\n{}\n", lines.join("\n"))
}

/// The sum that the guest printed for array `number`, the `nth` of them.
fn printed_sum(output: &str, number: usize, nth: usize) -> Result<String> {
    let prefix = format!("md{number} sum ");
    let mut sums = output.lines().filter_map(|line| line.strip_prefix(&prefix));
    Ok(sums
        .nth(nth)
        .with_context(|| format!("no sum {nth} of md{number} in:\n{output}"))?
        .to_owned())
}

fn sum_of(folder: &Path, data: &[u8]) -> Result<String> {
    let file = folder.join("expected");
    std::fs::write(&file, data)?;
    sha256(&file)
}

#[test]
fn mdadm_accepts_every_file() -> Result<()> {
    require!("mdadm");
    let folder = temp_dir();
    for case in cases(folder.path()) {
        let judge = |state: &str| -> Result<()> {
            for path in &case.paths {
                let examined = run("mdadm", ["--examine", text(path)?])?;
                let level = format!("Raid Level : raid{}", case.level.number());
                for wanted in ["Version : 1.2", &level, state, "- correct"] {
                    ensure!(
                        examined.contains(wanted),
                        "{wanted:?} is not in:\n{examined}"
                    );
                }
                let bad = run("mdadm", ["--examine-badblocks", text(path)?])?;
                ensure!(bad.contains("list is empty"), "{bad}");
            }
            Ok(())
        };
        created(&case, async |ours| {
            ours.write(0, &bytes(1, 300_032)).await?;
            judge(if case.level == Level::Raid0 {
                "clean"
            } else {
                "active"
            })?;
            ours.stop().await
        })?;
        judge("clean")?;
        let scanned = run("mdadm", ["--examine", "--scan", text(&case.paths[0])?])?;
        ensure!(
            scanned.contains(&format!("name=weft:{}", case.name)),
            "{scanned}"
        );
    }
    Ok(())
}

/// Reads, scrubs, loses a member of, and writes each array.
fn degrade_and_write(cases: &[Case], disks: &[Vec<String>]) -> Vec<String> {
    let mut lines = Vec::new();
    for (number, (case, disks)) in cases.iter().zip(disks).enumerate() {
        let all = disks.join(" ");
        lines.push(format!("mdadm --assemble /dev/md{number} {all}"));
        lines.push(format!("sum md{number}; check md{number}"));
        if case.level.is_redundant() {
            let lost = &disks[1];
            lines.push(format!(
                "mdadm /dev/md{number} --fail {lost} --remove {lost}; sum md{number}"
            ));
        }
        lines.push(write(number, 'x', 5, 33));
        lines.push(format!("sum md{number}; mdadm --stop /dev/md{number}"));
    }
    lines
}

/// Writes `count` blocks of a letter to an array.
fn write(number: usize, letter: char, seek: u32, count: u32) -> String {
    format!(
        "tr '\\0' {letter} </dev/zero | dd of=/dev/md{number} bs=4k seek={seek} count={count} conv=fsync \
         iflag=fullblock status=none"
    )
}

/// What the kernel wrote is read, degraded and after the member that it let go is back.
fn take_back(case: &Case, data: &[u8]) -> Result<()> {
    assembled(&case.paths, async |ours| {
        let read = ours.read(0, data.len()).await?;
        ensure!(read == data, "{case:?} comes back wrong");
        let degraded = ours.array.status().state == ArrayState::Degraded;
        if degraded && ours.array.progress().is_idle() {
            ours.add(&case.paths[1], [3; 16]).await?;
        }
        ours.sync().await?;
        let status = ours.array.status();
        ensure!(status.state != ArrayState::Degraded, "{status:?}");
        let read = ours.read(0, data.len()).await?;
        ensure!(read == data, "{case:?} is rebuilt wrong");
        ours.stop().await
    })
}

#[test]
fn the_kernel_runs_our_arrays_and_we_take_them_back() -> Result<()> {
    require!("qemu-system-x86_64", "mdadm");
    let folder = temp_dir();
    let cases = cases(folder.path());
    let mut sizes = Vec::new();
    for (seed, case) in (0..).zip(&cases) {
        sizes.push(created(case, async |ours| {
            ours.fill(seed).await?;
            ours.stop().await?;
            Ok(ours.size())
        })?);
    }
    let (guest, disks) = guest("raid-ours", &cases);
    let lines = degrade_and_write(&cases, &disks);
    let output = guest.run(&script(&lines))?.success();
    for (number, case) in cases.iter().enumerate() {
        let mut data = bytes(number as u64, sizes[number]);
        let mine = sum_of(folder.path(), &data)?;
        ensure!(
            printed_sum(&output, number, 0)? == mine,
            "{case:?} is read wrong"
        );
        let mut last = 1;
        if case.level.is_redundant() {
            ensure!(
                output.contains(&format!("md{number} mismatches 0")),
                "{case:?}\n{output}"
            );
            ensure!(
                printed_sum(&output, number, 1)? == mine,
                "{case:?} is read wrong when degraded"
            );
            last = 2;
        }
        data[5 * 4096..38 * 4096].fill(b'x');
        ensure!(
            printed_sum(&output, number, last)? == sum_of(folder.path(), &data)?,
            "{case:?}"
        );
        take_back(case, &data)?;
    }
    Ok(())
}

/// Reads, degrades, writes and mends an array that the kernel made; what it holds then.
fn use_theirs(case: &Case, theirs: &str) -> Result<Vec<u8>> {
    let folder = temp_dir();
    let lost = text(&case.paths[0])?;
    assembled(&case.paths, async |ours| {
        let status = ours.array.status();
        let clean = status.name == case.name && status.state == ArrayState::Clean;
        ensure!(clean, "{status:?}");
        let mut data = ours.read(0, ours.size()).await?;
        let sum = sum_of(folder.path(), &data)?;
        ensure!(sum == theirs, "{case:?} is read wrong");
        if case.level.is_redundant() {
            let failed = ours.array.fail(lost, &ours.spawner).await;
            failed.map_err(ours::told)?;
            ensure!(ours.read(0, data.len()).await? == data, "{case:?} degraded");
        }
        let change = bytes(9, 777 * 512);
        ours.write(1000 * 512, &change).await?;
        data[1000 * 512..][..change.len()].copy_from_slice(&change);
        if case.level.is_redundant() {
            // The file is locked as long as the array knows it.
            let removed = ours.array.remove(lost, &ours.spawner).await;
            removed.map_err(ours::told)?;
            let caught_up = ours.add(&case.paths[0], [1; 16]).await?;
            ensure!(caught_up, "{case:?}: the bitmap remembers");
            ours.sync().await?;
        }
        ours.stop().await?;
        Ok(data)
    })
}

#[test]
fn we_run_the_kernels_arrays_and_it_takes_them_back() -> Result<()> {
    require!("qemu-system-x86_64", "mdadm");
    let folder = temp_dir();
    let cases = cases(folder.path());
    let (first, disks) = guest("raid-theirs", &cases);
    let mut lines = Vec::new();
    for (number, (case, disks)) in cases.iter().zip(&disks).enumerate() {
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
    let output = first.run(&script(&lines))?.success();
    let mut sums = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        let theirs = printed_sum(&output, number, 0)?;
        let data = use_theirs(case, &theirs)?;
        sums.push(sum_of(folder.path(), &data)?);
    }
    let (second, disks) = guest("raid-theirs-again", &cases);
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
            ensure!(
                output.contains(&format!("md{number} mismatches 0")),
                "{case:?}\n{output}"
            );
        }
    }
    Ok(())
}

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

#[test]
fn a_crash_on_one_side_is_made_up_for_on_the_other() -> Result<()> {
    require!("qemu-system-x86_64", "mdadm");
    let folder = temp_dir();
    let cases = [
        Case::new(folder.path(), Level::Raid1, None, 2),
        Case::new(
            folder.path(),
            Level::Raid5,
            Some(ParityLayout::LeftSymmetric),
            3,
        ),
    ];
    let mut sizes = Vec::new();
    for (seed, case) in (0..).zip(&cases) {
        sizes.push(created(case, async |ours| {
            ours.fill(seed).await?;
            // No stop. What a power cut may leave behind: a row of which one member has not got its part.
            Ok(ours.size())
        })?);
        let spoiled = case.paths.last().context("it has members")?;
        spoil(spoiled)?;
    }
    let (guest, disks) = guest("raid-crash", &cases);
    let lines = resync_and_write(&disks);
    let mut guest = guest.start(&script(&lines))?;
    guest.wait_for("all is written")?;
    let output = guest.output();
    drop(guest);
    for (number, case) in cases.iter().enumerate() {
        ensure!(
            output.contains(&format!("md{number} mismatches 0")),
            "{case:?}\n{output}"
        );
        // The parity was spoiled, not the data; of the mirror, the second leg.
        let mut data = bytes(number as u64, sizes[number]);
        let mine = sum_of(folder.path(), &data)?;
        ensure!(
            printed_sum(&output, number, 0)? == mine,
            "{case:?} is read wrong"
        );
        data[7 * 4096..57 * 4096].fill(b'y');
        assembled(&case.paths, async |ours| {
            let status = ours.array.status();
            ensure!(
                status.sync.action == SyncAction::Resync,
                "{case:?}: {status:?}"
            );
            ours.sync().await?;
            ensure!(
                ours.read(0, data.len()).await? == data,
                "{case:?} comes back wrong"
            );
            ours.stop().await
        })?;
    }
    Ok(())
}

/// Changes the first block of a member's data: parity of the first row of RAID-5 (left-symmetric), or a mirror's leg.
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
