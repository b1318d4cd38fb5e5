//! Copies of several images, with their bitmaps, of what is damaged; and commits past an image in between.

use serde_json::Value;
use weft_tests::require;

use crate::qemu_img::Bench;

/// Each line is said to both programs about images that are alike; `new` is the same disk then.
#[track_caller]
fn is_the_same(lines: &[&[&str]]) {
    let made = Bench::with_images();
    let (ours, theirs) = (made.copied(), made.copied());
    for line in lines {
        assert_eq!(ours.weft(line), theirs.qemu(line), "{line:?}");
    }
    for image in ["new", "base", "top"]
        .iter()
        .filter(|name| theirs.path(name).exists())
    {
        let other = theirs.path(image);
        let same = ours.qemu(&["compare", image, other.to_str().unwrap()]);
        assert_eq!(same.status, Some(0), "{lines:?}: {image}: {same:?}");
        let checked = ours.qemu(&["check", image]).status;
        assert!([Some(0), Some(63)].contains(&checked), "{lines:?}: {image}");
    }
    assert_eq!(bitmaps(&ours, "new"), bitmaps(&theirs, "new"), "{lines:?}");
}

fn bitmaps(bench: &Bench, image: &str) -> Value {
    let info = bench.qemu(&["info", "--output=json", image]).output;
    let info: Value = serde_json::from_str(&info).unwrap_or_default();
    info["format-specific"]["data"]["bitmaps"].clone()
}

#[test]
fn several_images_become_one() {
    require!("qemu-img", "qemu-io");
    is_the_same(&[&["convert", "-O", "qcow2", "top", "parts", "raw", "new"]]);
    is_the_same(&[&["convert", "-O", "raw", "apart", "small", "new"]]);
    is_the_same(&[&["convert", "-c", "-O", "qcow2", "old", "top", "new"]]);
    is_the_same(&[&["convert", "-l", "one", "-O", "qcow2", "base", "base", "new"]]);
}

#[test]
fn bitmaps_are_copied() {
    require!("qemu-img", "qemu-io");
    is_the_same(&[
        &["bitmap", "--add", "--disable", "-g", "4k", "base", "still"],
        &["bitmap", "--merge", "changes", "base", "still"],
        &["convert", "--bitmaps", "-O", "qcow2", "base", "new"],
    ]);
    is_the_same(&[&["convert", "--bitmaps", "-O", "qcow2", "top", "new"]]);
    for refused in [
        &["convert", "--bitmaps", "-O", "raw", "base", "new"][..],
        &["convert", "--bitmaps", "-O", "qcow2", "base", "top", "new"],
        &["convert", "--bitmaps", "-O", "qcow2", "raw", "new"],
        &[
            "convert",
            "--bitmaps",
            "-O",
            "qcow2",
            "-o",
            "compat=0.10",
            "base",
            "new",
        ],
    ] {
        let bench = Bench::with_images();
        assert_eq!(bench.weft(refused).status, Some(1), "{refused:?}");
        assert_eq!(bench.qemu(refused).status, Some(1), "{refused:?}");
    }
}

/// The bits that QEMU reads of a copied bitmap are those of the original.
#[test]
fn the_bits_of_a_copied_bitmap_are_the_same() {
    require!("qemu-img", "qemu-io", "qemu-nbd");
    let bench = Bench::with_images();
    bench.io("base", &["write -P 9 10M 1M", "write -P 9 99M 4k"]);
    bench.ok(
        "./weft-qemu-img",
        &["convert", "--bitmaps", "-O", "qcow2", "base", "new"],
    );
    let dirty = |image: &str| {
        // Offered over NBD, a bitmap is a map of its own.
        let socket = format!("{image}.socket");
        let path = bench.path(&socket);
        let mut command = weft_tests::Process::command("qemu-nbd");
        command.args(["-r", "-t", "-f", "qcow2", "-B", "changes", "-k"]);
        command.arg(&path).arg(bench.path(image));
        let server = weft_tests::Process::spawn(command).unwrap();
        while !path.exists() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let options = format!(
            "driver=nbd,server.type=unix,server.path={},x-dirty-bitmap=qemu:dirty-bitmap:changes",
            path.display()
        );
        let map = bench.qemu(&["map", "--output=json", "--image-opts", &options]);
        drop(server);
        assert_eq!(map.status, Some(0));
        map.output
    };
    let (copied, original) = (dirty("new"), dirty("base"));
    assert!(original.contains("\"data\": true") && original.contains("\"data\": false"));
    assert_eq!(copied, original);
}

