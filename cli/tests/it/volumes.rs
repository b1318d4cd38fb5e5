//! `weft vg`, `weft lv` and `weft export`.

use std::os::unix::fs::FileExt;

use crate::program::Weft;

fn with_group() -> Weft {
    let weft = Weft::new();
    weft.disks(&["a", "b"], "64M");
    weft.ok(&["vg", "create", "data", "./a", "./b", "--extent-size", "1M"]);
    weft
}

#[test]
fn a_volume_is_made_grown_renamed_and_removed() {
    let weft = with_group();
    let made = weft.json(&["lv", "create", "data/root", "--size", "10M"]);
    assert_eq!(made["vg"], "data");
    assert_eq!(made["name"], "root");
    assert_eq!(made["type"], "linear");
    assert_eq!(made["size_bytes"], 10 << 20);
    assert_eq!(made["segments"].as_array().unwrap().len(), 1);
    let grown = weft.json(&["lv", "resize", "data/root", "--size", "+5M"]);
    assert_eq!(grown["size_bytes"], 15 << 20);
    weft.ok(&["lv", "rename", "data/root", "home"]);
    assert_eq!(weft.fails(&["lv", "show", "data/root"]).0, "not-found");
    assert_eq!(
        weft.json(&["lv", "show", "data/home"])["size_bytes"],
        15 << 20
    );
    weft.ok(&["lv", "remove", "data/home"]);
    assert_eq!(weft.json(&["lv", "list"]), serde_json::json!([]));
}

#[test]
fn a_striped_volume_lies_on_both_disks() {
    let weft = with_group();
    let line = [
        "lv",
        "create",
        "data/fast",
        "--size",
        "20M",
        "--type",
        "striped",
        "--stripes",
        "2",
    ];
    let made = weft.json(&line);
    assert_eq!(made["type"], "striped");
    assert_eq!(made["segments"][0]["stripes"].as_array().unwrap().len(), 2);
}

#[test]
fn all_that_is_free_can_be_taken() {
    let weft = with_group();
    weft.ok(&["lv", "create", "data/all", "--size", "100%FREE"]);
    assert_eq!(weft.json(&["vg", "show", "data"])["free_bytes"], 0);
    let (kind, message) = weft.fails(&["lv", "create", "data/more", "--size", "1M"]);
    assert_eq!(kind, "no-space");
    assert!(message.contains("data"), "{message}");
}

#[test]
fn a_group_grows_shrinks_is_renamed_and_comes_back() {
    let weft = with_group();
    weft.disks(&["c"], "64M");
    weft.ok(&["lv", "create", "data/root", "--size", "10M"]);
    let before = weft.json(&["vg", "show", "data"])["size_bytes"]
        .as_u64()
        .unwrap();
    let after = weft.json(&["vg", "extend", "data", "./c"])["size_bytes"]
        .as_u64()
        .unwrap();
    assert!(after > before);
    assert_eq!(weft.fails(&["vg", "reduce", "data", "./a"]).0, "in-use");
    assert_eq!(
        weft.json(&["vg", "reduce", "data", "./c"])["size_bytes"],
        before
    );
    weft.ok(&["vg", "rename", "data", "store"]);
    assert_eq!(weft.json(&["lv", "list"])[0]["vg"], "store");
    weft.ok(&["vg", "deactivate", "store"]);
    assert_eq!(weft.json(&["vg", "list"]), serde_json::json!([]));
    let back = weft.json(&["vg", "import", "./a", "./b"]);
    assert_eq!(back["name"], "store");
    assert_eq!(back["volumes"], serde_json::json!(["root"]));
    assert_eq!(weft.fails(&["vg", "remove", "store"]).0, "in-use");
    weft.ok(&["lv", "remove", "store/root"]);
    weft.ok(&["vg", "remove", "store"]);
    assert_eq!(
        weft.json(&["disk", "inspect", "./a"])[0]["signatures"],
        serde_json::json!([])
    );
}

#[test]
fn an_export_is_closed_before_its_volume_goes() {
    let weft = with_group();
    weft.ok(&["lv", "create", "data/root", "--size", "10M"]);
    let address = format!("unix:{}", weft.at("nbd.sock"));
    let export = weft.json(&[
        "export",
        "add",
        "data/root",
        "--nbd",
        &address,
        "--name",
        "root",
    ]);
    assert_eq!(export["protocol"], "nbd");
    assert!(
        export["url"]
            .as_str()
            .unwrap()
            .starts_with("nbd+unix:///root?socket="),
        "{export}"
    );
    assert_eq!(weft.fails(&["lv", "remove", "data/root"]).0, "in-use");
    assert_eq!(weft.fails(&["vg", "deactivate", "data"]).0, "in-use");
    weft.ok(&["export", "remove", "root"]);
    assert!(!weft.path("nbd.sock").exists());
    weft.ok(&["lv", "remove", "data/root"]);
}

/// Overwrites a disk's copies of its group's metadata, as a torn write does.
fn tear_metadata(weft: &Weft, disk: &str) {
    let disk = std::fs::File::options()
        .write(true)
        .open(weft.path(disk))
        .unwrap();
    disk.write_all_at(&[0x7e; 64 << 10], 4096 + 512).unwrap();
}

#[test]
fn a_torn_metadata_copy_is_mended_from_another_disk() {
    let weft = with_group();
    weft.ok(&["lv", "create", "data/root", "--size", "10M"]);
    weft.ok(&["vg", "deactivate", "data"]);
    tear_metadata(&weft, "a");
    let back = weft.json(&["vg", "import", "./a", "./b"]);
    assert_eq!(back["volumes"], serde_json::json!(["root"]));
    weft.ok(&["vg", "deactivate", "data"]);
    tear_metadata(&weft, "b");
    let back = weft.json(&["vg", "import", "./a", "./b"]);
    assert_eq!(back["volumes"], serde_json::json!(["root"]));
}

#[test]
fn a_group_without_a_whole_metadata_copy_is_told_and_left_alone() {
    let weft = with_group();
    weft.ok(&["vg", "deactivate", "data"]);
    tear_metadata(&weft, "a");
    tear_metadata(&weft, "b");
    let bytes = || [weft.path("a"), weft.path("b")].map(|path| std::fs::read(path).unwrap());
    let before = bytes();
    let (kind, message) = weft.fails(&["vg", "import", "./a", "./b"]);
    assert_eq!(kind, "corrupt", "{message}");
    assert!(bytes() == before, "the disks were changed");
}

#[test]
fn what_does_not_fit_is_told_and_changes_nothing() {
    let weft = with_group();
    weft.ok(&["lv", "create", "data/root", "--size", "10M"]);
    let before = weft.json(&["vg", "show", "data"]);
    for line in [
        ["lv", "create", "data/more", "--size", "1T"],
        ["lv", "resize", "data/root", "--size", "+1T"],
    ] {
        let (kind, message) = weft.fails(&line);
        assert_eq!(kind, "no-space", "{message}");
    }
    assert_eq!(weft.json(&["vg", "show", "data"]), before);
    weft.disks(&["tiny"], "4K");
    let (kind, message) = weft.fails(&["vg", "extend", "data", "./tiny"]);
    assert_eq!(kind, "invalid", "{message}");
    assert!(message.contains("tiny"), "{message}");
    assert_eq!(weft.json(&["vg", "show", "data"]), before);
}
