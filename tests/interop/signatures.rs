//! What `weft_block::signature` recognises, judged by `wipefs` on what other programs wrote.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use weft_block::SECTOR;
use weft_block::signature::{FIRST_BYTES, Format, LAST_BYTES, Signature, recognise};
use weft_tests::guest::LinuxGuest;
use weft_tests::{require, run, sparse_file, temp_dir};

const SIZE: u64 = 320 << 20;

fn ours(path: &Path) -> Result<Vec<Signature>> {
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    let mut first = vec![0; FIRST_BYTES.min(size as usize)];
    let mut last = vec![0; LAST_BYTES.min(size as usize)];
    file.read_exact_at(&mut first, 0)?;
    let tail = size - last.len() as u64;
    file.read_exact_at(&mut last, tail)?;
    Ok(recognise(&first, &last, size))
}

/// Where `wipefs` sees a mark. It says nothing of qcow2, which is no format of disks.
fn judged(path: &Path) -> Result<BTreeSet<u64>> {
    let path = path.to_str().context("the path is text")?;
    let printed = run("wipefs", ["--json", "--no-act", path])?;
    if printed.trim().is_empty() {
        return Ok(BTreeSet::new());
    }
    let report: serde_json::Value = serde_json::from_str(&printed)?;
    let signatures = report["signatures"]
        .as_array()
        .context("wipefs lists signatures")?;
    let offset = |signature: &serde_json::Value| {
        let text = signature["offset"]
            .as_str()
            .context("a signature has an offset")?;
        Ok(u64::from_str_radix(text.trim_start_matches("0x"), 16)?)
    };
    signatures.iter().map(offset).collect()
}

/// Every mark that the judge sees is seen, the format is named, and without the marks nobody sees anything.
fn agree(path: &Path, format: Format) -> Result<()> {
    let (own, theirs) = (ours(path)?, judged(path)?);
    let named = own.iter().any(|signature| signature.format == format);
    ensure!(named, "{}: {format} is not among {own:?}", path.display());
    // A format may have several marks in a sector, of which each program looks at one.
    let sectors: BTreeSet<u64> = own
        .iter()
        .map(|signature| signature.offset / SECTOR)
        .collect();
    let unseen = |offset: &&u64| !sectors.contains(&(**offset / SECTOR));
    let missed: Vec<_> = theirs.iter().filter(unseen).collect();
    ensure!(
        missed.is_empty(),
        "{}: unseen marks at {missed:?}; seen {own:?}",
        path.display()
    );

    let file = File::options().write(true).open(path)?;
    for signature in &own {
        file.write_all_at(&vec![0; signature.len], signature.offset)?;
    }
    let left = judged(path)?;
    ensure!(
        left.is_empty(),
        "{}: wipefs still sees marks at {left:?}",
        path.display()
    );
    ensure!(
        ours(path)?.is_empty(),
        "{}: we still see marks",
        path.display()
    );
    Ok(())
}

#[test]
fn file_systems_and_tables_are_recognised() -> Result<()> {
    require!(
        "wipefs",
        "mkfs.ext4",
        "mkfs.xfs",
        "mkfs.btrfs",
        "mkfs.fat",
        "mkswap",
        "sfdisk",
        "cryptsetup"
    );
    let folder = temp_dir();
    let cases = [
        (Format::Ext, "mkfs.ext4 -q -F"),
        (Format::Xfs, "mkfs.xfs -q"),
        (Format::Btrfs, "mkfs.btrfs -q"),
        (Format::Fat, "mkfs.fat"),
        (Format::Swap, "mkswap"),
        (Format::Gpt, "echo 'label: gpt\n,,' | sfdisk -q"),
        (Format::Mbr, "echo 'label: dos\n,,' | sfdisk -q"),
        (
            Format::Luks,
            "echo key | cryptsetup luksFormat -q --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000",
        ),
        (
            Format::Luks,
            "echo key | cryptsetup luksFormat -q --type luks1 --pbkdf-force-iterations 1000",
        ),
    ];
    for (number, (format, command)) in cases.into_iter().enumerate() {
        let path = sparse_file(folder.path(), &format!("disk{number}"), SIZE);
        run("sh", ["-c", &format!("{command} {}", path.display())])?;
        agree(&path, format).with_context(|| format!("after {command}"))?;
    }
    Ok(())
}

#[test]
fn qcow2_is_recognised() -> Result<()> {
    require!("qemu-img");
    let folder = temp_dir();
    let path = folder.path().join("image");
    let arguments = ["create", "-q", "-f", "qcow2"].map(AsRef::as_ref);
    run(
        "qemu-img",
        arguments
            .into_iter()
            .chain([path.as_os_str(), "100M".as_ref()]),
    )?;
    let formats: Vec<_> = ours(&path)?
        .iter()
        .map(|signature| signature.format)
        .collect();
    assert_eq!(formats, [Format::Qcow2]);
    Ok(())
}

#[test]
fn members_and_physical_volumes_are_recognised() -> Result<()> {
    require!("qemu-system-x86_64", "mdadm", "lvm", "wipefs");
    let folder = temp_dir();
    let disks: Vec<_> = ["0.90", "1.0", "1.1", "1.2", "lvm"]
        .iter()
        .map(|name| sparse_file(folder.path(), name, SIZE))
        .collect();
    let script = "for disk in 0.90=vda 1.0=vdb 1.1=vdc 1.2=vdd; do
            mdadm --create /dev/md0 --run --force --metadata=${disk%=*} --level=1 --raid-devices=1 /dev/${disk#*=}
            mdadm --stop /dev/md0
        done
        pvcreate -q /dev/vde";
    let guest = LinuxGuest::new("signatures")
        .disks(&disks)
        .module("raid1")
        .module("dm-mod");
    guest.run(script)?.success();
    for disk in &disks[..4] {
        agree(disk, Format::MdMember)?;
    }
    agree(&disks[4], Format::LvmPhysicalVolume)
}
