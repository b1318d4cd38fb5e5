//! LUKS judged by cryptsetup and a stock kernel's dm-crypt: they open the areas that we write, and read what we encrypt
//! under them in every cipher, also clusters inside an image; and we open and read theirs.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;
use weft_block::{BlockDevice, IoVec, Request};
use weft_qcow2::format::Mapping;
use weft_qcow2::luks::{Area, Cipher, LuksError};
use weft_qcow2::{Image, OpenOptions, create};
use weft_tests::data::sha256;
use weft_tests::guest::LinuxGuest;
use weft_tests::{data, require, temp_dir};
use weft_uring::{FileDevice, block_on, spawner};

use super::luks::{KINDS, Kind, SIZE, area_in, create_options, random, work};
use crate::layout::{CLUSTER, layout_of, read};

/// Shell functions of the guest's scripts. A passphrase is what `-` gives, to its last byte.
const SHELL: &str = r#"
export DM_DISABLE_UDEV=1
opens() { # disk, name, passphrase
    printf %s "$3" | cryptsetup open --type luks1 --key-file - /dev/$1 $2
}
sum() { echo "$1 sum $(sha256sum </dev/mapper/$1 | cut -d' ' -f1)"; }
change() { # name
    tr '\0' x </dev/zero | dd of=/dev/mapper/$1 bs=4k seek=5 count=33 conv=fsync iflag=fullblock status=none
}
"#;

/// What `change` leaves of a disk.
fn changed(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes[5 << 12..38 << 12].fill(b'x');
    bytes
}

/// A folder, and the sums of what files in it would hold.
struct Site(TempDir);

impl Site {
    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn sum(&self, bytes: &[u8]) -> Result<String> {
        let path = self.path("expected");
        std::fs::write(&path, bytes)?;
        sha256(&path)
    }
}

fn run_guest(name: &str, disks: &[PathBuf], lines: &[String]) -> Result<String> {
    let guest = LinuxGuest::new(name).disks(disks).module("dm_crypt");
    let guest = guest.time_limit(std::time::Duration::from_secs(300));
    let run = guest.run(&format!("{SHELL}\n{}\n", lines.join("\n")))?;
    Ok(run.success())
}

/// The guest's name of its disk `number`.
fn disk(number: usize) -> String {
    format!("vd{}", char::from(b'a' + number as u8))
}

#[track_caller]
fn told(output: &str, name: &str, sum: &str) {
    let line = format!("{name} sum {sum}");
    assert!(output.contains(&line), "{line} is not in:\n{output}");
}

/// The payload of the volume at `path`, as the area there and a passphrase decrypt it.
fn payload(path: &Path, passphrase: &[u8]) -> Result<Vec<u8>> {
    let area = area_in(path, 0)?;
    let key = area.unlock(passphrase)?.key;
    let mut bytes = read(path, area.header().payload_offset(), SIZE as usize)?;
    Cipher::new(area.header(), &key)?.decrypt(0, &mut bytes);
    Ok(bytes)
}

/// A volume that we encrypt, opened by `ours` alone: the key that it was made with is gone again.
fn our_volume(path: &Path, kind: Kind, plain: &[u8]) -> Result<()> {
    let mut random = random(31);
    let (mut area, key) = Area::create(create_options(kind), b"first", work(), &mut random)?;
    area.add_key(&key, b"ours", Some(2), work(), &mut random)?;
    area.erase_key(0, false, &mut random)?;
    let mut bytes = plain.to_vec();
    Cipher::new(area.header(), &key)?.encrypt(0, &mut bytes);
    Ok(std::fs::write(path, [area.bytes(), &bytes].concat())?)
}

