//! Binding a packet socket to a link, for sending alone.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// An EtherType for experiments (IEEE 802), of which no frame is expected.
const NOBODYS: u16 = 0x88b5;

/// Binds a packet socket to the link `index`. The kernel tells it when the link goes, which it does not tell a socket
/// without a protocol (packet(7)); so it has one, of which [`receive_nothing`] keeps the frames away.
pub(super) fn bind_to_link(socket: &OwnedFd, index: u32) -> io::Result<()> {
    // SAFETY: sockaddr_ll is plain C data, for which all zeroes are a valid value.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = NOBODYS.to_be();
    address.sll_ifindex = i32::try_from(index).map_err(io::Error::other)?;
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the address lives across the call and has the length that is told.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
    if bound < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Lets the kernel drop every frame that would be given to the socket.
pub(super) fn receive_nothing(socket: &OwnedFd) -> io::Result<()> {
    // A classic BPF program of one instruction: return 0 bytes.
    let mut instruction = libc::sock_filter {
        code: (libc::BPF_RET | libc::BPF_K) as u16,
        jt: 0,
        jf: 0,
        k: 0,
    };
    let program = libc::sock_fprog {
        len: 1,
        filter: &raw mut instruction,
    };
    let length = size_of::<libc::sock_fprog>() as libc::socklen_t;
    // SAFETY: the program and its instruction live across the call, in which the kernel copies them.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            length,
        )
    };
    if set < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Lets the runtime tell when the socket has an error.
pub(super) fn watch(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is an open descriptor until it is dropped, always the same, and the AsyncFd owns it.
    let watched =
        unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE | Interest::ERROR) };
    Ok(watched?)
}
