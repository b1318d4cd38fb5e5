//! The VM process from its start to its end.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use crate::boot;
use crate::config::Config;
use crate::console::{Log, Screen};
use crate::control::{End, Operator, Order, Server, Sockets, State, Status};
use crate::devices::serial::Keyboard;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::machine::{Machine, Mode, Plan};
use crate::report::{Confinement, Ending, Report};
use crate::sandbox::{self, ThreadKind};
use crate::sync::{Stop, lock};
use crate::timeline::Timeline;
use crate::vhost::{self, Attachment, Kind};

/// A back end that does not answer within this time stops the start.
const BACK_END_TIME: Duration = Duration::from_secs(20);
/// A back end has this long to finish what it works on when the VM ends.
const DRAIN_TIME: Duration = Duration::from_secs(5);

/// Runs a VM until it has ended, in this process and on this thread.
///
/// With `config.sandbox` the calling thread keeps for its life what it is confined to, so a caller should do nothing after
/// but print the report and end the process. A reboot of the guest starts the machine again and does not return.
///
/// Errors are those before the first machine runs: a configuration that cannot be, a kernel file that is none, a back end
/// that does not answer, no KVM. What happens later is in the report. Both are also written to `config.report`.
pub fn run(config: &Config) -> Result<Report> {
    config.validate()?;
    boot::check(&config.kernel, config.initrd.as_deref())?;
    let mut report_file = config.report.as_deref().map(create_report).transpose()?;
    let result = Process::start(config).and_then(|mut process| process.run());
    if let Some(file) = &mut report_file {
        let report = match &result {
            Ok(report) => report.clone(),
            Err(error) => failure(config, error),
        };
        let written = serde_json::to_vec(&report).map_err(std::io::Error::other);
        if let Err(error) = written.and_then(|json| file.write_all(&json)) {
            tracing::error!("the VM's report cannot be written: {error}");
        }
    }
    result
}

fn create_report(path: &Path) -> Result<File> {
    File::create(path).context(
        ErrorKind::Config,
        format!("cannot make the report {}", path.display()),
    )
}

fn failure(config: &Config, error: &Error) -> Report {
    Report {
        name: config.name.clone(),
        ending: failed(error),
        boots: 0,
        steps: Vec::new(),
        sandbox: Confinement::default(),
    }
}

fn failed(error: &Error) -> Ending {
    Ending::Failed {
        error: error.kind().name().into(),
        message: error.sentence(),
    }
}

/// Binds a socket. One that an earlier process left goes first; one that is in use, or a file that is no socket, stays.
fn listen(path: Option<&Path>, kind: ErrorKind) -> Result<Option<UnixListener>> {
    let Some(path) = path else {
        return Ok(None);
    };
    let context = || format!("cannot listen on {}", path.display());
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    if is_socket {
        if UnixStream::connect(path).is_ok() {
            let text = format!("cannot listen on {}: another process does", path.display());
            return Err(Error::new(kind, text));
        }
        std::fs::remove_file(path).context(kind, context())?;
    }
    let listener = UnixListener::bind(path).context(kind, context())?;
    listener.set_nonblocking(true).context(kind, context())?;
    Ok(Some(listener))
}

fn open_sockets(config: &Config) -> Result<Sockets> {
    let console = &config.console;
    let log = match &console.log {
        Some(path) => Some(Log::open(path, console.log_bytes).context(
            ErrorKind::Console,
            format!("cannot open the console's log {}", path.display()),
        )?),
        None => None,
    };
    Ok(Sockets {
        control: listen(config.control.as_deref(), ErrorKind::Control)?,
        console: listen(console.socket.as_deref(), ErrorKind::Console)?,
        log,
        stdout: console.stdout,
    })
}

/// What the control thread and the supervisor share.
struct Shared {
    name: String,
    attachments: Vec<Arc<Attachment>>,
    timeline: Arc<Timeline>,
    /// The machine, unless a reboot is under way.
    machine: Mutex<Option<Arc<Machine>>>,
    killed: AtomicBool,
}

impl Shared {
    fn machine(&self) -> Option<Arc<Machine>> {
        lock(&self.machine).clone()
    }

    fn is_killed(&self) -> bool {
        self.killed.load(Ordering::SeqCst)
    }
}

/// The control thread's hand on the VM.
struct Hand(Arc<Shared>);

