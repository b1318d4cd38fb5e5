//! Images that serve as disks: `qcow2:DISK`, judged by QEMU's programs and by libnbd's.

use std::path::Path;
use std::process::Command;

use weft_tests::require;

use crate::program::Weft;
use crate::restart::kill_daemon;

/// Runs a judge in the test's folder; the answer is its output.
#[track_caller]
pub(crate) fn judge(weft: &Weft, words: &[&str]) -> String {
    let output = Command::new(words[0])
        .args(&words[1..])
        .current_dir(weft.path(""))
        .output()
        .unwrap();
    let said = [&output.stderr[..], &output.stdout].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(output.status.success(), "{words:?}: {said}");
    assert!(
        !said.contains("Pattern verification failed"),
        "{words:?}: {said}"
    );
    said
}

/// One line for qemu-io on what is exported as `name`.
#[track_caller]
pub(crate) fn io(weft: &Weft, name: &str, lines: &[&str]) {
    let url = url(weft, name);
    let mut words = vec!["qemu-io", "-f", "raw"];
    lines.iter().for_each(|line| words.extend(["-c", line]));
    words.push(&url);
    judge(weft, &words);
}

pub(crate) fn url(weft: &Weft, name: &str) -> String {
    format!("nbd+unix:///{name}?socket={}", weft.at("nbd.sock"))
}

#[track_caller]
pub(crate) fn export(weft: &Weft, disk: &str, name: &str) {
    let address = format!("unix:{}", weft.at("nbd.sock"));
    weft.ok(&["export", "add", disk, "--nbd", &address, "--name", name]);
}

/// Why a disk cannot be exported.
#[track_caller]
fn refused(weft: &Weft, disk: &str) -> (String, String) {
    let address = format!("unix:{}", weft.at("nbd.sock"));
    weft.fails(&["export", "add", disk, "--nbd", &address, "--name", "x"])
}

/// A base with a MiB of ones, and an overlay over it.
pub(crate) fn overlay(weft: &Weft) {
    weft.ok(&["image", "create", "base.qcow2", "--size", "64M"]);
    judge(weft, &["qemu-io", "-c", "write -P 1 0 1M", "base.qcow2"]);
    weft.ok(&["image", "create", "top.qcow2", "--backing", "base.qcow2"]);
}

/// And another one, in a folder that the base is not in.
fn overlay_elsewhere(weft: &Weft) {
    std::fs::create_dir(weft.path("in")).unwrap();
    overlay(weft);
    let made = ["image", "create", "in/top.qcow2"];
    weft.ok(&[&made[..], &["--backing", "../base.qcow2"]].concat());
}

#[test]
fn an_image_is_a_disk_of_its_size_and_is_whole_when_it_is_let_go() {
    require!("qemu-img", "qemu-io", "nbdcopy");
    let weft = Weft::new();
    overlay(&weft);
    let base = weft_tests::data::sha256(&weft.path("base.qcow2")).unwrap();
    export(&weft, "qcow2:./top.qcow2", "top");
    io(
        &weft,
        "top",
        &["read -P 1 0 1M", "write -P 2 512k 8M", "write -z 2M 1M"],
    );
    let open = weft.json(&["image", "list"]);
    assert_eq!(open[0]["size_bytes"], 64 << 20, "{open}");
    assert_eq!(open[0]["chain"][1]["disk"], weft.at("base.qcow2").as_str());
    let status = weft.ok(&["status"]);
    let word = format!("image qcow2:{}", weft.at("top.qcow2"));
    assert!(status.contains(&word), "{status}");
    let disks = weft.json(&["disk", "list"]);
    let used: Vec<_> = disks
        .as_array()
        .unwrap()
        .iter()
        .map(|disk| disk["used_by"]["noun"].as_str().unwrap())
        .collect();
    assert_eq!(used, ["image", "image", "export"], "{disks}");
    judge(&weft, &["nbdcopy", &url(&weft, "top"), "copy.raw"]);
    weft.ok(&["export", "remove", "top"]);
    judge(&weft, &["qemu-img", "check", "-q", "top.qcow2"]);
    judge(
        &weft,
        &[
            "qemu-img",
            "compare",
            "-f",
            "raw",
            "-F",
            "qcow2",
            "copy.raw",
            "top.qcow2",
        ],
    );
    assert_eq!(
        weft_tests::data::sha256(&weft.path("base.qcow2")).unwrap(),
        base
    );
    assert_eq!(weft.json(&["image", "list"]), serde_json::json!([]));
}

