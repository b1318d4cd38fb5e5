//! The commands that are processes of their own: the daemon, and a machine.

use std::path::Path;
use std::process::ExitCode;

use weft_service::api::Error;
use weft_service::daemon::{Daemon, Options};
use weft_service::paths::Paths;

/// Runs the daemon until it is stopped.
pub(crate) fn run(auto: bool) -> Result<ExitCode, Error> {
    log_to_stderr();
    let paths = Paths::from_environment()?;
    Daemon::run(paths, Options { auto })?;
    Ok(ExitCode::SUCCESS)
}

/// Runs one machine in this process until it ends.
pub(crate) fn machine(config: &Path) -> Result<ExitCode, Error> {
    log_to_stderr();
    weft_service::attach::platform::run_machine(config)
}

/// As for the daemon; `LOG_LEVEL`, by which other implementations of WireGuard are asked, is understood as well.
pub(crate) fn log_of_tunnel() {
    use tracing_subscriber::EnvFilter;
    let level = match std::env::var("LOG_LEVEL").as_deref() {
        Ok("silent") => "off",
        Ok("error") => "error",
        Ok("verbose" | "debug") => "debug",
        _ => "warn",
    };
    let filter = EnvFilter::try_from_env("WEFT_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
}

/// Levels come from `WEFT_LOG`, in the syntax of tracing's filters; warnings by default.
fn log_to_stderr() {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_env("WEFT_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
}
