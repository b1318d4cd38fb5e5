//! Volume groups, both ways between weft and LVM2: `pvck` on plain files, the LVM2 commands on loop devices, and the
//! kernel's device mapper in the Linux guest.

mod judges;
mod ours;

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use weft_lvm::{Amount, NewVolume};
use weft_tests::guest::LinuxGuest;
use weft_tests::{Loop, can, data, require, run, skip, sparse_file, temp_dir};

use judges::Lvm2;
use ours::{MIB, Ours};

fn disks(folder: &std::path::Path, sizes: &[u64]) -> Vec<PathBuf> {
    let named = sizes.iter().enumerate();
    named
        .map(|(number, size)| sparse_file(folder, &format!("disk{number}"), size * MIB))
        .collect()
}

fn linear(name: &str, mib: u64) -> NewVolume {
    NewVolume::linear(name, Amount::Bytes(mib * MIB))
}

fn striped(name: &str, mib: u64, stripes: usize) -> NewVolume {
    NewVolume {
        stripes,
        ..linear(name, mib)
    }
}

/// What `sha256sum` printed of its standard input.
fn sums(output: &str) -> Vec<&str> {
    output
        .lines()
        .filter_map(|line| line.strip_suffix("  -"))
        .collect()
}

#[test]
fn pvck_accepts_every_file_after_every_change() -> Result<()> {
    require!("pvck");
    let folder = temp_dir();
    let paths = disks(folder.path(), &[64, 48, 64]);
    let judge = Lvm2::new(folder.path())?;
    let check = |seqno: u64, name: &str| judge.check_files(&paths, seqno, name);
    let ours = Ours::new(&paths)?;
    ours.create("tank")?;
    check(1, "tank")?;
    ours.change(async |group, spawner| group.create_volume(&linear("a", 40), spawner).await)?;
    check(2, "tank")?;
    ours.change(async |group, spawner| {
        group.create_volume(&striped("b", 20, 3), spawner).await?;
        group
            .resize_volume("a", Amount::Bytes(30 * MIB), &[], spawner)
            .await?;
        group
            .resize_volume("b", Amount::Bytes(40 * MIB), &[], spawner)
            .await?;
        group.rename_volume("a", "renamed", spawner).await?;
        group.rename("pool", spawner).await
    })?;
    check(7, "pool")?;
    // Enough texts to go round the ring a few times.
    ours.change(async |group, spawner| {
        for round in 0..1000 {
            let size = Amount::Bytes((2 + round % 9) * MIB);
            group.resize_volume("renamed", size, &[], spawner).await?;
            if round % 97 == 0 {
                let seqno = group.model().seqno;
                check(seqno, "pool").map_err(|error| {
                    weft_block::Error::new(weft_block::ErrorKind::Corrupt, format!("{error:#}"))
                })?;
            }
        }
        Ok(())
    })?;
    ours.change(async |group, spawner| {
        group.remove_volume("renamed", spawner).await?;
        group.remove_volume("b", spawner).await?;
        group.reduce(&["disk1"], spawner).await
    })?;
    judge.check_empty_file(&paths[1])?;
    ours.change(async |group, spawner| group.remove(spawner).await)?;
    for path in &paths {
        judge.check_empty_file(path)?;
    }
    Ok(())
}

/// LVM2's commands over the disks, attached to loop devices as long as this lives.
struct Attached<'a> {
    judge: &'a Lvm2,
    loops: Vec<Loop>,
}

impl<'a> Attached<'a> {
    fn new(judge: &'a Lvm2, paths: &[PathBuf]) -> Result<Self> {
        let loops = paths.iter().map(|path| Loop::attach(path));
        let loops = loops.collect::<Result<Vec<_>>>()?;
        Ok(Self { judge, loops })
    }

    fn lvm(&self, words: &str) -> Result<String> {
        self.judge.lvm(&self.loops, words)
    }
}

#[test]
fn lvm2_reads_and_changes_our_groups_and_we_its() -> Result<()> {
    require!("lvm", "pvck", "losetup");
    if !can::be_root() {
        skip!("loop devices need root");
    }
    let folder = temp_dir();
    let paths = disks(folder.path(), &[64, 96, 64]);
    let judge = Lvm2::new(folder.path())?;
    let ours = Ours::new(&paths)?;
    ours.create("tank")?;
    ours.change(async |group, spawner| {
        group.create_volume(&linear("a", 100), spawner).await?;
        group.create_volume(&striped("b", 24, 2), spawner).await
    })?;
    drop(ours);
    they_read_and_change(&Attached::new(&judge, &paths)?)?;
    we_read_and_change(&Ours::new(&paths)?)?;
    judge.check_files(&paths, 10, "pool")?;
    they_take_it_apart(&Attached::new(&judge, &paths)?)?;
    let ours = Ours::new(&paths)?;
    ensure!(ours.unused()? == 3, "all three are free volumes");
    ours.create("again")?;
    judge.check_files(&paths, 1, "again")
}