#[test]
fn two_words_for_one_file_are_one_disk() {
    let weft = Weft::new();
    overlay(&weft);
    std::os::unix::fs::symlink(weft.at("top.qcow2"), weft.at("link")).unwrap();
    export(&weft, "qcow2:./top.qcow2", "top");
    let image = format!("is used by image {}", weft.at("top.qcow2"));
    for other in [
        "./top.qcow2",
        "./link",
        "./base.qcow2",
        "qcow2:./base.qcow2",
    ] {
        let (kind, message) = refused(&weft, other);
        assert_eq!(kind, "in-use", "{other}: {message}");
        assert!(message.contains(&image), "{other}: {message}");
    }
    let (kind, message) = weft.fails(&["vg", "create", "data", "./base.qcow2", "--force"]);
    assert_eq!(kind, "in-use", "{message}");
    // Commands that need no daemon say that it is the one who has them, and where to look.
    let shown = format!("`weft image show qcow2:{}`", weft.at("top.qcow2"));
    for (command, file) in [("info", "link"), ("map", "top.qcow2")] {
        let (kind, message) = weft.fails(&["image", command, file]);
        assert_eq!(kind, "busy", "{command}: {message}");
        assert!(message.contains(&shown), "{command}: {message}");
    }
    // Several clients write an image in agreement, and what it rests on may be read.
    export(&weft, "qcow2:./link,allow=./base.qcow2", "again");
    let address = format!("unix:{}", weft.at("nbd.sock"));
    weft.ok(&[
        "export",
        "add",
        "qcow2:./base.qcow2",
        "--nbd",
        &address,
        "--name",
        "base",
        "--read-only",
    ]);
    for name in ["top", "again", "base"] {
        weft.ok(&["export", "remove", name]);
    }
    export(&weft, "./top.qcow2", "raw");
    let (kind, message) = refused(&weft, "qcow2:./link");
    assert_eq!(kind, "in-use", "{message}");
    assert!(message.contains("export raw"), "{message}");
}

#[test]
fn files_that_lie_elsewhere_are_opened_only_if_the_word_allows_them() {
    let weft = Weft::new();
    overlay_elsewhere(&weft);
    let (kind, message) = refused(&weft, "qcow2:./in/top.qcow2");
    assert_eq!(kind, "permission", "{message}");
    let base = weft.at("base.qcow2");
    let meant = format!("qcow2:{},allow={base}", weft.at("in/top.qcow2"));
    assert!(message.ends_with(&meant), "{message}");
    // The list is all that is allowed.
    let (kind, message) = refused(&weft, "qcow2:./in/top.qcow2,allow=./in/other");
    assert_eq!(kind, "permission", "{message}");
    for word in [meant.as_str(), "qcow2:./in/top.qcow2,allow=any"] {
        export(&weft, word, "x");
        weft.ok(&["export", "remove", "x"]);
    }
    // A refusal leaves nothing claimed.
    assert_eq!(weft.json(&["disk", "list"]), serde_json::json!([]));
    std::fs::remove_file(weft.path("base.qcow2")).unwrap();
    let (kind, message) = refused(&weft, &meant);
    assert_eq!(kind, "not-found", "{message}");
}

/// An image that does not tell the format of what it rests on.
fn untold(weft: &Weft) {
    weft.ok(&["image", "create", "untold.qcow2", "--backing", "raw"]);
    let mut bytes = std::fs::read(weft.path("untold.qcow2")).unwrap();
    // The header extension that tells it becomes one that nobody knows.
    let format = 0xe279_2aca_u32.to_be_bytes();
    let place = bytes.windows(4).position(|word| word == format).unwrap();
    bytes[place] = 0x11;
    std::fs::write(weft.path("untold.qcow2"), bytes).unwrap();
}

#[test]
fn what_is_no_image_is_no_disk() {
    require!("qemu-img");
    let weft = Weft::new();
    weft.disks(&["raw"], "1M");
    judge(
        &weft,
        &["qemu-img", "create", "-q", "-f", "qcow2", "a.qcow2", "1M"],
    );
    // Each rests on the other.
    for (image, backing) in [("a.qcow2", "b.qcow2"), ("b.qcow2", "a.qcow2")] {
        judge(
            &weft,
            &[
                "qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b", backing,
                image, "1M",
            ],
        );
    }
    untold(&weft);
    for (disk, kind, says) in [
        ("qcow2:./raw", "invalid", "raw"),
        ("qcow2:./nowhere", "not-found", "nowhere"),
        ("qcow2:", "invalid", "names no disk"),
        ("qcow2:./raw,backing=./a", "invalid", "allow=FILE"),
        ("qcow2:nobody", "not-found", "nobody"),
        ("qcow2:vg/nobody", "not-found", "vg"),
        ("qcow2:./a.qcow2", "invalid", "rests on itself"),
        (
            "qcow2:./untold.qcow2",
            "invalid",
            "does not tell the format",
        ),
    ] {
        let (found, message) = refused(&weft, disk);
        assert_eq!(found, kind, "{disk}: {message}");
        assert!(message.contains(says), "{disk}: {message}");
    }
    assert_eq!(weft.json(&["image", "list"]), serde_json::json!([]));
    assert_eq!(weft.json(&["disk", "list"]), serde_json::json!([]));
}

