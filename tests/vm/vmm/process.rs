//! One VM of the in-tree VMM: `vmm-process run CONFIG.json`; the report goes to standard output, messages to standard
//! error. `vmm-process status|shutdown|pause|resume|kill|wait SOCKET` speaks to its control socket, `vmm-process type
//! SOCKET LINE` to its console, and `vmm-process disk SOCKET FILE` and `vmm-process nic SOCKET TAP` are back ends of ours for its devices.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use weft_netio::{InterfaceName, Offloads as TapOffloads, Tap, TapOptions};
use weft_uring::{FileDevice, OpenOptions, block_on, sleep};
use weft_vhost_user::{BlkBackend, BlkServe, FrameFile, NetBackend, NetOptions, Offloads, Setting};
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
    let path = Path::new(&path);
    match verb.as_str() {
        "run" => return run(path),
        "type" => return type_in(path, &arguments.next().context(usage)?),
        "disk" => return serve_disk(path, &arguments.next().context(usage)?),
        "nic" => return serve_nic(path, &arguments.next().context(usage)?),
        _ => {}
    }
    let mut client = Client::connect(path)?;
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

/// Types a line into a console and waits until the guest has shown it.
fn type_in(path: &Path, line: &str) -> Result<ExitCode> {
    let mut console = UnixStream::connect(path)?;
    console.write_all(format!("{line}\n").as_bytes())?;
    let mut shown = Vec::new();
    let mut byte = [0];
    while !shown.ends_with(line.as_bytes()) {
        console.read_exact(&mut byte)?;
        shown.extend(byte);
    }
    Ok(ExitCode::SUCCESS)
}

/// Serves a file until it is killed, and tells the guest when it has grown.
fn serve_disk(socket: &Path, file: &str) -> Result<ExitCode> {
    let device = Arc::new(FileDevice::open(file, &OpenOptions::default())?);
    let mut options = BlkServe::default();
    options.model.queues = 2;
    block_on(async {
        let served = BlkBackend::serve_here(socket, device.clone(), options)?;
        loop {
            sleep(Duration::from_millis(100)).await;
            device.refresh()?;
            served.refresh().await;
        }
    })
}

/// Makes a TAP device and serves it until it is killed.
fn serve_nic(socket: &Path, name: &str) -> Result<ExitCode> {
    let tap = Tap::open(&InterfaceName::new(name)?, &TapOptions::default())?;
    let port = FrameFile::new(tap, |tap: &Tap, setting| {
        let done = match setting {
            Setting::Setup(setup) => tap
                .set_offloads(TapOffloads::of_virtio_net(setup.features))
                .map(drop),
            Setting::Enabled(enabled) => tap.set_queue_enabled(enabled),
        };
        done.map_err(std::io::Error::other)
    });
    let options = NetOptions {
        mac: [0x52, 0x54, 0, 0, 0, 0x99],
        mtu: None,
        pairs: 1,
        offloads: Offloads::TCP,
    };
    block_on(async {
        let _served = NetBackend::serve_here(socket, options, vec![Box::new(port)])?;
        std::future::pending().await
    })
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
