//! Runs a script in the Linux guest: a stock kernel as judge, from the shell.
//!
//!     linux-guest SCRIPT [DISK]...
//!
//! The disks are `/dev/vda`, `/dev/vdb`, … in the guest. The exit status is the script's.

use std::process::ExitCode;

use anyhow::{Context, Result};
use weft_tests::guest::LinuxGuest;

fn main() -> Result<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    let script = arguments
        .next()
        .context("usage: linux-guest SCRIPT [DISK]...")?;
    let script = std::fs::read_to_string(&script).with_context(|| format!("reading {script}"))?;
    let run = LinuxGuest::new("judge").disks(arguments).run(&script)?;
    print!("{}", run.output);
    Ok(ExitCode::from(u8::try_from(run.status).unwrap_or(1)))
}
