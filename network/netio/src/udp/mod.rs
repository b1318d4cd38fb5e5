//! UDP ports that move many datagrams in one call.
//!
//! A [`UdpPort`] sends a buffer as datagrams of one size (`UDP_SEGMENT`) and receives datagrams of one sender that the
//! kernel has put behind each other (`UDP_GRO`). It tells to which of the host's addresses a datagram came, and sends
//! from there, so that a host with several addresses answers from the one that was asked.
//!
//! Facts: udp(7), ip(7), ipv6(7); Linux `include/uapi/linux/udp.h`.

mod address;

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType,
    SockaddrStorage, bind, getsockname, recvmsg, sendmsg, setsockopt, socket, sockopt,
};

pub use address::Source;

use crate::{Error, Result};

/// The most bytes that go out in one call, so that headers of either IP version fit.
pub const LARGEST_SEND: usize = 65_535 - 40 - 8;
/// The most datagrams that go out in one call (`UDP_MAX_SEGMENTS` of Linux before 6.13).
pub const MOST_SEGMENTS: usize = 64;
/// Room for what one call may receive.
pub const LARGEST_RECEIVE: usize = 65_535;
/// Bytes that may wait in each direction: as many as come in 6 ms at 10 Gbit/s. The kernel counts double, for its own use.
const BUFFER: usize = 7 << 20;

/// The versions of IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IpVersion {
    /// IPv4.
    V4,
    /// IPv6, and nothing of IPv4.
    V6,
}

/// A UDP port of one IP version on all addresses of the namespace in which it was opened, wherever the thread that
/// uses it is.
#[derive(Debug)]
pub struct UdpPort {
    fd: OwnedFd,
    version: IpVersion,
    port: u16,
    /// Turned off when an interface turns out not to do it.
    segments: AtomicBool,
}

/// Datagrams that came in one call.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    /// Bytes of all.
    pub length: usize,
    /// Bytes of each but the last, which is no longer.
    pub segment: usize,
    /// Who sent them.
    pub from: SocketAddr,
    /// To which of our addresses.
    pub to: Option<Source>,
}

/// Room for what the kernel tells beside a datagram.
#[derive(Debug)]
pub struct Beside(Vec<u8>);

impl Beside {
    /// Room for all that a [`UdpPort`] asks for.
    pub fn new() -> Self {
        Self(nix::cmsg_space!(libc::in6_pktinfo, libc::in_pktinfo, i32))
    }
}

impl Default for Beside {
    fn default() -> Self {
        Self::new()
    }
}

impl UdpPort {
    /// Opens `port`, or any free one for 0, in the calling thread's network namespace. [`crate::ErrorKind::Busy`] if
    /// somebody has it, [`crate::ErrorKind::Unsupported`] if the host does not have this IP version.
    pub fn open(version: IpVersion, port: u16) -> Result<Self> {
        let opened = open(version, port).and_then(|fd| {
            let address: SockaddrStorage = getsockname(fd.as_raw_fd())?;
            let address = address::from_kernel(&address);
            let port = address.map_or(port, |address| address.port());
            Ok((fd, port))
        });
        let (fd, port) = opened.map_err(|e| {
            let version = match version {
                IpVersion::V4 => 4,
                IpVersion::V6 => 6,
            };
            Error::system(format!("opening UDP port {port} over IPv{version}"), e)
        })?;
        Ok(Self {
            fd,
            version,
            port,
            segments: AtomicBool::new(true),
        })
    }

    /// The port's number.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether it reaches an address of this version.
    pub fn reaches(&self, address: &SocketAddr) -> bool {
        address.is_ipv4() == (self.version == IpVersion::V4)
    }

    /// Marks all that is sent, for the host's routing and rules; 0 for no mark. Needs CAP_NET_ADMIN.
    pub fn set_mark(&self, mark: u32) -> Result<()> {
        setsockopt(&self.fd, sockopt::Mark, &mark)
            .map_err(|e| Error::system(format!("marking UDP port {} with {mark}", self.port), e))
    }

    /// Sends `bytes` as datagrams of `segment` bytes, of which the last may be shorter. Waits while the send buffer is
    /// full. What the network refuses is lost, and the error tells why.
    ///
    /// If the host does not have the address `from` any more, they are sent as its routing decides.
    ///
    /// `bytes` has at most [`LARGEST_SEND`] bytes and [`MOST_SEGMENTS`] segments.
    pub fn send(
        &self,
        bytes: &[u8],
        segment: usize,
        to: SocketAddr,
        from: Option<Source>,
    ) -> io::Result<()> {
        let several = bytes.len() > segment;
        if several && self.segments.load(Ordering::Relaxed) {
            let sent = self.send_once(bytes, Some(segment as u16), to, from);
            match sent.as_ref().map_err(io::Error::raw_os_error) {
                // The interface takes no checksums, which segments need.
                Err(Some(libc::EIO)) => self.segments.store(false, Ordering::Relaxed),
                // A segment is larger than the path, and must be cut up by IP.
                Err(Some(libc::EINVAL | libc::EMSGSIZE)) => {}
                _ => return sent,
            }
        }
        let mut result = Ok(());
        for datagram in bytes.chunks(segment.max(1)) {
            result = result.and(self.send_once(datagram, None, to, from));
        }
        result
    }

