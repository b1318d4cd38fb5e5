//! Machines' processes: started so that they outlive the daemon, and found again by pid and start time.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::api::{Error, ErrorKind, Result};

/// How long a killed process may take to be gone.
const KILL_LIMIT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);

/// A process that cannot be mistaken for a later one with the same pid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its pid.
    pub pid: u32,
    /// When it started, in the kernel's ticks since boot (proc(5), field 22 of stat).
    start: u64,
}

impl Process {
    /// Starts `command` in a session of its own, with its output in `log`.
    ///
    /// # Errors
    /// `NotFound` if the program is missing, otherwise `Io`.
    pub fn start(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        let program = command.get_program().to_string_lossy().into_owned();
        let failed = |error: std::io::Error| {
            let tried = format!("machine {name} cannot be started with {program}");
            Error::from_io(name, &tried, &error)
        };
        let output = File::create(log).map_err(failed)?;
        command
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(output.try_clone().map_err(failed)?)
            .stderr(output)
            .process_group(0);
        let mut child = command.spawn().map_err(failed)?;
        let pid = child.id();
        let found = start_ticks(pid);
        // Reaps it when it ends while this daemon lives; afterwards init does.
        std::thread::Builder::new()
            .name(format!("reap-{pid}"))
            .stack_size(64 << 10)
            .spawn(move || {
                let _ = child.wait();
            })
            .map_err(failed)?;
        match found {
            Some(start) => Ok(Self { pid, start }),
            None => Err(Error::new(
                ErrorKind::Io,
                name,
                format!("machine {name} ended at once; its log is {}", log.display()),
            )),
        }
    }

    /// Whether it still runs.
    pub fn is_alive(&self) -> bool {
        start_ticks(self.pid) == Some(self.start)
    }

    /// Waits until it has ended; tells whether it did in time.
    pub async fn ended_within(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while self.is_alive() {
            if Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(POLL).await;
        }
        true
    }

    /// Sends `signal`, if it still runs.
    ///
    /// # Errors
    /// `Permission` or `Io`.
    pub fn signal(&self, name: &str, signal: Signal) -> Result<()> {
        if !self.is_alive() {
            return Ok(());
        }
        let pid = i32::try_from(self.pid).expect("the kernel's pids fit");
        match kill(Pid::from_raw(pid), signal) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(errno) => Err(Error::from_io(
                name,
                &format!("process {pid} of machine {name} cannot be told to end"),
                &errno.into(),
            )),
        }
    }

    /// Ends it at once and waits until it is gone.
    ///
    /// # Errors
    /// `Permission`, or `Io` if it does not go.
    pub async fn end(&self, name: &str) -> Result<()> {
        self.signal(name, Signal::SIGKILL)?;
        if self.ended_within(KILL_LIMIT).await {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Io,
            name,
            format!(
                "process {} of machine {name} was killed and does not go",
                self.pid
            ),
        ))
    }
}

/// Field 22 of `/proc/PID/stat`, or nothing if the process is gone or a zombie.
fn start_ticks(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses and may hold anything.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_is_followed_to_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("sleep");
        command.arg("60");
        let process = Process::start("m", command, &folder.path().join("log")).unwrap();
        assert!(process.is_alive());
        assert!(!process.ended_within(Duration::ZERO).await);
        let other = Process {
            pid: process.pid,
            start: process.start + 1,
        };
        assert!(
            !other.is_alive(),
            "another process of the same pid is not this one"
        );
        process.end("m").await.unwrap();
        assert!(!process.is_alive());
        process.end("m").await.unwrap();
    }

    #[test]
    fn a_missing_program_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let command = Command::new("no-such-engine");
        let error = Process::start("m", command, &folder.path().join("log")).unwrap_err();
        assert_eq!(error.kind, ErrorKind::NotFound);
        assert!(error.message.contains("no-such-engine"));
    }
}
