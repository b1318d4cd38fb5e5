//! Machines, and the sockets that give them disks and NICs.
//!
//! A machine is a process of its own that outlives the daemon. The daemon serves its vhost-user sockets; when the
//! daemon comes back, it listens on the same sockets, and the machine's front ends find it again.

pub mod backends;
pub mod engine;
pub mod platform;
pub mod process;
pub mod qemu;
pub mod record;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;

use crate::api::{Console, Engine, Error, ErrorKind, Machine, MachineState, Result, VmRun};
use crate::paths::{Paths, fits_a_socket};
use crate::storage::disks::key;
use crate::store::{Kind, Store};

use backends::{Backend, Port};
use process::Process;
use record::MachineRecord;

/// How long a new machine's process is watched for an early end.
const START_WATCH: Duration = Duration::from_millis(300);

/// The machines of one daemon.
pub struct Machines {
    store: Arc<dyn Store>,
    paths: Paths,
    running: Mutex<BTreeMap<String, Held>>,
}

struct Held {
    record: MachineRecord,
    backends: Vec<Backend>,
}

impl Machines {
    /// No machine yet; see [`records`](Self::records) for those of earlier daemons.
    pub fn start(store: Arc<dyn Store>, paths: Paths) -> Self {
        Self {
            store,
            paths,
            running: Mutex::default(),
        }
    }

    /// The machines that the store remembers.
    ///
    /// # Errors
    /// `Io` or `Corrupt`.
    pub fn records(&self) -> Result<Vec<MachineRecord>> {
        let records = self.store.read(Kind::Machine)?;
        Ok(records.into_iter().map(|(_, record)| record).collect())
    }

    /// A record for a machine that is to run.
    ///
    /// # Errors
    /// `Exists`, or whatever cannot be: the engine, the kernel, numbers, paths.
    pub async fn prepare(&self, run: &VmRun) -> Result<MachineRecord> {
        check_name("machine", &run.name)?;
        if self.running.lock().await.contains_key(&run.name) {
            return Err(Error::exists("machine", &run.name));
        }
        engine::check_kernel(&run.kernel)?;
        if let Some(initrd) = &run.initrd {
            std::fs::File::open(initrd).map_err(|error| {
                Error::from_io(initrd, &format!("initrd {initrd} cannot be read"), &error)
            })?;
        }
        let (engine, engine_reason) = engine::choose(run.engine)?;
        let record = MachineRecord {
            run: run.clone(),
            engine,
            engine_reason,
            process: None,
        };
        let config = record.config(&self.paths);
        config
            .validate()
            .map_err(|error| Error::new(ErrorKind::Invalid, &run.name, error.sentence()))?;
        if let Some(longest) = &config.control {
            fits_a_socket(longest)?;
        }
        Ok(record)
    }

    /// Serves a machine's disks and NICs on its sockets, and remembers it.
    ///
    /// # Errors
    /// `Io`; nothing is served then.
    pub async fn serve(&self, record: MachineRecord, ports: Vec<Port>) -> Result<()> {
        let config = record.config(&self.paths);
        make_folder(&self.paths.machine(&record.run.name))?;
        let sockets = config.disks.iter().map(|disk| &disk.socket);
        let sockets = sockets.chain(config.nics.iter().map(|nic| &nic.socket));
        let mut backends = Vec::new();
        for (port, socket) in ports.into_iter().zip(sockets) {
            backends.push(Backend::serve(port, socket).await?);
        }
        self.store.put(Kind::Machine, &record.run.name, &record)?;
        let name = record.run.name.clone();
        self.running
            .lock()
            .await
            .insert(name, Held { record, backends });
        Ok(())
    }

    /// Starts the process of a machine that is served.
    ///
    /// # Errors
    /// `NotFound` if the engine's program is missing, `Io` with the engine's last words if it ends at once.
    pub async fn launch(&self, name: &str) -> Result<()> {
        let mut running = self.running.lock().await;
        let held = running
            .get_mut(name)
            .ok_or_else(|| Error::not_found("machine", name))?;
        let config = held.record.config(&self.paths);
        let folder = self.paths.machine(name);
        for left in [&config.console.socket, &config.control] {
            let _ = left.as_deref().map(std::fs::remove_file);
        }
        let command = match held.record.engine {
            Engine::Kvm => platform::command(&config, &folder)?,
            Engine::Auto | Engine::Qemu => qemu::command(&config, engine::qemu_uses_kvm()),
        };
        let log = folder.join("engine.log");
        let process = Process::start(name, command, &log)?;
        held.record.process = Some(process);
        self.store.put(Kind::Machine, name, &held.record)?;
        drop(running);
        if process.ended_within(START_WATCH).await {
            return Err(ended_at_once(name, &log));
        }
        Ok(())
    }

    /// All machines, without their addresses.
    pub async fn list(&self) -> Vec<Machine> {
        self.running
            .lock()
            .await
            .values()
            .map(|held| self.describe(&held.record))
            .collect()
    }

    fn describe(&self, record: &MachineRecord) -> Machine {
        let run = &record.run;
        let alive = record.process.filter(Process::is_alive);
        let console = record.config(&self.paths).console;
        let text = |path: Option<std::path::PathBuf>| {
            path.map(|path| path.display().to_string())
                .unwrap_or_default()
        };
        Machine {
            name: run.name.clone(),
            state: if alive.is_some() {
                MachineState::Running
            } else {
                MachineState::Stopped
            },
            engine: record.engine,
            engine_reason: record.engine_reason.clone(),
            pid: alive.map(|process| process.pid),
            cpus: run.cpus,
            memory_bytes: run.memory_bytes,
            disks: run.disks.clone(),
            nets: run.nets.clone(),
            macs: record.macs().iter().map(ToString::to_string).collect(),
            addresses: Vec::new(),
            console: Console {
                log: text(console.log),
                socket: text(console.socket),
            },
        }
    }

