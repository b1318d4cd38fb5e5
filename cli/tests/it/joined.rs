//! Images of a chain that become one under those who use them.

use weft_tests::require;

use crate::image_disks::{export, io, judge, overlay};
use crate::live::{Writer, disk_of, holds};
use crate::program::Weft;
use crate::restart::kill_daemon;

const TOP: &str = "qcow2:./top.qcow2";

/// Whether QEMU's programs may read a file now.
fn is_free(weft: &Weft, file: &str) -> bool {
    let info = std::process::Command::new("qemu-img")
        .args(["info", file])
        .current_dir(weft.path(""))
        .output()
        .unwrap();
    info.status.success()
}

/// An overlay that has data and zeroes over its base.
fn written_to(weft: &Weft) {
    overlay(weft);
    judge(weft, &["qemu-io", "-c", "write -P 3 32M 16M", "base.qcow2"]);
    judge(
        weft,
        &[
            "qemu-io",
            "-c",
            "write -P 4 33M 8M",
            "-c",
            "write -z 44M 1M",
            "top.qcow2",
        ],
    );
}

#[test]
fn an_image_is_committed_under_a_client_that_writes() {
    require!("qemu-img", "qemu-io");
    let weft = Weft::new();
    written_to(&weft);
    export(&weft, TOP, "top");
    // By the file's name, as when nobody used it, or by the disk's word.
    let begun = weft.json(&["image", "commit", "top.qcow2", "--pause"]);
    assert_eq!(begun["job"]["action"], "commit", "{begun}");
    let base = format!("qcow2:{}", weft.at("base.qcow2"));
    assert_eq!(begun["moves_to"], base.as_str(), "{begun}");
    let writer = Writer::start(&weft, "top", 20);
    assert!(!is_free(&weft, "base.qcow2"), "it is written");
    for refused in [
        &["image", "commit", TOP][..],
        &["image", "snapshot", "create", "top.qcow2", "now"],
        &["image", "overlay", TOP, "new.qcow2"],
    ] {
        let (kind, message) = weft.fails(refused);
        assert_eq!(kind, "busy", "{message}");
    }
    // Given up, the image below is read by others again.
    weft.ok(&["image", "cancel", TOP]);
    assert!(is_free(&weft, "base.qcow2"), "nobody writes it");
    judge(&weft, &["qemu-img", "check", "-q", "base.qcow2"]);
    writer.goes_on();
    // So slow that it cannot be done before the kill.
    weft.ok(&["image", "commit", TOP, "--ceiling", "64K"]);
    let mut written = writer.end();
    kill_daemon(&weft);
    let job = weft.json(&["image", "show", TOP])["job"].clone();
    assert_eq!(job["action"], "commit", "{job}");
    holds(&weft, "top", &written);
    // Stopped in order both are whole, and it goes on as well.
    weft.ok(&["daemon", "--stop"]);
    for image in ["top.qcow2", "base.qcow2"] {
        judge(&weft, &["qemu-img", "check", "-q", image]);
    }
    let job = weft.json(&["image", "show", TOP])["job"].clone();
    assert_eq!(job["ceiling_bytes"], 64 << 10, "{job}");
    let writer = Writer::start(&weft, "top", 21);
    weft.ok(&["image", "sync", TOP, "--ceiling", "0"]);
    let moved = weft.json(&["image", "wait", TOP]);
    assert_eq!(moved["disk"], base.as_str(), "{moved}");
    assert_eq!(moved["chain"].as_array().unwrap().len(), 1, "{moved}");
    assert_eq!(disk_of(&weft, "top"), base);
    // What was on top is nobody's, and whole; the disk does without it.
    judge(&weft, &["qemu-img", "check", "-q", "-U", "top.qcow2"]);
    std::fs::remove_file(weft.path("top.qcow2")).unwrap();
    writer.goes_on();
    written.extend(writer.end());
    holds(&weft, "top", &written);
    kill_daemon(&weft);
    weft.ok(&["status"]);
    holds(&weft, "top", &written);
    weft.ok(&["export", "remove", "top"]);
    judge(&weft, &["qemu-img", "check", "-q", "base.qcow2"]);
    assert_eq!(weft.json(&["disk", "list"]), serde_json::json!([]));
}

