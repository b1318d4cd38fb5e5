//! Encryption: what QEMU encrypts we decrypt, and the reverse, on volumes of their own and inside images.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use weft_block::{BlockDevice, BlockQueue, IoVec, Request};
use weft_qcow2::luks::{
    Algorithm, Area, Cipher, CreateOptions, HEADER_BYTES, Hash, Header, IvKind, LuksError, Mode,
    Spec, Work,
};
use weft_qcow2::{Image, OpenOptions, create, format, read_encryption};
use weft_tests::data::Sequence;
use weft_tests::{data, require, run, temp_dir};
use weft_uring::{FileDevice, OpenOptions as FileOptions, block_on, spawner};

use crate::layout::{MIB, read};

pub(crate) const SIZE: u64 = 2 * MIB;

/// How often QEMU is asked again when it has measured nothing, see [`create`].
const ATTEMPTS: usize = 200;

pub(crate) type Kind = (Algorithm, Mode, IvKind, Hash);

/// Every cipher, mode, IV and hash at least once.
pub(crate) const KINDS: &[Kind] = &[
    (Algorithm::Aes256, Mode::Xts, IvKind::Plain64, Hash::Sha256),
    (Algorithm::Aes128, Mode::Xts, IvKind::Plain64, Hash::Sha1),
    (Algorithm::Aes192, Mode::Xts, IvKind::Plain64, Hash::Sha512),
    (Algorithm::Aes256, Mode::Cbc, IvKind::Plain, Hash::Sha224),
    (Algorithm::Aes128, Mode::Cbc, ESSIV, Hash::Sha256),
    (
        Algorithm::Serpent256,
        Mode::Xts,
        IvKind::Plain,
        Hash::Ripemd160,
    ),
    (Algorithm::Serpent128, Mode::Cbc, ESSIV, Hash::Sha256),
    (Algorithm::Twofish256, Mode::Xts, ESSIV, Hash::Sha384),
    (
        Algorithm::Twofish192,
        Mode::Xts,
        IvKind::Plain64,
        Hash::Sha256,
    ),
    (Algorithm::Cast5, Mode::Cbc, IvKind::Plain64, Hash::Sha256),
];

const ESSIV: IvKind = IvKind::EssivSha256;

/// What QEMU makes by itself, with its options. Few, for it measures itself for seconds each time.
const OF_QEMU: &[(&str, Kind)] = &[
    ("", KINDS[0]),
    (
        "cipher-alg=aes-128,cipher-mode=cbc,ivgen-alg=essiv,ivgen-hash-alg=sha256",
        KINDS[4],
    ),
];

