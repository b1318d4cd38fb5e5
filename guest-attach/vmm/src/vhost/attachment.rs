//! A disk or NIC as the VM's other threads know it: what it offers, and what the guest wants of it.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use vmm_sys_util::eventfd::EventFd;

use super::features::Kind;
use super::session::Session;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::sync::lock;
use crate::virtio::{Activation, Device};

/// Writes into the configuration that wait for the back end; what comes when they are full is lost.
const MAX_CONFIG_WRITES: usize = 16;
/// The longest write into the configuration.
const MAX_CONFIG_WRITE: usize = 8;

/// Whether the back end answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Link {
    /// It answers.
    Connected,
    /// It does not; its socket is tried again and again.
    Waiting,
}

/// What the guest wants: the rings started, or stopped. Each change has a number of its own.
#[derive(Clone, Default)]
pub(super) struct Wish {
    pub(super) number: u64,
    pub(super) activation: Option<Arc<Activation>>,
}

/// What changed when a connection was made or a configuration was read.
pub(super) type Listener = Arc<dyn Fn() + Send + Sync>;

struct Shared {
    offered: u64,
    queues: u16,
    config: Vec<u8>,
    generation: u8,
    link: Link,
    ready: bool,
    problem: Option<String>,
    reconnects: u64,
    wish: Wish,
    done: u64,
    writes: VecDeque<(u32, Vec<u8>)>,
    listener: Option<Listener>,
    ending: bool,
}

/// A device's shared state. Its thread follows the wish; everybody else only looks and wishes.
pub(crate) struct Attachment {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(super) socket: PathBuf,
    pub(super) wanted_queues: u16,
    shared: Mutex<Shared>,
    changed: Condvar,
    wake: EventFd,
}

/// How a device is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceStatus {
    /// The device's name.
    pub name: String,
    /// `disk` or `nic`.
    pub kind: String,
    /// The back end's socket.
    pub socket: PathBuf,
    /// Whether the back end answers.
    pub link: Link,
    /// How often the connection was made again.
    pub reconnects: u64,
    /// Whether the guest's driver runs the device.
    pub in_use: bool,
    /// Why the back end could not be used when it was last tried.
    pub problem: Option<String>,
}

