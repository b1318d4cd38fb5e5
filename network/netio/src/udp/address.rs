//! Addresses as the kernel writes them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use nix::sys::socket::SockaddrStorage;

/// One of the host's addresses, and the interface that it was reached on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Source {
    /// The address.
    pub ip: IpAddr,
    /// The kernel's number of the interface.
    pub interface: u32,
}

impl Source {
    pub(super) fn of_v4(info: &libc::in_pktinfo) -> Self {
        Self {
            // The address that routing calls ours, also when the datagram went to a broadcast.
            ip: Ipv4Addr::from(u32::from_be(info.ipi_spec_dst.s_addr)).into(),
            interface: info.ipi_ifindex.unsigned_abs(),
        }
    }

    pub(super) fn of_v6(info: &libc::in6_pktinfo) -> Self {
        Self {
            ip: Ipv6Addr::from(info.ipi6_addr.s6_addr).into(),
            interface: info.ipi6_ifindex,
        }
    }

    pub(super) fn for_v4(self) -> Option<libc::in_pktinfo> {
        let IpAddr::V4(ip) = self.ip else { return None };
        Some(libc::in_pktinfo {
            ipi_ifindex: i32::try_from(self.interface).ok()?,
            ipi_spec_dst: libc::in_addr {
                s_addr: ip.to_bits().to_be(),
            },
            ipi_addr: libc::in_addr { s_addr: 0 },
        })
    }

    pub(super) fn for_v6(self) -> Option<libc::in6_pktinfo> {
        let IpAddr::V6(ip) = self.ip else { return None };
        Some(libc::in6_pktinfo {
            ipi6_addr: libc::in6_addr {
                s6_addr: ip.octets(),
            },
            ipi6_ifindex: self.interface,
        })
    }
}

pub(super) fn from_kernel(address: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(&v4) = address.as_sockaddr_in() {
        return Some(SocketAddrV4::from(v4).into());
    }
    let &v6 = address.as_sockaddr_in6()?;
    Some(SocketAddrV6::from(v6).into())
}
