//! `weft disk`, and the program itself.

use crate::program::{Weft, wait_until_ended};

#[test]
fn a_disk_file_is_made_inspected_and_wiped() {
    let weft = Weft::new();
    let made = weft.json(&["disk", "create", "a.img", "--size", "64M"]);
    assert_eq!(made["size_bytes"], 64 << 20);
    assert_eq!(made["path"], weft.at("a.img"));
    assert_eq!(
        weft.json(&["disk", "inspect", "a.img"])[0]["signatures"],
        serde_json::json!([])
    );
    let mut bytes = vec![0; 2048];
    bytes[1080..1082].copy_from_slice(&[0x53, 0xef]);
    std::fs::write(weft.path("b.img"), [bytes, vec![0; 1 << 20]].concat()).unwrap();
    let held = weft.json(&["disk", "inspect", "b.img"]);
    assert!(
        held[0]["signatures"][0].as_str().unwrap().contains("ext"),
        "{held}"
    );
    weft.ok(&["disk", "wipe", "b.img"]);
    assert_eq!(
        weft.json(&["disk", "inspect", "b.img"])[0]["signatures"],
        serde_json::json!([])
    );
}

#[test]
fn a_disk_file_that_is_there_is_left_alone() {
    let weft = Weft::new();
    std::fs::write(weft.path("a.img"), "precious").unwrap();
    let (kind, message) = weft.fails(&["disk", "create", "a.img", "--size", "64M"]);
    assert_eq!(kind, "exists");
    assert!(message.contains("a.img"), "{message}");
    assert_eq!(std::fs::read(weft.path("a.img")).unwrap(), b"precious");
}

#[test]
fn what_cannot_be_a_disk_is_told() {
    let weft = Weft::new();
    assert_eq!(
        weft.fails(&["disk", "create", "nowhere/a.img", "--size", "1M"])
            .0,
        "not-found"
    );
    assert_eq!(
        weft.fails(&["disk", "create", "a.img", "--size", "0"]).0,
        "invalid"
    );
    assert_eq!(weft.fails(&["disk", "wipe", "./none.img"]).0, "not-found");
    let looked = weft.json(&["disk", "inspect", "./none.img"]);
    assert!(looked[0]["trouble"].as_str().unwrap().contains("none.img"));
}

#[test]
fn usage_errors_end_with_status_two() {
    let weft = Weft::new();
    for wrong in [
        &["raid", "create"][..],
        &["nonsense"],
        &["disk", "create", "a", "--size", "x"],
    ] {
        assert_eq!(weft.run(wrong).status.code(), Some(2), "{wrong:?}");
    }
}

#[test]
fn completions_and_manual_come_from_the_definitions() {
    let weft = Weft::new();
    assert!(weft.ok(&["completions", "bash"]).contains("raid"));
    let folder = weft.path("man");
    std::fs::create_dir(&folder).unwrap();
    weft.ok(&["manual", folder.to_str().unwrap()]);
    let page = std::fs::read_to_string(folder.join("weft-raid-create.1")).unwrap();
    assert!(page.contains("chunk"));
}

#[test]
fn a_daemon_that_idles_is_stopped_by_name() {
    let weft = Weft::new();
    weft.json(&["status"]);
    let pid = weft.daemon_pid();
    weft.ok(&["daemon", "--stop"]);
    wait_until_ended(pid);
    assert!(!weft.path("state/run/weft.sock").exists());
}