#[test]
fn what_was_committed_to_is_an_image_as_any_other() {
    require!("qemu-img", "qemu-io");
    let weft = Weft::new();
    overlay(&weft);
    export(&weft, TOP, "top");
    let base = format!("qcow2:{}", weft.at("base.qcow2"));
    let commits = |image: &str| {
        io(&weft, "top", &["write -P 9 60M 64K"]);
        weft.ok(&["image", "commit", image]);
        while disk_of(&weft, "top") != base {
            io(&weft, "top", &["write -P 9 60M 64K"]);
        }
        io(&weft, "top", &["read -P 9 60M 64K"]);
    };
    commits("top.qcow2");
    assert!(!is_free(&weft, "base.qcow2"), "it is written");
    // Below another one its lock is a reader's again.
    weft.ok(&["image", "overlay", &base, "again.qcow2"]);
    assert!(is_free(&weft, "base.qcow2"), "nobody writes it");
    io(&weft, "top", &["write -P 8 0 64K", "read -P 9 60M 64K"]);
    commits("again.qcow2");
    io(&weft, "top", &["read -P 8 0 64K"]);
    weft.ok(&["export", "remove", "top"]);
    judge(&weft, &["qemu-img", "check", "-q", "base.qcow2"]);
    assert_eq!(weft.json(&["disk", "list"]), serde_json::json!([]));
}

/// A chain of four, each with something of its own and zeroes over what is below, and what it reads as, in a raw file.
fn chain(weft: &Weft, lowest: &str) {
    let make = |words: &[&str]| judge(weft, &[&["qemu-img", "create", "-q", "-f"], words].concat());
    make(&[lowest, "base", "64M"]);
    judge(
        weft,
        &["qemu-io", "-f", lowest, "-c", "write -P 1 0 32M", "base"],
    );
    make(&["qcow2", "-b", "base", "-F", lowest, "low.qcow2"]);
    // Clusters as large as they can be, and parts of them.
    let large = ["-o", "cluster_size=2M,extended_l2=on"];
    make(
        &[
            &["qcow2"],
            &large[..],
            &["-b", "low.qcow2", "-F", "qcow2", "mid.qcow2"],
        ]
        .concat(),
    );
    make(&["qcow2", "-b", "mid.qcow2", "-F", "qcow2", "top.qcow2"]);
    for (image, lines) in [
        ("low.qcow2", ["write -P 2 1M 3M", "write -z 8M 1M"]),
        ("mid.qcow2", ["write -P 3 2M 3M", "write -z 9M 130k"]),
        ("top.qcow2", ["write -P 4 3M 3M", "write -z 10M 70k"]),
    ] {
        let mut words = vec!["qemu-io"];
        lines.iter().for_each(|line| words.extend(["-c", line]));
        words.push(image);
        judge(weft, &words);
    }
    judge(
        weft,
        &["qemu-img", "convert", "-O", "raw", "top.qcow2", "reads.raw"],
    );
}

#[track_caller]
fn reads_as_before(weft: &Weft, format: &str, file: &str) {
    let words = [
        "qemu-img",
        "compare",
        "-f",
        "raw",
        "-F",
        format,
        "reads.raw",
        file,
    ];
    judge(weft, &words);
    if format == "qcow2" {
        judge(weft, &["qemu-img", "check", "-q", file]);
    }
}

#[test]
fn images_in_between_are_taken_over_and_the_lowest_stays() {
    require!("qemu-img", "qemu-io");
    let weft = Weft::new();
    chain(&weft, "qcow2");
    export(&weft, TOP, "top");
    for (base, says) in [
        ("./mid.qcow2", "rests on"),
        ("./other.qcow2", "does not rest on"),
        ("./top.qcow2", "does not rest on"),
    ] {
        let (kind, message) = weft.fails(&["image", "stream", TOP, "--base", base]);
        assert_eq!(kind, "invalid", "{message}");
        assert!(message.contains(says), "{message}");
    }
    // Killed in the middle it goes on to the same image.
    let slow = [
        "image",
        "stream",
        TOP,
        "--base",
        "./base",
        "--ceiling",
        "64K",
    ];
    weft.ok(&slow);
    kill_daemon(&weft);
    let job = weft.json(&["image", "show", TOP])["job"].clone();
    assert_eq!(job["action"], "stream", "{job}");
    weft.ok(&["image", "sync", TOP, "--ceiling", "0"]);
    let done = weft.json(&["image", "wait", TOP]);
    assert_eq!(done["trouble"], serde_json::Value::Null, "{done}");
    let disks: Vec<_> = done["chain"].as_array().unwrap().iter().collect();
    assert_eq!(disks.len(), 2, "{done}");
    assert_eq!(disks[1]["disk"], weft.at("base").as_str(), "{done}");
    for gone in ["low.qcow2", "mid.qcow2"] {
        std::fs::remove_file(weft.path(gone)).unwrap();
    }
    io(&weft, "top", &["read -P 4 3M 3M", "read -P 0 8M 1M"]);
    kill_daemon(&weft);
    weft.ok(&["status"]);
    io(&weft, "top", &["read -P 1 12M 20M"]);
    weft.ok(&["export", "remove", "top"]);
    reads_as_before(&weft, "qcow2", "top.qcow2");
}

