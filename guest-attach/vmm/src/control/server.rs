//! The control thread: it answers the control socket and carries the console's bytes.

use std::io::{ErrorKind as IoError, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use vmm_sys_util::eventfd::EventFd;

use super::{Reply, Request, Status};
use crate::console::{Clients, Log, Screen};
use crate::devices::serial::Keyboard;
use crate::fd;
use crate::report::Report;
use crate::sync::lock;

/// Who may be connected at once; more are turned away.
const MAX_CLIENTS: usize = 16;
/// The longest request.
const MAX_REQUEST: usize = 4096;
/// What may wait for a client that does not read; who has more is let go.
const MAX_UNREAD: usize = 1 << 20;

/// Who does what is asked.
pub(crate) trait Operator: Send {
    /// How the VM is.
    fn status(&self) -> Status;
    /// Does what is asked.
    fn obey(&self, order: Order);
}

/// What can be asked of the VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Press the power button.
    Shutdown,
    /// End at once.
    Kill,
    /// Stop the CPUs for a while.
    Pause,
    /// Let them go on.
    Resume,
}

/// What the control thread listens on and writes to.
pub(crate) struct Sockets {
    pub(crate) control: Option<UnixListener>,
    pub(crate) console: Option<UnixListener>,
    pub(crate) log: Option<Log>,
    pub(crate) stdout: bool,
}

struct Client {
    stream: UnixStream,
    request: Vec<u8>,
    unread: Vec<u8>,
    /// Asked to be told when the VM has ended.
    waits: bool,
}

/// The thread's state.
pub(crate) struct Server {
    operator: Box<dyn Operator>,
    screen: Arc<Screen>,
    keyboard: Arc<Keyboard>,
    log: Option<Log>,
    stdout: bool,
    listener: Option<UnixListener>,
    clients: Vec<Client>,
    console: Clients,
    end: Arc<End>,
}

/// How the thread is told that the VM has ended.
pub(crate) struct End {
    report: Mutex<Option<Report>>,
    event: EventFd,
}

impl End {
    /// The VM has ended so.
    pub(crate) fn set(&self, report: Report) {
        *lock(&self.report) = Some(report);
        let _ = self.event.write(1);
    }
}

impl Server {
    /// The state of a thread that serves `sockets`, whose listeners must not block.
    pub(crate) fn new(
        sockets: Sockets,
        operator: Box<dyn Operator>,
        screen: Arc<Screen>,
        keyboard: Arc<Keyboard>,
    ) -> std::io::Result<Self> {
        let event = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
        Ok(Self {
            operator,
            screen,
            keyboard,
            log: sockets.log,
            stdout: sockets.stdout,
            listener: sockets.control,
            clients: Vec::new(),
            console: Clients::new(sockets.console),
            end: Arc::new(End {
                report: Mutex::new(None),
                event,
            }),
        })
    }

    /// Where the VM's end is told.
    pub(crate) fn end(&self) -> Arc<End> {
        self.end.clone()
    }

    /// Serves until the VM has ended.
    pub(crate) fn run(&mut self) {
        loop {
            // The end first: what the guest printed before it is carried after.
            let ended = lock(&self.end.report).take();
            self.carry_console();
            if let Some(report) = ended {
                self.finish(&report);
                return;
            }
            self.serve_control();
            if self.wait().is_err() {
                tracing::error!(
                    "the control thread cannot wait; console and control socket are closed"
                );
                return;
            }
        }
    }

