//! The ioctls of `/dev/net/tun`, each as a safe function over an open file.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

/// An `ifreq` with a name and flags in it. `name` must fit, with its closing zero.
fn request(name: &str, flags: i32) -> libc::ifreq {
    assert!(name.len() < libc::IFNAMSIZ, "an InterfaceName was checked");
    // SAFETY: ifreq is plain C data, for which all zeroes are a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    // The kernel takes the low 16 bits; IFF_TUN_EXCL is the sign bit of the short.
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    request
}

/// `TUNSETIFF`: makes `file` a queue of the device `name`.
pub(super) fn set_iff(file: &File, name: &str, flags: i32) -> io::Result<()> {
    let mut request = request(name, flags);
    // SAFETY: TUNSETIFF reads and writes one ifreq, which lives across the call.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &mut request) })
}

/// `TUNGETIFF`: the name and flags of the device behind `file`.
pub(super) fn iff(file: &File) -> io::Result<(String, i32)> {
    let mut request = request("", 0);
    // SAFETY: TUNGETIFF writes one ifreq, which lives across the call.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNGETIFF, &mut request) })?;
    // SAFETY: the kernel closes the name with a zero within its 16 bytes.
    let name = unsafe { CStr::from_ptr(request.ifr_name.as_ptr()) };
    // SAFETY: TUNGETIFF fills the flags of the union.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    Ok((name.to_string_lossy().into_owned(), i32::from(flags as u16)))
}

/// `TUNSETQUEUE` with `IFF_ATTACH_QUEUE` or `IFF_DETACH_QUEUE`.
pub(super) fn set_queue(file: &File, flag: i32) -> io::Result<()> {
    let mut request = request("", flag);
    // SAFETY: TUNSETQUEUE reads one ifreq, which lives across the call.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETQUEUE, &mut request) })
}

/// `TUNSETOFFLOAD`: what the reader of the device takes.
pub(super) fn set_offload(file: &File, flags: u32) -> io::Result<()> {
    by_value(file, libc::TUNSETOFFLOAD, u64::from(flags))
}

/// `TUNSETPERSIST`: whether the device outlives its last queue.
pub(super) fn set_persist(file: &File, persist: bool) -> io::Result<()> {
    by_value(file, libc::TUNSETPERSIST, u64::from(persist))
}

/// `TUNSETOWNER`: who may open queues without CAP_NET_ADMIN.
pub(super) fn set_owner(file: &File, uid: u32) -> io::Result<()> {
    by_value(file, libc::TUNSETOWNER, u64::from(uid))
}

/// `TUNSETVNETHDRSZ`: the bytes of virtio-net header before each frame.
pub(super) fn set_vnet_header_size(file: &File, bytes: usize) -> io::Result<()> {
    let bytes = libc::c_int::try_from(bytes).map_err(io::Error::other)?;
    by_reference(file, libc::TUNSETVNETHDRSZ, bytes)
}

/// `TUNGETVNETHDRSZ`.
pub(super) fn vnet_header_size(file: &File) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: TUNGETVNETHDRSZ writes one int, which lives across the call.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNGETVNETHDRSZ, &mut bytes) })?;
    usize::try_from(bytes).map_err(io::Error::other)
}

/// `TUNSETVNETLE`: header fields are little-endian, as virtio 1.0 has them, on any host.
pub(super) fn set_vnet_little_endian(file: &File) -> io::Result<()> {
    by_reference(file, libc::TUNSETVNETLE, 1)
}

/// `TUNSETSNDBUF`: a bound of bytes under way.
pub(super) fn set_send_buffer(file: &File, bytes: u32) -> io::Result<()> {
    let bytes = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    by_reference(file, libc::TUNSETSNDBUF, bytes)
}

/// Makes reads and writes return instead of waiting.
pub(super) fn set_nonblocking(file: &File) -> io::Result<()> {
    let flags = OFlag::from_bits_truncate(fcntl(file, FcntlArg::F_GETFL)?);
    fcntl(file, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// `SIOCGIFMTU`: the MTU of a link in the namespace of `socket`.
pub(super) fn mtu(socket: &OwnedFd, name: &str) -> io::Result<usize> {
    let mut request = request(name, 0);
    // SAFETY: SIOCGIFMTU reads the name and writes the MTU of one ifreq, which lives across the call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFMTU, &mut request) })?;
    // SAFETY: SIOCGIFMTU fills the MTU of the union.
    let mtu = unsafe { request.ifr_ifru.ifru_mtu };
    usize::try_from(mtu).map_err(io::Error::other)
}

fn by_value(file: &File, request: libc::Ioctl, value: u64) -> io::Result<()> {
    // SAFETY: the callers name ioctls that take their argument as a number, not as an address.
    check(unsafe { libc::ioctl(file.as_raw_fd(), request, value as libc::c_ulong) })
}

fn by_reference(file: &File, request: libc::Ioctl, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the callers name ioctls that read one int, which lives across the call.
    check(unsafe { libc::ioctl(file.as_raw_fd(), request, &value) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
