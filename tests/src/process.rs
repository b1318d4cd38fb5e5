//! Child processes that do not outlive their test.

use std::ffi::OsStr;
use std::io;
use std::process::{Child, Command, ExitStatus, Output};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::require::program_path;

/// A child that is ended (SIGTERM, then SIGKILL) and reaped when the guard is dropped, and killed by the kernel when
/// the thread that started it ends first.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
}

impl Process {
    /// A command whose process the kernel kills with the thread that starts it.
    pub fn command(program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("setpriv");
        command
            .env("PATH", program_path())
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program);
        command
    }

    /// Starts `command`.
    ///
    /// # Errors
    /// If the program cannot be started.
    pub fn spawn(mut command: Command) -> Result<Self> {
        let name = described(&command);
        let child = command
            .spawn()
            .with_context(|| format!("{name} does not start"))?;
        Ok(Self { child, name })
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The child, for its pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// If the process is gone.
    pub fn signal(&self, signal: nix::sys::signal::Signal) -> Result<()> {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.pid())?);
        nix::sys::signal::kill(pid, signal).with_context(|| format!("signalling {}", self.name))
    }

    /// Waits for the end, at most `limit`; `None` if it still runs then.
    ///
    /// # Errors
    /// If the process cannot be waited for.
    pub fn wait_for(&mut self, limit: Duration) -> io::Result<Option<ExitStatus>> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(Some(status));
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.is_running() {
            let _ = self.signal(nix::sys::signal::Signal::SIGTERM);
            if !matches!(self.wait_for(Duration::from_secs(3)), Ok(Some(_))) {
                let _ = self.child.kill();
                let _ = self.child.wait();
            }
        }
    }
}

/// Runs `program` to its end and gives its standard output.
///
/// # Errors
/// If it does not start, or ends with another status than 0: the error holds what it printed.
pub fn run<A: AsRef<OsStr>>(
    program: &str,
    arguments: impl IntoIterator<Item = A>,
) -> Result<String> {
    let mut command = Command::new(program);
    command.env("PATH", program_path()).args(arguments);
    let name = described(&command);
    let output = command
        .output()
        .with_context(|| format!("{name} does not start"))?;
    succeeded(&name, &output)
}

pub(crate) fn succeeded(name: &str, output: &Output) -> Result<String> {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!("{name}: {}\n{text}{errors}", output.status);
    }
    Ok(text)
}

fn described(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let line: Vec<_> = words.map(OsStr::to_string_lossy).collect();
    line.join(" ")
}

/// A TCP port of the loopback that nobody listens on now.
///
/// # Panics
/// If the loopback has no free port.
pub fn free_port() -> u16 {
    let listener =
        std::net::TcpListener::bind("127.0.0.1:0").expect("the loopback has a free port");
    listener
        .local_addr()
        .expect("a bound socket has an address")
        .port()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_process_is_gone() {
        let mut command = Process::command("sleep");
        command.arg("60");
        let process = Process::spawn(command).expect("sleep starts");
        let folder = format!("/proc/{}", process.pid());
        assert!(std::path::Path::new(&folder).exists());
        drop(process);
        assert!(!std::path::Path::new(&folder).exists());
    }

    #[test]
    fn a_failing_program_tells_what_it_printed() {
        let error =
            run("sh", ["-c", "echo out; echo err >&2; exit 3"]).expect_err("it exits with 3");
        let text = format!("{error:#}");
        assert!(
            text.contains("out\n") && text.contains("err\n") && text.contains('3'),
            "{text}"
        );
    }
}
