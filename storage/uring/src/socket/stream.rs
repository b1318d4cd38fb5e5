//! Connected sockets.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, UnixAddr, connect, getsockopt, setsockopt,
    socket, sockopt,
};

use super::transfer::{Attempt, Transfer, Way};
use super::{Address, Memory, Reader};
use crate::executor::Core;
use crate::{readable, sleep, writable};

/// How long to wait before asking again a Unix listener whose backlog is full: the kernel has no event for that.
const BACKLOG_PAUSE: Duration = Duration::from_millis(5);

/// A connected stream socket. Clones share the connection, which closes with the last of them.
///
/// One task at a time should receive and one should send: each call is whole, but calls have no order among each other.
#[derive(Debug, Clone)]
pub struct Stream {
    fd: Arc<OwnedFd>,
    /// Whether the last receive left something in the socket, so that trying at once pays.
    more: Arc<AtomicBool>,
}

impl Stream {
    /// Connects to `address`.
    ///
    /// # Errors
    /// What the kernel says: refused, unreachable, no such path.
    ///
    /// # Panics
    /// On a thread without an executor.
    pub async fn connect(address: &Address) -> io::Result<Self> {
        match address {
            Address::Unix(path) => {
                let fd = new_socket(AddressFamily::Unix)?;
                let to = UnixAddr::new(path)?;
                loop {
                    match connect_now(&fd, &to) {
                        Err(Errno::EAGAIN) => sleep(BACKLOG_PAUSE).await,
                        result => break result?,
                    }
                }
                Self::from_unix(UnixStream::from(fd))
            }
            Address::Tcp(to) => {
                let family = match to {
                    std::net::SocketAddr::V4(_) => AddressFamily::Inet,
                    std::net::SocketAddr::V6(_) => AddressFamily::Inet6,
                };
                let fd = new_socket(family)?;
                match connect_now(&fd, &SockaddrStorage::from(*to)) {
                    Err(Errno::EINPROGRESS) => {
                        writable(&fd).await?;
                        match getsockopt(&fd, sockopt::SocketError)? {
                            0 => {}
                            error => return Err(io::Error::from_raw_os_error(error)),
                        }
                    }
                    result => result?,
                }
                Self::from_tcp(TcpStream::from(fd))
            }
        }
    }

    /// Takes over a connected Unix socket.
    ///
    /// # Errors
    /// What the kernel says about its flags.
    pub fn from_unix(socket: UnixStream) -> io::Result<Self> {
        Self::new(socket.into())
    }

    /// Takes over a connected TCP socket, turns off Nagle's delay and turns on keep-alive, so that a peer that vanished
    /// ends its connection some day.
    ///
    /// # Errors
    /// What the kernel says about its options.
    pub fn from_tcp(socket: TcpStream) -> io::Result<Self> {
        // These fail only on a connection that was reset meanwhile, which its first receive tells.
        let _ = socket.set_nodelay(true);
        let _ = setsockopt(&socket, sockopt::KeepAlive, &true);
        Self::new(socket.into())
    }

    fn new(fd: OwnedFd) -> io::Result<Self> {
        // The ring answers EAGAIN for a non-blocking socket instead of waiting; attempts say MSG_DONTWAIT themselves.
        fcntl(&fd, FcntlArg::F_SETFL(OFlag::empty()))?;
        Ok(Self {
            fd: Arc::new(fd),
            more: Arc::new(AtomicBool::new(false)),
        })
    }

    /// Receives what is there, waiting until there is something. Gives the number of bytes (zero at the end of the stream)
    /// and the memory. A future that is dropped may take received bytes with it; [`Reader`] does not lose any.
    pub async fn recv<M: Memory>(&self, memory: M) -> (io::Result<usize>, M) {
        self.receive(false, memory).await
    }

    /// Fills all of `memory`.
    ///
    /// The error is `UnexpectedEof` if the stream ends first.
    pub async fn recv_exact<M: Memory>(&self, memory: M) -> (io::Result<()>, M) {
        let (result, memory) = self.receive(true, memory).await;
        (result.map(drop), memory)
    }

    /// Sends all of `memory`. A future that is dropped may have sent a part.
    pub async fn send<M: Memory>(&self, memory: M) -> (io::Result<()>, M) {
        let mut transfer = Transfer::new(self.fd.clone(), Way::Send, true, memory);
        if !transfer.is_empty() && transfer.attempt() == Attempt::WouldBlock {
            transfer = self.finish(transfer, Way::Send).await;
        }
        let (result, memory) = transfer.outcome();
        (result.map(drop), memory)
    }

    /// Sends all of `parts`, one after the other, in as few system calls as they fit into.
    pub async fn send_vectored(
        &self,
        parts: Vec<weft_block::IoVec>,
    ) -> (io::Result<()>, Vec<weft_block::IoVec>) {
        self.send(parts).await
    }

    /// A buffered receiver of this stream.
    pub fn reader(&self, capacity: usize) -> Reader {
        Reader::new(self.clone(), capacity)
    }

    /// Ends one or both directions; waiting receives and sends of all clones end too.
    ///
    /// # Errors
    /// If the peer is gone already.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        let how = match how {
            Shutdown::Read => nix::sys::socket::Shutdown::Read,
            Shutdown::Write => nix::sys::socket::Shutdown::Write,
            Shutdown::Both => nix::sys::socket::Shutdown::Both,
        };
        let fd = std::os::fd::AsRawFd::as_raw_fd(&*self.fd);
        Ok(nix::sys::socket::shutdown(fd, how)?)
    }

    /// What was given to the kernel and is not sent yet will not be once the last clone is gone: the connection is reset
    /// then. Without this the kernel goes on to send it for minutes, and a peer that comes back gets it.
    pub fn discard_unsent(&self) {
        let at_once = libc::linger {
            l_onoff: 1,
            l_linger: 0,
        };
        // Without a meaning for sockets of other families, and never refused for TCP.
        let _ = setsockopt(&self.fd, sockopt::Linger, &at_once);
    }

    async fn receive<M: Memory>(&self, whole: bool, memory: M) -> (io::Result<usize>, M) {
        let mut transfer = Transfer::new(self.fd.clone(), Way::Receive, whole, memory);
        if transfer.is_empty() {
            return transfer.outcome();
        }
        let try_now =
            self.more.load(Ordering::Relaxed) || Core::current().reactor().ring().is_none();
        if !try_now || transfer.attempt() == Attempt::WouldBlock {
            transfer = self.finish(transfer, Way::Receive).await;
        }
        self.more.store(transfer.more, Ordering::Relaxed);
        transfer.outcome()
    }

    /// Waits for the rest of a transfer.
    async fn finish<M: Memory>(&self, mut transfer: Transfer<M>, way: Way) -> Transfer<M> {
        let core = Core::current();
        if let Some(ring) = core.reactor().ring() {
            return ring.start(transfer).cancelled_on_drop().await;
        }
        loop {
            let waited = match way {
                Way::Receive => readable(&self.fd).await,
                Way::Send => writable(&self.fd).await,
            };
            if let Err(error) = waited {
                transfer.fail(error);
                return transfer;
            }
            if transfer.attempt() == Attempt::Over {
                return transfer;
            }
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn new_socket(family: AddressFamily) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Ok(socket(family, SockType::Stream, flags, None)?)
}

fn connect_now(fd: &OwnedFd, to: &dyn nix::sys::socket::SockaddrLike) -> nix::Result<()> {
    connect(std::os::fd::AsRawFd::as_raw_fd(fd), to)
}
