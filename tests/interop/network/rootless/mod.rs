//! A network without root: in a user and network namespace that the process makes for itself.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::Result;
use weft_netio::namespace::{Possible, possible};
use weft_tests::{can, require, skip, temp_dir};

/// The user and group `nobody` of Debian.
const NOBODY: u32 = 65_534;

#[test]
fn an_ordinary_user_makes_a_network_of_its_own() -> Result<()> {
    require!("nft");
    if !can::be_root() {
        skip!("needs root to become another user");
    }
    assert_eq!(possible(), Possible::Here);
    // The folder of the build may be closed to others.
    let folder = temp_dir();
    let program = folder.path().join("rootless-network");
    std::fs::copy(env!("CARGO_BIN_EXE_rootless-network"), &program)?;
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))?;
    let output = Command::new(&program)
        .current_dir("/")
        .env("PATH", "/usr/bin:/bin")
        .uid(NOBODY)
        .gid(NOBODY)
        .output()?;
    let text = String::from_utf8_lossy(&output.stderr);
    if text.contains("which this system refuses") {
        skip!("{text}");
    }
    assert!(output.status.success(), "{text}");
    Ok(())
}
