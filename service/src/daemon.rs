//! The daemon: what it holds, how it starts, comes back and stops.

mod join;
mod labs;
mod status;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use tokio::net::UnixListener;
use tokio::sync::Notify;

use crate::api::{Error, ErrorKind, Result};
use crate::attach::Machines;
use crate::network::Networks;
use crate::network::hosts::Hosts;
use crate::network::vpn::Tunnels;
use crate::paths::Paths;
use crate::shards::Shards;
use crate::storage::Storage;
use crate::store::{Embedded, Store};

/// How often a daemon that a command started looks whether it still has something to serve.
const IDLE_CHECK: Duration = Duration::from_secs(60);
/// How long to wait for a daemon that is about to end.
const LOCK_WAIT: Duration = Duration::from_secs(3);
const LOCK_POLL: Duration = Duration::from_millis(20);

/// How a daemon is run.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// End by itself once there is nothing left to serve.
    pub auto: bool,
}

/// All that one daemon serves.
pub struct Daemon {
    /// Disks, arrays, groups, volumes.
    pub storage: Storage,
    /// Hosts of labs.
    pub hosts: Hosts,
    /// Networks.
    pub network: Networks,
    /// Tunnels.
    pub tunnels: Tunnels,
    /// Machines and the sockets that serve them.
    pub attach: Machines,
    exports: crate::storage::exports::Exports,
    /// Who takes a disk by its word holds it until the word is written down; who changes words waits for that.
    words: tokio::sync::RwLock<()>,
    /// One lab goes up or down at a time.
    lab: tokio::sync::Mutex<()>,
    options: Options,
    rootless: bool,
    stopping: Notify,
}

impl Daemon {
    /// Runs a daemon until it is told to stop.
    ///
    /// What was declared is brought back first; then the API answers, then the service manager is told.
    ///
    /// # Errors
    /// `Busy` if another daemon serves these paths, and whatever keeps the API from being served. An object that
    /// cannot be brought back is logged and shown by `status`; it does not keep the daemon from starting.
    pub fn run(paths: Paths, options: Options) -> Result<()> {
        let rootless = enter_own_namespace()?;
        paths.make()?;
        let _lock = lock(&paths.lock())?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Error::from_io("daemon", "the daemon cannot start", &error))?;
        runtime.block_on(async {
            let store: Arc<dyn Store> = Arc::new(Embedded::open(&paths.store())?);
            let shards = Arc::new(Shards::none_yet());
            let daemon = Arc::new(Self {
                storage: Storage::start(store.clone(), shards.clone(), &paths.run),
                hosts: Hosts::start(store.clone()),
                network: Networks::start(store.clone(), shards),
                tunnels: Tunnels::start(store.clone(), paths.secrets()),
                attach: Machines::start(store.clone(), paths.clone()),
                exports: crate::storage::exports::Exports::start(store),
                words: tokio::sync::RwLock::new(()),
                lab: tokio::sync::Mutex::new(()),
                options,
                rootless,
                stopping: Notify::new(),
            });
            daemon.restore().await;
            let keeper = daemon.clone();
            let keeping = tokio::spawn(async move {
                let storage = &keeper.storage;
                tokio::join!(
                    storage.take_back_members(),
                    storage.remember_scrubs(),
                    keeper.tunnels.keep(),
                    keeper.finish_image_jobs()
                );
            });
            let served = daemon.clone().serve(&paths.socket).await;
            keeping.abort();
            served?;
            daemon.close().await;
            Ok(())
        })
    }

    /// Whether networks live in a namespace of the daemon's own, because it has no root.
    pub fn is_rootless(&self) -> bool {
        self.rootless
    }

    /// Ends [`run`](Self::run) soon.
    pub fn stop(&self) {
        self.stopping.notify_one();
    }

    /// Ends a daemon that a command started, if it has nothing left to serve; tells whether it did.
    ///
    /// # Errors
    /// As [`status`](Self::status).
    pub async fn stop_if_idle(&self) -> Result<bool> {
        let idle = self.options.auto && self.status().await?.is_empty();
        if idle {
            self.stop();
        }
        Ok(idle)
    }

    async fn restore(&self) {
        self.storage.restore().await;
        self.hosts.restore().await;
        self.network.restore().await;
        self.tunnels.restore(&self.network).await;
        self.network.restore_stretches().await;
        self.restore_exports().await;
        self.restore_machines().await;
        self.storage.restored();
        self.storage.restore_image_jobs().await;
    }

    async fn serve(self: Arc<Self>, socket: &Path) -> Result<()> {
        let name = socket.display().to_string();
        let failed = |error| {
            Error::from_io(
                &name,
                &format!("the API cannot be served on {name}"),
                &error,
            )
        };
        // The lock says that nobody serves it: a socket that is there is left from a daemon that was killed.
        let _ = std::fs::remove_file(socket);
        let listener = UnixListener::bind(socket).map_err(failed)?;
        only_owner(socket).map_err(failed)?;
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        let stopping = self.clone();
        let router = crate::http::router(self);
        let served = axum::serve(listener, router)
            .with_graceful_shutdown(async move { stopping.stopped().await })
            .await;
        let _ = std::fs::remove_file(socket);
        served.map_err(failed)
    }

    /// Returns when the daemon should end: told by a command, a signal, or because it idles.
    async fn stopped(&self) {
        use tokio::signal::unix::{SignalKind, signal};
        let (Ok(mut terminate), Ok(mut interrupt)) = (
            signal(SignalKind::terminate()),
            signal(SignalKind::interrupt()),
        ) else {
            return self.stopping.notified().await;
        };
        let idle = async {
            loop {
                tokio::time::sleep(IDLE_CHECK).await;
                if matches!(self.stop_if_idle().await, Ok(true)) {
                    break;
                }
            }
        };
        tokio::select! {
            () = self.stopping.notified() => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = idle => {}
        }
    }

    /// Lets everything go in order; machines run on and find their disks again when a daemon comes back.
    async fn close(&self) {
        self.attach.close().await;
        self.exports.close().await;
        self.tunnels.close().await;
        self.network.close().await;
        self.storage.close().await;
    }
}

fn lock(path: &Path) -> Result<Flock<File>> {
    let name = path.display().to_string();
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(|error| Error::from_io(&name, &format!("{name} cannot be opened"), &error))?;
    let mut file = file;
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((file, _)) if Instant::now() < deadline => file,
            Err((_, errno)) => return Err(served_already(&name, errno)),
        };
        std::thread::sleep(LOCK_POLL);
    }
}

fn served_already(name: &str, errno: nix::errno::Errno) -> Error {
    Error::new(
        ErrorKind::Busy,
        name,
        format!("another daemon serves this state already (its lock is {name}: {errno})"),
    )
}

fn only_owner(socket: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600))
}

/// Without root, a user and a network namespace give what networks need; tells whether that was done.
fn enter_own_namespace() -> Result<bool> {
    if nix::unistd::geteuid().is_root() {
        return Ok(false);
    }
    crate::network::enter_rootless()?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_daemon_is_told_of_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("daemon.lock");
        let first = lock(&path).unwrap();
        assert_eq!(
            lock(&path).err().map(|error| error.kind),
            Some(ErrorKind::Busy)
        );
        drop(first);
        assert!(lock(&path).is_ok());
    }
}
