//! `weft raid`.

use std::os::unix::fs::FileExt;

use crate::program::Weft;

fn with_array(level: &str) -> Weft {
    let weft = Weft::new();
    weft.disks(&["a", "b", "c"], "64M");
    weft.ok(&[
        "raid", "create", "tank", "--level", level, "./a", "./b", "./c", "--chunk", "64K",
    ]);
    weft
}

#[test]
fn an_array_is_described_as_the_contract_says() {
    let weft = with_array("5");
    let array = weft.json(&["raid", "wait", "tank"]);
    assert_eq!(array["name"], "tank");
    assert_eq!(array["level"], 5);
    assert_eq!(array["layout"], "left-symmetric");
    assert_eq!(array["chunk_bytes"], 65536);
    assert_eq!(array["consistency"], "ppl");
    let shown = weft.ok(&["raid", "show", "tank"]);
    assert!(
        shown.contains("a member that was away is rebuilt whole"),
        "{shown}"
    );
    assert!(matches!(array["state"].as_str(), Some("clean" | "active")));
    assert_eq!(array["sync"]["action"], "idle");
    assert_eq!(array["members"].as_array().unwrap().len(), 3);
    assert_eq!(array["members"][1]["path"], weft.at("b"));
    assert_eq!(array["members"][1]["slot"], 1);
    assert_eq!(array["members"][1]["role"], "active");
    assert_eq!(array["members"][1]["state"], "in-sync");
    assert!(array["size_bytes"].as_u64().unwrap() > 100 << 20);
    assert_eq!(
        weft.json(&["raid", "list"])[0],
        weft.json(&["raid", "show", "tank"])
    );
}

#[test]
fn a_member_fails_is_replaced_and_rebuilt() {
    let weft = with_array("5");
    weft.ok(&["raid", "wait", "tank"]);
    let failed = weft.json(&["raid", "fail", "tank", "./b"]);
    assert_eq!(failed["state"], "degraded");
    let status = weft.json(&["status"]);
    assert_eq!(status["health"], "degraded");
    assert_eq!(status["advice"][0]["command"], "weft raid add tank DISK");
    weft.disks(&["d"], "64M");
    weft.ok(&["raid", "add", "tank", "./d"]);
    let whole = weft.json(&["raid", "wait", "tank"]);
    assert!(
        matches!(whole["state"].as_str(), Some("clean" | "active")),
        "{whole}"
    );
    assert_eq!(weft.json(&["status"])["health"], "good");
}

#[test]
fn a_member_is_replaced_while_it_serves() {
    let weft = with_array("5");
    weft.ok(&["raid", "wait", "tank"]);
    weft.disks(&["d", "e"], "64M");
    let replacing = weft.json(&["raid", "replace", "tank", "./b", "./d"]);
    assert_ne!(replacing["state"], "degraded");
    let whole = weft.json(&["raid", "wait", "tank"]);
    assert_eq!(whole["members"][1]["path"], weft.at("d"));
    assert_eq!(whole["members"][1]["state"], "in-sync");
    assert_eq!(weft.json(&["status"])["health"], "good");
    weft.ok(&["raid", "remove", "tank", "./b"]);
    let spare = weft.json(&["raid", "add", "tank", "./e"]);
    assert_eq!(spare["members"][3]["role"], "spare");
    weft.ok(&["raid", "replace", "tank", "./a", "./e"]);
    let whole = weft.json(&["raid", "wait", "tank"]);
    assert_eq!(whole["members"][0]["path"], weft.at("e"));
    let (kind, message) = weft.fails(&["raid", "replace", "tank", "./a", "./b", "--force"]);
    assert_eq!(kind, "invalid");
    assert!(
        message.contains("holds no data that could be copied"),
        "{message}"
    );
}

#[test]
fn a_leg_can_be_write_mostly_and_linux_sees_it() {
    let weft = with_array("1");
    let set = weft.json(&["raid", "write-mostly", "tank", "./c"]);
    assert_eq!(set["members"][2]["write_mostly"], true);
    let shown = weft.ok(&["raid", "show", "tank"]);
    assert!(shown.contains("in sync, write-mostly"), "{shown}");
    weft.ok(&["raid", "stop", "tank"]);
    let examine = |disk: &str| {
        let examined = std::process::Command::new("mdadm")
            .arg("--examine")
            .arg(weft.path(disk))
            .output()
            .expect("mdadm is there");
        String::from_utf8_lossy(&examined.stdout).into_owned()
    };
    assert!(examine("c").contains("write-mostly"), "{}", examine("c"));
    assert!(!examine("a").contains("write-mostly"));
    let parity = with_array("5");
    let (kind, message) = parity.fails(&["raid", "write-mostly", "tank", "./a"]);
    assert_eq!(kind, "invalid");
    assert!(message.contains("only RAID-1 and RAID-10"), "{message}");
}

