//! Which way the host's routing leads datagrams, and when that may be another.
//!
//! For threads that move datagrams and have no runtime: a [`Routes`] can be read once links, addresses, routes, nexthops
//! or rules have changed, and answers on the spot.
//!
//! Facts: netlink(7), rtnetlink(7); Linux `include/uapi/linux/rtnetlink.h`.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use netlink_packet_route::route::{RouteAttribute, RouteMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;
use nix::sys::socket::{
    self, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt,
    socket, sockopt,
};
use rtnetlink::packet_core::{NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};

use crate::{Error, Result};

/// What is listened to.
const GROUPS: u32 = (libc::RTMGRP_LINK
    | libc::RTMGRP_IPV4_IFADDR
    | libc::RTMGRP_IPV4_ROUTE
    | libc::RTMGRP_IPV4_RULE
    | libc::RTMGRP_IPV6_IFADDR
    | libc::RTMGRP_IPV6_ROUTE) as u32
    | group(libc::RTNLGRP_IPV6_RULE)
    | group(libc::RTNLGRP_NEXTHOP);
/// Bytes of news that may wait. Nothing is read from them but that there are some, so what is too much is not missed.
const WAITING: usize = 16 << 10;
/// News that are taken at a time; what is left ends the next wait at once.
const MOST_NEWS: usize = 1024;
/// Room for an answer: a route and its metrics.
const ANSWER: usize = 4096;

const fn group(number: u32) -> u32 {
    1 << (number - 1)
}

/// The routing of the namespace in which it was opened, wherever the thread that uses it is. It can be read when there
/// may be other ways than before.
#[derive(Debug)]
pub struct Routes {
    news: OwnedFd,
    questions: OwnedFd,
    /// The number of the latest question.
    asked: AtomicU32,
}

/// A datagram that is to be led.
#[derive(Debug, Clone, Copy)]
pub struct Journey {
    /// Where it goes.
    pub to: SocketAddr,
    /// The host's address that it leaves from.
    pub from: IpAddr,
    /// And the UDP port.
    pub port: u16,
    /// Its mark, 0 for none.
    pub mark: u32,
}

impl Routes {
    /// Opens the routing of the calling thread's network namespace.
    pub fn open() -> Result<Self> {
        let opened = || {
            let news = open(GROUPS)?;
            // The least that the kernel gives is enough, too.
            let _ = setsockopt(&news, sockopt::RcvBuf, &WAITING);
            Ok((news, open(0)?))
        };
        let (news, questions) =
            opened().map_err(|e: io::Error| Error::system("listening to routes", e))?;
        Ok(Self {
            news,
            questions,
            asked: AtomicU32::new(0),
        })
    }

    /// Whether anything has changed since this was asked before. Does not wait.
    pub fn have_changed(&self) -> bool {
        let mut changed = false;
        for _ in 0..MOST_NEWS {
            match recv(self.news.as_raw_fd(), &mut [0; 16], MsgFlags::MSG_DONTWAIT) {
                Err(Errno::EAGAIN) => break,
                // News that are lost (ENOBUFS) are news, too.
                _ => changed = true,
            }
        }
        changed
    }

    /// The interface by which a datagram would leave, none if there is no way. One thread at a time may ask.
    ///
    /// # Errors
    /// If the kernel does not answer that.
    pub fn interface(&self, journey: &Journey) -> io::Result<Option<u32>> {
        let number = self.asked.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        let question = question(journey, number);
        send(self.questions.as_raw_fd(), &question, MsgFlags::empty())?;
        let mut buffer = [0; ANSWER];
        loop {
            // It is there: the kernel has answered before the question was sent.
            let fd = self.questions.as_raw_fd();
            let length = recv(fd, &mut buffer, MsgFlags::MSG_DONTWAIT)?;
            let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&buffer[..length])
                .map_err(io::Error::other)?;
            if answer.header.sequence_number != number {
                continue;
            }
            return match answer.payload {
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route)) => {
                    Ok(leaves_by(&route))
                }
                NetlinkPayload::Error(_) => Ok(None),
                _ => Err(io::ErrorKind::InvalidData.into()),
            };
        }
    }
}

impl AsFd for Routes {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.news.as_fd()
    }
}

fn open(groups: u32) -> io::Result<OwnedFd> {
    let (family, kind) = (socket::AddressFamily::Netlink, SockType::Raw);
    let fd = socket(
        family,
        kind,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )?;
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
    Ok(fd)
}

fn question(journey: &Journey, number: u32) -> Vec<u8> {
    let mut route = RouteMessage::default();
    let (family, bits) = match journey.to {
        SocketAddr::V4(_) => (AddressFamily::Inet, 32),
        SocketAddr::V6(_) => (AddressFamily::Inet6, 128),
    };
    route.header.address_family = family;
    route.header.destination_prefix_length = bits;
    route.header.source_prefix_length = bits;
    route.attributes = vec![
        RouteAttribute::Destination(journey.to.ip().into()),
        RouteAttribute::Source(journey.from.into()),
        // Rules may look at these as well.
        RouteAttribute::IpProto(libc::IPPROTO_UDP as u8),
        RouteAttribute::Sport(journey.port),
        RouteAttribute::Dport(journey.to.port()),
    ];
    if journey.mark != 0 {
        route.attributes.push(RouteAttribute::Mark(journey.mark));
    }
    if let SocketAddr::V6(to) = journey.to
        && to.scope_id() != 0
    {
        route.attributes.push(RouteAttribute::Oif(to.scope_id()));
    }
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST;
    header.sequence_number = number;
    let payload = NetlinkPayload::from(RouteNetlinkMessage::GetRoute(route));
    let mut message = NetlinkMessage::new(header, payload);
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

fn leaves_by(route: &RouteMessage) -> Option<u32> {
    let mut attributes = route.attributes.iter();
    attributes.find_map(|attribute| match attribute {
        RouteAttribute::Oif(interface) => Some(*interface),
        _ => None,
    })
}
