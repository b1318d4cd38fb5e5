//! NBD URLs. Source: the NBD project's `doc/uri.md`, and RFC 3986 for what a URI is.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use weft_block::{Error, ErrorKind};

use crate::nbd::proto::{MAX_STRING, PORT};

/// Where a server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A Unix domain socket.
    Unix(PathBuf),
    /// A host's name or address, without brackets, and a port.
    Tcp(String, u16),
}

/// An export on a server: `nbd://HOST[:PORT][/NAME]` or `nbd+unix:///[NAME]?socket=PATH`, either with
/// `reconnect-delay=SECONDS` (QEMU's name for it).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    /// The server.
    pub place: Place,
    /// The export; empty for the default one.
    pub name: String,
    /// How long a server that was lost is waited for.
    pub reconnect_delay: Duration,
}

/// How long a server that was lost is waited for where the URL does not say: longer than a server takes to start anew,
/// shorter than the time after which a guest gives its disk up.
pub const RECONNECT_DELAY: Duration = Duration::from_secs(30);

/// The longest that a URL may ask for.
const LONGEST_DELAY: u64 = 24 * 3600;

impl Url {
    /// Whether `text` means to be an NBD URL, right or wrong.
    pub fn is_meant_by(text: &str) -> bool {
        ["nbd:", "nbds:", "nbd+unix:", "nbds+unix:"]
            .iter()
            .any(|scheme| {
                text.get(..scheme.len())
                    .is_some_and(|start| start.eq_ignore_ascii_case(scheme))
            })
    }
}

impl FromStr for Url {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let invalid = |what: &str| {
            let message = format!("{text:?} is no NBD URL that can be used: {what}");
            Error::new(ErrorKind::Invalid, message)
        };
        let (scheme, rest) = text
            .split_once("://")
            .ok_or_else(|| invalid("it does not begin with nbd:// or nbd+unix://"))?;
        let rest = rest.split('#').next().unwrap_or_default();
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let name = decode(path)
            .and_then(|name| String::from_utf8(name).ok())
            .filter(|name| name.len() <= MAX_STRING && !name.contains('\0'))
            .ok_or_else(|| invalid("the export name is malformed"))?;
        let Query {
            socket,
            reconnect_delay,
        } = Query::of(query).map_err(|what| invalid(&what))?;
        let place = match (scheme.to_ascii_lowercase().as_str(), socket) {
            ("nbd+unix", Some(path)) if authority.is_empty() => Place::Unix(path),
            ("nbd+unix", Some(_)) => return Err(invalid("a Unix socket has no host")),
            ("nbd+unix", None) => return Err(invalid("?socket=PATH is missing")),
            ("nbd", None) => tcp(authority).map_err(|what| invalid(&what))?,
            ("nbd", Some(_)) => return Err(invalid("?socket= goes with nbd+unix://")),
            ("nbds" | "nbds+unix", _) => return Err(invalid("TLS is not supported yet")),
            _ => return Err(invalid("the scheme is not known")),
        };
        Ok(Self {
            place,
            name,
            reconnect_delay,
        })
    }
}

fn tcp(authority: &str) -> Result<Place, String> {
    let host_port = match authority.rsplit_once('@') {
        // A user counts for TLS only.
        Some((_, host_port)) => host_port,
        None => authority,
    };
    let (host, port) = match host_port.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest
                .split_once(']')
                .ok_or("the bracket around the address is not closed")?;
            let port = match port {
                "" => "",
                port => port
                    .strip_prefix(':')
                    .ok_or("after the address comes :PORT")?,
            };
            (host, port)
        }
        None => host_port.split_once(':').unwrap_or((host_port, "")),
    };
    if host.is_empty() {
        return Err("the host is missing".to_string());
    }
    let port = match port {
        "" => PORT,
        port => port
            .parse()
            .map_err(|_| format!("{port:?} is no port number"))?,
    };
    let host = decode(host)
        .and_then(|host| String::from_utf8(host).ok())
        .ok_or("the host is malformed")?;
    Ok(Place::Tcp(host, port))
}

/// The query parameters; unknown ones are diagnosed, as the specification asks.
struct Query {
    socket: Option<PathBuf>,
    reconnect_delay: Duration,
}

impl Query {
    fn of(query: &str) -> Result<Self, String> {
        let mut found = Self {
            socket: None,
            reconnect_delay: RECONNECT_DELAY,
        };
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            match key {
                "socket" => found.socket = Some(socket(value)?),
                "reconnect-delay" => {
                    let seconds = value.parse().ok().filter(|&most| most <= LONGEST_DELAY);
                    let seconds = seconds.ok_or_else(|| {
                        format!("reconnect-delay is a number of seconds, {LONGEST_DELAY} at most")
                    })?;
                    found.reconnect_delay = Duration::from_secs(seconds);
                }
                _ => return Err(format!("the parameter {key:?} is not known")),
            }
        }
        Ok(found)
    }
}

