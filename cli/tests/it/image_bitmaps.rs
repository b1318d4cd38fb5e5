//! Bitmaps of images: what they say was written, to us and to QEMU.

use serde_json::Value;
use weft_tests::require;

use crate::image_disks::{export, io, judge};
use crate::program::Weft;

/// Name, whether it records, and bytes that it says were written.
fn listed(weft: &Weft, image: &str) -> Vec<(String, bool, u64)> {
    let all = weft.json(&["image", "bitmap", "list", image]);
    let all = all.as_array().unwrap().iter();
    all.map(|bitmap| {
        assert_eq!(bitmap["in_use"], false, "{bitmap}");
        (
            bitmap["name"].as_str().unwrap().to_owned(),
            bitmap["auto"].as_bool().unwrap(),
            bitmap["dirty_bytes"].as_u64().unwrap(),
        )
    })
    .collect()
}

fn said(name: &str, records: bool, written: u64) -> (String, bool, u64) {
    (name.to_owned(), records, written)
}

/// What QEMU says of an image's bitmaps: name, granularity, flags.
fn qemu_says(weft: &Weft, image: &str) -> Vec<(String, u64, Vec<String>)> {
    let info = judge(weft, &["qemu-img", "info", "--output=json", image]);
    let info: Value = serde_json::from_str(&info).unwrap();
    let bitmaps = info["format-specific"]["data"]["bitmaps"].as_array();
    let bitmaps = bitmaps.map_or(&[][..], |bitmaps| bitmaps);
    let words = |flags: &Value| {
        let flags = flags.as_array().unwrap().iter();
        flags
            .map(|flag| flag.as_str().unwrap().to_owned())
            .collect()
    };
    let describe = |bitmap: &Value| {
        (
            bitmap["name"].as_str().unwrap().to_owned(),
            bitmap["granularity"].as_u64().unwrap(),
            words(&bitmap["flags"]),
        )
    };
    bitmaps.iter().map(describe).collect()
}

#[test]
fn bitmaps_of_an_image_in_a_file_say_what_qemu_wrote() {
    require!("qemu-img", "qemu-io");
    let weft = Weft::new();
    let bitmap = |words: &[&str]| weft.ok(&[&["image", "bitmap"][..], words].concat());
    weft.ok(&["image", "create", "a.qcow2", "--size", "64M"]);
    bitmap(&["create", "a.qcow2", "each"]);
    bitmap(&[
        "create",
        "a.qcow2",
        "fine",
        "--granularity",
        "4K",
        "--disabled",
    ]);
    let auto = vec!["auto".to_owned()];
    let expected = vec![
        ("each".to_owned(), 64 << 10, auto),
        ("fine".to_owned(), 4 << 10, Vec::new()),
    ];
    assert_eq!(qemu_says(&weft, "a.qcow2"), expected);
    judge(&weft, &["qemu-io", "-c", "write 1M 4k", "a.qcow2"]);
    let once = [said("each", true, 64 << 10), said("fine", false, 0)];
    assert_eq!(listed(&weft, "a.qcow2"), once);
    bitmap(&["enable", "a.qcow2", "fine"]);
    bitmap(&["disable", "a.qcow2", "each"]);
    judge(&weft, &["qemu-io", "-c", "write 8M 4k", "a.qcow2"]);
    let twice = [said("each", false, 64 << 10), said("fine", true, 4 << 10)];
    assert_eq!(listed(&weft, "a.qcow2"), twice);
    bitmap(&["merge", "a.qcow2", "each", "fine"]);
    bitmap(&["clear", "a.qcow2", "fine"]);
    let merged = [said("each", false, 128 << 10), said("fine", true, 0)];
    assert_eq!(listed(&weft, "a.qcow2"), merged);
    // Of another image.
    weft.ok(&["image", "create", "b.qcow2", "--size", "64M"]);
    bitmap(&["create", "b.qcow2", "all"]);
    bitmap(&["merge", "b.qcow2", "all", "each", "--from-image", "a.qcow2"]);
    assert_eq!(listed(&weft, "b.qcow2"), [said("all", true, 128 << 10)]);
    let table = bitmap(&["remove", "a.qcow2", "each"]);
    assert!(table.contains("fine"), "{table}");
    assert!(!table.contains("each"), "{table}");
    for image in ["a.qcow2", "b.qcow2"] {
        judge(&weft, &["qemu-img", "check", "-q", image]);
    }
}