/// What an array has done of its background work.
#[test]
fn an_array_has_a_journal_and_lives_without_writing_until_it_has_a_new_one() {
    let weft = Weft::new();
    weft.disks(&["a", "b", "c", "d", "j", "k"], "64M");
    let line = "raid create tank --level 6 --chunk 64K ./a ./b ./c ./d --journal ./j";
    let array = weft.json(&line.split(' ').collect::<Vec<_>>());
    assert_eq!(array["consistency"], "journal");
    let journal = &array["members"][4];
    assert_eq!(
        (&journal["role"], &journal["state"]),
        (&"journal".into(), &"in-sync".into())
    );
    let shown = weft.ok(&["raid", "show", "tank"]);
    assert!(
        shown.contains("the write hole is closed") && shown.contains("journal\n"),
        "{shown}"
    );
    weft.ok(&["raid", "wait", "tank"]);
    let (kind, message) = weft.fails(&["raid", "remove", "tank", "./j"]);
    assert_eq!(kind, "invalid");
    assert!(message.contains("holds its journal"), "{message}");
    let (_, message) = weft.fails(&["raid", "add", "tank", "./k", "--journal"]);
    assert!(message.contains("it has a journal"), "{message}");
    let lost = weft.json(&["raid", "fail", "tank", "./j"]);
    assert_eq!(lost["state"], "degraded");
    let advice = weft.json(&["status"])["advice"][0].clone();
    assert_eq!(advice["command"], "weft raid add tank DISK --journal");
    let array = weft.json(&["raid", "add", "tank", "./k", "--journal"]);
    assert!(
        matches!(array["state"].as_str(), Some("clean" | "active")),
        "{array}"
    );
    weft.ok(&["raid", "remove", "tank", "./j"]);
    weft.ok(&["raid", "stop", "tank"]);
    assert_eq!(weft.json(&["raid", "examine", "./k"])["role"], "journal");
    let members = ["raid", "assemble", "tank", "./a", "./b", "./c", "./d"];
    let (_, message) = weft.fails(&members);
    assert!(
        message.contains("its journal is missing") && message.contains("force"),
        "{message}"
    );
    let back = weft.json(&[&members[..], &["./k"]].concat());
    assert_eq!(back["consistency"], "journal");
    weft.ok(&["raid", "stop", "tank"]);
    let forced = weft.json(&[&members[..], &["--force"]].concat());
    assert_eq!(forced["consistency"], "resync");
}

fn done(array: &serde_json::Value) -> u64 {
    assert_eq!(array["sync"]["action"], "check", "{array}");
    array["sync"]["done_bytes"].as_u64().unwrap()
}

#[test]
fn background_work_is_paused_and_resumed_and_bounded() {
    let weft = with_array("1");
    weft.ok(&["raid", "wait", "tank"]);
    let bounded = weft.json(&[
        "raid",
        "sync",
        "tank",
        "--floor",
        "64K",
        "--ceiling",
        "128K",
    ]);
    assert_eq!(bounded["sync"]["ceiling_bytes"], 131_072);
    // It would be through in no time without the ceiling.
    weft.ok(&["raid", "check", "tank"]);
    let begun = done(&weft.json(&["raid", "show", "tank"]));
    let paused = weft.json(&["raid", "sync", "tank", "--pause"]);
    assert_eq!(paused["sync"]["paused"], true);
    assert!(
        done(&paused) >= begun && done(&paused) < 32 << 20,
        "{paused}"
    );
    assert!(weft.ok(&["raid", "show", "tank"]).contains("paused"));
    let still = weft.json(&["raid", "sync", "tank", "--ceiling", "0"]);
    let later = weft.json(&["raid", "show", "tank"]);
    // A step may have been under way when it was paused, no more.
    assert!(done(&later) <= done(&still) + (1 << 20), "{later}");
    weft.ok(&["raid", "sync", "tank", "--resume"]);
    let whole = weft.json(&["raid", "wait", "tank"]);
    assert_eq!(whole["scrub"]["complete"], true);
    let (kind, message) = weft.fails(&["raid", "sync", "tank", "--floor", "2M", "--ceiling", "1M"]);
    assert_eq!(kind, "invalid");
    assert!(message.contains("at least the floor"), "{message}");
}

