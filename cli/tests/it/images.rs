//! `weft image`: images are made, described, copied and mended without a daemon.

use std::path::Path;
use std::process::Command;

use weft_tests::{Process, require};

use crate::program::Weft;

/// Runs a program of QEMU's in the test's folder; the answer is its output.
fn qemu(weft: &Weft, words: &[&str]) -> String {
    let output = Command::new(words[0])
        .args(&words[1..])
        .current_dir(weft.path(""))
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// A base image with some data, and an overlay over it with some of its own.
fn overlay(weft: &Weft) {
    weft.ok(&["image", "create", "base.qcow2", "--size", "64M"]);
    let write = ["write -P 1 0 1M", "write -z 2M 128k", "write -P 3 50M 4k"];
    for write in write {
        qemu(weft, &["qemu-io", "-c", write, "base.qcow2"]);
    }
    weft.ok(&["image", "create", "top.qcow2", "--backing", "base.qcow2"]);
    qemu(weft, &["qemu-io", "-c", "write -P 2 512k 64k", "top.qcow2"]);
}

#[test]
fn an_image_is_made_described_and_resized() {
    let weft = Weft::new();
    let made = weft.json(&[
        "image",
        "create",
        "a.qcow2",
        "--size",
        "1G",
        "-o",
        "cluster_size=4K",
        "-o",
        "compression_type=zstd",
    ]);
    assert_eq!(made["size_bytes"], 1 << 30);
    assert_eq!(made["format"], "qcow2");
    assert_eq!(made["qcow2"]["cluster_bytes"], 4096);
    assert_eq!(made["qcow2"]["compression"], "zstd");
    let (kind, message) = weft.fails(&["image", "create", "a.qcow2", "--size", "1G"]);
    assert_eq!(kind, "exists", "{message}");
    assert_eq!(weft.json(&["image", "info", "a.qcow2"]), made);
    let larger = weft.json(&["image", "resize", "a.qcow2", "--size", "+1G"]);
    assert_eq!(larger["size_bytes"], 2_u64 << 30);
    let (kind, message) = weft.fails(&["image", "resize", "a.qcow2", "--size", "512M"]);
    assert!(
        kind == "invalid" && message.contains("--shrink"),
        "{message}"
    );
    let smaller = weft.json(&["image", "resize", "a.qcow2", "--size", "-1536M", "--shrink"]);
    assert_eq!(smaller["size_bytes"], 512 << 20);
    assert_eq!(weft.json(&["image", "check", "a.qcow2"])["corruptions"], 0);
    assert_eq!(weft.fails(&["image", "info", "none"]).0, "not-found");
}

#[test]
fn snapshots_are_made_applied_and_deleted() {
    require!("qemu-io");
    let weft = Weft::new();
    weft.ok(&["image", "create", "a.qcow2", "--size", "16M"]);
    qemu(&weft, &["qemu-io", "-c", "write -P 1 0 1M", "a.qcow2"]);
    let made = weft.json(&["image", "snapshot", "create", "a.qcow2", "monday"]);
    assert_eq!(made["id"], "1");
    for (tag, expected) in [("monday", "exists"), ("1", "exists"), ("", "invalid")] {
        let (kind, message) = weft.fails(&["image", "snapshot", "create", "a.qcow2", tag]);
        assert_eq!(kind, expected, "{message}");
    }
    qemu(&weft, &["qemu-io", "-c", "write -P 2 0 1M", "a.qcow2"]);
    let all = weft.json(&["image", "snapshot", "list", "a.qcow2"]);
    assert_eq!(all[0]["name"], "monday");
    weft.ok(&[
        "image",
        "convert",
        "a.qcow2",
        "then.raw",
        "--snapshot",
        "monday",
    ]);
    weft.ok(&["image", "snapshot", "apply", "a.qcow2", "monday"]);
    qemu(&weft, &["qemu-io", "-c", "read -P 1 0 1M", "a.qcow2"]);
    let same = weft.json(&["image", "compare", "a.qcow2", "then.raw"]);
    assert_eq!(same["identical"], true);
    weft.ok(&["image", "snapshot", "delete", "a.qcow2", "monday"]);
    assert_eq!(
        weft.fails(&["image", "snapshot", "apply", "a.qcow2", "monday"])
            .0,
        "invalid"
    );
    qemu(&weft, &["qemu-img", "check", "a.qcow2"]);
}

#[test]
fn a_chain_is_mapped_and_copied() {
    require!("qemu-io", "qemu-img");
    let weft = Weft::new();
    overlay(&weft);
    let map = weft.json(&["image", "map", "top.qcow2"]);
    let places: Vec<_> = map
        .as_array()
        .unwrap()
        .iter()
        .map(|part| {
            (
                part["offset"].as_u64(),
                part["depth"].as_u64(),
                part["data"].as_bool(),
            )
        })
        .collect();
    assert_eq!(places[1], (Some(512 << 10), Some(0), Some(true)));
    assert_eq!(places[2], (Some(576 << 10), Some(1), Some(true)));
    weft.ok(&["image", "convert", "top.qcow2", "flat.raw"]);
    weft.ok(&["image", "convert", "top.qcow2", "flat.qcow2"]);
    weft.ok(&[
        "image",
        "convert",
        "top.qcow2",
        "short",
        "-c",
        "-o",
        "compression_type=zstd",
    ]);
    for copy in ["flat.raw", "flat.qcow2", "short"] {
        qemu(&weft, &["qemu-img", "compare", "top.qcow2", copy]);
        assert_eq!(
            weft.json(&["image", "compare", "top.qcow2", copy])["identical"],
            true
        );
    }
    qemu(&weft, &["qemu-img", "check", "short"]);
    let short = weft.json(&["image", "check", "short"]);
    assert_eq!(short["compressed_clusters"], short["allocated_clusters"]);
    // What is not there takes no room.
    let info = weft.json(&["image", "info", "flat.raw"]);
    assert!(info["used_bytes"].as_u64().unwrap() < 4 << 20, "{info}");
}

#[test]
fn an_overlay_is_rebased_and_committed() {
    require!("qemu-io", "qemu-img");
    let weft = Weft::new();
    overlay(&weft);
    weft.ok(&["image", "convert", "top.qcow2", "flat.raw"]);
    // Over another file, the disk stays what it is.
    weft.ok(&[
        "image",
        "create",
        "other.raw",
        "--size",
        "32M",
        "--format",
        "raw",
    ]);
    qemu(
        &weft,
        &["qemu-io", "-f", "raw", "-c", "write -P 9 0 3M", "other.raw"],
    );
    weft.ok(&[
        "image",
        "rebase",
        "top.qcow2",
        "--backing",
        "other.raw",
        "--backing-format",
        "raw",
    ]);
    qemu(&weft, &["qemu-img", "compare", "top.qcow2", "flat.raw"]);
    weft.ok(&["image", "commit", "top.qcow2"]);
    qemu(
        &weft,
        &["qemu-img", "compare", "-f", "raw", "other.raw", "flat.raw"],
    );
    qemu(&weft, &["qemu-img", "compare", "top.qcow2", "flat.raw"]);
    qemu(&weft, &["qemu-img", "check", "top.qcow2"]);
    let emptied = weft.json(&["image", "check", "top.qcow2"]);
    assert_eq!(emptied["allocated_clusters"], 0);
    weft.ok(&["image", "rebase", "top.qcow2"]);
    assert!(weft.json(&["image", "info", "top.qcow2"])["backing"].is_null());
    qemu(&weft, &["qemu-img", "compare", "top.qcow2", "flat.raw"]);
}

#[test]
fn a_disk_is_copied_to_a_server_and_back() {
    require!("qemu-nbd", "qemu-io", "qemu-img");
    let weft = Weft::new();
    overlay(&weft);
    weft.ok(&[
        "image",
        "create",
        "there.raw",
        "--size",
        "64M",
        "--format",
        "raw",
    ]);
    let mut command = Process::command("qemu-nbd");
    command.args(["-f", "raw", "-x", "disk", "-t", "-k"]);
    command.arg(weft.path("socket")).arg(weft.path("there.raw"));
    let server = Process::spawn(command).unwrap();
    while !weft.path("socket").exists() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let url = format!("nbd+unix:///disk?socket={}", weft.at("socket"));
    weft.ok(&["image", "convert", "top.qcow2", &url]);
    assert_eq!(
        weft.json(&["image", "compare", "top.qcow2", &url])["identical"],
        true
    );
    weft.ok(&["image", "convert", &url, "back.qcow2"]);
    drop(server);
    qemu(&weft, &["qemu-img", "compare", "top.qcow2", "there.raw"]);
    qemu(&weft, &["qemu-img", "compare", "top.qcow2", "back.qcow2"]);
    // Where zeroes are, nothing was written.
    let info = weft.json(&["image", "info", "back.qcow2"]);
    assert!(info["used_bytes"].as_u64().unwrap() < 4 << 20, "{info}");
}

#[test]
fn a_difference_is_status_one() {
    require!("qemu-io");
    let weft = Weft::new();
    for name in ["a", "b"] {
        weft.ok(&["image", "create", name, "--size", "8M"]);
    }
    qemu(&weft, &["qemu-io", "-c", "write -P 1 1M 512", "b"]);
    let output = weft
        .command(&["--json", "image", "compare", "a", "b"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["first_difference"], 1 << 20);
}

#[test]
fn an_image_of_a_stranger_opens_no_file_elsewhere() {
    require!("qemu-img");
    let weft = Weft::new();
    let outside = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(outside.path(), vec![0x5e; 64 << 10]).unwrap();
    let secret = outside.path().to_str().unwrap();
    weft.ok(&["image", "create", "a.qcow2", "--size", "1M"]);
    for rebase in [
        vec![
            "qemu-img", "rebase", "-u", "-b", secret, "-F", "raw", "a.qcow2",
        ],
        vec![
            "qemu-img",
            "rebase",
            "-u",
            "-b",
            "nbd://127.0.0.1:1/x",
            "-F",
            "raw",
            "a.qcow2",
        ],
    ] {
        qemu(&weft, &rebase);
        for command in [
            vec!["image", "convert", "a.qcow2", "out.raw"],
            vec!["image", "map", "a.qcow2"],
            vec!["image", "info", "--backing-chain", "a.qcow2"],
            vec!["image", "commit", "a.qcow2"],
        ] {
            let (kind, message) = weft.fails(&command);
            assert_eq!(kind, "permission", "{command:?}: {message}");
            assert!(message.contains("--allow-backing"), "{message}");
        }
        assert!(!weft.path("out.raw").exists());
        // Its own tables are its own.
        weft.ok(&["image", "info", "a.qcow2"]);
        weft.ok(&["image", "check", "a.qcow2"]);
    }
    qemu(
        &weft,
        &[
            "qemu-img", "rebase", "-u", "-b", secret, "-F", "raw", "a.qcow2",
        ],
    );
    weft.ok(&[
        "image",
        "convert",
        "a.qcow2",
        "out.raw",
        "--allow-backing",
        secret,
    ]);
    assert!(
        std::fs::read(weft.path("out.raw"))
            .unwrap()
            .starts_with(&[0x5e; 4096])
    );
    let (kind, _) = weft.fails(&["image", "map", "a.qcow2", "--allow-backing", "other"]);
    assert_eq!(kind, "permission");
}

/// The format of a disk that a guest has written is the guest's word.
#[test]
fn the_format_of_a_backing_file_is_not_guessed() {
    let weft = Weft::new();
    weft.ok(&["image", "create", "base.qcow2", "--size", "1M"]);
    weft.ok(&["image", "create", "a.qcow2", "--backing", "base.qcow2"]);
    // The name of the format goes, its extension's type becomes one that nobody knows.
    let path = weft.path("a.qcow2");
    let mut bytes = std::fs::read(&path).unwrap();
    let place = bytes
        .windows(4)
        .position(|four| four == [0xe2, 0x79, 0x2a, 0xca])
        .unwrap();
    bytes[place..place + 4].copy_from_slice(&[0x77; 4]);
    std::fs::write(&path, bytes).unwrap();
    let (kind, message) = weft.fails(&["image", "map", "a.qcow2"]);
    assert!(
        kind == "invalid" && message.contains("--guess-format"),
        "{message}"
    );
    weft.ok(&["image", "map", "a.qcow2", "--guess-format"]);
}

#[test]
fn an_image_that_rests_on_itself_is_told() {
    require!("qemu-img");
    let weft = Weft::new();
    for name in ["a", "b"] {
        weft.ok(&["image", "create", name, "--size", "1M"]);
    }
    std::fs::hard_link(weft.path("a"), weft.path("c")).unwrap();
    qemu(
        &weft,
        &["qemu-img", "rebase", "-u", "-b", "b", "-F", "qcow2", "a"],
    );
    qemu(
        &weft,
        &["qemu-img", "rebase", "-u", "-b", "c", "-F", "qcow2", "b"],
    );
    let (kind, message) = weft.fails(&["image", "map", "a"]);
    assert!(kind == "invalid" && message.contains("itself"), "{message}");
}

#[test]
fn leaks_are_found_and_mended() {
    require!("qemu-img");
    let weft = Weft::new();
    weft.ok(&["image", "create", "a.qcow2", "--size", "8M"]);
    leak(&weft.path("a.qcow2"));
    let output = weft
        .command(&["--json", "image", "check", "a.qcow2"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&found["corruptions"], &found["leaks"]),
        (&0.into(), &1.into())
    );
    assert_eq!(
        weft.json(&["image", "check", "--repair", "leaks", "a.qcow2"])["repaired"],
        true
    );
    qemu(&weft, &["qemu-img", "check", "a.qcow2"]);
    leak(&weft.path("a.qcow2"));
    assert_eq!(
        weft.json(&["image", "check", "--repair", "a.qcow2"])["repaired"],
        true
    );
}

/// Counts a cluster behind the image's last one.
fn leak(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes.resize(bytes.len().next_multiple_of(65536), 0);
    let word = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
    let block = word(word(48));
    let cluster = bytes.len() / 65536;
    bytes.resize(bytes.len() + 65536, 0);
    bytes[block + cluster * 2 + 1] = 1;
    std::fs::write(path, bytes).unwrap();
}
