//! Ethernet addresses.

use std::fmt;
use std::str::FromStr;

use crate::{ParseError, stable_hash};

/// An Ethernet address of 48 bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    /// All stations.
    pub const BROADCAST: Self = Self([0xff; 6]);
    /// No address.
    pub const ZERO: Self = Self([0; 6]);

    /// A locally administered unicast address that follows from `name` alone: the same on every run and machine.
    pub fn derived(name: &str) -> Self {
        let [_, _, _, a, b, c, d, e] = stable_hash(name.as_bytes()).to_be_bytes();
        Self([0x52, a, b, c, d, e])
    }

    /// The bytes in the order of transmission.
    pub fn octets(self) -> [u8; 6] {
        self.0
    }

    /// Whether a group of stations is meant (broadcast included).
    pub fn is_multicast(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// Whether one station is meant: neither a group nor [`MacAddress::ZERO`].
    pub fn is_unicast(self) -> bool {
        !self.is_multicast() && self != Self::ZERO
    }

    /// Whether the address was made locally rather than by a vendor.
    pub fn is_local(self) -> bool {
        self.0[0] & 2 != 0
    }
}

impl From<[u8; 6]> for MacAddress {
    fn from(octets: [u8; 6]) -> Self {
        Self(octets)
    }
}

impl FromStr for MacAddress {
    type Err = ParseError;

    /// Six pairs of hexadecimal digits, joined by `:` or by `-`.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong = || ParseError::new(text, "an Ethernet address like 52:54:00:12:34:56");
        let separator = if text.contains('-') { '-' } else { ':' };
        let mut octets = [0; 6];
        let mut pairs = text.split(separator);
        for octet in &mut octets {
            let pair = pairs.next().ok_or_else(wrong)?;
            let hexadecimal = pair.len() == 2 && pair.bytes().all(|c| c.is_ascii_hexdigit());
            if !hexadecimal {
                return Err(wrong());
            }
            *octet = u8::from_str_radix(pair, 16).map_err(|_| wrong())?;
        }
        match pairs.next() {
            None => Ok(Self(octets)),
            Some(_) => Err(wrong()),
        }
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_both_ways() {
        let mac: MacAddress = "52:54:00:ab:CD:0f".parse().unwrap();
        assert_eq!(mac.to_string(), "52:54:00:ab:cd:0f");
        assert_eq!("52-54-00-ab-cd-0f".parse(), Ok(mac));
        for bad in [
            "",
            "52:54:00:ab:cd",
            "52:54:00:ab:cd:0f:11",
            "5254:00:ab:cd:0f",
            "+2:54:00:ab:cd:0f",
        ] {
            assert!(bad.parse::<MacAddress>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_derived_address_is_local_unicast_and_frozen() {
        let mac = MacAddress::derived("weft:lab");
        assert!(mac.is_local() && mac.is_unicast());
        assert_eq!(mac, MacAddress::derived("weft:lab"));
        assert_ne!(mac, MacAddress::derived("weft:lab2"));
        assert!(MacAddress::BROADCAST.is_multicast() && !MacAddress::ZERO.is_unicast());
    }
}