impl Attachment {
    pub(crate) fn new(name: &str, kind: Kind, socket: PathBuf, wanted_queues: u16) -> Result<Self> {
        let wake = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)
            .context(ErrorKind::Backend, format!("no event for {name}"))?;
        Ok(Self {
            name: name.into(),
            kind,
            socket,
            wanted_queues,
            shared: Mutex::new(Shared {
                offered: 0,
                queues: 0,
                config: Vec::new(),
                generation: 0,
                link: Link::Waiting,
                ready: false,
                problem: None,
                reconnects: 0,
                wish: Wish::default(),
                done: 0,
                writes: VecDeque::new(),
                listener: None,
                ending: false,
            }),
            changed: Condvar::new(),
            wake,
        })
    }

    /// Waits until the back end has answered for the first time, or [`Attachment::end`] is called.
    pub(crate) fn wait_ready(&self, limit: Duration) -> Result<()> {
        self.wait(limit, |shared| shared.ready || shared.ending)
            .map_err(|shared| {
                let problem = shared.unwrap_or_else(|| "it does not answer".into());
                Error::new(
                    ErrorKind::Backend,
                    format!(
                        "{} {} has no back end at {} after {} s ({problem}); start it first",
                        self.kind.name(),
                        self.name,
                        self.socket.display(),
                        limit.as_secs()
                    ),
                )
            })
    }

    /// Waits until the last wish was done; whether it was comes back.
    pub(crate) fn wait_done(&self, limit: Duration) -> bool {
        self.wait(limit, |shared| shared.done == shared.wish.number)
            .is_ok()
    }

    fn wait(&self, limit: Duration, until: impl Fn(&Shared) -> bool) -> Result<(), Option<String>> {
        let end = Instant::now() + limit;
        let mut shared = lock(&self.shared);
        while !until(&shared) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(shared.problem.clone());
            }
            shared = self
                .changed
                .wait_timeout(shared, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        Ok(())
    }

    /// Whom to tell that the configuration has changed.
    pub(crate) fn set_listener(&self, listener: Option<Listener>) {
        lock(&self.shared).listener = listener;
    }

    /// Ends the device's thread, which stops the rings first.
    pub(crate) fn end(&self) {
        self.reset();
        lock(&self.shared).ending = true;
        self.changed.notify_all();
        self.wake();
    }

    /// How the device is now.
    pub(crate) fn status(&self) -> DeviceStatus {
        let shared = lock(&self.shared);
        DeviceStatus {
            name: self.name.clone(),
            kind: self.kind.name().into(),
            socket: self.socket.clone(),
            link: shared.link,
            reconnects: shared.reconnects,
            in_use: shared.wish.activation.is_some(),
            problem: shared.problem.clone(),
        }
    }

    fn wake(&self) {
        let _ = self.wake.write(1);
    }

    fn wish(&self, activation: Option<Activation>) {
        let mut shared = lock(&self.shared);
        shared.wish = Wish {
            number: shared.wish.number + 1,
            activation: activation.map(Arc::new),
        };
        drop(shared);
        self.wake();
    }

    /// Readable when there is a new wish.
    pub(super) fn event(&self) -> &EventFd {
        &self.wake
    }

    pub(super) fn wished(&self) -> (Wish, bool) {
        let shared = lock(&self.shared);
        (shared.wish.clone(), shared.ending)
    }

    pub(super) fn take_write(&self) -> Option<(u32, Vec<u8>)> {
        lock(&self.shared).writes.pop_front()
    }

    /// Notes that wish `number` was done.
    pub(super) fn did(&self, number: u64) {
        lock(&self.shared).done = number;
        self.changed.notify_all();
    }

    /// Takes what a new connection offers and the configuration that it told.
    ///
    /// What the guest has been offered stays: features and queues are those of the first connection.
    pub(super) fn connected(&self, session: &Session, config: Vec<u8>) {
        let mut shared = lock(&self.shared);
        shared.link = Link::Connected;
        shared.problem = None;
        if shared.ready {
            shared.reconnects += 1;
            drop(shared);
            self.configured(config);
            return;
        }
        shared.offered = session.offered();
        shared.queues = session.queues();
        shared.config = config;
        shared.ready = true;
        drop(shared);
        self.changed.notify_all();
    }

    /// Takes the configuration that the back end told; the guest hears of it if it differs.
    pub(super) fn configured(&self, config: Vec<u8>) {
        let mut shared = lock(&self.shared);
        if shared.config == config {
            return;
        }
        shared.config = config;
        shared.generation = shared.generation.wrapping_add(1);
        let listener = shared.listener.clone();
        drop(shared);
        if let Some(listener) = listener {
            listener();
        }
    }

    /// Notes that the connection is gone or could not be made.
    pub(super) fn disconnected(&self, problem: &Error) {
        let mut shared = lock(&self.shared);
        shared.link = Link::Waiting;
        shared.problem = Some(problem.sentence());
        drop(shared);
        self.changed.notify_all();
    }
}

impl Device for Attachment {
    fn kind(&self) -> u16 {
        self.kind.device_type()
    }

    fn features(&self) -> u64 {
        lock(&self.shared).offered
    }

    fn queue_count(&self) -> u16 {
        lock(&self.shared).queues
    }

    fn config_generation(&self) -> u8 {
        lock(&self.shared).generation
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let shared = lock(&self.shared);
        for (at, byte) in data.iter_mut().enumerate() {
            *byte = shared
                .config
                .get(offset as usize + at)
                .copied()
                .unwrap_or(0);
        }
    }

    fn write_config(&self, offset: u64, data: &[u8]) {
        let mut shared = lock(&self.shared);
        let start = offset as usize;
        if data.len() > MAX_CONFIG_WRITE || shared.writes.len() >= MAX_CONFIG_WRITES {
            return;
        }
        let Some(field) = shared.config.get_mut(start..start + data.len()) else {
            return;
        };
        field.copy_from_slice(data);
        shared.writes.push_back((offset as u32, data.to_vec()));
        drop(shared);
        self.wake();
    }

    fn activate(&self, activation: Activation) {
        self.wish(Some(activation));
    }

    fn reset(&self) {
        if lock(&self.shared).wish.activation.is_some() {
            self.wish(None);
        }
    }

    fn is_idle(&self) -> bool {
        let shared = lock(&self.shared);
        shared.wish.activation.is_none() && shared.done == shared.wish.number
    }
}