#[test]
fn dm_crypt_opens_what_we_encrypt_in_every_cipher() -> Result<()> {
    require!("qemu-system-x86_64", "cryptsetup");
    let site = Site(temp_dir());
    let (mut disks, mut lines) = (Vec::new(), Vec::new());
    for (number, kind) in KINDS.iter().enumerate() {
        let path = site.path(&format!("volume{number}"));
        our_volume(&path, *kind, &data::bytes(number as u64, SIZE as usize))?;
        let disk = disk(number);
        lines.push(format!("opens {disk} c{number} ours; sum c{number}"));
        lines.push(format!("change c{number}; cryptsetup close c{number}"));
        disks.push(path);
    }
    // Theirs: what is wrong is refused, and keys change in the first one.
    lines.push("! opens vda wrong first; ! opens vda wrong else".into());
    lines.push("cd /tmp; printf ours >ours; printf theirs >theirs".into());
    lines.push(
        "cryptsetup luksAddKey -q --pbkdf-force-iterations 1000 --key-file ours --key-slot 5 /dev/vda theirs".into(),
    );
    lines.push("cryptsetup luksRemoveKey -q /dev/vda ours; cryptsetup isLuks /dev/vda".into());
    let output = run_guest("dm-crypt-ours", &disks, &lines)?;
    for (number, (path, kind)) in disks.iter().zip(KINDS).enumerate() {
        let plain = data::bytes(number as u64, SIZE as usize);
        told(&output, &format!("c{number}"), &site.sum(&plain)?);
        let passphrase: &[u8] = if number == 0 { b"theirs" } else { b"ours" };
        let found = payload(path, passphrase).with_context(|| format!("{kind:?}"))?;
        ensure!(found == changed(plain), "{kind:?}: what dm-crypt wrote");
    }
    let area = area_in(&disks[0], 0)?;
    ensure!(area.slots_of(b"theirs") == [5] && area.slots_of(b"ours").is_empty());
    Ok(())
}

/// Words of `cryptsetup luksFormat`, and what they mean to us.
const OF_CRYPTSETUP: &[(&str, Kind)] = &[
    ("--cipher aes-xts-plain64 --key-size 512", KINDS[0]),
    (
        "--cipher aes-cbc-essiv:sha256 --key-size 128 --hash sha256",
        KINDS[4],
    ),
    (
        "--cipher serpent-xts-plain --key-size 512 --hash ripemd160",
        KINDS[5],
    ),
    (
        "--cipher twofish-xts-plain64 --key-size 384 --hash sha256 --align-payload 8",
        KINDS[8],
    ),
];

#[test]
fn what_cryptsetup_makes_and_dm_crypt_writes_is_ours_too() -> Result<()> {
    require!("qemu-system-x86_64", "cryptsetup");
    let site = Site(temp_dir());
    let plain = site.path("plain");
    let bytes = data::bytes(77, SIZE as usize);
    std::fs::write(&plain, &bytes)?;
    let (mut disks, mut lines) = (vec![plain], Vec::new());
    for (number, (words, _)) in OF_CRYPTSETUP.iter().enumerate() {
        let path = site.path(&format!("volume{number}"));
        File::create(&path)?.set_len(8 << 20)?;
        disks.push(path);
        let disk = disk(number + 1);
        lines.push(format!(
            "printf theirs | cryptsetup luksFormat -q --type luks1 --pbkdf-force-iterations 1000 {words} /dev/{disk} -"
        ));
        lines.push(format!("opens {disk} c{number} theirs"));
        lines.push(format!(
            "dd if=/dev/vda of=/dev/mapper/c{number} bs=1M conv=fsync status=none"
        ));
        lines.push(format!("change c{number}; cryptsetup close c{number}"));
    }
    run_guest("dm-crypt-theirs", &disks, &lines)?;
    let expected = changed(bytes);
    for (path, (words, kind)) in disks[1..].iter().zip(OF_CRYPTSETUP) {
        let area = area_in(path, 0).with_context(|| (*words).to_owned())?;
        let (spec, hash) = (area.header().spec(), area.header().hash());
        let wanted = create_options(*kind);
        ensure!(
            (spec, hash) == (wanted.spec, wanted.hash),
            "{words} is {spec:?}, {hash:?}"
        );
        let wrong = area.unlock(b"ours").unwrap_err();
        ensure!(wrong == LuksError::WrongPassphrase, "{wrong}");
        ensure!(payload(path, b"theirs")? == expected, "{words}");
    }
    Ok(())
}

