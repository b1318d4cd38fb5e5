//! Their side: the kernel's md and mdadm in the Linux guest.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use weft_tests::data::sha256;
use weft_tests::guest::LinuxGuest;

use super::ours::Case;

pub(crate) fn text(path: &Path) -> Result<&str> {
    path.to_str().context("the path is text")
}

/// The guest's name of its disk `number`.
fn disk(number: usize) -> String {
    let letter = |number: usize| char::from(b'a' + (number % 26) as u8);
    match number / 26 {
        0 => format!("/dev/vd{}", letter(number)),
        more => format!("/dev/vd{}{}", letter(more - 1), letter(number)),
    }
}

/// A guest with the cases' files as disks, and for each case its number and its disks.
pub(crate) fn guest(name: &str, cases: &[Case]) -> (LinuxGuest, Vec<Vec<String>>) {
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
        .module("raid10")
        .module("raid456")
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
reshaped() { # array: waits until its shape has changed
    waited=0
    while [ "$(cat /sys/block/$1/md/reshape_position)" != none ]; do
        sleep 0.2
        waited=$((waited + 1))
        [ $waited -lt 500 ] || { cat /proc/mdstat; dmesg | tail -30; exit 1; }
    done
    mended $1
}
lacks() { # array: says what it is to make whole yet, also before it begins to
    [ "$(cat /sys/block/$1/md/resync_start 2>/dev/null || echo none)" = none ] || echo resync
    for member in /sys/block/$1/md/dev-*; do
        [ "$(cat $member/slot)" = none ] || grep spare $member/state || true
    done
}
mended() { # array: waits until it is whole, or as whole as it becomes
    waited=0
    while [ -n "$(lacks $1)" ]; do
        sleep 0.2
        waited=$((waited + 1))
        [ $waited -lt 500 ] || { cat /proc/mdstat; lacks $1; dmesg | tail -30; exit 1; }
    done
    settled $1
}
reached() { # array, sectors: waits until a change of shape pauses there
    waited=0
    while [ "$(cut -d' ' -f1 /sys/block/$1/md/sync_completed)" != $2 ]; do
        sleep 0.2
        waited=$((waited + 1))
        [ $waited -lt 500 ] || { cat /proc/mdstat /sys/block/$1/md/sync_completed; dmesg | tail -30; exit 1; }
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

pub(crate) fn script(lines: &[String]) -> String {
    format!("{SHELL}\n{}\n", lines.join("\n"))
}

/// The sum that the guest printed for array `number`, the `nth` of them.
pub(crate) fn printed_sum(output: &str, number: usize, nth: usize) -> Result<String> {
    let prefix = format!("md{number} sum ");
    let mut sums = output.lines().filter_map(|line| line.strip_prefix(&prefix));
    Ok(sums
        .nth(nth)
        .with_context(|| format!("no sum {nth} of md{number} in:\n{output}"))?
        .to_owned())
}

pub(crate) fn sum_of(folder: &Path, data: &[u8]) -> Result<String> {
    let file = folder.join("expected");
    std::fs::write(&file, data)?;
    sha256(&file)
}

/// Writes `count` blocks of a letter to an array.
pub(crate) fn write(number: usize, letter: char, seek: u32, count: u32) -> String {
    format!(
        "tr '\\0' {letter} </dev/zero | dd of=/dev/md{number} bs=4k seek={seek} count={count} conv=fsync \
         iflag=fullblock status=none"
    )
}
