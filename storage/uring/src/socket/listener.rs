//! Listening sockets.

use std::fs;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Address, Stream};
use crate::{readable, sleep};

/// How long an accept loop rests when the process has no descriptor left. The kernel has no event for the return of one.
const DESCRIPTOR_PAUSE: Duration = Duration::from_millis(100);

/// A socket that takes connections. When it is dropped its Unix socket file goes away, if it is still its own.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    address: Address,
    file: Option<SocketFile>,
}

#[derive(Debug)]
enum Socket {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Listener {
    /// Listens at `address`. A Unix socket file that nobody listens on is replaced; TCP port zero takes any free port.
    ///
    /// # Errors
    /// `AddrInUse` if somebody listens there already, or the path is no socket; what the kernel says otherwise.
    pub fn bind(address: &Address) -> io::Result<Self> {
        match address {
            Address::Unix(path) => {
                let socket = bind_unix(path)?;
                let file = SocketFile::at(path)?;
                let mut listener = Self::from_unix(socket)?;
                (listener.address, listener.file) = (address.clone(), Some(file));
                Ok(listener)
            }
            Address::Tcp(to) => Self::from_tcp(TcpListener::bind(to)?),
        }
    }

    /// Takes over a listening Unix socket, such as one that a service manager made. Its file stays when this is dropped.
    ///
    /// # Errors
    /// What the kernel says about its flags.
    pub fn from_unix(socket: UnixListener) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let path = socket
            .local_addr()?
            .as_pathname()
            .map(PathBuf::from)
            .unwrap_or_default();
        Ok(Self {
            socket: Socket::Unix(socket),
            address: Address::Unix(path),
            file: None,
        })
    }

    /// Takes over a listening TCP socket.
    ///
    /// # Errors
    /// What the kernel says about its flags.
    pub fn from_tcp(socket: TcpListener) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let address = Address::Tcp(socket.local_addr()?);
        Ok(Self {
            socket: Socket::Tcp(socket),
            address,
            file: None,
        })
    }

    /// Where it listens, with the port that was taken if none was asked for.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Waits for the next connection.
    ///
    /// Connections that were given up before they were taken are passed over. While the process or the machine has no
    /// descriptor or memory left, it waits and tries again, so that a loop over this survives.
    ///
    /// # Errors
    /// Only what no later call can mend.
    ///
    /// # Panics
    /// On a thread without an executor.
    pub async fn accept(&self) -> io::Result<Stream> {
        let mut told = false;
        loop {
            let error = match self.accept_now() {
                Ok(stream) => return Ok(stream),
                Err(error) => error,
            };
            match error.raw_os_error() {
                Some(libc::EAGAIN) => readable(self).await?,
                Some(libc::EINTR | libc::ECONNABORTED | libc::EPROTO) => {}
                Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => {
                    if !std::mem::replace(&mut told, true) {
                        tracing::warn!(address = %self.address, %error, "a connection must wait");
                    }
                    sleep(DESCRIPTOR_PAUSE).await;
                }
                _ => return Err(error),
            }
        }
    }

    fn accept_now(&self) -> io::Result<Stream> {
        match &self.socket {
            Socket::Unix(socket) => Stream::from_unix(socket.accept()?.0),
            Socket::Tcp(socket) => Stream::from_tcp(socket.accept()?.0),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Socket::Unix(socket) => socket.as_fd(),
            Socket::Tcp(socket) => socket.as_fd(),
        }
    }
}

/// A socket file and which one it is, so that a successor's file is left alone.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    fn at(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            identity: identity_of(path)?,
        })
    }
}

fn identity_of(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity_of(&self.path).is_ok_and(|there| there == self.identity) {
            // Somebody else removed it just now; that is what was wanted.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
        result => return result,
    }
    let in_use = |why: &str| {
        let sentence = format!("{} {why}", path.display());
        io::Error::new(io::ErrorKind::AddrInUse, sentence)
    };
    let old = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => (metadata.dev(), metadata.ino()),
        Ok(_) => return Err(in_use("exists and is no socket")),
        Err(_) => return UnixListener::bind(path),
    };
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
        _ => return Err(in_use("is in use: somebody listens there")),
    }
    // Dropping the record removes the file, if it is still the one that nobody answered at.
    drop(SocketFile {
        path: path.to_owned(),
        identity: old,
    });
    UnixListener::bind(path)
}
