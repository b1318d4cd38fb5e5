//! One VM of the in-tree VMM: `vmm-process run CONFIG.json`; the report goes to standard output, messages to standard
//! error. `vmm-process status|shutdown|pause|resume|kill|wait SOCKET` speaks to its control socket.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use weft_vmm::control::Client;
use weft_vmm::{Config, Ending};

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    match start() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start() -> Result<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: vmm-process VERB PATH";
    let verb = arguments.next().context(usage)?;
    let path = arguments.next().context(usage)?;
    if verb == "run" {
        return run(Path::new(&path));
    }
    let mut client = Client::connect(Path::new(&path))?;
    match verb.as_str() {
        "status" => println!("{}", serde_json::to_string(&client.status()?)?),
        "shutdown" => client.shutdown()?,
        "pause" => client.pause()?,
        "resume" => client.resume()?,
        "kill" => client.kill()?,
        "wait" => {
            let report = client.wait(Some(Duration::from_secs(60)))?;
            println!("{}", serde_json::to_string(&report)?);
        }
        _ => bail!(usage),
    }
    Ok(ExitCode::SUCCESS)
}

fn run(path: &Path) -> Result<ExitCode> {
    let config: Config = serde_json::from_slice(&std::fs::read(path)?)?;
    let report = match weft_vmm::run(&config) {
        Ok(report) => report,
        Err(error) => bail!(error.sentence()),
    };
    println!("{}", serde_json::to_string(&report)?);
    Ok(match report.ending {
        Ending::Failed { .. } => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    })
}
