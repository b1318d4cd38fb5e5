//! The platform VMM as an engine: a process of this program's own.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use weft_vmm::control::Client;
use weft_vmm::{Config, Ending};

use crate::api::{Error, ErrorKind, Result};

/// The command that starts `machine`: this program, with the configuration in the machine's folder.
///
/// # Errors
/// `Io` if the folder cannot be written.
pub fn command(machine: &Config, folder: &Path) -> Result<Command> {
    let path = folder.join("machine.json");
    let name = path.display().to_string();
    let cannot = |error| Error::from_io(&name, &format!("{name} cannot be written"), &error);
    let text = serde_json::to_vec_pretty(machine).map_err(|error| cannot(error.into()))?;
    std::fs::write(&path, text).map_err(cannot)?;
    let program = std::env::current_exe().map_err(cannot)?;
    let mut command = Command::new(program);
    command.arg("machine").arg(path);
    Ok(command)
}

/// Is the process that [`command`] starts.
///
/// # Errors
/// Whatever kept the machine from starting or going on.
pub fn run_machine(config: &Path) -> Result<ExitCode> {
    let name = config.display().to_string();
    let text = std::fs::read(config)
        .map_err(|error| Error::from_io(&name, &format!("{name} cannot be read"), &error))?;
    let machine: Config = serde_json::from_slice(&text).map_err(|error| {
        Error::new(
            ErrorKind::Invalid,
            name.clone(),
            format!("{name} describes no machine: {error}"),
        )
    })?;
    let failed = |message| Err(Error::new(ErrorKind::Io, &machine.name, message));
    match weft_vmm::run(&machine) {
        Ok(report) => match report.ending {
            Ending::PoweredOff | Ending::Killed => Ok(ExitCode::SUCCESS),
            Ending::Failed { message, .. } => failed(message),
        },
        Err(error) => failed(error.sentence()),
    }
}

/// Presses the power button.
///
/// # Errors
/// If the process does not answer.
pub async fn press_power_button(control: &Path) -> std::io::Result<()> {
    let control: PathBuf = control.to_owned();
    let press = move || {
        let mut client = Client::connect(&control)?;
        client.shutdown()
    };
    let pressed = tokio::task::spawn_blocking(press)
        .await
        .map_err(std::io::Error::other)?;
    pressed.map_err(|error| std::io::Error::other(error.sentence()))
}