#[test]
fn an_image_export_comes_back_after_a_crash() {
    require!("qemu-img", "qemu-io");
    let weft = Weft::new();
    overlay_elsewhere(&weft);
    let word = format!("qcow2:./in/top.qcow2,allow={}", weft.at("base.qcow2"));
    export(&weft, &word, "top");
    io(&weft, "top", &["write -P 2 512k 8M", "flush"]);
    kill_daemon(&weft);
    let back = [
        "read -P 1 0 512k",
        "read -P 2 512k 8M",
        "write -P 3 20M 1M",
        "flush",
    ];
    weft.ok(&["status"]);
    io(&weft, "top", &back);
    // What was acknowledged and never flushed is there too: whoever wrote it lives on.
    let unflushed = [
        "qemu-io",
        "-t",
        "unsafe",
        "-f",
        "raw",
        "-c",
        "write -P 4 30M 1M",
    ];
    judge(&weft, &[&unflushed[..], &[&url(&weft, "top")]].concat());
    kill_daemon(&weft);
    weft.ok(&["status"]);
    io(&weft, "top", &["read -P 4 30M 1M"]);
    // In order this time.
    weft.ok(&["daemon", "--stop"]);
    judge(&weft, &["qemu-img", "check", "-q", "in/top.qcow2"]);
    weft.ok(&["status"]);
    let all = ["read -P 2 512k 8M", "read -P 3 20M 1M", "read -P 4 30M 1M"];
    io(&weft, "top", &all);
    weft.ok(&["export", "remove", "top"]);
}

/// A group on a mirror of two images, and an image in one of its volumes that rests on one in another.
fn images_on_volumes(weft: &Weft) {
    for name in ["a.qcow2", "b.qcow2"] {
        weft.ok(&["image", "create", name, "--size", "64M"]);
    }
    weft.ok(&[
        "raid",
        "create",
        "tank",
        "--level",
        "1",
        "qcow2:./a.qcow2",
        "qcow2:./b.qcow2",
        "--assume-clean",
    ]);
    weft.ok(&["vg", "create", "data", "tank"]);
    weft.ok(&["lv", "create", "data/root", "--size", "20M"]);
    weft.ok(&["lv", "create", "data/base", "--size", "20M"]);
    for volume in ["root", "base"] {
        export(weft, &format!("data/{volume}"), volume);
    }
    judge(
        weft,
        &[
            "qemu-img",
            "create",
            "-q",
            "-f",
            "qcow2",
            &url(weft, "base"),
            "8M",
        ],
    );
    judge(
        weft,
        &[
            "qemu-io",
            "-f",
            "qcow2",
            "-c",
            "write -P 7 0 1M",
            &url(weft, "base"),
        ],
    );
    judge(
        weft,
        &[
            "qemu-img",
            "create",
            "-q",
            "-u",
            "-f",
            "qcow2",
            "-F",
            "qcow2",
            "-b",
            "/dev/data/base",
            &url(weft, "root"),
            "8M",
        ],
    );
    for volume in ["root", "base"] {
        weft.ok(&["export", "remove", volume]);
    }
}

#[test]
fn arrays_and_groups_stand_on_images_and_images_on_volumes() {
    require!("qemu-img", "qemu-io");
    let weft = Weft::new();
    images_on_volumes(&weft);
    // The kernel's name of a volume is ours, where we serve it.
    let (kind, message) = refused(&weft, "qcow2:data/root");
    assert_eq!(kind, "permission", "{message}");
    assert!(
        message.ends_with("qcow2:data/root,allow=data/base"),
        "{message}"
    );
    export(&weft, "qcow2:data/root,allow=data/base", "deep");
    io(
        &weft,
        "deep",
        &["read -P 7 0 1M", "write -P 8 1M 1M", "flush"],
    );
    let (kind, message) = weft.fails(&["lv", "remove", "data/base"]);
    assert_eq!(kind, "in-use", "{message}");
    kill_daemon(&weft);
    weft.ok(&["status"]);
    io(
        &weft,
        "deep",
        &["read -P 7 0 1M", "read -P 8 1M 1M", "write -P 9 3M 1M"],
    );
    weft.ok(&["daemon", "--stop"]);
    for name in ["a.qcow2", "b.qcow2"] {
        judge(&weft, &["qemu-img", "check", "-q", name]);
    }
    weft.ok(&["status"]);
    io(&weft, "deep", &["read -P 9 3M 1M"]);
}

#[test]
fn a_lab_declares_images() {
    require!("qemu-io");
    let weft = Weft::new();
    overlay(&weft);
    let lab = format!(
        "[export.top]\ndisk = \"qcow2:./top.qcow2\"\nnbd = \"unix:{}\"\n",
        weft.at("nbd.sock")
    );
    std::fs::write(weft.path("lab.toml"), lab).unwrap();
    weft.ok(&["up", "lab.toml"]);
    io(&weft, "top", &["read -P 1 0 1M"]);
    assert!(
        weft.ok(&["plan", "lab.toml"])
            .contains("0 of 1 objects change")
    );
    weft.ok(&["down", "lab.toml"]);
    assert!(Path::new(&weft.at("top.qcow2")).exists());
}
