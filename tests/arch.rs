//! The architecture test: arrows run down the house only, and files keep to a size that can be read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The floor of each crate. A crate may use crates of lower floors only, and edges (crates with system calls) only
/// from floor 3 on. Simulations are used by tests alone.
const FLOORS: &[(&str, u32)] = &[
    ("weft-block", 0),
    ("weft-wire", 0),
    ("weft-sim", 0),
    ("weft-netsim", 0),
    ("weft-uring", 1),
    ("weft-netio", 1),
    ("weft-raid", 2),
    ("weft-lvm", 2),
    ("weft-copy", 2),
    ("weft-qcow2", 2),
    ("weft-dhcp", 2),
    ("weft-vpn", 2),
    ("weft-export", 3),
    ("weft-tunnel", 3),
    ("weft-virtio", 3),
    ("weft-vhost-user", 4),
    ("weft-vmm", 4),
    ("weft-service", 5),
    ("weft", 6),
    ("weft-tests", 7),
    ("weft-vhost-client", 7),
];
const EDGES: &[&str] = &["weft-uring", "weft-netio"];
const SIMULATIONS: &[&str] = &["weft-sim", "weft-netsim"];

const LONGEST_FILE: usize = 800;

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ lies in the workspace")
        .into()
}

fn metadata() -> serde_json::Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(workspace())
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON")
}

#[test]
fn arrows_run_down() {
    let floors: BTreeMap<&str, u32> = FLOORS.iter().copied().collect();
    let metadata = metadata();
    let packages = metadata["packages"].as_array().expect("packages");
    let mut wrong = Vec::new();
    for package in packages {
        let name = package["name"].as_str().expect("a name");
        let Some(&floor) = floors.get(name) else {
            wrong.push(format!("{name} has no floor in tests/arch.rs"));
            continue;
        };
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let on = dependency["name"].as_str().expect("a name");
            let normal = dependency["kind"].is_null();
            let Some(&below) = floors.get(on) else {
                continue;
            };
            if !normal || name == "weft-tests" {
                continue;
            }
            let sim_of_contract = SIMULATIONS.contains(&name) && below == 0;
            if SIMULATIONS.contains(&on) {
                wrong.push(format!("{name} uses the simulation {on} outside its tests"));
            } else if below >= floor && !sim_of_contract {
                wrong.push(format!("{name} (floor {floor}) uses {on} (floor {below})"));
            } else if EDGES.contains(&on) && floor == 2 {
                wrong.push(format!("{name} is a planner and uses the edge {on}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(packages.len(), FLOORS.len(), "every floor has its crate");
}

#[test]
fn files_can_be_read_in_one_sitting() {
    let output = Command::new("git")
        .args([
            "ls-files",
            "--cached",
            "--others",
            "--exclude-standard",
            "*.rs",
        ])
        .current_dir(workspace())
        .output()
        .expect("git runs");
    assert!(output.status.success());
    let long: Vec<String> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|file| {
            let lines = std::fs::read_to_string(workspace().join(file))
                .ok()?
                .lines()
                .count();
            (lines > LONGEST_FILE).then(|| format!("{file}: {lines} lines"))
        })
        .collect();
    assert!(long.is_empty(), "{}", long.join("\n"));
}
