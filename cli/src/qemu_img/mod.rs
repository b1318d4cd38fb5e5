//! `weft-qemu-img`: this program under another name understands what is said to QEMU's.
//!
//! Arguments, exit statuses and what scripts read of the output are QEMU's (version 7.2, which the tests compare with).
//! Like that program it follows every file that an image names; `weft image` does not.

mod amend;
mod args;
mod bitmaps;
mod commands;
mod copies;
mod secrets;
mod show;
mod words;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind as Usage;
use weft_service::api::Error;

use crate::render::print;

/// The name under which the program is this one.
const NAME: &str = "weft-qemu-img";

/// What QEMU's program ends with when it cannot do what it was asked for.
const FAILED: u8 = 1;

/// Whether the program was started under that name.
pub(crate) fn is_meant(program: Option<&OsString>) -> bool {
    let name = program.and_then(|program| Path::new(program).file_name());
    name.is_some_and(|name| name == NAME)
}

pub(crate) fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    if words.len() == 2 && (words[1] == "-V" || words[1] == "--version") {
        // Scripts look for the version of the program whose words they use.
        let version = env!("CARGO_PKG_VERSION");
        print(format!("qemu-img version 7.2.0 (weft {version})\n").as_bytes());
        return ExitCode::SUCCESS;
    }
    let arguments = match args::Arguments::try_parse_from(words) {
        Ok(arguments) => arguments,
        Err(error) if error.kind() == Usage::DisplayHelp => {
            print(error.to_string().as_bytes());
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprint!("{error}");
            return ExitCode::from(FAILED);
        }
    };
    let failed = commands::failure(&arguments.command);
    match weft_uring::block_on(commands::run(arguments.command)) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            complain(&error);
            ExitCode::from(failed)
        }
    }
}

fn complain(error: &Error) {
    eprintln!("{NAME}: {error}");
}