fn socket(value: &str) -> Result<PathBuf, String> {
    use std::os::unix::ffi::OsStringExt;
    let path = decode(value)
        .filter(|path| !path.is_empty() && !path.contains(&0))
        .ok_or("the path of the socket is malformed")?;
    Ok(PathBuf::from(std::ffi::OsString::from_vec(path)))
}

/// Undoes percent encoding; `None` if it is malformed.
fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit = || char::from(bytes.next()?).to_digit(16);
        let (high, low) = (digit()?, digit()?);
        decoded.push((high << 4 | low) as u8);
    }
    Some(decoded)
}

fn encode(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    for &byte in bytes {
        let plain = byte.is_ascii_alphanumeric() || b"-._~/:".contains(&byte);
        if plain {
            write!(f, "{}", char::from(byte))?;
        } else {
            write!(f, "%{byte:02X}")?;
        }
    }
    Ok(())
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use std::os::unix::ffi::OsStrExt;
        let start = match &self.place {
            Place::Unix(path) => {
                f.write_str("nbd+unix:///")?;
                encode(f, self.name.as_bytes())?;
                f.write_str("?socket=")?;
                encode(f, path.as_os_str().as_bytes())?;
                '&'
            }
            Place::Tcp(host, port) => {
                if host.contains(':') {
                    write!(f, "nbd://[{host}]:{port}/")?;
                } else {
                    f.write_str("nbd://")?;
                    encode(f, host.as_bytes())?;
                    write!(f, ":{port}/")?;
                }
                encode(f, self.name.as_bytes())?;
                '?'
            }
        };
        match self.reconnect_delay {
            RECONNECT_DELAY => Ok(()),
            delay => write!(f, "{start}reconnect-delay={}", delay.as_secs()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> (Place, String) {
        let url: Url = text.parse().unwrap();
        assert_eq!(url.to_string().parse::<Url>().unwrap(), url, "{text}");
        (url.place, url.name)
    }

    fn unix(path: &str) -> Place {
        Place::Unix(path.into())
    }

    fn tcp(host: &str, port: u16) -> Place {
        Place::Tcp(host.into(), port)
    }

    #[test]
    fn the_examples_of_the_specification() {
        for (text, place, name) in [
            (
                "nbd://example.com:10809/export",
                tcp("example.com", 10809),
                "export",
            ),
            (
                "nbd+unix:///export?socket=nbd.sock",
                unix("nbd.sock"),
                "export",
            ),
            ("nbd://example.com/disk", tcp("example.com", PORT), "disk"),
            ("nbd://example.com", tcp("example.com", PORT), ""),
            ("nbd://example.com/", tcp("example.com", PORT), ""),
            ("nbd://example.com//disk", tcp("example.com", PORT), "/disk"),
            (
                "nbd://example.com/hello%20world",
                tcp("example.com", PORT),
                "hello world",
            ),
            ("NBD://[::1]:123/", tcp("::1", 123), ""),
            ("nbd://user@127.0.0.1/ä", tcp("127.0.0.1", PORT), "ä"),
            ("nbd+unix:///?socket=/tmp/a%20b/%25", unix("/tmp/a b/%"), ""),
            ("nbd+unix:///d?reconnect-delay=0&socket=x", unix("x"), "d"),
            ("nbd://host/d?reconnect-delay=300", tcp("host", PORT), "d"),
        ] {
            assert_eq!(parsed(text), (place, name.to_string()), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_said() {
        for (text, why) in [
            ("disk.img", "nbd://"),
            ("nbds://host/", "TLS"),
            ("nbd+unix:///disk", "socket"),
            ("nbd+unix://host/disk?socket=x", "host"),
            ("nbd:///disk", "host"),
            ("nbd://host:99999/", "99999"),
            ("nbd://host/%zz", "name"),
            ("nbd://host/%00", "name"),
            ("nbd+unix:///?socket=%00abstract", "socket"),
            ("nbd://host/?tls-type=psk", "tls-type"),
            ("nbd://[::1/", "bracket"),
            ("nbd://host/?reconnect-delay=soon", "seconds"),
            ("nbd://host/?reconnect-delay=86401", "86400 at most"),
            ("ftp://host/", "scheme"),
        ] {
            let error = text.parse::<Url>().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(error.to_string().contains(why), "{text}: {error}");
            assert!(error.to_string().contains(text), "{text}: {error}");
        }
    }

    #[test]
    fn urls_are_told_from_paths() {
        assert!(Url::is_meant_by("nbd://x") && Url::is_meant_by("NBD+unix:///?socket=x"));
        assert!(
            !Url::is_meant_by("/dev/nbd0") && !Url::is_meant_by("nb") && !Url::is_meant_by("nbd")
        );
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_parser(text in "(nbd|nbds|nbd\\+unix)://[\\[\\]@:/?&=%a-f0-9ä]{0,40}") {
            if let Ok(url) = text.parse::<Url>() {
                prop_assert_eq!(url.to_string().parse::<Url>().unwrap(), url);
            }
        }
    }
}
