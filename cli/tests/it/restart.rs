//! The daemon is killed, and everything is there again.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::program::{Weft, wait_until_ended};

/// Ends the daemon as a crash does.
fn kill_daemon(weft: &Weft) {
    let pid = weft.daemon_pid();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    wait_until_ended(pid);
}

#[test]
fn arrays_groups_volumes_and_exports_come_back() {
    let weft = Weft::new();
    weft.disks(&["a", "b", "c"], "64M");
    weft.ok(&[
        "raid", "create", "tank", "--level", "5", "./a", "./b", "./c",
    ]);
    weft.ok(&["vg", "create", "data", "tank"]);
    weft.ok(&["lv", "create", "data/root", "--size", "20M"]);
    let address = format!("unix:{}", weft.at("nbd.sock"));
    weft.ok(&[
        "export",
        "add",
        "data/root",
        "--nbd",
        &address,
        "--name",
        "root",
    ]);
    let before = weft.json(&["lv", "list"]);
    kill_daemon(&weft);
    let array = weft.json(&["raid", "wait", "tank"]);
    assert!(
        matches!(array["state"].as_str(), Some("clean" | "active")),
        "{array}"
    );
    assert_eq!(weft.json(&["lv", "list"]), before);
    assert_eq!(weft.json(&["export", "list"])[0]["name"], "root");
    assert!(weft.path("nbd.sock").exists());
}

#[test]
fn a_rebuild_goes_on_after_a_crash() {
    let weft = Weft::new();
    weft.disks(&["a", "b", "c", "d"], "256M");
    weft.ok(&[
        "raid",
        "create",
        "tank",
        "--level",
        "5",
        "./a",
        "./b",
        "./c",
        "--assume-clean",
    ]);
    weft.ok(&["raid", "fail", "tank", "./b"]);
    weft.ok(&["raid", "add", "tank", "./d"]);
    kill_daemon(&weft);
    let array = weft.json(&["raid", "wait", "tank"]);
    assert!(
        matches!(array["state"].as_str(), Some("clean" | "active")),
        "{array}"
    );
    let members = array["members"].as_array().unwrap();
    let slot = members
        .iter()
        .find(|member| member["path"] == weft.at("d").as_str())
        .unwrap();
    assert_eq!(slot["state"], "in-sync");
}

#[test]
fn a_disk_that_vanished_is_shown_and_the_rest_comes_back() {
    let weft = Weft::new();
    weft.disks(&["a", "b", "c"], "64M");
    weft.ok(&[
        "raid",
        "create",
        "tank",
        "--level",
        "5",
        "./a",
        "./b",
        "./c",
        "--assume-clean",
    ]);
    weft.ok(&["raid", "wait", "tank"]);
    weft.ok(&["daemon", "--stop"]);
    std::fs::remove_file(weft.path("b")).unwrap();
    let array = weft.json(&["raid", "show", "tank"]);
    assert_eq!(array["state"], "degraded");
    let status = weft.json(&["status"]);
    assert_eq!(status["health"], "degraded");
}
