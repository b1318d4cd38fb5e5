//! Arrays, both ways between weft and Linux: mdadm on plain files, and the kernel's md in the Linux guest.

mod crash;
mod forms;
mod guest;
mod hole;
mod journal;
mod ours;
mod ours_first;
mod replacing;
mod reshape;
mod shapes;
mod theirs_first;

use std::path::Path;

use anyhow::{Result, ensure};
use weft_raid::level::{Level, ParityLayout};
use weft_tests::data::bytes;
use weft_tests::{require, run, temp_dir};

use guest::text;
use ours::{Case, created};

/// Every level but RAID-6, RAID-5 in every layout and with a partial parity log.
fn cases(folder: &Path) -> Vec<Case> {
    let mut cases = vec![
        Case::new(folder, Level::Raid0, None, 3),
        Case::new(folder, Level::Raid1, None, 2),
        Case::new(folder, Level::Raid4, None, 3),
    ];
    cases.push(Case::logged(
        folder,
        "r5-log",
        ParityLayout::LeftSymmetric,
        3,
    ));
    let layouts = ParityLayout::of(Level::Raid5).enumerate();
    // Few members: the guest has room for some two dozen disks.
    cases.extend(layouts.map(|(number, layout)| {
        let members = 2 + usize::from(number < 4);
        Case::new(folder, Level::Raid5, Some(layout), members)
    }));
    cases
}

/// RAID-6 in the layouts of `numbers`, over five members: three data blocks tell the order in Q.
fn raid6(folder: &Path, numbers: std::ops::Range<u32>) -> Vec<Case> {
    let layouts =
        ParityLayout::of(Level::Raid6).filter(|layout| numbers.contains(&layout.number()));
    layouts
        .map(|layout| Case::new(folder, Level::Raid6, Some(layout), 5))
        .collect()
}

/// RAID-10 in each kind of layout, over odd and even counts of members.
fn raid10(folder: &Path) -> Vec<Case> {
    let shapes = [
        ("n2", 4),
        ("n2", 3),
        ("n3", 4),
        ("f2", 3),
        ("f2", 4),
        ("o2", 3),
        ("o2", 4),
    ];
    shapes
        .map(|(layout, members)| Case::raid10(folder, layout, members))
        .into()
}

#[test]
fn mdadm_accepts_every_file() -> Result<()> {
    require!("mdadm");
    let folder = temp_dir();
    let mut cases = cases(folder.path());
    cases.extend(raid6(folder.path(), 0..21));
    cases.extend(raid10(folder.path()));
    for case in cases {
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

#[test]
fn the_kernel_runs_our_arrays_and_we_take_them_back() -> Result<()> {
    require!("qemu-system-x86_64", "mdadm");
    let folder = temp_dir();
    ours_first::there_and_back("raid-ours", &cases(folder.path()))
}

#[test]
fn we_run_the_kernels_arrays_and_it_takes_them_back() -> Result<()> {
    require!("qemu-system-x86_64", "mdadm");
    let folder = temp_dir();
    theirs_first::there_and_back("raid-theirs", &cases(folder.path()))
}

#[test]
fn raid6_of_both_kinds_goes_both_ways() -> Result<()> {
    require!("qemu-system-x86_64", "mdadm");
    let folder = temp_dir();
    for numbers in [0..4, 4..9, 9..17, 17..21] {
        let name = format!("raid6-{}", numbers.start);
        let cases = raid6(folder.path(), numbers);
        ours_first::there_and_back(&name, &cases)?;
        theirs_first::there_and_back(&name, &cases)?;
    }
    Ok(())
}

#[test]
fn raid10_of_both_kinds_goes_both_ways() -> Result<()> {
    require!("qemu-system-x86_64", "mdadm");
    let folder = temp_dir();
    let cases = raid10(folder.path());
    ours_first::there_and_back("raid10-ours", &cases)?;
    theirs_first::there_and_back("raid10-theirs", &cases)
}

#[test]
fn a_crash_on_one_side_is_made_up_for_on_the_other() -> Result<()> {
    require!("qemu-system-x86_64", "mdadm");
    let folder = temp_dir();
    let symmetric = Some(ParityLayout::LeftSymmetric);
    crash::both_ways(&[
        Case::new(folder.path(), Level::Raid1, None, 2),
        Case::new(folder.path(), Level::Raid5, symmetric, 3),
        Case::new(folder.path(), Level::Raid6, symmetric, 4),
        Case::raid10(folder.path(), "n2", 6),
    ])
}

#[test]
fn the_write_hole_is_closed_by_one_side_for_the_other() -> Result<()> {
    require!("qemu-system-x86_64", "mdadm");
    let folder = temp_dir();
    let layouts = [ParityLayout::LeftSymmetric, ParityLayout::RightAsymmetric];
    let cases = layouts.map(|layout| {
        let name = format!("hole-{}", layout.number());
        Case::logged(folder.path(), &name, layout, 4)
    });
    hole::closed_for_the_kernel(&cases)?;
    hole::closed_for_us(&cases)
}

#[test]
fn a_journal_of_one_side_is_replayed_by_the_other() -> Result<()> {
    require!("qemu-system-x86_64", "mdadm");
    let (ours, theirs) = (temp_dir(), temp_dir());
    journal::ours_for_the_kernel(&journal::cases(ours.path()))?;
    journal::theirs_for_us(&journal::cases(theirs.path()))
}

#[test]
fn a_replacement_that_one_side_began_is_finished_by_the_other() -> Result<()> {
    require!("qemu-system-x86_64", "mdadm");
    let (ours, theirs) = (temp_dir(), temp_dir());
    replacing::ours_first(&replacing::cases(ours.path()))?;
    replacing::theirs_first(&replacing::cases(theirs.path()))
}

#[test]
fn a_change_of_shape_that_we_began_is_finished_by_the_kernel() -> Result<()> {
    require!("qemu-system-x86_64", "mdadm");
    let folder = temp_dir();
    reshape::ours_first(&reshape::ours(folder.path()))
}

#[test]
fn a_change_of_shape_that_the_kernel_began_is_finished_by_us() -> Result<()> {
    require!("qemu-system-x86_64", "mdadm");
    let folder = temp_dir();
    reshape::theirs_first(&reshape::theirs(folder.path()))
}

#[test]
fn another_level_policy_or_size_is_taken_over_by_the_other_side() -> Result<()> {
    require!("qemu-system-x86_64", "mdadm");
    let (ours, theirs) = (temp_dir(), temp_dir());
    forms::ours_first(&forms::ours(ours.path()))?;
    forms::theirs_first(theirs.path())
}

#[test]
fn every_shape_is_read_by_the_kernel_with_members_missing() -> Result<()> {
    require!("qemu-system-x86_64", "mdadm");
    let folder = temp_dir();
    shapes::read_by_the_kernel(folder.path())
}
