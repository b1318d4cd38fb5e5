//! Where the bytes lie, for every level, layout and number of members up to nine: the kernel reads what we have written,
//! with as many members missing as the level survives.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use weft_raid::Consistency;
use weft_raid::level::{Level, ParityLayout};
use weft_tests::data::bytes;
use weft_tests::guest::LinuxGuest;

use super::guest::{script, sum_of, text};
use super::ours::{Case, created};

const MOST_MEMBERS: usize = 9;
/// One in so many is tried, unless a soak asks for all.
const SLICE: usize = 7;

/// Every shape, over members with room for a few rows of the smallest chunk.
fn shapes(folder: &Path) -> Vec<Case> {
    let mut shapes: Vec<(Level, Option<ParityLayout>, Option<&'static str>, usize)> = Vec::new();
    for (level, least) in [(Level::Raid0, 2), (Level::Raid1, 2), (Level::Raid4, 3)] {
        shapes.extend((least..=MOST_MEMBERS).map(|members| (level, None, None, members)));
    }
    for (level, least) in [(Level::Raid5, 2), (Level::Raid6, 4)] {
        for layout in ParityLayout::of(level) {
            let counts = least..=MOST_MEMBERS;
            shapes.extend(counts.map(|members| (level, Some(layout), None, members)));
        }
    }
    for (layout, least) in [
        ("n2", 2),
        ("f2", 2),
        ("o2", 2),
        ("n3", 3),
        ("f3", 3),
        ("o3", 3),
    ] {
        let counts = least..=MOST_MEMBERS;
        shapes.extend(counts.map(|members| (Level::Raid10, None, Some(layout), members)));
    }
    let every = if std::env::var_os("WEFT_SEEDS").is_some() {
        1
    } else {
        SLICE
    };
    let cases = shapes.into_iter().enumerate().step_by(every);
    cases
        .map(|(number, (level, layout, copies, members))| {
            let path = |member: usize| {
                // Members of RAID-0 are of unequal size.
                let rows = if level == Level::Raid0 {
                    9 + member as u64
                } else {
                    18
                };
                let size = (1 << 20) + rows * 4096;
                weft_tests::sparse_file(folder, &format!("shape-{number}-{member}"), size)
            };
            Case {
                name: format!("shape-{number}"),
                level,
                layout,
                copies,
                consistency: Consistency::Resync,
                chunk: 4096,
                paths: (0..members).map(path).collect(),
            }
        })
        .collect()
}

/// The members that the kernel gets: all but those that the level survives the loss of, not always the same.
fn left(case: &Case, number: usize) -> Vec<PathBuf> {
    let losses = match case.level {
        Level::Raid0 => 0,
        Level::Raid6 => 2,
        _ => 1,
    };
    let count = case.paths.len();
    let lost: Vec<usize> = (0..losses).map(|nth| (number + nth) % count).collect();
    let kept = case.paths.iter().enumerate();
    let kept = kept.filter(|(member, _)| !lost.contains(member));
    kept.map(|(_, path)| path.clone()).collect()
}

/// Shell: takes copies of the files, starts an array of them, prints its sum under a name, and lets all go. The copies are
/// in a folder of the guest's own: it sees the host's `/tmp`, which changes under it.
const TRY: &str = r#"
try() { # name, files
    name=$1; shift
    loops=
    for file; do
        cp $file /run/member-$#
        loops="$loops $(losetup --find --show /run/member-$#)"
        shift
    done
    mdadm --assemble --readonly --run /dev/md0 $loops >/tmp/said 2>&1 || { cat /tmp/said; dmesg | tail; exit 1; }
    echo "$name $(sha256sum </dev/md0 | cut -d' ' -f1)"
    mdadm --stop /dev/md0 2>/tmp/said
    losetup --detach $loops
    rm /run/member-*
}
"#;

/// Fills an array of every shape and lets the kernel read each.
pub(crate) fn read_by_the_kernel(folder: &Path) -> Result<()> {
    let cases = shapes(folder);
    let (mut lines, mut wanted) = (vec![TRY.to_owned()], Vec::new());
    for (number, case) in cases.iter().enumerate() {
        let data = created(case, async |ours| {
            let data = bytes(number as u64, ours.size());
            ours.write(0, &data).await?;
            ours.stop().await?;
            Ok(data)
        })?;
        wanted.push(format!("{} {}", case.name, sum_of(folder, &data)?));
        let files = left(case, number);
        let files: Result<Vec<&str>> = files.iter().map(|path| text(path)).collect();
        lines.push(format!("try {} {}", case.name, files?.join(" ")));
    }
    let guest = LinuxGuest::new("raid-shapes")
        .module("loop")
        .module("raid0")
        .module("raid1")
        .module("raid10")
        .module("raid456")
        .time_limit(std::time::Duration::from_secs(900));
    let output = guest.run(&script(&lines))?.success();
    for (case, wanted) in cases.iter().zip(&wanted) {
        ensure!(
            output.lines().any(|line| line == wanted),
            "{case:?} is read wrong\n{output}"
        );
    }
    Ok(())
}