#[test]
fn an_array_stops_clean_and_comes_back() {
    let weft = with_array("1");
    weft.ok(&["raid", "wait", "tank"]);
    let uuid = weft.json(&["raid", "show", "tank"])["uuid"].clone();
    weft.ok(&["raid", "stop", "tank"]);
    assert_eq!(weft.fails(&["raid", "show", "tank"]).0, "not-found");
    let found = weft.json(&["raid", "examine", "./c"]);
    assert_eq!(found["uuid"], uuid);
    assert_eq!(found["clean"], true);
    let back = weft.json(&["raid", "assemble", "tank", "./c", "./a", "./b"]);
    assert_eq!(back["uuid"], uuid);
    assert!(matches!(back["state"].as_str(), Some("clean" | "active")));
}

#[test]
fn what_cannot_become_an_array_is_told_and_changes_nothing() {
    let weft = Weft::new();
    weft.disks(&["a", "b", "c"], "64M");
    let create = |more: &[&str]| {
        let mut line = vec!["raid", "create", "t"];
        line.extend(more);
        weft.fails(&line)
    };
    assert_eq!(create(&["--level", "3", "./a", "./b"]).0, "invalid");
    let (kind, message) = create(&["--level", "5", "./a"]);
    assert_eq!(kind, "invalid");
    assert!(message.starts_with("array t: "), "{message}");
    assert_eq!(create(&["--level", "1", "./a", "./a"]).0, "in-use");
    assert_eq!(create(&["--level", "1", "./a", "./none"]).0, "not-found");
    assert_eq!(
        create(&["--level", "5", "./a", "./b", "./c", "--chunk", "3K"]).0,
        "invalid"
    );
    weft.disks(&["tiny"], "1M");
    for (line, told) in [
        (
            "--level 5 --consistency journal ./a ./b ./c",
            "--journal DISK",
        ),
        (
            "--level 5 --consistency ppl --journal ./c ./a ./b",
            "the consistency is ppl",
        ),
        (
            "--level 1 --journal ./c ./a ./b",
            "only RAID-4, 5 and 6 take a journal",
        ),
        (
            "--level 5 --journal ./tiny ./a ./b ./c",
            "is too small for a journal",
        ),
        (
            "--level 5 --consistency jounral ./a ./b",
            "journal or resync",
        ),
    ] {
        let (kind, message) = create(&line.split(' ').collect::<Vec<_>>());
        assert!(
            kind == "invalid" && message.contains(told),
            "{line}: {message}"
        );
    }
    assert_eq!(
        create(&["--level", "5", "./a", "./b", "--journal", "./b"]).0,
        "in-use"
    );
    let file = std::fs::File::options()
        .write(true)
        .open(weft.path("b"))
        .unwrap();
    file.write_all_at(&[0x53, 0xef], 1080).unwrap();
    let (kind, message) = create(&["--level", "1", "./a", "./b"]);
    assert_eq!(kind, "foreign");
    assert!(
        message.contains("ext") && message.contains("--force"),
        "{message}"
    );
    assert_eq!(
        weft.json(&["disk", "inspect", "./a"])[0]["signatures"],
        serde_json::json!([])
    );
    assert_eq!(weft.json(&["raid", "list"]), serde_json::json!([]));
}

#[test]
fn members_that_do_not_belong_together_are_told() {
    let weft = with_array("5");
    weft.disks(&["x", "y"], "64M");
    weft.ok(&["raid", "create", "other", "--level", "1", "./x", "./y"]);
    weft.ok(&["raid", "wait", "tank"]);
    weft.ok(&["raid", "wait", "other"]);
    weft.ok(&["raid", "stop", "tank"]);
    weft.ok(&["raid", "stop", "other"]);
    let (_, message) = weft.fails(&["raid", "assemble", "t", "./a", "./b", "./x"]);
    assert!(message.contains(&weft.at("x")), "{message}");
    let (kind, message) = weft.fails(&["raid", "assemble", "t", "./a"]);
    assert_eq!(kind, "degraded", "{message}");
    assert!(
        weft.fails(&["raid", "assemble", "t", "./a", "./b", "./none"])
            .1
            .contains("none")
    );
    let array = weft.json(&["raid", "assemble", "t", "./a", "./b"]);
    assert_eq!(array["state"], "degraded");
}

#[test]
fn a_disk_in_use_is_refused_by_us_and_seen_by_others() {
    let weft = with_array("5");
    let (kind, message) = weft.fails(&["raid", "create", "more", "--level", "0", "./a", "./b"]);
    assert_eq!(kind, "in-use");
    assert!(message.contains("raid tank"), "{message}");
    let stranger = Weft::new();
    let disk = weft.at("a");
    let (kind, message) = stranger.fails(&["disk", "wipe", &disk]);
    assert_eq!(kind, "busy");
    assert!(message.contains(&disk), "{message}");
}

