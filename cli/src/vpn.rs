//! WireGuard interfaces: the process that serves one, and keys.

use std::fs::OpenOptions;
use std::io::Read as _;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use nix::unistd::{dup2_stderr, dup2_stdout, setsid};
use weft_service::api::{Error, ErrorKind, Result};
use weft_service::network::vpn;

use crate::daemon::log_of_tunnel;
use crate::render::Output;

/// Tells the process that stays behind that somebody waits for it.
const AWAITED: &str = "WEFT_VPN_AWAITED";
/// What it says when it is ready.
const READY: &[u8] = b"ready";

/// Serves an interface, here or in a process that stays behind.
pub(crate) fn run(name: &str, foreground: bool) -> Result<ExitCode> {
    let asked = std::env::var("WG_PROCESS_FOREGROUND").as_deref() == Ok("1");
    if std::env::var_os(AWAITED).is_some() {
        log_of_tunnel();
        let _ = setsid();
        vpn::run(name, say_ready)?;
    } else if foreground || asked {
        log_of_tunnel();
        vpn::run(name, || {})?;
    } else {
        return leave_behind(name);
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes a new key, and prints the public one.
pub(crate) fn keygen(file: &Path, output: &Output) -> Result<()> {
    let public = vpn::generate_key(file)?;
    let answer = serde_json::json!({ "public_key": public });
    output.show(&answer, |_| format!("{public}\n"));
    Ok(())
}

/// Starts the process that stays, and waits until the interface can be configured. What goes wrong before, it says
/// itself.
fn leave_behind(name: &str) -> Result<ExitCode> {
    let failed = |e: std::io::Error| {
        Error::general(
            ErrorKind::Io,
            format!("the process that is to serve {name} cannot be started: {e}"),
        )
    };
    let program = std::env::current_exe().map_err(failed)?;
    let mut child = Command::new(program)
        .args(["vpn", "run", name])
        .env(AWAITED, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let mut said = Vec::new();
    if let Some(mut stdout) = child.stdout.take() {
        stdout.read_to_end(&mut said).map_err(failed)?;
    }
    if said == READY {
        return Ok(ExitCode::SUCCESS);
    }
    child.wait().map_err(failed)?;
    Ok(ExitCode::FAILURE)
}

/// Lets whoever waits go on. From then on there is nobody who reads, unless a log was asked for.
fn say_ready() {
    crate::render::print(READY);
    let Ok(nothing) = OpenOptions::new().write(true).open("/dev/null") else {
        return;
    };
    let _ = dup2_stdout(&nothing);
    if std::env::var_os("LOG_LEVEL").is_none() && std::env::var_os("WEFT_LOG").is_none() {
        let _ = dup2_stderr(&nothing);
    }
}
