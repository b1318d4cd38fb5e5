//! `examples/vpn-lab.sh`: three sites, a traveller behind a NAT, a link that breaks.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result};
use weft_tests::{Process, can, repository, require, skip, temp_dir};

/// Names of namespaces and of tunnels' sockets are the machine's, so the lab has a `/run` and a network of its own.
const APART: &str = r#"
mount -t tmpfs tmpfs /run
ip link set lo up
PATH=$WEFT_FOLDER:$PATH examples/vpn-lab.sh || exit 1
echo traces:
ls /run/netns /run/wireguard 2>/dev/null || true
ip -br link | grep -v '^lo '
nft list ruleset
"#;

#[test]
fn the_lab_of_tunnels_goes_up_roams_heals_and_leaves_nothing() -> Result<()> {
    require!("ip", "ping", "nft", "unshare");
    if !can::be_root() {
        skip!("needs root");
    }
    let folder = temp_dir();
    let said = folder.path().join("said");
    let file = std::fs::File::create(&said)?;
    let program = Path::new(env!("CARGO_BIN_EXE_weft"));
    let mut command = Process::command("unshare");
    command
        .args([
            "--mount",
            "--net",
            "--propagation",
            "private",
            "sh",
            "-c",
            APART,
        ])
        .current_dir(repository())
        .env(
            "WEFT_FOLDER",
            program.parent().context("it lies in a folder")?,
        )
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file);
    let ended = Process::spawn(command)?.wait_for(Duration::from_secs(240))?;
    let said = std::fs::read_to_string(said)?;
    assert!(ended.is_some(), "it does not end:\n{said}");
    for line in [
        "site-a reaches site b",
        "site-b reaches site c",
        "site-c reaches site a",
        "site-a reaches the traveller",
        "site-a does not reach site b",
        "nothing is left",
    ] {
        assert!(said.contains(line), "no `{line}` in:\n{said}");
    }
    // Where site a sees the traveller: behind the cafe's address, then under its own.
    let place = |address: &str| {
        said.find(address)
            .with_context(|| format!("no {address} in:\n{said}"))
    };
    assert!(place("203.0.113.2:")? < place("203.0.113.6:")?, "{said}");
    let (_, traces) = said.split_once("traces:\n").context("it ended well")?;
    let left = traces.lines().filter(|line| !line.starts_with("/run/"));
    assert_eq!(left.collect::<String>(), "", "{said}");
    Ok(())
}
