//! The program `weft`: what was typed becomes a request to the daemon, and its answer becomes text or JSON.
//!
//! Exit status: 0 done, 1 failed, 2 usage. Answers go to standard output, progress and errors to standard error.
//!
//! Started as `weft-qemu-img` it understands what is said to QEMU's program for images, and answers in its words.

mod args;
mod client;
mod commands;
mod daemon;
mod qemu_img;
mod render;
mod vpn;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use weft_service::api::{Error, ErrorBody, ErrorKind};

use args::{Arguments, Command, ImageCommand, VpnCommand};
use render::Output;

fn main() -> ExitCode {
    if qemu_img::is_meant(std::env::args_os().next().as_ref()) {
        return qemu_img::main();
    }
    let arguments = Arguments::parse();
    let json = arguments.json;
    match run(arguments) {
        Ok(code) => code,
        Err(error) => {
            if json {
                let body = ErrorBody { error };
                let text = serde_json::to_string_pretty(&body).expect("errors are plain data");
                render::print(format!("{text}\n").as_bytes());
            } else {
                eprintln!("weft: {error}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<ExitCode, Error> {
    let output = Output::new(arguments.json);
    match arguments.command {
        Command::Daemon { stop: false, auto } => return daemon::run(auto),
        Command::Machine { config } => return daemon::machine(&config),
        Command::Vpn(VpnCommand::Run { name, foreground }) => {
            return vpn::run(&name, foreground);
        }
        Command::Vpn(VpnCommand::Keygen { file }) => vpn::keygen(&file, &output)?,
        Command::Completions { shell } => {
            let mut command = Arguments::command();
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut command, "weft", &mut script);
            render::print(&script);
        }
        Command::Manual { folder } => clap_mangen::generate_to(Arguments::command(), &folder)
            .map_err(|error| {
                let folder = folder.display().to_string();
                Error::from_io(
                    &folder,
                    &format!("the manual cannot be written to {folder}"),
                    &error,
                )
            })?,
        Command::Image(command) if !matches!(command, ImageCommand::Live(_)) => {
            return commands::image::run(command, &output);
        }
        command => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|error| {
                    Error::general(ErrorKind::Io, format!("weft cannot start: {error}"))
                })?;
            runtime.block_on(commands::run(command, &output))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