    fn send_once(
        &self,
        bytes: &[u8],
        segment: Option<u16>,
        to: SocketAddr,
        from: Option<Source>,
    ) -> io::Result<()> {
        let (v4, v6) = (
            from.and_then(|from| from.for_v4()),
            from.and_then(|from| from.for_v6()),
        );
        let source = match self.version {
            IpVersion::V4 => v4.as_ref().map(ControlMessage::Ipv4PacketInfo),
            IpVersion::V6 => v6.as_ref().map(ControlMessage::Ipv6PacketInfo),
        };
        let segment = segment.as_ref().map(ControlMessage::UdpGsoSegments);
        let had_source = source.is_some();
        let sent = match (source, segment) {
            (Some(source), Some(segment)) => self.message(bytes, &[source, segment], to),
            (Some(one), None) | (None, Some(one)) => self.message(bytes, &[one], to),
            (None, None) => self.message(bytes, &[], to),
        };
        match sent {
            Err(e) if had_source && is_of_source(e) => {
                self.send_once(bytes, segment_of(&segment), to, None)
            }
            result => Ok(result?),
        }
    }

    fn message(
        &self,
        bytes: &[u8],
        beside: &[ControlMessage<'_>],
        to: SocketAddr,
    ) -> nix::Result<()> {
        let to = SockaddrStorage::from(to);
        let parts = [IoSlice::new(bytes)];
        let flags = MsgFlags::MSG_NOSIGNAL;
        sendmsg(self.fd.as_raw_fd(), &parts, beside, flags, Some(&to)).map(drop)
    }

    /// Receives the next datagrams of one sender, without waiting: [`io::ErrorKind::WouldBlock`] if there are none.
    /// Other errors are those of earlier datagrams that somebody refused, and say nothing of the port.
    pub fn receive(&self, buffer: &mut [u8], beside: &mut Beside) -> io::Result<Arrival> {
        let mut parts = [IoSliceMut::new(buffer)];
        let message = recvmsg::<SockaddrStorage>(
            self.fd.as_raw_fd(),
            &mut parts,
            Some(&mut beside.0),
            MsgFlags::MSG_DONTWAIT,
        )?;
        let length = message.bytes;
        let from = message.address.as_ref().and_then(address::from_kernel);
        let (mut segment, mut to) = (None, None);
        for told in message.cmsgs()? {
            match told {
                ControlMessageOwned::UdpGroSegments(bytes) => segment = usize::try_from(bytes).ok(),
                ControlMessageOwned::Ipv4PacketInfo(info) => to = Some(Source::of_v4(&info)),
                ControlMessageOwned::Ipv6PacketInfo(info) => to = Some(Source::of_v6(&info)),
                _ => {}
            }
        }
        Ok(Arrival {
            length,
            segment: segment.filter(|&bytes| bytes > 0).unwrap_or(length),
            from: from.ok_or(io::ErrorKind::InvalidData)?,
            to,
        })
    }
}

impl AsFd for UdpPort {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Whether an error may come of a source that the host does not have any more: routing finds no way from there.
fn is_of_source(error: nix::Error) -> bool {
    matches!(
        error,
        nix::Error::EINVAL
            | nix::Error::EADDRNOTAVAIL
            | nix::Error::ENODEV
            | nix::Error::ENETUNREACH
            | nix::Error::EHOSTUNREACH
    )
}

fn segment_of(message: &Option<ControlMessage<'_>>) -> Option<u16> {
    match message {
        Some(ControlMessage::UdpGsoSegments(bytes)) => Some(**bytes),
        _ => None,
    }
}

fn open(version: IpVersion, port: u16) -> io::Result<OwnedFd> {
    let family = match version {
        IpVersion::V4 => AddressFamily::Inet,
        IpVersion::V6 => AddressFamily::Inet6,
    };
    // It blocks when it sends; receiving never does.
    let fd = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let any: SocketAddr = match version {
        IpVersion::V4 => {
            setsockopt(&fd, sockopt::Ipv4PacketInfo, &true)?;
            SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port).into()
        }
        IpVersion::V6 => {
            setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
            setsockopt(&fd, sockopt::Ipv6RecvPacketInfo, &true)?;
            SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0).into()
        }
    };
    // A kernel before 5.0 does without.
    let _ = setsockopt(&fd, sockopt::UdpGroSegment, &true);
    // Past the administrator's limit if that is allowed, up to it otherwise.
    if setsockopt(&fd, sockopt::RcvBufForce, &BUFFER).is_err() {
        let _ = setsockopt(&fd, sockopt::RcvBuf, &BUFFER);
    }
    if setsockopt(&fd, sockopt::SndBufForce, &BUFFER).is_err() {
        let _ = setsockopt(&fd, sockopt::SndBuf, &BUFFER);
    }
    bind(fd.as_raw_fd(), &SockaddrStorage::from(any))?;
    Ok(fd)
}