impl Operator for Hand {
    fn status(&self) -> Status {
        let state = match self.0.machine().map(|machine| machine.mode()) {
            Some(Mode::Run) => State::Running,
            Some(Mode::Pause) => State::Paused,
            Some(Mode::End) | None => State::Starting,
        };
        Status {
            name: self.0.name.clone(),
            pid: std::process::id(),
            state,
            boots: self.0.timeline.boots(),
            devices: self
                .0
                .attachments
                .iter()
                .map(|device| device.status())
                .collect(),
            steps: self.0.timeline.steps(),
        }
    }

    fn obey(&self, order: Order) {
        if order == Order::Kill {
            self.0.killed.store(true, Ordering::SeqCst);
        }
        let Some(machine) = self.0.machine() else {
            // Back ends are awaited or a reboot is under way. Only `kill` counts then: it ends the waiting.
            if order == Order::Kill {
                self.0.attachments.iter().for_each(|device| device.end());
            }
            return;
        };
        match order {
            Order::Shutdown => machine.press_power_button(),
            Order::Kill => machine.stop().set(Stop::Killed),
            Order::Pause => machine.set_mode(Mode::Pause),
            Order::Resume => machine.set_mode(Mode::Run),
        }
    }
}

/// The threads and what they share.
struct Process<'a> {
    config: &'a Config,
    shared: Arc<Shared>,
    screen: Arc<Screen>,
    keyboard: Arc<Keyboard>,
    confinement: Confinement,
    server: Option<(Arc<End>, JoinHandle<()>)>,
    devices: Vec<JoinHandle<Result<()>>>,
}

impl<'a> Process<'a> {
    /// Opens what must be opened, gives up rights, and starts the threads that outlive a reboot.
    fn start(config: &'a Config) -> Result<Self> {
        let timeline = Arc::new(Timeline::new());
        let sockets = open_sockets(config)?;
        let screen = Arc::new(
            Screen::new(timeline.clone())
                .context(ErrorKind::Console, "no event for the console")?,
        );
        let shared = Arc::new(Shared {
            name: config.name.clone(),
            attachments: attachments(config)?,
            timeline,
            machine: Mutex::new(None),
            killed: false.into(),
        });
        let confinement = if config.sandbox {
            sandbox::enter(config)?
        } else {
            Confinement::default()
        };
        let mut process = Self {
            config,
            shared,
            screen,
            keyboard: Arc::default(),
            confinement,
            server: None,
            devices: Vec::new(),
        };
        process.start_control(sockets)?;
        process.start_devices()?;
        Ok(process)
    }

    fn start_control(&mut self, sockets: Sockets) -> Result<()> {
        let hand = Box::new(Hand(self.shared.clone()));
        let mut server = Server::new(sockets, hand, self.screen.clone(), self.keyboard.clone())
            .context(ErrorKind::Control, "no event for the control thread")?;
        let end = server.end();
        let confined = self.config.sandbox;
        let thread = Builder::new()
            .name("control".into())
            .spawn(
                move || match sandbox::narrow(ThreadKind::Control, confined) {
                    Ok(()) => server.run(),
                    Err(error) => tracing::error!("{}", error.sentence()),
                },
            )
            .context(ErrorKind::Control, "no control thread")?;
        self.server = Some((end, thread));
        Ok(())
    }

    fn start_devices(&mut self) -> Result<()> {
        let confined = self.config.sandbox;
        for attachment in &self.shared.attachments {
            let timeline = self.shared.timeline.clone();
            let prepare = move || sandbox::narrow(ThreadKind::Device, confined);
            self.devices
                .push(vhost::start(attachment.clone(), timeline, prepare)?);
        }
        for attachment in &self.shared.attachments {
            attachment.wait_ready(BACK_END_TIME)?;
        }
        if !self.devices.is_empty() {
            self.shared.timeline.mark("back ends ready");
        }
        Ok(())
    }

    /// Runs machines until one ends for good.
    fn run(&mut self) -> Result<Report> {
        loop {
            let result = if self.shared.is_killed() {
                Ok(Stop::Killed)
            } else {
                self.run_machine()
            };
            let stop = match result {
                Ok(stop) => stop,
                Err(error) if self.shared.timeline.boots() == 1 => return Err(error),
                Err(error) => Stop::Failed(error),
            };
            let ending = match stop {
                Stop::Reset if !self.shared.is_killed() => {
                    self.shared.timeline.reboot();
                    continue;
                }
                Stop::Reset | Stop::Killed => Ending::Killed,
                Stop::PoweredOff => Ending::PoweredOff,
                Stop::Failed(error) => failed(&error),
            };
            let report = self.report(ending);
            self.end(&report);
            return Ok(report);
        }
    }

