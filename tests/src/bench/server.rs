//! A server in a process of its own, on a Unix socket, with fio's nbd engine as its load.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use super::{CpuClock, Sample, fio};
use crate::Process;

/// A server that runs until it is dropped.
pub struct NbdServer {
    process: Process,
    socket: PathBuf,
}

impl NbdServer {
    /// Starts `program` (`SELF` is this one) with `arguments`, in which `FILE` and `SOCKET` stand for the file and for a
    /// socket in `folder`, and waits until it answers.
    ///
    /// # Errors
    /// If it does not run, or does not answer.
    pub fn start(program: &str, arguments: &str, folder: &Path, file: &Path) -> Result<Self> {
        let socket = folder.join("socket");
        // A server that was killed leaves its socket behind.
        if socket.exists() {
            std::fs::remove_file(&socket)?;
        }
        let text = |path: &Path| path.to_str().map(str::to_string);
        let (file, place) = (text(file), text(&socket));
        let (file, place) = file.zip(place).context("the path is text")?;
        let mut command = if program == "SELF" {
            Process::command(std::env::current_exe()?)
        } else {
            Process::command(program)
        };
        let words = arguments.split_whitespace();
        command
            .args(words.map(|word| word.replace("FILE", &file).replace("SOCKET", &place)))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut process = Process::spawn(command)?;
        for _ in 0..500 {
            if std::os::unix::net::UnixStream::connect(&socket).is_ok() {
                return Ok(Self { process, socket });
            }
            ensure!(process.is_running(), "{program} does not run");
            std::thread::sleep(Duration::from_millis(10));
        }
        bail!("{program} does not answer");
    }

    /// What fio does to it with one connection, over `size` bytes, and what that costs the server.
    ///
    /// # Errors
    /// If fio is not installed or fails.
    pub fn load(&self, size: u64, pattern: &str, block: &str, depth: u32) -> Result<Sample> {
        let clock = CpuClock::of(self.process.pid())?;
        let job = fio([
            "--ioengine=nbd",
            &format!("--uri=nbd+unix:///?socket={}", self.socket.display()),
            &format!("--size={size}"),
            &format!("--rw={pattern}"),
            &format!("--bs={block}"),
            &format!("--iodepth={depth}"),
        ])?;
        let cpu = clock.used()?;
        let side = if pattern.ends_with("read") {
            "read"
        } else {
            "write"
        };
        let figures = &job[side];
        let number = |name: &str| {
            let figure = figures[name].as_u64();
            figure.with_context(|| format!("fio tells {name}"))
        };
        Ok(Sample {
            operations: number("total_ios")?,
            bytes: number("io_bytes")?,
            elapsed: Duration::from_millis(number("runtime")?),
            cpu,
        })
    }
}