    fn wait(&self) -> nix::Result<()> {
        let mut waits: Vec<(BorrowedFd<'_>, PollFlags)> = vec![
            (fd::borrow(&self.end.event), PollFlags::POLLIN),
            (fd::borrow(self.screen.event()), PollFlags::POLLIN),
        ];
        waits.extend(
            self.listener
                .iter()
                .map(|listener| (listener.as_fd(), PollFlags::POLLIN)),
        );
        waits.extend(self.clients.iter().map(|client| {
            let mut flags = PollFlags::POLLIN;
            flags.set(PollFlags::POLLOUT, !client.unread.is_empty());
            (client.stream.as_fd(), flags)
        }));
        waits.extend(self.console.waits());
        let mut waits: Vec<_> = waits
            .into_iter()
            .map(|(fd, flags)| PollFd::new(fd, flags))
            .collect();
        match poll(&mut waits, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Takes what the guest printed to everybody who wants it, and what was typed to the guest.
    fn carry_console(&mut self) {
        let _ = self.screen.event().read();
        let output = self.screen.take();
        if !output.is_empty() {
            if let Some(log) = &mut self.log
                && let Err(error) = log.append(&output)
            {
                tracing::warn!("the console's log cannot be written, it ends here: {error}");
                self.log = None;
            }
            if self.stdout {
                let mut stdout = std::io::stdout().lock();
                let _ = stdout.write_all(&output).and_then(|()| stdout.flush());
            }
            self.console.show(&output);
        }
        self.console.serve();
        self.console.typed(|bytes| self.keyboard.type_in(bytes));
    }

    fn finish(&mut self, report: &Report) {
        let reply = Reply {
            report: Some(report.clone()),
            ..Reply::done()
        };
        for client in self.clients.iter_mut().filter(|client| client.waits) {
            client.answer(&reply);
        }
        self.clients.retain_mut(Client::write);
    }

    fn serve_control(&mut self) {
        while let Some(Ok((stream, _))) = self.listener.as_ref().map(UnixListener::accept) {
            if self.clients.len() < MAX_CLIENTS && stream.set_nonblocking(true).is_ok() {
                let (request, unread) = (Vec::new(), Vec::new());
                self.clients.push(Client {
                    stream,
                    request,
                    unread,
                    waits: false,
                });
            }
        }
        let operator = &*self.operator;
        self.clients.retain_mut(|client| client.serve(operator));
    }
}

impl Client {
    /// Reads and answers what there is; whether the client is still there comes back.
    fn serve(&mut self, operator: &dyn Operator) -> bool {
        let mut buffer = [0; 1024];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return false,
                Ok(count) => self.request.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == IoError::WouldBlock => break,
                Err(error) if error.kind() == IoError::Interrupted => {}
                Err(_) => return false,
            }
            while let Some(end) = self.request.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.request.drain(..=end).collect();
                self.handle(&line, operator);
            }
            if self.request.len() > MAX_REQUEST || self.unread.len() > MAX_UNREAD {
                return false;
            }
        }
        self.write()
    }

    fn handle(&mut self, line: &[u8], operator: &dyn Operator) {
        let obey = |order| {
            operator.obey(order);
            Reply::done()
        };
        let reply = match serde_json::from_slice(line) {
            Ok(Request::Status) => Reply {
                status: Some(operator.status()),
                ..Reply::done()
            },
            Ok(Request::Shutdown) => obey(Order::Shutdown),
            Ok(Request::Kill) => obey(Order::Kill),
            Ok(Request::Pause) => obey(Order::Pause),
            Ok(Request::Resume) => obey(Order::Resume),
            Ok(Request::Wait) => {
                self.waits = true;
                return;
            }
            Err(error) => Reply::refused(format!("the request is not understood: {error}")),
        };
        self.answer(&reply);
    }

    fn answer(&mut self, reply: &Reply) {
        // A reply is plain data, which always has a JSON form.
        if let Ok(line) = serde_json::to_vec(reply) {
            self.unread.extend(line);
            self.unread.push(b'\n');
        }
    }

    fn write(&mut self) -> bool {
        while !self.unread.is_empty() {
            match self.stream.write(&self.unread) {
                Ok(count) => drop(self.unread.drain(..count)),
                Err(error) if error.kind() == IoError::WouldBlock => return true,
                Err(error) if error.kind() == IoError::Interrupted => {}
                Err(_) => return false,
            }
        }
        true
    }
}

#[cfg(test)]
mod tests;
