//! Ranges of addresses with a common prefix, of both IP versions.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Addresses with a common prefix, like `10.0.0.0/8` or `2001:db8::/32`. The bits behind the prefix are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

/// What is no prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no range of addresses like 10.0.0.0/8 or 2001:db8::/32")]
pub struct BadPrefix(pub String);

impl Prefix {
    /// The addresses that have the first `length` bits of `address`; `None` if it has fewer.
    pub fn new(address: IpAddr, length: u8) -> Option<Self> {
        let address = match address {
            IpAddr::V4(ip) if length <= 32 => Ipv4Addr::from_bits(
                ip.to_bits() & u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0),
            )
            .into(),
            IpAddr::V6(ip) if length <= 128 => {
                let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
                Ipv6Addr::from_bits(ip.to_bits() & mask).into()
            }
            _ => return None,
        };
        Some(Self { address, length })
    }

    /// The one address alone.
    pub fn host(address: IpAddr) -> Self {
        let length = if address.is_ipv4() { 32 } else { 128 };
        Self { address, length }
    }

    /// The first address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// How many bits all have in common.
    pub fn length(&self) -> u8 {
        self.length
    }
}

impl FromStr for Prefix {
    type Err = BadPrefix;

    /// Without a length it is one address.
    fn from_str(text: &str) -> Result<Self, BadPrefix> {
        let parse = || {
            let Some((address, length)) = text.split_once('/') else {
                return Some(Self::host(text.parse().ok()?));
            };
            let digits = !length.is_empty() && length.bytes().all(|c| c.is_ascii_digit());
            let length = digits.then(|| length.parse().ok()).flatten()?;
            Self::new(address.parse().ok()?, length)
        };
        parse().ok_or_else(|| BadPrefix(text.to_owned()))
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn text_both_ways() {
        for (text, canonical) in [
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("10.1.2.3", "10.1.2.3/32"),
            ("2001:db8::1/32", "2001:db8::/32"),
            ("::/0", "::/0"),
            ("fe80::1", "fe80::1/128"),
        ] {
            assert_eq!(text.parse::<Prefix>().unwrap().to_string(), canonical);
        }
        for bad in [
            "",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "x/8",
            "10.0.0/8",
        ] {
            assert!(bad.parse::<Prefix>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_refused_or_read(text in "\\PC*") {
            let _ = text.parse::<Prefix>();
        }
    }
}
