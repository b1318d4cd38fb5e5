//! A port of a link.

use std::ffi::OsString;
use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, SockaddrIn, bind, getsockopt,
    recvmsg, send, setsockopt, socket, sockopt,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UdpSocket;
use weft_wire::machine::{LinkTarget, Transmit};
use weft_wire::{MacAddress, UdpFrame, udp};

use crate::link::Link;
use crate::{Error, ErrorKind, Result};

/// A UDP port of one link, which hears broadcasts too, and a way to send whole frames on that link: to stations that
/// do not answer ARP yet, and past the host's routing.
#[derive(Debug)]
pub struct LinkSocket {
    link: String,
    index: u32,
    mac: MacAddress,
    address: Ipv4Addr,
    udp: UdpSocket,
    packets: AsyncFd<OwnedFd>,
}

/// Where a datagram came from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrival {
    pub(super) length: usize,
    pub(super) source: SocketAddrV4,
    pub(super) destination: Ipv4Addr,
}

impl LinkSocket {
    /// Opens the UDP port `port` of `link`, whose host address is `address`. Needs CAP_NET_RAW, and for ports below
    /// 1024 CAP_NET_BIND_SERVICE; [`ErrorKind::Busy`] if a server has the port without sharing it.
    pub fn open(link: &Link, address: Ipv4Addr, port: u16) -> Result<Self> {
        let name = &link.name;
        let mac = link.mac.ok_or_else(|| {
            Error::new(
                ErrorKind::Invalid,
                format!("link {name} has no Ethernet address"),
            )
        })?;
        let udp = open_udp(name, port)
            .and_then(UdpSocket::from_std)
            .map_err(|e| Error::system(format!("opening UDP port {port} of link {name}"), e))?;
        let packets = open_packets(link.index)
            .and_then(super::sys::watch)
            .map_err(|e| Error::system(format!("opening a packet socket on link {name}"), e))?;
        Ok(Self {
            link: name.clone(),
            index: link.index,
            mac,
            address,
            udp,
            packets,
        })
    }

    /// The link's name.
    pub fn link(&self) -> &str {
        &self.link
    }

    /// Waits until a datagram may have arrived.
    pub(super) async fn readable(&self) -> Result<()> {
        self.udp
            .readable()
            .await
            .map_err(|e| self.error("receiving", e))
    }

    /// Waits until the link is gone, which the kernel tells the packet socket by an error. A link that goes down does
    /// the same and may come back.
    pub(super) async fn gone(&self) -> Error {
        loop {
            let ready = self
                .packets
                .ready(Interest::READABLE | Interest::ERROR)
                .await;
            let mut guard = match ready {
                Ok(guard) => guard,
                Err(e) => return self.error("waiting", e),
            };
            // Reading the error takes it off the socket.
            let _ = getsockopt(&self.packets, sockopt::SocketError);
            let exists = if_nametoindex(self.link.as_str()).is_ok_and(|index| index == self.index);
            if !exists {
                return Error::new(ErrorKind::NotFound, format!("link {} is gone", self.link));
            }
            guard.clear_ready();
        }
    }

    /// The next datagram, if one is there. One that is longer than `buffer` is cut.
    pub(super) fn try_receive(&self, buffer: &mut [u8]) -> Result<Option<Arrival>> {
        match self.udp.try_io(Interest::READABLE, || self.receive(buffer)) {
            Ok(arrival) => Ok(Some(arrival)),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
            // What an earlier datagram led to (a port that nobody hears) is no matter of this one.
            Err(e) if !is_gone(&e) => Ok(None),
            Err(e) => Err(self.error("receiving", e)),
        }
    }

    fn receive(&self, buffer: &mut [u8]) -> io::Result<Arrival> {
        let mut control = nix::cmsg_space!(libc::in_pktinfo);
        let mut parts = [IoSliceMut::new(buffer)];
        let message = recvmsg::<SockaddrIn>(
            self.udp.as_raw_fd(),
            &mut parts,
            Some(&mut control),
            MsgFlags::MSG_DONTWAIT,
        )?;
        let destination = message.cmsgs()?.find_map(|control| match control {
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                Some(Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr)))
            }
            _ => None,
        });
        let source = message.address.map(SocketAddrV4::from);
        Ok(Arrival {
            length: message.bytes,
            source: source.unwrap_or(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0)),
            destination: destination.unwrap_or(Ipv4Addr::UNSPECIFIED),
        })
    }

    /// Sends a datagram as it wants to be sent. One that cannot be sent now is lost, as any may be; only that the link
    /// is gone is an error.
    pub(super) fn transmit(&self, transmit: &Transmit) -> Result<()> {
        if transmit.payload.len() > udp::LARGEST_PAYLOAD {
            return Ok(());
        }
        let sent = match transmit.link {
            LinkTarget::Station(mac) => self.send_frame(mac, transmit),
            LinkTarget::Everyone => self.send_frame(MacAddress::BROADCAST, transmit),
            LinkTarget::Routed => self
                .udp
                .try_send_to(&transmit.payload, transmit.destination.into())
                .map(drop),
        };
        match sent {
            Err(e) if is_gone(&e) => Err(self.error("sending", e)),
            Err(e) => {
                tracing::debug!(link = %self.link, to = %transmit.destination, "an answer is lost: {e}");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    fn send_frame(&self, destination_mac: MacAddress, transmit: &Transmit) -> io::Result<()> {
        let frame = UdpFrame {
            source_mac: self.mac,
            destination_mac,
            source: SocketAddrV4::new(self.address, transmit.source_port),
            destination: transmit.destination,
        };
        let bytes = frame.emit(&transmit.payload);
        send(self.packets.as_raw_fd(), &bytes, MsgFlags::MSG_DONTWAIT)?;
        Ok(())
    }

    fn error(&self, doing: &str, error: io::Error) -> Error {
        Error::system(format!("{doing} on link {}", self.link), error)
    }
}

/// Whether the link itself is gone, rather than one datagram.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENXIO | libc::ENODEV))
}

fn open_udp(link: &str, port: u16) -> io::Result<std::net::UdpSocket> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let udp = socket(AddressFamily::Inet, SockType::Datagram, flags, None)?;
    // Other links of the host may have servers of their own on this port.
    setsockopt(&udp, sockopt::ReuseAddr, &true)?;
    setsockopt(&udp, sockopt::Broadcast, &true)?;
    setsockopt(&udp, sockopt::Ipv4PacketInfo, &true)?;
    setsockopt(&udp, sockopt::BindToDevice, &OsString::from(link))?;
    bind(udp.as_raw_fd(), &SockaddrIn::new(0, 0, 0, 0, port))?;
    Ok(udp.into())
}

fn open_packets(index: u32) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let packets = socket(AddressFamily::Packet, SockType::Raw, flags, None)?;
    super::sys::receive_nothing(&packets)?;
    super::sys::bind_to_link(&packets, index)?;
    Ok(packets)
}
