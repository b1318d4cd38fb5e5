//! Encrypted images that serve as disks: their passphrases are in files, and nowhere else.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use weft_tests::require;

use crate::image_disks::{export, io, judge};
use crate::live::{Writer, disk_of, holds};
use crate::program::Weft;
use crate::restart::kill_daemon;

const UPPER: &str = "an upper passphrase";
const LOWER: &str = "one of the lower image";

/// Guesses of a passphrase need not be slow here.
const QUICK: [&str; 4] = ["-o", "encrypt.format=luks", "-o", "encrypt.iter-time=10"];

/// A file with a passphrase, which its owner alone may open.
fn secret(weft: &Weft, file: &str, text: &str) {
    std::fs::write(weft.path(file), text).unwrap();
    let own = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(weft.path(file), own).unwrap();
}

fn image(weft: &Weft, name: &str, key: &str, more: &[&str]) {
    let create = ["image", "create", name, "--key-file", key];
    weft.ok(&[&create[..], more, &QUICK].concat());
}

/// An encrypted image over another one with another passphrase.
fn encrypted(weft: &Weft) {
    secret(weft, "upper.key", UPPER);
    secret(weft, "lower.key", LOWER);
    image(weft, "base.qcow2", "lower.key", &["--size", "64M"]);
    qemu(weft, "base.qcow2", "lower", &["write -P 1 0 1M"]);
    image(weft, "top.qcow2", "upper.key", &["--backing", "base.qcow2"]);
}

/// Lets QEMU's program work on an image, with both passphrases.
#[track_caller]
fn qemu(weft: &Weft, image: &str, key: &str, lines: &[&str]) {
    let mut opened = format!("driver=qcow2,encrypt.key-secret={key},file.filename={image}");
    if image == "top.qcow2" {
        opened.push_str(",backing.encrypt.key-secret=lower");
    }
    let objects = [
        "--object",
        "secret,id=upper,file=upper.key",
        "--object",
        "secret,id=lower,file=lower.key",
        "--image-opts",
    ];
    let mut words = [&["qemu-io"], &objects[..]].concat();
    lines.iter().for_each(|line| words.extend(["-c", line]));
    words.push(&opened);
    judge(weft, &words);
    let check = [&["qemu-img", "check", "-q"], &objects[..], &[&opened]].concat();
    judge(weft, &check);
}

/// Whether any file in a folder holds the bytes.
fn is_held(folder: &Path, bytes: &[u8]) -> bool {
    let entries = std::fs::read_dir(folder).unwrap();
    entries.map(Result::unwrap).any(|entry| {
        let kind = entry.file_type().unwrap();
        match kind.is_dir() {
            true => is_held(&entry.path(), bytes),
            false if !kind.is_file() => false,
            false => {
                let found = std::fs::read(entry.path()).unwrap();
                found.windows(bytes.len()).any(|part| part == bytes)
            }
        }
    })
}

/// What a process was called with, and its environment.
fn words_of(pid: i32) -> String {
    let read = |what: &str| std::fs::read(format!("/proc/{pid}/{what}")).unwrap();
    String::from_utf8_lossy(&[read("cmdline"), read("environ")].concat()).into_owned()
}

#[test]
fn an_encrypted_chain_is_a_disk_before_and_after_a_crash() {
    require!("qemu-img", "qemu-io");
    let weft = Weft::new();
    encrypted(&weft);
    let word = "qcow2:./top.qcow2,key-file=./upper.key,key-file=./lower.key";
    export(&weft, word, "top");
    io(
        &weft,
        "top",
        &["read -P 1 0 1M", "write -P 2 512k 1M", "write -P 7 8M 1M"],
    );
    let writer = Writer::start(&weft, "top", 30);
    // What is on top is encrypted too, by the passphrase that was named first.
    let overlay = ["image", "overlay", "qcow2:./top.qcow2", "next.qcow2"];
    weft.ok(&[&overlay[..], &QUICK].concat());
    let info = weft.json(&["image", "info", "next.qcow2", "--unlocked"]);
    assert_eq!(info["qcow2"]["encryption"], "luks", "{info}");
    let mut written = writer.end();
    kill_daemon(&weft);
    weft.ok(&["status"]);
    holds(&weft, "top", &written);
    let writer = Writer::start(&weft, "top", 31);
    weft.ok(&["image", "commit", "next.qcow2"]);
    writer.until(|| disk_of(&weft, "top").contains("/top.qcow2,"), &weft);
    written.extend(writer.end());
    // Nobody but the files knows the passphrases, and nothing of the disk lies in the clear.
    for passphrase in [UPPER, LOWER] {
        assert!(!is_held(&weft.path("state"), passphrase.as_bytes()));
        assert!(!words_of(weft.daemon_pid()).contains(passphrase));
    }
    io(&weft, "top", &["write -P 7 8M 1M", "flush"]);
    for file in ["top.qcow2", "next.qcow2"] {
        let bytes = std::fs::read(weft.path(file)).unwrap();
        assert!(!bytes.windows(64).any(|part| part == [7; 64]), "{file}");
    }
    kill_daemon(&weft);
    weft.ok(&["status"]);
    io(&weft, "top", &["read -P 7 8M 1M", "write -P 5 0 64M"]);
    weft.ok(&["export", "remove", "top"]);
    qemu(&weft, "top.qcow2", "upper", &["read -P 5 0 64M"]);
    assert_eq!(weft.json(&["disk", "list"]), serde_json::json!([]));
}

