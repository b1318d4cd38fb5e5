//! The daemon is killed, and everything is there again.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use std::os::unix::net::UnixListener;

use crate::program::{Weft, wait_until_ended};

/// Ends the daemon as a crash does.
pub(crate) fn kill_daemon(weft: &Weft) {
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
    let missing = |array: &serde_json::Value| {
        let members = array["members"].as_array().unwrap().clone();
        let missing = members.into_iter().filter(|one| one["state"] == "missing");
        missing.map(|one| one["path"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(missing(&array), [weft.at("b")]);
    // Not that of another array of this name.
    weft.ok(&["raid", "stop", "tank"]);
    weft.disks(&["d", "e"], "64M");
    let made = ["raid", "create", "tank", "--level", "1", "./d", "./e"];
    weft.ok(&[&made[..], &["--assume-clean"]].concat());
    weft.ok(&["raid", "fail", "tank", "./e"]);
    let removed = weft.json(&["raid", "remove", "tank", "./e"]);
    assert_eq!(missing(&removed), [serde_json::Value::Null]);
    let status = weft.json(&["status"]);
    assert_eq!(status["health"], "degraded");
}

/// A volume on an array with a journal, degraded and dirty: the journal is replayed, and nobody has to force anything.
#[test]
fn what_cannot_come_back_says_why_and_can_be_left() {
    let weft = Weft::new();
    weft.disks(&["a", "b", "c"], "64M");
    let made = ["raid", "create", "tank", "--level", "5"];
    weft.ok(&[&made[..], &["./a", "./b", "./c"]].concat());
    weft.ok(&["vg", "create", "data", "tank"]);
    let trouble = |object: &str| {
        let status = weft.json(&["status"]);
        let all = status["advice"].as_array().unwrap().clone();
        let found = all.into_iter().find(|advice| advice["object"] == object);
        found.map(|advice| advice["message"].as_str().unwrap().to_owned())
    };
    let hide = |names: &[&str], hidden: bool| {
        for name in names {
            let (shown, away) = (weft.path(name), weft.path(&format!("{name}.away")));
            let (from, to) = if hidden { (shown, away) } else { (away, shown) };
            std::fs::rename(from, to).unwrap();
        }
    };
    kill_daemon(&weft);
    hide(&["a", "b"], true);
    let why = trouble("raid tank").unwrap();
    for name in ["a", "b"] {
        let absent = format!("{} cannot be opened", weft.at(name));
        assert!(why.contains(&absent), "{why}");
    }
    assert!(
        trouble("vg data")
            .unwrap()
            .contains("none of its disks is there")
    );
    hide(&["c"], true);
    kill_daemon(&weft);
    assert!(
        trouble("raid tank")
            .unwrap()
            .contains("none of its disks is there")
    );
    for words in [["vg", "deactivate", "data"], ["raid", "stop", "tank"]] {
        weft.ok(&words);
        assert_eq!(weft.fails(&words).0, "not-found");
    }
    assert_eq!((trouble("raid tank"), trouble("vg data")), (None, None));
    kill_daemon(&weft);
    assert_eq!((trouble("raid tank"), trouble("vg data")), (None, None));
    // Nothing of the data has been left.
    hide(&["a", "b", "c"], false);
    weft.ok(&["raid", "assemble", "tank", "./a", "./b", "./c"]);
    weft.ok(&["vg", "import", "tank"]);
}

/// A name with a slash or a question mark would be another request of the API: `lan/stretch` is no network.
#[test]
fn a_name_is_a_name_whatever_is_in_it() {
    let weft = Weft::new();
    weft.disks(&["a"], "16M");
    let address = format!("unix:{}", weft.at("nbd.sock"));
    weft.ok(&["export", "add", "./a", "--nbd", &address, "--name", "a"]);
    for other in ["a b", "a/b", "a?b", "../export/a", "a#", "%61", "."] {
        let (kind, message) = weft.fails(&["export", "remove", other]);
        assert_eq!(kind, "not-found", "{message}");
        assert!(
            message.ends_with(&format!("export named {other}")),
            "{message}"
        );
    }
    weft.ok(&["export", "remove", "a"]);
    for words in [["raid", "show", ""], ["net", "remove", ""]] {
        let (kind, message) = weft.fails(&words);
        assert_eq!(kind, "invalid", "{message}");
    }
}

#[test]
fn an_array_with_a_journal_comes_back_degraded_and_never_without_its_journal() {
    let weft = Weft::new();
    weft.disks(&["a", "b", "c", "d", "j"], "64M");
    let create = "raid create tank --level 6 ./a ./b ./c ./d --journal ./j";
    weft.ok(&create.split(' ').collect::<Vec<_>>());
    weft.ok(&["raid", "wait", "tank"]);
    weft.ok(&["raid", "fail", "tank", "./b"]);
    weft.ok(&["vg", "create", "data", "tank"]);
    weft.ok(&["lv", "create", "data/root", "--size", "20M"]);
    kill_daemon(&weft);
    let array = weft.json(&["raid", "show", "tank"]);
    assert_eq!(array["consistency"], "journal");
    assert_eq!(array["state"], "degraded");
    assert_eq!(weft.json(&["lv", "list"])[0]["name"], "root");
    kill_daemon(&weft);
    std::fs::rename(weft.path("j"), weft.path("elsewhere")).unwrap();
    assert_eq!(weft.json(&["raid", "list"]), serde_json::json!([]));
    let advice = weft.json(&["status"])["advice"][0].clone();
    let message = advice["message"].as_str().unwrap();
    assert!(message.contains("its journal is missing"), "{advice}");
    std::fs::rename(weft.path("elsewhere"), weft.path("j")).unwrap();
    let members = ["raid", "assemble", "tank", "./a", "./c", "./d", "./j"];
    assert_eq!(weft.json(&members)["consistency"], "journal");
}

/// A daemon that is being killed takes connections and closes them; writing to one ended the program by a signal.
#[test]
fn a_socket_that_closes_is_no_daemon_and_ends_nobody() {
    let weft = Weft::new();
    std::fs::create_dir_all(weft.path("state/run")).unwrap();
    let listener = UnixListener::bind(weft.path("state/run/weft.sock")).unwrap();
    // Ends with the test's process.
    std::thread::spawn(move || listener.incoming().for_each(drop));
    for _ in 0..40 {
        let stopped = weft.run(&["daemon", "--stop"]);
        let said = String::from_utf8_lossy(&stopped.stderr).into_owned();
        assert!(
            stopped.status.code().is_some(),
            "{:?} {said}",
            stopped.status
        );
    }
}

/// A reader that has seen enough ends the program without a word, and leaves the daemon alone.
#[test]
fn an_answer_that_nobody_reads_ends_the_program_quietly() {
    let weft = Weft::new();
    weft.disks(&["a"], "16M");
    let daemon = weft.daemon_pid();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let status = weft
        .command(&["disk", "list"])
        .stdout(writer)
        .output()
        .unwrap();
    assert_eq!(status.status.code(), Some(141));
    assert!(status.stderr.is_empty());
    assert_eq!(weft.daemon_pid(), daemon);
}

/// Bytes that a check has done.
fn checked(weft: &Weft) -> u64 {
    let array = weft.json(&["raid", "show", "tank"]);
    assert_eq!(array["sync"]["action"], "check", "{array}");
    array["sync"]["done_bytes"].as_u64().unwrap()
}

#[test]
fn a_check_goes_on_where_it_was() {
    let weft = Weft::new();
    weft.disks(&["a", "b"], "64M");
    weft.ok(&["raid", "create", "tank", "--level", "1", "./a", "./b"]);
    weft.ok(&["raid", "wait", "tank"]);
    weft.ok(&["raid", "sync", "tank", "--ceiling", "1M"]);
    weft.ok(&["raid", "check", "tank"]);
    let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
    // What is written down now and then.
    while checked(&weft) < 12 << 20 {
        assert!(std::time::Instant::now() < until);
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    kill_daemon(&weft);
    assert!(checked(&weft) >= 4 << 20);
    weft.ok(&["raid", "stop", "tank"]);
    weft.ok(&["raid", "assemble", "tank", "./b", "./a"]);
    assert!(checked(&weft) >= 4 << 20);
    weft.ok(&["raid", "sync", "tank", "--ceiling", "0"]);
    let array = weft.json(&["raid", "wait", "tank"]);
    assert_eq!(array["scrub"]["complete"], true);
    weft.ok(&["raid", "stop", "tank"]);
    weft.ok(&["raid", "assemble", "tank", "./a", "./b"]);
    assert_eq!(
        weft.json(&["raid", "show", "tank"])["sync"]["action"],
        "idle"
    );
}
