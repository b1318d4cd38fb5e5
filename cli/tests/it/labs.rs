//! `weft plan`, `weft up` and `weft down`.

use crate::program::Weft;

const LAB: &str = r#"
[disk.a]
path = "a.img"
size = "64M"
[disk.b]
path = "b.img"
size = "64M"
[disk.c]
path = "c.img"
size = "64M"
[raid.tank]
level = 5
disks = ["a", "b", "c"]
[vg.data]
disks = ["tank"]
[lv.data.root]
size = "40M"
[export.root]
disk = "data/root"
nbd = "unix:root.sock"
"#;

fn actions(plan: &serde_json::Value) -> Vec<String> {
    let changes = plan["changes"].as_array().unwrap();
    let text = |change: &serde_json::Value, name: &str| change[name].as_str().unwrap().to_owned();
    changes
        .iter()
        .map(|change| text(change, "action") + " " + &text(change, "noun"))
        .collect()
}

#[test]
fn a_lab_goes_up_down_and_up_again() {
    let weft = Weft::new();
    std::fs::write(weft.path("lab.toml"), LAB).unwrap();
    let create = [
        "create disk",
        "create disk",
        "create disk",
        "create raid",
        "create vg",
    ];
    let create = [&create[..], &["create lv", "create export"]].concat();
    assert_eq!(actions(&weft.json(&["plan", "lab.toml"])), create);
    assert_eq!(actions(&weft.json(&["up", "lab.toml"])), create);
    let volume = weft.json(&["lv", "show", "data/root"]);
    let again = weft.json(&["up", "lab.toml"]);
    assert!(
        actions(&again)
            .iter()
            .all(|action| action.starts_with("keep")),
        "{again}"
    );

    let down = weft.json(&["down", "lab.toml"]);
    assert_eq!(actions(&down), ["remove export", "stop vg", "stop raid"]);
    assert!(!weft.path("root.sock").exists());
    assert!(
        !weft.path("state/run/weft.sock").exists(),
        "the daemon has gone with the lab"
    );
    assert!(weft.path("a.img").exists());

    let start = [
        "keep disk",
        "keep disk",
        "keep disk",
        "start raid",
        "start vg",
        "keep lv",
    ];
    let up = weft.json(&["up", "lab.toml"]);
    assert_eq!(actions(&up), [&start[..], &["create export"]].concat());
    assert_eq!(weft.json(&["lv", "show", "data/root"]), volume);
    weft.ok(&["down", "lab.toml"]);
}

#[test]
fn a_larger_size_in_the_file_grows_the_volume() {
    let weft = Weft::new();
    std::fs::write(weft.path("lab.toml"), LAB).unwrap();
    weft.ok(&["up", "lab.toml"]);
    std::fs::write(weft.path("lab.toml"), LAB.replace("40M", "80M")).unwrap();
    let grown = weft.json(&["up", "lab.toml"]);
    assert!(actions(&grown).contains(&"resize lv".to_owned()), "{grown}");
    assert_eq!(
        weft.json(&["lv", "show", "data/root"])["size_bytes"],
        80 << 20
    );
}

#[test]
fn a_malformed_file_is_told_with_line_and_column_and_does_nothing() {
    let weft = Weft::new();
    std::fs::write(
        weft.path("lab.toml"),
        "[disk.a]\npath = \"a\"\nsize = 12Q\n",
    )
    .unwrap();
    let (kind, message) = weft.fails(&["up", "lab.toml"]);
    assert_eq!(kind, "invalid");
    assert!(message.contains("lab.toml:3:"), "{message}");
    assert!(!weft.path("a").exists());
}

#[test]
fn a_step_that_fails_leaves_what_was_done_and_goes_on_next_time() {
    let weft = Weft::new();
    std::fs::write(weft.path("lab.toml"), LAB.replace("40M", "4G")).unwrap();
    let (kind, _) = weft.fails(&["up", "lab.toml"]);
    assert_eq!(kind, "no-space");
    std::fs::write(weft.path("lab.toml"), LAB).unwrap();
    let up = weft.json(&["up", "lab.toml"]);
    let keep = [
        "keep disk",
        "keep disk",
        "keep disk",
        "keep raid",
        "keep vg",
    ];
    assert_eq!(
        actions(&up),
        [&keep[..], &["create lv", "create export"]].concat()
    );
}