    async fn process(&self, name: &str) -> Result<(MachineRecord, Option<Process>)> {
        let running = self.running.lock().await;
        let held = running
            .get(name)
            .ok_or_else(|| Error::not_found("machine", name))?;
        Ok((
            held.record.clone(),
            held.record.process.filter(Process::is_alive),
        ))
    }

    /// Asks the guest to power off and waits; a machine that has stopped is well.
    ///
    /// # Errors
    /// `NotFound`, or `Busy` if it still runs after `limit`.
    pub async fn stop(&self, name: &str, limit: Duration) -> Result<()> {
        let (record, process) = self.process(name).await?;
        let Some(process) = process else {
            return Ok(());
        };
        if let Some(control) = record.config(&self.paths).control {
            let pressed = match record.engine {
                Engine::Kvm => platform::press_power_button(&control).await,
                Engine::Auto | Engine::Qemu => qemu::press_power_button(&control).await,
            };
            if let Err(error) = pressed {
                tracing::warn!(machine = name, %error, "the power button cannot be pressed");
            }
        }
        if process.ended_within(limit).await {
            return Ok(());
        }
        let seconds = limit.as_secs();
        Err(Error::new(
            ErrorKind::Busy,
            name,
            format!(
                "machine {name} still runs after {seconds} s; end it with `weft vm kill {name}`"
            ),
        ))
    }

    /// Ends the machine's process at once.
    ///
    /// # Errors
    /// `NotFound`, or `Io` if it does not go.
    pub async fn kill(&self, name: &str) -> Result<()> {
        let (_, process) = self.process(name).await?;
        match process {
            Some(process) => process.end(name).await,
            None => Ok(()),
        }
    }

    /// Forgets a machine that has stopped: its sockets are closed and its folder goes.
    ///
    /// # Errors
    /// `NotFound`, or `InUse` if it runs.
    pub async fn remove(&self, name: &str) -> Result<()> {
        let (_, process) = self.process(name).await?;
        if process.is_some() {
            return Err(Error::new(
                ErrorKind::InUse,
                name,
                format!("machine {name} runs; stop it with `weft vm stop {name}` first"),
            ));
        }
        self.forget(name).await
    }

    /// Closes a machine's sockets and takes its folder and record away, whatever is there of them.
    ///
    /// # Errors
    /// `Io` if the store cannot be written.
    pub async fn forget(&self, name: &str) -> Result<()> {
        let held = self.running.lock().await.remove(name);
        for backend in held.into_iter().flat_map(|held| held.backends) {
            backend.close().await;
        }
        let _ = std::fs::remove_dir_all(self.paths.machine(name));
        self.store.remove(Kind::Machine, name)
    }

    /// Tells the guests that use `disk` that its size has changed.
    pub async fn notify_resize(&self, disk: &str) {
        for held in self.running.lock().await.values() {
            for (used, backend) in held.record.run.disks.iter().zip(&held.backends) {
                if used == disk {
                    backend.notify_resize().await;
                }
            }
        }
    }

    /// The disk that machines know as `from` is `to` from now on.
    ///
    /// # Errors
    /// `Io` if the store cannot be written.
    pub async fn rename_disk(&self, from: &str, to: &str) -> Result<()> {
        for (name, held) in self.running.lock().await.iter_mut() {
            let mut record = held.record.clone();
            let disks = record.run.disks.iter_mut();
            let mut changed = false;
            for disk in disks.filter(|disk| key(disk) == from) {
                to.clone_into(disk);
                changed = true;
            }
            if changed {
                self.store.put(Kind::Machine, name, &record)?;
                held.record = record;
            }
        }
        Ok(())
    }

    /// Closes all sockets; the machines run on and wait for the next daemon.
    pub async fn close(&self) {
        let all = std::mem::take(&mut *self.running.lock().await);
        for backend in all.into_values().flat_map(|held| held.backends) {
            backend.close().await;
        }
    }
}

fn make_folder(folder: &Path) -> Result<()> {
    let name = folder.display().to_string();
    std::fs::create_dir_all(folder).map_err(|error| {
        Error::from_io(&name, &format!("the folder {name} cannot be made"), &error)
    })
}

fn ended_at_once(name: &str, log: &Path) -> Error {
    let said = std::fs::read_to_string(log).unwrap_or_default();
    let last = said
        .lines()
        .rfind(|line| !line.trim().is_empty())
        .unwrap_or("it said nothing");
    Error::new(
        ErrorKind::Io,
        name,
        format!("machine {name} ended at once: {last}"),
    )
}

/// Names become parts of paths, sockets and link names.
///
/// # Errors
/// `Invalid`.
pub fn check_name(noun: &str, name: &str) -> Result<()> {
    const LONGEST: usize = 32;
    let fits = !name.is_empty() && name.len() <= LONGEST && !name.starts_with(['-', '.']);
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if fits && name.bytes().all(plain) {
        return Ok(());
    }
    let article = if noun.starts_with(['a', 'e', 'i', 'o', 'u']) {
        "an"
    } else {
        "a"
    };
    Err(Error::new(
        ErrorKind::Invalid,
        name,
        format!(
            "{name:?} cannot name {article} {noun}: use up to {LONGEST} letters, digits, and - _ . \
             (not first)"
        ),
    ))
}