#[test]
fn a_chain_is_committed_into_its_lowest_image_which_is_raw() {
    require!("qemu-img", "qemu-io");
    let weft = Weft::new();
    chain(&weft, "raw");
    export(&weft, TOP, "top");
    weft.ok(&["image", "commit", TOP, "--base", "./base"]);
    while disk_of(&weft, "top") != weft.at("base") {
        io(&weft, "top", &["read -P 2 1M 1M", "read -P 4 3M 3M"]);
    }
    // A plain disk from now on, which the next daemon finds as one.
    assert_eq!(weft.json(&["image", "list"]), serde_json::json!([]));
    let write = ["-f", "raw", "-c", "write 63M 512", "base"];
    let stranger = std::process::Command::new("qemu-io")
        .args(write)
        .current_dir(weft.path(""))
        .output()
        .unwrap();
    assert!(!stranger.status.success(), "it is written");
    for gone in ["top.qcow2", "mid.qcow2", "low.qcow2"] {
        judge(&weft, &["qemu-img", "check", "-q", "-U", gone]);
        std::fs::remove_file(weft.path(gone)).unwrap();
    }
    kill_daemon(&weft);
    weft.ok(&["status"]);
    io(&weft, "top", &["read -P 3 2M 1M"]);
    weft.ok(&["export", "remove", "top"]);
    reads_as_before(&weft, "raw", "base");
    assert_eq!(weft.json(&["disk", "list"]), serde_json::json!([]));
}

#[test]
fn a_chain_is_committed_into_one_in_between_that_is_shorter() {
    require!("qemu-img", "qemu-io");
    let weft = Weft::new();
    chain(&weft, "qcow2");
    judge(&weft, &["qemu-img", "resize", "-q", "top.qcow2", "96M"]);
    judge(&weft, &["qemu-io", "-c", "write -P 5 80M 1M", "top.qcow2"]);
    judge(
        &weft,
        &["qemu-img", "convert", "-O", "raw", "top.qcow2", "reads.raw"],
    );
    export(&weft, TOP, "top");
    weft.ok(&["image", "commit", TOP, "--base", "./low.qcow2"]);
    while !disk_of(&weft, "top").ends_with("/low.qcow2") {
        io(&weft, "top", &["read -P 5 80M 1M"]);
    }
    weft.ok(&["export", "remove", "top"]);
    reads_as_before(&weft, "qcow2", "low.qcow2");
}

#[test]
fn what_others_rest_on_is_not_committed_to() {
    require!("qemu-img", "qemu-io", "qemu-nbd");
    let weft = Weft::new();
    overlay(&weft);
    weft.ok(&["image", "create", "other.qcow2", "--backing", "base.qcow2"]);
    export(&weft, TOP, "top");
    io(&weft, "top", &["write -P 2 512k 1M"]);
    let refused = |kind: &str, says: &str| {
        let (found, message) = weft.fails(&["image", "commit", TOP]);
        assert_eq!(found, kind, "{message}");
        assert!(message.contains(says), "{message}");
        // The disk goes on, and nothing is left of the attempt.
        io(&weft, "top", &["read -P 2 512k 1M", "write -P 2 512k 4k"]);
        let shown = weft.json(&["image", "show", TOP]);
        assert_eq!(shown["job"], serde_json::Value::Null, "{shown}");
    };
    // Another disk of the daemon, a reader, and a stranger.
    export(&weft, "qcow2:./other.qcow2", "other");
    refused("in-use", "is used by image");
    weft.ok(&["export", "remove", "other"]);
    let url = format!("nbd+unix:///base?socket={}", weft.at("base.sock"));
    let mut stranger = std::process::Command::new("qemu-nbd")
        .args([
            "-r",
            "-t",
            "-x",
            "base",
            "-k",
            &weft.at("base.sock"),
            "base.qcow2",
        ])
        .current_dir(weft.path(""))
        .spawn()
        .unwrap();
    while !weft.path("base.sock").exists() {
        assert!(stranger.try_wait().unwrap().is_none(), "{url}");
        std::thread::yield_now();
    }
    refused("busy", "is in use");
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    weft.ok(&["image", "snapshot", "create", "top.qcow2", "monday"]);
    refused("invalid", "has snapshots");
    weft.ok(&["image", "snapshot", "delete", "top.qcow2", "monday"]);
    // What nobody uses is no disk that could be committed, and what rests on nothing has no place to go.
    let (kind, message) = weft.fails(&["image", "commit", "qcow2:./other.qcow2"]);
    assert_eq!(kind, "not-found", "{message}");
    let (kind, message) = weft.fails(&["image", "commit", "other.qcow2", "--pause"]);
    assert_eq!(kind, "invalid", "{message}");
    weft.ok(&["image", "commit", TOP]);
    while !disk_of(&weft, "top").ends_with("/base.qcow2") {
        io(&weft, "top", &["read -P 2 512k 1M"]);
    }
    let (kind, message) = weft.fails(&["image", "commit", "base.qcow2"]);
    assert_eq!(kind, "invalid", "{message}");
}