#[test]
fn what_disks_have_grown_by_is_used_by_lvm2_and_us() -> Result<()> {
    require!("lvm", "pvck", "losetup");
    if !can::be_root() {
        skip!("loop devices need root");
    }
    let folder = temp_dir();
    let paths = disks(folder.path(), &[32, 32]);
    let enlarge = |path: &PathBuf| -> Result<()> {
        let file = std::fs::File::options().write(true).open(path)?;
        Ok(file.set_len(file.metadata()?.len() + 16 * MIB)?)
    };
    let judge = Lvm2::new(folder.path())?;
    Ours::new(&paths)?.create("tank")?;
    enlarge(&paths[0])?;
    Ours::new(&paths)?.change(async |group, spawner| group.take_growth(&[], spawner).await)?;
    judge.check_files(&paths, 2, "tank")?;
    let lvm2 = Attached::new(&judge, &paths)?;
    let columns = "pvs --noheadings --units m --nosuffix --separator , -o pv_size,dev_size";
    let report = lvm2.lvm(columns)?;
    ensure!(report.contains("47.00,48.00"), "{report}");
    lvm2.lvm("vgck tank")?;
    drop(lvm2);
    enlarge(&paths[1])?;
    let lvm2 = Attached::new(&judge, &paths)?;
    lvm2.lvm(&format!("pvresize {}", lvm2.loops[1].path().display()))?;
    drop(lvm2);
    let ours = Ours::new(&paths)?;
    let extents = ours.read("tank", |group| {
        let pvs = group.model().physical_volumes.iter();
        pvs.map(|pv| pv.extent_count).collect::<Vec<_>>()
    })?;
    ensure!(extents == [47, 47], "{extents:?}");
    Ok(())
}

fn they_read_and_change(lvm2: &Attached<'_>) -> Result<()> {
    let columns = "lvs --noheadings --units m --nosuffix --separator , -o lv_name,lv_size,segtype";
    let report = lvm2.lvm(&format!("{columns} tank"))?;
    // One line a segment.
    let lines: BTreeSet<&str> = report.lines().map(str::trim).collect();
    let expected = ["a,100.00,linear", "b,24.00,striped"];
    ensure!(lines == BTreeSet::from(expected), "{report}");
    lvm2.lvm("vgck tank")?;
    let used = lvm2.lvm("pvs --noheadings -o pv_in_use")?;
    ensure!(used.matches("used").count() == 3, "{used}");
    lvm2.lvm("lvcreate -y -an -Zn -Wn -n c -L 8M tank")?;
    lvm2.lvm("lvextend -L 32M tank/b")?;
    lvm2.lvm("vgchange --addtag told tank")?;
    lvm2.lvm("lvrename tank a first")?;
    Ok(())
}

fn we_read_and_change(ours: &Ours) -> Result<()> {
    let names = ours.read("tank", |group| {
        let reports = group.volume_reports();
        let shown = reports
            .iter()
            .map(|lv| format!("{} {} {}", lv.name, lv.size / MIB, lv.kind));
        shown.collect::<Vec<_>>()
    })?;
    ensure!(
        names == ["first 100 linear", "b 32 striped", "c 8 linear"],
        "{names:?}"
    );
    ours.change(async |group, spawner| {
        assert_eq!(group.model().tags, ["told"]);
        group.remove_volume("first", spawner).await?;
        group.create_volume(&linear("d", 90), spawner).await?;
        group.rename("pool", spawner).await
    })
}

fn they_take_it_apart(lvm2: &Attached<'_>) -> Result<()> {
    let report = lvm2.lvm("lvs --noheadings -o lv_name pool")?;
    let names: Vec<&str> = report.split_whitespace().collect();
    ensure!(names == ["b", "c", "d"], "{report}");
    lvm2.lvm("lvremove -y pool/b pool/c pool/d")?;
    lvm2.lvm(&format!("vgreduce pool {}", lvm2.loops[2].path().display()))?;
    lvm2.lvm("vgremove -y pool")?;
    Ok(())
}