/// Makes an encrypted image whose disk is `bytes`.
pub(crate) fn our_image(path: &Path, area: &Area, bytes: &[u8]) -> Result<()> {
    let mut options = weft_qcow2::CreateOptions::new(bytes.len() as u64);
    options.encryption = Some(area.clone());
    let key = area.unlock(b"ours")?.key;
    block_on(async {
        let file = FileDevice::create(path, 0)?;
        create(&file, &options, &spawner()).await?;
        let options = OpenOptions {
            key: Some(key.into()),
            ..OpenOptions::default()
        };
        let image = Image::open(std::sync::Arc::new(file), options, &spawner()).await?;
        let queue = image.open(&spawner())?;
        let write = Request::write(0, IoVec::copy_of(bytes));
        queue.submit(write).await.result?;
        drop(queue);
        Ok(image.close(&spawner()).await?)
    })
}

/// The kernel has no qcow2, but a cluster inside an image is to it a piece of a disk like any other: cryptsetup gives the
/// key that the image's own area holds, and a table of dm-crypt's has the cluster's place in the file as its first sector.
#[test]
fn dm_crypt_reads_the_clusters_of_an_encrypted_image() -> Result<()> {
    require!("qemu-system-x86_64", "cryptsetup", "dmsetup");
    let site = Site(temp_dir());
    let (path, bytes) = (site.path("image"), data::bytes(5, 3 * CLUSTER as usize));
    let (area, _) = Area::create(create_options(KINDS[0]), b"ours", work(), &mut random(8))?;
    our_image(&path, &area, &bytes)?;
    let (header, clusters) = layout_of(&path)?;
    let place = header
        .extensions
        .encryption
        .context("it says where its keys are")?;
    let keys = site.path("keys");
    std::fs::write(&keys, read(&path, place.offset, place.len as usize)?)?;
    let mut lines = vec![
        "cd /tmp; printf ours >ours".to_owned(),
        "cryptsetup luksDump -q --dump-volume-key --volume-key-file key --key-file ours /dev/vdb"
            .into(),
        "key=$(od -An -v -tx1 key | tr -d ' \\n')".into(),
    ];
    let mut sums = Vec::new();
    for cluster in &clusters {
        let Mapping::Plain { host: Some(at), .. } = cluster.mapping else {
            continue;
        };
        let (sector, name) = (at / 512, format!("at{at}"));
        let (sectors, cipher) = (CLUSTER / 512, "aes-xts-plain64");
        lines.push(format!(
            "dmsetup create {name} --table \"0 {sectors} crypt {cipher} $key {sector} /dev/vda {sector}\"; sum {name}"
        ));
        let plain = &bytes[cluster.guest as usize..][..CLUSTER as usize];
        sums.push((name, site.sum(plain)?));
    }
    ensure!(sums.len() == 3, "{sums:?}");
    let output = run_guest("dm-crypt-image", &[path.clone(), keys], &lines)?;
    for (name, sum) in sums {
        told(&output, &name, &sum);
    }
    // It was encrypted, and the judge did not read what was plain all along.
    let mut first = vec![0; 512];
    File::open(&path)?.read_exact_at(&mut first, host_of(&clusters)?)?;
    ensure!(first != bytes[..512], "the cluster lies there in plain");
    Ok(())
}

fn host_of(clusters: &[crate::layout::Cluster]) -> Result<u64> {
    match clusters.first().map(|cluster| cluster.mapping) {
        Some(Mapping::Plain { host: Some(at), .. }) => Ok(at),
        _ => anyhow::bail!("the first cluster has a place"),
    }
}
