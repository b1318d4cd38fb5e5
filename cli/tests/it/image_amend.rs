//! Images that are made another way than they were, beside QEMU's program.

use std::collections::BTreeSet;

use weft_tests::require;

use crate::program::Weft;
use crate::qemu_img::{Bench, is_the_same};

/// Options that QEMU names and does not change itself.
const NOT_CHANGED: &[&str] = &["backing_file", "backing_fmt"];

#[test]
fn what_can_be_amended_is_what_qemu_amends() {
    require!("qemu-img");
    let bench = Bench::new();
    let offered = |program: &str| {
        let output = bench.run(program, &["amend", "-f", "qcow2", "-o", "help"]);
        let text = String::from_utf8(output.stdout).unwrap();
        let names = text.lines().filter_map(|line| line.split_once("=<"));
        let names: BTreeSet<String> = names.map(|(name, _)| name.trim().to_owned()).collect();
        names
    };
    let mut ours = offered("./weft-qemu-img");
    ours.extend(NOT_CHANGED.iter().map(|name| (*name).to_owned()));
    assert_eq!(ours, offered("qemu-img"));
}

#[test]
fn what_is_amended_is_the_same() {
    require!("qemu-img", "qemu-io");
    is_the_same(&[
        &[
            &["amend", "-o", "compat=1.1", "old"],
            &["amend", "-o", "lazy_refcounts=on", "old"],
        ],
        &[
            &["amend", "-o", "refcount_bits=8,compat=v3", "old"],
            &["amend", "-o", "compat=v2,refcount_bits=16", "old"],
        ],
        // With a snapshot and a bitmap.
        &[&["amend", "-f", "qcow2", "-o", "refcount_bits=64", "base"]],
        &[&["amend", "-q", "-o", "refcount_bits=2", "base"]],
        &[&["amend", "-o", "refcount_bits=1", "small"]],
        &[&["amend", "-o", "refcount_bits=32,lazy_refcounts=on", "parts"]],
        // Zeroes over what the backing file has, which version 2 must write.
        &[&["amend", "-o", "compat=0.10", "top"]],
        &[
            &["amend", "-o", "size=40M,compat=0.10", "top"],
            &["amend", "-o", "size=130M", "longer"],
        ],
        &[
            &["amend", "-o", "data_file=./data", "apart"],
            &[
                "amend",
                "-o",
                "lazy_refcounts=off,data_file_raw=off",
                "apart",
            ],
        ],
    ]);
}

#[test]
fn what_cannot_be_amended_has_the_same_status_and_changes_nothing() {
    require!("qemu-img", "qemu-io");
    let bench = Bench::with_images();
    for line in [
        &["amend", "-o", "refcount_bits=8", "old"][..],
        &["amend", "-o", "lazy_refcounts=on", "old"],
        &["amend", "-o", "compat=0.10,refcount_bits=8", "top"],
        &["amend", "-o", "compat=0.10", "parts"],
        &["amend", "-o", "compat=0.10", "apart"],
        &["amend", "-o", "compat=2", "top"],
        &["amend", "-o", "refcount_bits=3", "top"],
        &["amend", "-o", "refcount_bits=1", "base"],
        &["amend", "-o", "data_file=x", "top"],
        &["amend", "-o", "data_file_raw=on", "apart"],
        &["amend", "-o", "backing_file=raw", "top"],
        &["amend", "-o", "cluster_size=4k", "top"],
        &["amend", "-o", "bogus=4k", "top"],
        &["amend", "-o", "compat=1.1", "none"],
        &["amend", "-o", "compat=1.1", "raw"],
        &["amend", "top"],
        &["amend", "-o", "compat=1.1"],
    ] {
        let image = bench.path(line.last().unwrap());
        let read = || std::fs::read(&image).unwrap_or_default();
        let before = read();
        assert_eq!(bench.weft(line).status, Some(1), "{line:?}");
        // An image of QEMU's may end within a sector, which is filled.
        assert!(read().starts_with(&before), "{line:?}");
        assert_eq!(bench.qemu(line).status, Some(1), "{line:?}");
    }
}

#[test]
fn an_image_becomes_another_on_our_own_command_line() {
    require!("qemu-img", "qemu-io");
    let weft = Weft::new();
    weft.ok(&["image", "create", "a.qcow2", "--size", "8M"]);
    let amend = |options: &[&str]| weft.json(&[&["image", "amend", "a.qcow2"], options].concat());
    let now = amend(&["-o", "refcount_bits=1", "-o", "lazy_refcounts=on"]);
    assert_eq!(now["qcow2"]["refcount_bits"], 1, "{now}");
    let (_, said) = weft.fails(&["image", "amend", "a.qcow2", "-o", "compat=0.10"]);
    assert!(said.contains("another width than 16 bits"), "{said}");
    let now = amend(&["-o", "compat=0.10", "-o", "refcount_bits=16"]);
    assert_eq!(now["qcow2"]["version"], 2, "{now}");
    for (option, hint) in [
        ("size=1G", "weft image resize"),
        ("backing_file=b", "weft image rebase"),
        ("cluster_size=4k", "convert it"),
    ] {
        let (kind, said) = weft.fails(&["image", "amend", "a.qcow2", "-o", option]);
        assert!(kind == "invalid" && said.contains(hint), "{kind}: {said}");
    }
}