#[test]
fn a_commit_goes_past_images_in_between() {
    require!("qemu-img", "qemu-io");
    let upper = [
        "create", "-q", "-f", "qcow2", "-b", "top", "-F", "qcow2", "new",
    ];
    for size in ["100M", "60M", "130M"] {
        let made = [&upper[..], &[size]].concat();
        is_the_same(&[&made, &["commit", "-b", "base", "new"]]);
        is_the_same(&[&made, &["commit", "-b", "top", "new"]]);
    }
    let bench = Bench::with_images();
    let refused = ["commit", "-b", "raw", "top"];
    assert_eq!(bench.weft(&refused).status, Some(1));
    assert_eq!(bench.qemu(&refused).status, Some(1));
}

/// A shorter image in between hides what lies behind its end.
#[test]
fn a_commit_past_a_shorter_image_writes_zeroes() {
    require!("qemu-img", "qemu-io");
    let bench = Bench::new();
    bench.ok("qemu-img", &["create", "-q", "-f", "qcow2", "base", "4M"]);
    bench.io("base", &["write -P 1 0 4M"]);
    let over = ["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"];
    bench.ok("qemu-img", &[&over[..], &["base", "middle", "2M"]].concat());
    bench.ok("qemu-img", &[&over[..], &["middle", "top", "4M"]].concat());
    bench.io("top", &["write -P 2 512k 64k"]);
    bench.ok("qemu-img", &["convert", "-O", "raw", "top", "flat"]);
    bench.ok("./weft-qemu-img", &["commit", "-q", "-b", "base", "top"]);
    bench.ok("qemu-img", &["compare", "-q", "base", "flat"]);
    bench.ok("qemu-img", &["check", "-q", "base"]);
}

#[test]
fn a_compressed_copy_goes_over_what_is_there() {
    require!("qemu-img", "qemu-io");
    is_the_same(&[
        &["create", "-q", "-f", "qcow2", "new", "100M"],
        &["convert", "-c", "-n", "-O", "qcow2", "top", "new"],
    ]);
    is_the_same(&[&[
        "convert", "-c", "-O", "qcow2", "-B", "base", "-F", "qcow2", "top", "new",
    ]]);
    // What was there is gone, and what is behind the source's end stays.
    let bench = Bench::with_images();
    bench.ok("qemu-img", &["create", "-q", "-f", "qcow2", "new", "20M"]);
    bench.io("new", &["write -P 8 0 20M"]);
    bench.ok("qemu-img", &["convert", "-O", "raw", "parts", "flat"]);
    bench.ok("truncate", &["-s", "9999k", "flat"]);
    bench.ok(
        "./weft-qemu-img",
        &[
            "convert", "-c", "-n", "-f", "raw", "-O", "qcow2", "flat", "new",
        ],
    );
    bench.ok("qemu-img", &["check", "-q", "new"]);
    bench.io("new", &["read -P 8 9999k 10481k", "read -P 1 4k 8k"]);
    bench.ok("qemu-img", &["convert", "-O", "raw", "new", "back"]);
    bench.ok("cmp", &["-n", "10238976", "flat", "back"]);
}

#[test]
fn what_cannot_be_read_is_salvaged_around() {
    require!("qemu-img", "qemu-io");
    let bench = Bench::new();
    bench.ok("qemu-img", &["create", "-q", "-f", "qcow2", "a", "4M"]);
    bench.io("a", &["write -P 1 0 4M"]);
    // An entry of the L2 table that leads into the middle of a cluster.
    let mut bytes = std::fs::read(bench.path("a")).unwrap();
    let word = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap());
    let l1 = word(40) as usize;
    let l2 = (word(l1) & 0x00ff_ffff_ffff_fe00) as usize;
    bytes[l2 + 8 * 9..][..8].copy_from_slice(&(1_u64 << 63 | 0x10200).to_be_bytes());
    std::fs::write(bench.path("a"), bytes).unwrap();
    assert_eq!(
        bench.weft(&["convert", "-O", "raw", "a", "none"]).status,
        Some(1)
    );
    let output = bench.run(
        "./weft-qemu-img",
        &["convert", "--salvage", "-O", "raw", "a", "b"],
    );
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    let lost = 9 << 16..10 << 16;
    assert!(
        said.contains(&format!("{} to {}", lost.start, lost.end)),
        "{said}"
    );
    let copy = std::fs::read(bench.path("b")).unwrap();
    for (at, byte) in copy.iter().enumerate() {
        assert_eq!(*byte, u8::from(!lost.contains(&at)), "{at}");
    }
}
