//! `linux-guest SCRIPT [DISK…]`: runs a shell script in a stock Linux kernel that has the given files as its disks
//! `/dev/vda`, `/dev/vdb`, …, prints what the script prints as it comes, and ends with its status.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use weft_tests::guest::LinuxGuest;

fn main() -> Result<ExitCode> {
    let mut words = std::env::args_os().skip(1);
    let Some(script) = words.next() else {
        eprintln!("usage: linux-guest SCRIPT [DISK…]");
        return Ok(ExitCode::from(2));
    };
    let text = std::fs::read_to_string(&script)
        .with_context(|| format!("reading {}", script.display()))?;
    let guest = LinuxGuest::new("script").disks(words.map(std::path::PathBuf::from));
    let mut guest = guest.time_limit(Duration::from_secs(300)).start(&text)?;

    let mut told = 0;
    let mut running = true;
    while running {
        running = guest.is_running();
        let output = guest.output();
        let new = output.as_bytes().get(told..).unwrap_or_default();
        std::io::stdout().write_all(new)?;
        std::io::stdout().flush()?;
        told = output.len();
        std::thread::sleep(Duration::from_millis(100));
    }
    let status = guest.wait()?.status;
    Ok(ExitCode::from(u8::try_from(status).unwrap_or(1)))
}