    /// One machine, from its start to its end.
    fn run_machine(&self) -> Result<Stop> {
        let plan = Plan {
            config: self.config,
            attachments: &self.shared.attachments,
            screen: &self.screen,
            timeline: &self.shared.timeline,
        };
        let confined = self.config.sandbox;
        let prepare = move || sandbox::narrow(ThreadKind::Cpu, confined);
        let machine = Arc::new(Machine::start(&plan, prepare)?);
        self.keyboard.plug(Some(machine.serial()));
        *lock(&self.shared.machine) = Some(machine.clone());
        if self.shared.is_killed() {
            machine.stop().set(Stop::Killed);
        }
        let stop = machine.stop().wait();
        lock(&self.shared.machine).take();
        self.keyboard.plug(None);
        machine.end();
        for attachment in &self.shared.attachments {
            if !attachment.wait_done(DRAIN_TIME) {
                tracing::warn!("{} has not stopped its rings yet", attachment.name);
            }
        }
        Ok(stop)
    }

    fn report(&self, ending: Ending) -> Report {
        Report {
            name: self.config.name.clone(),
            ending,
            boots: self.shared.timeline.boots(),
            steps: self.shared.timeline.steps(),
            sandbox: self.confinement,
        }
    }

    /// Ends all threads.
    fn end(&mut self, report: &Report) {
        for attachment in &self.shared.attachments {
            attachment.end();
        }
        for device in self.devices.drain(..) {
            if let Ok(Err(error)) = device.join() {
                tracing::error!("{}", error.sentence());
            }
        }
        if let Some((end, thread)) = self.server.take() {
            end.set(report.clone());
            let _ = thread.join();
        }
    }
}

impl Drop for Process<'_> {
    fn drop(&mut self) {
        if self.server.is_some() {
            let error = Error::new(ErrorKind::Config, "the VM did not start");
            self.end(&self.report(failed(&error)));
        }
    }
}

/// The devices of a configuration: disks first, then NICs.
fn attachments(config: &Config) -> Result<Vec<Arc<Attachment>>> {
    let disks = config.disks.iter().map(|disk| {
        let queues = if disk.queues == 0 {
            config.cpus as u16
        } else {
            disk.queues
        };
        Attachment::new(&disk.name, Kind::Disk, disk.socket.clone(), queues)
    });
    let nics = config.nics.iter().map(|nic| {
        let kind = Kind::Nic { mac: nic.mac };
        Attachment::new(&nic.name, kind, nic.socket.clone(), 2)
    });
    disks
        .chain(nics)
        .map(|device| device.map(Arc::new))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_that_is_none_stops_before_anything_is_made() {
        let folder = tempfile::tempdir().unwrap();
        let kernel = folder.path().join("kernel");
        std::fs::write(&kernel, "#!/bin/sh").unwrap();
        let json = format!(
            r#"{{"name":"t","cpus":1,"memory_bytes":268435456,"kernel":{kernel:?},"control":{:?}}}"#,
            folder.path().join("control"),
        );
        let config: Config = serde_json::from_str(&json).unwrap();
        let error = run(&config).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Kernel);
        assert!(error.to_string().contains("is no kernel"), "{error}");
        assert!(!folder.path().join("control").exists());
    }

    #[test]
    fn a_stale_socket_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let first = listen(Some(&path), ErrorKind::Control).unwrap();
        drop(first);
        assert!(path.exists());
        let second = listen(Some(&path), ErrorKind::Control).unwrap();
        assert!(second.is_some());
        let error = listen(Some(&path), ErrorKind::Control).unwrap_err();
        assert!(error.to_string().contains("another process"), "{error}");
        let file = folder.path().join("file");
        std::fs::write(&file, "precious").unwrap();
        assert!(listen(Some(&file), ErrorKind::Control).is_err());
        assert_eq!(std::fs::read(&file).unwrap(), b"precious");
        assert!(listen(None, ErrorKind::Control).unwrap().is_none());
    }
}