#[test]
fn a_stock_kernel_activates_our_volumes() -> Result<()> {
    require!("qemu-system-x86_64", "lvm", "sha256sum");
    let folder = temp_dir();
    let paths = disks(folder.path(), &[64, 64, 64]);
    let ours = Ours::new(&paths)?;
    ours.create("tank")?;
    ours.change(async |group, spawner| {
        group.create_volume(&linear("plain", 20), spawner).await?;
        group
            .create_volume(&striped("wide", 30, 3), spawner)
            .await?;
        // Beyond the end of a disk, so in two segments.
        group
            .resize_volume("plain", Amount::Bytes(60 * MIB), &[], spawner)
            .await
    })?;
    let contents = ["plain", "wide"].map(|name| ours.fill("tank", name));
    drop(ours);
    let output = LinuxGuest::new("lvm-ours")
        .disks(&paths)
        .module("dm-mod")
        .run(
            "vgchange -q -ay tank >&2
             sha256sum </dev/tank/plain
             sha256sum </dev/tank/wide
             printf changed | dd of=/dev/tank/wide bs=1M seek=7 conv=notrunc 2>/dev/null
             sync
             lvcreate -q -y -i2 -I 16k -L 8M -n theirs tank >&2
             dd if=/dev/tank/plain of=/dev/tank/theirs bs=1M count=8 2>/dev/null
             vgchange -q -an tank >&2",
        )?
        .success();
    let sums = sums(&output);
    ensure!(sums.len() == 2, "{output}");
    for (content, sum) in contents.into_iter().zip(sums) {
        let path = folder.path().join("content");
        let content = content?;
        std::fs::write(&path, &content)?;
        ensure!(data::sha256(&path)? == sum, "{output}");
    }
    // What the kernel wrote, through its striping, is where we look.
    let ours = Ours::new(&paths)?;
    let wide = ours.contents("tank", "wide")?;
    ensure!(&wide[7 * MIB as usize..][..7] == b"changed");
    let (plain, theirs) = (
        ours.contents("tank", "plain")?,
        ours.contents("tank", "theirs")?,
    );
    ensure!(theirs.len() == 8 << 20 && plain[..theirs.len()] == theirs);
    Ok(())
}

#[test]
fn we_read_what_stock_lvm_made() -> Result<()> {
    require!("qemu-system-x86_64", "lvm", "mkfs.ext4");
    let folder = temp_dir();
    let paths = disks(folder.path(), &[64, 96, 64]);
    let output = LinuxGuest::new("lvm-theirs")
        .disks(&paths)
        .module("dm-mod")
        .module("dm-raid")
        .module("raid1")
        .run(
            "vgcreate -q -s 1M tank /dev/vda /dev/vdb /dev/vdc >&2
             lvcreate -q -y -L 40M -n plain tank >&2
             lvcreate -q -y -i3 -I 8k -L 48M -n wide tank >&2
             lvextend -q -L 60M tank/plain >&2
             lvcreate -q -y --type raid1 -m1 -L 8M -n mirror tank >&2
             mkfs.ext4 -q /dev/tank/wide
             head -c 60M /dev/urandom >/dev/tank/plain
             sync
             sha256sum </dev/tank/plain
             sha256sum </dev/tank/wide
             vgchange -q -an tank >&2",
        )?
        .success();
    let sums = sums(&output);
    let ours = Ours::new(&paths)?;
    ensure!(sums.len() == 2, "{output}");
    for (name, sum) in ["plain", "wide"].into_iter().zip(sums) {
        let path = folder.path().join(name);
        std::fs::write(&path, ours.contents("tank", name)?)?;
        ensure!(data::sha256(&path)? == sum, "{name}: {output}");
    }
    run(
        "fsck.ext4",
        ["-fn".as_ref(), folder.path().join("wide").as_os_str()],
    )?;
    // The mirror is shown, not activated, kept through our changes, and still theirs afterwards.
    let kind = ours.read("tank", |group| {
        let reports = group.volume_reports();
        let mirror = reports.iter().find(|lv| lv.name == "mirror");
        mirror.map(|lv| format!("{} {}", lv.kind, lv.state.name()))
    })?;
    ensure!(kind.as_deref() == Some("raid1 unsupported"), "{kind:?}");
    ours.change(async |group, spawner| {
        assert!(group.volume("mirror").is_err());
        assert!(
            group
                .remove_volume("mirror_rimage_0", spawner)
                .await
                .is_err()
        );
        group.remove_volume("plain", spawner).await?;
        group.create_volume(&linear("filler", 64), spawner).await
    })?;
    drop(ours);
    LinuxGuest::new("lvm-theirs-again")
        .disks(&paths)
        .module("dm-mod")
        .module("dm-raid")
        .module("raid1")
        .run(
            "vgck tank
             vgchange -ay tank
             dd if=/dev/tank/mirror of=/dev/null bs=1M
             lvs -a tank",
        )?
        .success();
    Ok(())
}
