//! The daemon's side of the control socket.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::{Reply, Request, Status};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::report::Report;

/// Everything but `wait` is answered within this time, or the process hangs.
const ANSWER_TIME: Duration = Duration::from_secs(10);

/// A connection to a VM's control socket. Its calls block.
pub struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects. Fails with [`ErrorKind::Control`] where no VM listens.
    pub fn connect(path: &Path) -> Result<Self> {
        let stream = UnixStream::connect(path).context(
            ErrorKind::Control,
            format!("no VM answers at {}", path.display()),
        )?;
        Ok(Self {
            stream: BufReader::new(stream),
        })
    }

    /// How the VM is.
    pub fn status(&mut self) -> Result<Status> {
        let reply = self.ask(Request::Status, Some(ANSWER_TIME))?;
        reply.status.ok_or_else(strange)
    }

    /// Presses the power button. Whether and when the guest shuts down is its own affair.
    pub fn shutdown(&mut self) -> Result<()> {
        self.ask(Request::Shutdown, Some(ANSWER_TIME)).map(drop)
    }

    /// Ends the VM at once.
    pub fn kill(&mut self) -> Result<()> {
        self.ask(Request::Kill, Some(ANSWER_TIME)).map(drop)
    }

    /// Stops the CPUs.
    pub fn pause(&mut self) -> Result<()> {
        self.ask(Request::Pause, Some(ANSWER_TIME)).map(drop)
    }

    /// Lets the CPUs go on.
    pub fn resume(&mut self) -> Result<()> {
        self.ask(Request::Resume, Some(ANSWER_TIME)).map(drop)
    }

    /// Waits until the VM has ended, for at most `limit` if there is one.
    pub fn wait(&mut self, limit: Option<Duration>) -> Result<Report> {
        self.ask(Request::Wait, limit)?.report.ok_or_else(strange)
    }

    fn ask(&mut self, request: Request, limit: Option<Duration>) -> Result<Reply> {
        let failed = "the VM's control socket does not answer";
        let mut line = serde_json::to_vec(&request).context(ErrorKind::Control, failed)?;
        line.push(b'\n');
        let stream = self.stream.get_mut();
        stream
            .set_read_timeout(limit)
            .context(ErrorKind::Control, failed)?;
        stream
            .write_all(&line)
            .context(ErrorKind::Control, failed)?;
        let mut answer = String::new();
        self.stream
            .read_line(&mut answer)
            .context(ErrorKind::Control, failed)?;
        if answer.is_empty() {
            return Err(Error::new(ErrorKind::Control, "the VM's process has ended"));
        }
        let reply: Reply = serde_json::from_str(&answer).context(ErrorKind::Control, failed)?;
        match reply.error {
            None => Ok(reply),
            Some(error) => Err(Error::new(ErrorKind::Control, error)),
        }
    }
}

fn strange() -> Error {
    Error::new(
        ErrorKind::Control,
        "the VM's answer has not what was asked for",
    )
}