pub(crate) fn create_options((algorithm, mode, iv, hash): Kind) -> CreateOptions {
    CreateOptions {
        spec: Spec::new(algorithm, mode, iv).unwrap(),
        hash,
    }
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

fn secret(id: &str, passphrase: &str) -> [String; 2] {
    let object = format!("secret,id={id},data={passphrase}");
    ["--object".into(), object]
}

/// `qemu-img` with secrets, asked again while it fails to measure its own speed: with short iteration times, its clock
/// often tells it that no time has passed.
fn measured(secrets: &[[String; 2]], arguments: &[&str]) -> Result<()> {
    let (verb, rest) = arguments.split_first().unwrap();
    let mut line = vec![(*verb).to_owned()];
    line.extend(secrets.iter().flatten().cloned());
    line.extend(rest.iter().map(ToString::to_string));
    for _ in 0..ATTEMPTS {
        match run("qemu-img", &line) {
            Err(error) if error.to_string().contains("accurate CPU usage") => {}
            outcome => return outcome.map(|_| ()),
        }
    }
    bail!("qemu-img could not measure in {ATTEMPTS} attempts")
}

/// Makes a LUKS volume with the passphrase `qemu`.
fn volume_of_qemu(path: &Path, options: &str) -> Result<()> {
    let options = format!("key-secret=s,iter-time=10,{options}");
    let options = options.trim_end_matches(',');
    let (path, size) = (text(path), SIZE.to_string());
    let arguments = ["create", "-q", "-f", "luks", "-o", options, &path, &size];
    measured(&[secret("s", "qemu")], &arguments)
}

fn image_options(driver: &str, path: &Path) -> String {
    let key = if driver == "qcow2" {
        "encrypt.key-secret"
    } else {
        "key-secret"
    };
    format!("driver={driver},{key}=s,file.filename={}", path.display())
}

/// Lets QEMU encrypt the raw file `plain` into what is at `path`.
fn fill(driver: &str, path: &Path, passphrase: &str, plain: &Path) -> Result<()> {
    let mut line = vec!["convert".to_owned(), "-n".into(), "-f".into(), "raw".into()];
    line.extend(secret("s", passphrase));
    let target = image_options(driver, path);
    line.extend(["--target-image-opts".into(), text(plain), target]);
    run("qemu-img", &line).map(|_| ())
}

/// Lets QEMU decrypt what is at `path` and compare it with the raw file `plain`.
fn compare(driver: &str, path: &Path, passphrase: &str, plain: &Path) -> Result<()> {
    let mut line = vec!["compare".to_owned(), "--image-opts".into()];
    line.extend(secret("s", passphrase));
    let plain = format!("driver=raw,file.filename={}", plain.display());
    line.extend([image_options(driver, path), plain]);
    run("qemu-img", &line).map(|_| ())
}

/// The area at `offset` of a file.
pub(crate) fn area_in(path: &Path, offset: u64) -> Result<Area> {
    let header = Header::parse(&read(path, offset, HEADER_BYTES)?)?;
    let len = usize::try_from(header.area_bytes())?;
    Ok(Area::parse(read(path, offset, len)?)?)
}

/// Numbers from a seed in place of chance, which is all that a test needs.
pub(crate) fn random(seed: u64) -> impl FnMut(&mut [u8]) {
    let mut sequence = Sequence::new(seed);
    move |bytes| bytes.fill_with(|| sequence.draw() as u8)
}

pub(crate) fn work() -> Work {
    Work::iterations(1000).unwrap()
}

/// A folder, and in it a raw file of random data.
fn site() -> (tempfile::TempDir, PathBuf, Vec<u8>) {
    let folder = temp_dir();
    let plain = folder.path().join("plain");
    let bytes = data::bytes(4, SIZE as usize);
    std::fs::write(&plain, &bytes).unwrap();
    (folder, plain, bytes)
}

#[test]
fn we_decrypt_the_volumes_that_qemu_makes() -> Result<()> {
    require!("qemu-img");
    let (folder, plain, expected) = site();
    for (options, kind) in OF_QEMU {
        let path = folder.path().join("volume");
        volume_of_qemu(&path, options).with_context(|| (*options).to_owned())?;
        fill("luks", &path, "qemu", &plain)?;
        let area = area_in(&path, 0)?;
        let header = area.header();
        let told = CreateOptions {
            spec: header.spec(),
            hash: header.hash(),
        };
        ensure!(told == create_options(*kind), "{options} is {told:?}");
        let wrong = area.unlock(b"QEMU").unwrap_err();
        ensure!(wrong == LuksError::WrongPassphrase, "{wrong}");
        let unlocked = area.unlock(b"qemu")?;
        ensure!(unlocked.slot == 0, "slot {}", unlocked.slot);
        let mut payload = read(&path, header.payload_offset(), SIZE as usize)?;
        ensure!(payload != expected, "it is encrypted");
        Cipher::new(header, &unlocked.key)?.decrypt(0, &mut payload);
        ensure!(payload == expected, "{options}: the payload differs");
    }
    Ok(())
}

#[test]
fn every_cipher_is_the_same_to_qemu() -> Result<()> {
    require!("qemu-img");
    let (folder, plain, bytes) = site();
    let other = folder.path().join("other");
    let other_bytes = data::bytes(5, SIZE as usize);
    std::fs::write(&other, &other_bytes)?;
    for kind in KINDS {
        let (area, key) = Area::create(create_options(*kind), b"ours", work(), &mut random(7))?;
        let cipher = Cipher::new(area.header(), &key)?;
        let mut payload = bytes.clone();
        cipher.encrypt(0, &mut payload);
        let path = folder.path().join("volume");
        std::fs::write(&path, [area.bytes(), &payload].concat())?;
        compare("luks", &path, "ours", &plain).with_context(|| format!("{kind:?}"))?;
        ensure!(compare("luks", &path, "else", &plain).is_err());
        fill("luks", &path, "ours", &other)?;
        let mut payload = read(&path, area.header().payload_offset(), SIZE as usize)?;
        cipher.decrypt(0, &mut payload);
        ensure!(payload == other_bytes, "{kind:?}: the payload differs");
    }
    Ok(())
}

#[test]
fn keys_are_added_changed_and_erased_on_both_sides() -> Result<()> {
    require!("qemu-img");
    let (folder, plain, _) = site();
    let path = folder.path().join("volume");
    volume_of_qemu(&path, "cipher-alg=aes-128")?;
    fill("luks", &path, "qemu", &plain)?;

    // Theirs: another key in slot 5.
    let options = "state=active,keyslot=5,new-secret=new,iter-time=10";
    let target = image_options("luks", &path);
    let line = ["amend", "-o", options, "--image-opts", &target];
    measured(&[secret("s", "qemu"), secret("new", "five")], &line)?;
    let mut area = area_in(&path, 0)?;
    ensure!(area.slots_of(b"five") == [5] && area.slots_of(b"qemu") == [0]);

    // Ours: the first key changes, and a third one comes.
    let file = File::options().write(true).open(&path)?;
    let mut random = random(9);
    let changed = area.change_key(b"qemu", b"weft", work(), &mut random)?;
    let key = area.unlock(b"five")?.key;
    let added = area.add_key(&key, b"third", None, work(), &mut random)?;
    for range in changed.writes.into_iter().chain(added.writes) {
        file.write_all_at(&area.bytes()[range.clone()], range.start as u64)?;
    }
    for passphrase in ["weft", "five", "third"] {
        compare("luks", &path, passphrase, &plain)?;
    }
    ensure!(compare("luks", &path, "qemu", &plain).is_err());

    // Theirs again: a slot is erased, and the last one refused; we agree with both.
    let erase = |old: &str| {
        let options = "state=inactive,old-secret=old";
        let line = ["amend", "-o", options, "--image-opts", &target];
        measured(&[secret("s", "third"), secret("old", old)], &line)
    };
    erase("five")?;
    erase("weft")?;
    let mut area = area_in(&path, 0)?;
    let left = area.slots_of(b"third");
    ensure!(left == [0], "the third key is in {left:?}");
    ensure!(erase("third").is_err());
    let refused = area.erase_key(0, false, &mut random).unwrap_err();
    ensure!(refused == LuksError::LastSlot(0), "{refused}");
    Ok(())
}

/// Opens an image with the engine and its passphrase.
async fn open(path: &Path, passphrase: &[u8]) -> Result<Image> {
    let spawner = spawner();
    let options = FileOptions {
        fill_last_block: true,
        ..FileOptions::default()
    };
    let file: Arc<dyn BlockDevice> = Arc::new(FileDevice::open(path, &options)?);
    let area = read_encryption(&*file, &spawner).await?;
    let unlocked = area.context("it is encrypted")?.unlock(passphrase)?;
    let options = OpenOptions {
        key: Some(Arc::new(unlocked.key)),
        ..OpenOptions::default()
    };
    Ok(Image::open(file, options, &spawner).await?)
}

/// Writes and discards here and there, on the disk and in `expected`.
async fn change(queue: &dyn BlockQueue, expected: &mut [u8]) -> Result<()> {
    let mut sequence = Sequence::new(11);
    for round in 0..60 {
        let start = sequence.below(SIZE / 512 - 300) as usize * 512;
        let len = (1 + sequence.below(300)) as usize * 512;
        let range = start..start + len;
        let request = if round % 4 == 3 {
            expected[range.clone()].fill(0);
            Request::write_zeroes(start as u64, len as u64, true)
        } else {
            let bytes = data::bytes(round, len);
            expected[range].copy_from_slice(&bytes);
            Request::write(start as u64, IoVec::copy_of(&bytes))
        };
        queue.submit(request).await.result?;
    }
    Ok(())
}

/// Reads the image with our engine, changes it, and lets QEMU judge.
fn shared(path: &Path, passphrase: &str, plain: &Path) -> Result<()> {
    let mut expected = std::fs::read(plain)?;
    block_on(async {
        let image = open(path, passphrase.as_bytes()).await?;
        let queue = image.open(&spawner())?;
        let whole = IoVec::zeroed(SIZE as usize);
        let read = queue.submit(Request::read(0, whole)).await;
        read.result?;
        ensure!(
            read.buffer.into_buffer()[..] == expected,
            "the disk differs"
        );
        change(&*queue, &mut expected).await?;
        drop(queue);
        Ok(image.close(&spawner()).await?)
    })?;
    std::fs::write(plain, &expected)?;
    let mut line = vec!["check".to_owned(), "-q".into(), "--image-opts".into()];
    line.extend(secret("s", passphrase));
    line.push(image_options("qcow2", path));
    run("qemu-img", line)?;
    compare("qcow2", path, passphrase, plain)
}

#[test]
fn an_image_that_qemu_encrypts_is_ours_too() -> Result<()> {
    require!("qemu-img");
    let (folder, plain, _) = site();
    let path = folder.path().join("image.qcow2");
    let options = "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10";
    let (name, size) = (text(&path), SIZE.to_string());
    let line = ["create", "-q", "-f", "qcow2", "-o", options, &name, &size];
    measured(&[secret("s", "qemu")], &line)?;
    fill("qcow2", &path, "qemu", &plain)?;
    shared(&path, "qemu", &plain)
}

#[test]
fn an_image_that_we_encrypt_is_qemus_too() -> Result<()> {
    require!("qemu-img");
    let (folder, plain, _) = site();
    for (number, cluster_bits, version) in [
        (0, 16, format::Version::V3),
        (1, 9, format::Version::V3),
        (4, 21, format::Version::V2),
    ] {
        let path = folder.path().join(format!("image{number}"));
        let kind = create_options(KINDS[number]);
        let (area, _) = Area::create(kind, b"ours", work(), &mut random(3))?;
        let mut options = weft_qcow2::CreateOptions::new(SIZE);
        options.encryption = Some(area);
        (options.cluster_bits, options.version) = (cluster_bits, version);
        block_on(async {
            let file = FileDevice::create(&path, 0)?;
            create(&file, &options, &spawner()).await
        })?;
        fill("qcow2", &path, "ours", &plain)?;
        shared(&path, "ours", &plain).with_context(|| format!("{cluster_bits} bits"))?;
        ensure!(compare("qcow2", &path, "else", &plain).is_err());
    }
    Ok(())
}