/// Changes a sector of a member's data, which starts where its superblock says.
fn corrupt(weft: &Weft, disk: &str) {
    let mut options = std::fs::File::options();
    let file = options
        .read(true)
        .write(true)
        .open(weft.path(disk))
        .unwrap();
    let mut superblock = [0; 512];
    file.read_exact_at(&mut superblock, 4096).unwrap();
    let start = u64::from_le_bytes(superblock[128..136].try_into().unwrap()) * 512;
    file.write_all_at(b"a lie", start + 70_000).unwrap();
}

#[test]
fn a_check_names_the_liar_of_raid_6_and_a_repair_heals_it() {
    let weft = Weft::new();
    weft.disks(&["a", "b", "c", "d"], "16M");
    let line = [
        "raid", "create", "tank", "--level", "6", "./a", "./b", "./c",
    ];
    weft.ok(&[&line[..], &["./d", "--chunk", "64K"]].concat());
    assert_eq!(
        weft.json(&["raid", "wait", "tank"])["layout"],
        "left-symmetric"
    );
    corrupt(&weft, "c");
    weft.ok(&["raid", "check", "tank"]);
    let array = weft.json(&["raid", "wait", "tank"]);
    assert_eq!(array["scrub"]["complete"], true, "{array}");
    assert_eq!(array["scrub"]["mismatches"], 1);
    assert_eq!(array["scrub"]["places"][0]["wrong"][0], weft.at("c"));
    let status = weft.json(&["status"]);
    assert_eq!(status["advice"][0]["command"], "weft raid repair tank");
    weft.ok(&["raid", "repair", "tank"]);
    let array = weft.json(&["raid", "wait", "tank"]);
    assert_eq!(array["scrub"]["repaired"], 1, "{array}");
    weft.ok(&["raid", "check", "tank"]);
    let array = weft.json(&["raid", "wait", "tank"]);
    assert_eq!(array["scrub"]["mismatches"], 0);
    assert_eq!(weft.json(&["status"])["health"], "good");
}

#[test]
fn a_repair_of_raid_5_leaves_the_choice() {
    let weft = with_array("5");
    weft.ok(&["raid", "wait", "tank"]);
    corrupt(&weft, "b");
    weft.ok(&["raid", "repair", "tank"]);
    let array = weft.json(&["raid", "wait", "tank"]);
    assert_eq!(array["scrub"]["mismatches"], 1);
    assert_eq!(array["scrub"]["repaired"], 0);
    assert!(
        weft.ok(&["raid", "show", "tank"])
            .contains("nothing tells which member is wrong")
    );
    weft.ok(&["raid", "repair", "tank", "--from-data"]);
    assert_eq!(weft.json(&["raid", "wait", "tank"])["scrub"]["repaired"], 1);
    weft.ok(&["raid", "fail", "tank", "./a"]);
    assert_eq!(weft.fails(&["raid", "check", "tank"]).0, "degraded");
}

#[test]
fn raid_10_lives_as_long_as_every_chunk_has_a_copy() {
    let weft = Weft::new();
    weft.disks(&["a", "b", "c", "d"], "16M");
    let line = ["raid", "create", "tank", "--level", "10", "--layout", "n2"];
    weft.ok(&[&line[..], &["./a", "./b", "./c", "./d"]].concat());
    let array = weft.json(&["raid", "wait", "tank"]);
    assert_eq!(array["layout"], "near=2");
    weft.ok(&["raid", "fail", "tank", "./a"]);
    let other_pair = weft.json(&["raid", "fail", "tank", "./c"]);
    assert_eq!(other_pair["state"], "degraded");
    let (kind, message) = weft.fails(&["raid", "fail", "tank", "./b"]);
    assert_eq!(kind, "invalid");
    assert!(message.contains("would be lost"), "{message}");
    let (kind, message) = weft.fails(&[
        "raid", "create", "x", "--level", "10", "--layout", "x2", "./a",
    ]);
    assert_eq!(kind, "invalid", "{message}");
}

/// `examples/silent-corruption.sh` keeps its promise, whichever disk lies.
#[test]
fn the_example_of_a_silent_corruption_ends_well() {
    let weft = Weft::new();
    for (seed, liar) in [("1", "c.img"), ("2", "d.img"), ("3", "b.img")] {
        let said = weft.example("silent-corruption.sh", &[seed]);
        let lines: Vec<&str> = said.lines().collect();
        let wrong = lines.iter().find(|line| line.ends_with("is wrong"));
        let wrong = wrong.unwrap_or_else(|| panic!("{said}"));
        assert!(
            wrong.contains(liar) && wrong.contains("4096 bytes"),
            "{said}"
        );
        assert!(said.contains("8 blocks differ, 8 repaired"), "{said}");
        assert!(said.contains("0 blocks differ"), "{said}");
        let sum = |name: &str| lines.iter().find_map(|line| line.strip_suffix(name));
        assert_eq!(sum("  written"), sum("  read"), "{said}");
    }
}
