//! IPv6 of the host on a link.

use std::fs;
use std::io;

use crate::{Error, InterfaceName, Result};

/// Keeps the host's own IPv6 off a link. Guests speak it among themselves all the same, but a guest that plays the
/// router cannot give the host an address or a route.
pub(crate) fn disable(link: &InterfaceName) -> Result<()> {
    match fs::write(format!("/proc/sys/net/ipv6/conf/{link}/disable_ipv6"), "1") {
        Ok(()) => Ok(()),
        // A kernel without IPv6.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Error::system(format!("turning IPv6 off on link {link}"), e)),
    }
}
