//! A Unix socket on which a program can be asked, each connection on a thread of its own.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{Builder, JoinHandle};

use crate::wait::{Bell, readable};
use crate::{Error, ErrorKind, Result};

/// The most connections at a time; a further one is closed at once.
const MOST_CONNECTIONS: usize = 32;

/// A socket that is listened on until this is dropped, which removes it. Connections that were taken go on.
#[derive(Debug)]
pub struct LocalServer {
    path: PathBuf,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    bell: Bell,
    stop: AtomicBool,
    connections: AtomicUsize,
}

impl LocalServer {
    /// Listens at `path`, whose folder is made if it is not there, open to its owner alone. A socket that nobody listens
    /// on any more makes way; [`ErrorKind::Busy`] if somebody does.
    pub fn listen(path: &Path, serve: impl Fn(UnixStream) + Send + Sync + 'static) -> Result<Self> {
        let listener = bind(path).map_err(|e| {
            let what = format!("listening on {}", path.display());
            match e.kind() {
                io::ErrorKind::AddrInUse => {
                    Error::new(ErrorKind::Busy, format!("{what}: another program does"))
                }
                _ => Error::system(what, e),
            }
        })?;
        Self::serve_on(listener, path, serve)
    }

    /// As [`LocalServer::listen`], on a socket that somebody else has made. It is removed all the same.
    pub fn serve_on(
        listener: UnixListener,
        path: &Path,
        serve: impl Fn(UnixStream) + Send + Sync + 'static,
    ) -> Result<Self> {
        let failed = |e| Error::system(format!("listening on {}", path.display()), e);
        listener.set_nonblocking(true).map_err(failed)?;
        let shared = Arc::new(Shared {
            bell: Bell::new()?,
            stop: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
        });
        let (of_thread, serve) = (shared.clone(), Arc::new(serve));
        let thread = Builder::new()
            .name("weft-local".into())
            .spawn(move || run(&listener, &of_thread, &serve))
            .map_err(failed)?;
        Ok(Self {
            path: path.to_owned(),
            shared,
            thread: Some(thread),
        })
    }
}

impl Drop for LocalServer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.bell.ring();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = fs::remove_file(&self.path);
    }
}

fn bind(path: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
    }
    let listener = match UnixListener::bind(path) {
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
            match UnixStream::connect(path) {
                Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path)?,
                _ => return Err(e),
            }
            UnixListener::bind(path)?
        }
        result => result?,
    };
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

fn run<F: Fn(UnixStream) + Send + Sync + 'static>(
    listener: &UnixListener,
    shared: &Arc<Shared>,
    serve: &Arc<F>,
) {
    while !shared.stop.load(Ordering::Acquire) {
        if readable([shared.bell.as_fd(), listener.as_fd()], None).is_err() {
            return;
        }
        let Ok((stream, _)) = listener.accept() else {
            continue;
        };
        if shared.connections.load(Ordering::Relaxed) >= MOST_CONNECTIONS
            || stream.set_nonblocking(false).is_err()
        {
            continue;
        }
        shared.connections.fetch_add(1, Ordering::Relaxed);
        let (shared_, serve) = (shared.clone(), serve.clone());
        let started = Builder::new().name("weft-local".into()).spawn(move || {
            serve(stream);
            shared_.connections.fetch_sub(1, Ordering::Relaxed);
        });
        if started.is_err() {
            shared.connections.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
