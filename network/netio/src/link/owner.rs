//! The mark of what weft made.

use std::fmt;

/// What starts every alias of weft's.
const PREFIX: &str = "weft:";
/// What ends the alias of a bridge that was made when the host did not forward IPv4.
const FORWARDING_WAS_OFF: &str = ";ip_forward=0";

/// Whose a link is, as its alias says: `weft:NETWORK` for a bridge, `weft:NETWORK/PORT` for a port.
///
/// The alias of a bridge also remembers that IPv4 forwarding was off when weft turned it on. So this is known exactly
/// as long as it matters: the kernel forgets both at the same time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The network.
    pub network: String,
    /// The port; none for the bridge itself.
    pub port: Option<String>,
    /// Whether forwarding is to be turned off with the last network.
    pub forwarding_was_off: bool,
}

impl Owner {
    /// The mark of a network's bridge.
    pub fn bridge(network: impl Into<String>) -> Self {
        Self {
            network: network.into(),
            port: None,
            forwarding_was_off: false,
        }
    }

    /// The mark of a network's port.
    pub fn port(network: impl Into<String>, port: impl Into<String>) -> Self {
        Self {
            port: Some(port.into()),
            ..Self::bridge(network)
        }
    }

    /// Reads an alias; `None` if it is not weft's.
    pub fn parse(alias: &str) -> Option<Self> {
        let rest = alias.strip_prefix(PREFIX)?;
        let (rest, forwarding_was_off) = match rest.strip_suffix(FORWARDING_WAS_OFF) {
            Some(rest) => (rest, true),
            None => (rest, false),
        };
        let (network, port) = match rest.split_once('/') {
            Some((network, port)) => (network, Some(port.to_owned())),
            None => (rest, None),
        };
        (!network.is_empty()).then(|| Self {
            network: network.to_owned(),
            port,
            forwarding_was_off,
        })
    }

    /// Whether both are the same bridge or port, whatever is remembered of forwarding.
    pub fn same(&self, other: &Self) -> bool {
        self.network == other.network && self.port == other.port
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", self.network)?;
        if let Some(port) = &self.port {
            write!(f, "/{port}")?;
        }
        if self.forwarding_was_off {
            f.write_str(FORWARDING_WAS_OFF)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_both_ways() {
        let mut bridge = Owner::bridge("lab");
        assert_eq!(bridge.to_string(), "weft:lab");
        assert_eq!(Owner::parse("weft:lab"), Some(bridge.clone()));
        bridge.forwarding_was_off = true;
        assert_eq!(bridge.to_string(), "weft:lab;ip_forward=0");
        assert_eq!(Owner::parse(&bridge.to_string()), Some(bridge));
        let port = Owner::port("lab", "vm1");
        assert_eq!(port.to_string(), "weft:lab/vm1");
        assert_eq!(Owner::parse("weft:lab/vm1"), Some(port));
        for foreign in ["", "weft", "weft:", "uplink", "Weft:lab"] {
            assert_eq!(Owner::parse(foreign), None);
        }
    }
}
