//! Runs one VM from a configuration in JSON: `weft-vmm FILE`. The report goes to standard output.

use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(path) = std::env::args().nth(1) else {
        eprintln!("usage: weft-vmm CONFIG.json");
        return ExitCode::from(2);
    };
    let config = std::fs::read(&path)
        .map_err(|error| error.to_string())
        .and_then(|text| serde_json::from_slice(&text).map_err(|error| error.to_string()));
    let config: weft_vmm::Config = match config {
        Ok(config) => config,
        Err(error) => {
            eprintln!("{path}: {error}");
            return ExitCode::from(2);
        }
    };
    match weft_vmm::run(&config) {
        Ok(report) => {
            println!("{}", serde_json::json!(report));
            match report.ending {
                weft_vmm::Ending::Failed { .. } => ExitCode::FAILURE,
                _ => ExitCode::SUCCESS,
            }
        }
        Err(error) => {
            eprintln!("{}", error.sentence());
            ExitCode::FAILURE
        }
    }
}