#[test]
fn a_disk_moves_into_an_encrypted_image() {
    require!("qemu-img", "qemu-io");
    let weft = Weft::new();
    encrypted(&weft);
    weft.disks(&["plain"], "64M");
    export(&weft, "./plain", "plain");
    io(&weft, "plain", &["write -P 3 1M 1M"]);
    weft.ok(&["export", "remove", "plain"]);
    // An overlay over a plain disk has no key of its own.
    weft.ok(&[
        "image",
        "create",
        "over.qcow2",
        "--backing",
        "plain",
        "--backing-format",
        "raw",
    ]);
    export(&weft, "qcow2:./over.qcow2", "over");
    let overlay = ["image", "overlay", "qcow2:./over.qcow2", "next.qcow2"];
    let (kind, message) = weft.fails(&[&overlay[..], &QUICK].concat());
    assert_eq!(kind, "unsupported", "{message}");
    let mirror = ["image", "mirror", "qcow2:./over.qcow2"];
    let (kind, message) = weft.fails(&[&mirror[..], &["qcow2:./base.qcow2"]].concat());
    assert_eq!(kind, "invalid", "{message}");
    assert!(message.contains("no key was given"), "{message}");
    let target = "qcow2:./base.qcow2,key-file=./lower.key";
    weft.ok(&[&mirror[..], &[target]].concat());
    while !disk_of(&weft, "over").ends_with("/lower.key") {
        io(&weft, "over", &["read -P 3 1M 1M"]);
    }
    kill_daemon(&weft);
    weft.ok(&["status"]);
    io(&weft, "over", &["read -P 3 1M 1M"]);
    weft.ok(&["export", "remove", "over"]);
    qemu(
        &weft,
        "base.qcow2",
        "lower",
        &["read -P 3 1M 1M", "read -P 0 0 1M"],
    );
}

#[test]
fn a_passphrase_that_is_no_secret_or_no_key_is_refused() {
    let weft = Weft::new();
    encrypted(&weft);
    secret(&weft, "wrong.key", "another one");
    secret(&weft, "empty.key", "");
    secret(&weft, "open.key", UPPER);
    let everybody = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(weft.path("open.key"), everybody).unwrap();
    std::fs::create_dir(weft.path("folder")).unwrap();
    let address = format!("unix:{}", weft.at("nbd.sock"));
    for (options, kind, says) in [
        ("", "invalid", "write the disk as qcow2:"),
        (",key-file=./wrong.key", "invalid", "the key is wrong"),
        // That of the upper one alone.
        (",key-file=./upper.key", "invalid", "the key is wrong"),
        (",key-file=./empty.key", "invalid", "holds no passphrase"),
        (",key-file=./open.key", "permission", "chmod 600"),
        (",key-file=./nowhere", "not-found", "nowhere"),
        (",key-file=nowhere", "not-found", "no key file nowhere"),
        (",key-file=./folder", "invalid", "is no file"),
        (",key-file=", "invalid", "key-file=FILE"),
        (",key=./upper.key", "invalid", "key-file=FILE"),
    ] {
        let word = format!("qcow2:./top.qcow2{options}");
        let (found, message) = weft.fails(&["export", "add", &word, "--nbd", &address]);
        assert_eq!(found, kind, "{options}: {message}");
        assert!(message.contains(says), "{options}: {message}");
    }
    // A look at it is refused alike, and nothing is claimed.
    let looked = weft.json(&["disk", "inspect", "qcow2:./top.qcow2"]);
    let trouble = looked[0]["trouble"].as_str().unwrap();
    assert!(trouble.contains("no key was given"), "{looked}");
    assert_eq!(weft.json(&["disk", "list"]), serde_json::json!([]));
}