#[test]
fn images_below_the_top_are_committed_and_it_stays() {
    require!("qemu-img", "qemu-io");
    let weft = Weft::new();
    chain(&weft, "qcow2");
    export(&weft, TOP, "top");
    let below = ["image", "commit", TOP, "--below"];
    for (more, says) in [
        (["--base", "./mid.qcow2"], "right below the top"),
        (["--base", "./other"], "does not rest on"),
    ] {
        let (kind, message) = weft.fails(&[&below[..], &more].concat());
        assert_eq!(kind, "invalid", "{message}");
        assert!(message.contains(says), "{message}");
    }
    let slow = [&below[..], &["--ceiling", "64K"]].concat();
    weft.ok(&slow);
    assert!(!is_free(&weft, "low.qcow2"), "it is written");
    weft.ok(&["image", "cancel", TOP]);
    assert!(is_free(&weft, "low.qcow2"), "nobody writes it");
    io(&weft, "top", &["read -P 3 2M 1M", "read -P 2 1M 1M"]);
    // Killed in the middle it is begun anew.
    weft.ok(&slow);
    kill_daemon(&weft);
    let job = weft.json(&["image", "show", TOP])["job"].clone();
    assert_eq!(job["action"], "commit", "{job}");
    weft.ok(&["image", "sync", TOP, "--ceiling", "0"]);
    let done = weft.json(&["image", "wait", TOP]);
    assert_eq!(done["chain"].as_array().unwrap().len(), 3, "{done}");
    assert_eq!(done["trouble"], serde_json::Value::Null, "{done}");
    judge(&weft, &["qemu-img", "check", "-q", "mid.qcow2"]);
    std::fs::remove_file(weft.path("mid.qcow2")).unwrap();
    assert!(is_free(&weft, "low.qcow2"), "nobody writes it");
    io(&weft, "top", &["read -P 3 2M 1M", "read -P 2 1M 1M"]);
    // All that is left in between, under a client that writes where the comparison does not look.
    weft.ok(&[&below[..], &["--base", "./base"]].concat());
    while weft.json(&["image", "show", TOP])["job"] != serde_json::Value::Null {
        io(&weft, "top", &["read -P 4 3M 3M", "write -P 4 3M 3M"]);
    }
    std::fs::remove_file(weft.path("low.qcow2")).unwrap();
    kill_daemon(&weft);
    weft.ok(&["status"]);
    let shown = weft.json(&["image", "show", TOP]);
    assert_eq!(
        shown["chain"][1]["disk"],
        weft.at("base").as_str(),
        "{shown}"
    );
    let (kind, message) = weft.fails(&below);
    assert_eq!(kind, "invalid", "{message}");
    weft.ok(&["export", "remove", "top"]);
    reads_as_before(&weft, "qcow2", "top.qcow2");
}

#[test]
fn a_longer_image_is_not_seen_through_a_shorter_one() {
    require!("qemu-img", "qemu-io");
    let weft = Weft::new();
    overlay(&weft);
    let create = [
        "qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b",
    ];
    judge(
        &weft,
        &[&create[..], &["base.qcow2", "mid.qcow2", "32M"]].concat(),
    );
    judge(
        &weft,
        &[&create[..], &["mid.qcow2", "upper.qcow2", "64M"]].concat(),
    );
    judge(&weft, &["qemu-io", "-c", "write -P 6 40M 1M", "base.qcow2"]);
    let upper = "qcow2:./upper.qcow2";
    export(&weft, upper, "upper");
    for refused in [
        &["image", "commit", upper, "--below"][..],
        &["image", "stream", upper, "--base", "./base.qcow2"],
    ] {
        let (kind, message) = weft.fails(refused);
        assert_eq!(kind, "invalid", "{message}");
    }
    // It reads as zeroes there, and so does the base when it has become the disk.
    io(&weft, "upper", &["read -P 0 40M 1M"]);
    weft.ok(&["image", "commit", upper, "--base", "./base.qcow2"]);
    while !disk_of(&weft, "upper").ends_with("/base.qcow2") {
        io(&weft, "upper", &["read -P 0 40M 1M"]);
    }
    io(&weft, "upper", &["read -P 0 40M 1M", "read -P 1 0 1M"]);
}