#[test]
fn a_bitmap_that_cannot_be_is_refused_in_one_sentence() {
    let weft = Weft::new();
    weft.ok(&["image", "create", "a.qcow2", "--size", "1M"]);
    weft.ok(&[
        "image",
        "create",
        "old.qcow2",
        "--size",
        "1M",
        "-o",
        "compat=0.10",
    ]);
    weft.ok(&[
        "image", "create", "a.raw", "--size", "1M", "--format", "raw",
    ]);
    weft.ok(&["image", "bitmap", "create", "a.qcow2", "one"]);
    for (words, kind, part) in [
        (&["create", "a.qcow2", "one"][..], "invalid", "already"),
        (&["create", "a.qcow2", ""], "invalid", "1 to 1023 bytes"),
        (
            &["create", "a.qcow2", "x", "--granularity", "3K"],
            "invalid",
            "power of two",
        ),
        (&["create", "old.qcow2", "x"], "unsupported", "version 2"),
        (&["list", "a.raw"], "unsupported", "a.raw"),
        (&["clear", "a.qcow2", "two"], "invalid", "no bitmap two"),
        (
            &["merge", "a.qcow2", "one", "two"],
            "invalid",
            "no bitmap two",
        ),
        (&["list", "nowhere.qcow2"], "not-found", "nowhere.qcow2"),
    ] {
        let (told, message) = weft.fails(&[&["image", "bitmap"][..], words].concat());
        assert_eq!(told, kind, "{words:?}: {message}");
        assert!(message.contains(part), "{words:?}: {message}");
    }
    assert_eq!(listed(&weft, "a.qcow2"), [said("one", true, 0)]);
}

#[test]
fn a_bitmap_made_under_use_tells_what_the_next_backup_copies() {
    require!("qemu-img", "qemu-io");
    let weft = Weft::new();
    weft.ok(&["image", "create", "disk.qcow2", "--size", "64M"]);
    export(&weft, "qcow2:./disk.qcow2", "disk");
    weft.ok(&["disk", "create", "./copy", "--size", "64M"]);
    io(&weft, "disk", &["write -P 1 0 1M"]);
    weft.ok(&["image", "bitmap", "create", "disk.qcow2", "since"]);
    io(&weft, "disk", &["write -P 2 32M 128k", "discard 48M 64k"]);
    // By the file's name and by the DISK's word.
    for name in ["disk.qcow2", "qcow2:./disk.qcow2"] {
        assert_eq!(
            listed(&weft, name),
            [said("since", true, 192 << 10)],
            "{name}"
        );
    }
    let backup = [
        "image",
        "backup",
        "qcow2:./disk.qcow2",
        "./copy",
        "--bitmap",
        "since",
    ];
    let begun = weft.json(&[&backup[..], &["--pause"]].concat());
    assert_eq!(begun["job"]["total_bytes"], 192 << 10, "{begun}");
    let (kind, message) = weft.fails(&["image", "bitmap", "remove", "disk.qcow2", "since"]);
    assert_eq!(kind, "busy", "{message}");
    weft.ok(&["image", "cancel", "qcow2:./disk.qcow2"]);
    let merge = ["image", "bitmap", "merge", "disk.qcow2", "since", "x"];
    let (kind, message) = weft.fails(&[&merge[..], &["--from-image", "b.qcow2"]].concat());
    assert_eq!(kind, "in-use", "{message}");
    weft.ok(&[
        "image",
        "bitmap",
        "create",
        "disk.qcow2",
        "later",
        "--disabled",
    ]);
    weft.ok(&["image", "bitmap", "merge", "disk.qcow2", "later", "since"]);
    weft.ok(&["image", "bitmap", "clear", "disk.qcow2", "since"]);
    io(&weft, "disk", &["write -P 3 16M 64k"]);
    weft.ok(&["export", "remove", "disk"]);
    let closed = [
        said("since", true, 64 << 10),
        said("later", false, 192 << 10),
    ];
    assert_eq!(listed(&weft, "disk.qcow2"), closed);
    judge(&weft, &["qemu-img", "check", "-q", "disk.qcow2"]);
    let flags: Vec<_> = qemu_says(&weft, "disk.qcow2")
        .into_iter()
        .map(|(name, _, flags)| (name, flags.concat()))
        .collect();
    let expected = [("since", "auto"), ("later", "")];
    assert_eq!(
        flags,
        expected.map(|(name, flags)| (name.to_owned(), flags.to_owned()))
    );
}
