//! Where a socket listens or connects.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::str::FromStr;

/// The longest path of a Unix socket, in bytes: `sun_path` without its final zero.
const MAX_UNIX_PATH: usize = 107;

/// An address: `unix:PATH` or `HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// A Unix stream socket at a path.
    Unix(PathBuf),
    /// A TCP port.
    Tcp(SocketAddr),
}

/// Why a text is no address: one sentence that names it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseAddressError(String);

impl FromStr for Address {
    type Err = ParseAddressError;

    /// A host name is looked up, which may block for as long as the resolver does; its first address is taken.
    fn from_str(text: &str) -> Result<Self, ParseAddressError> {
        if let Some(path) = text.strip_prefix("unix:") {
            return unix(path);
        }
        if let Ok(address) = text.parse() {
            return Ok(Self::Tcp(address));
        }
        let wrong = |why: &str| ParseAddressError(format!("\"{text}\" is no address: {why}"));
        let Some((host, port)) = text.rsplit_once(':').filter(|(host, _)| !host.is_empty()) else {
            return Err(wrong("use unix:PATH or HOST:PORT"));
        };
        let Ok(port) = port.parse::<u16>() else {
            return Err(wrong("its port is no number from 0 to 65535"));
        };
        let found = (host, port)
            .to_socket_addrs()
            .map_err(|error| wrong(&format!("host {host} was not found ({error})")))?
            .next();
        found
            .map(Self::Tcp)
            .ok_or_else(|| wrong(&format!("host {host} has no address")))
    }
}

fn unix(path: &str) -> Result<Address, ParseAddressError> {
    if path.is_empty() {
        return Err(ParseAddressError(
            "\"unix:\" is no address: the path of the socket is missing".into(),
        ));
    }
    if path.len() > MAX_UNIX_PATH {
        return Err(ParseAddressError(format!(
            "{path} is too long for a Unix socket: {} bytes, and the kernel takes {MAX_UNIX_PATH}",
            path.len()
        )));
    }
    Ok(Address::Unix(path.into()))
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => address.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_shown_alike() {
        for text in ["unix:/run/weft/nbd.sock", "127.0.0.1:10809", "[::1]:10809"] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
        }
        let local: Address = "localhost:80".parse().unwrap();
        assert!(matches!(local, Address::Tcp(address) if address.ip().is_loopback()));
    }

    #[test]
    fn what_is_no_address_is_told_so() {
        let long = format!("unix:/{}", "x".repeat(200));
        for (text, part) in [
            ("unix:", "path of the socket is missing"),
            ("10809", "use unix:PATH or HOST:PORT"),
            (":10809", "use unix:PATH or HOST:PORT"),
            ("localhost:many", "its port is no number"),
            (long.as_str(), "too long for a Unix socket"),
        ] {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
