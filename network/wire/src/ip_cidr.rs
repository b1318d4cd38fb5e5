//! Addresses of either IP version with the length of their network's prefix.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::{Ipv4Cidr, ParseError};

/// An address within its subnet, like `10.0.0.1/24` or `fd00::1/64`: the address is kept, the subnet follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IpCidr {
    address: IpAddr,
    prefix: u8,
}

impl IpCidr {
    /// `None` if the address has fewer bits than `prefix`.
    pub fn new(address: IpAddr, prefix: u8) -> Option<Self> {
        (prefix <= bits(address)).then_some(Self { address, prefix })
    }

    /// The address as it was given.
    pub fn address(self) -> IpAddr {
        self.address
    }

    /// The bits that all addresses of the subnet have in common.
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// The subnet with its own first address, like `10.0.0.0/24`.
    pub fn network(self) -> Self {
        let address = match self.address {
            IpAddr::V4(ip) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix));
                Ipv4Addr::from_bits(ip.to_bits() & mask.unwrap_or(0)).into()
            }
            IpAddr::V6(ip) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix));
                Ipv6Addr::from_bits(ip.to_bits() & mask.unwrap_or(0)).into()
            }
        };
        Self { address, ..self }
    }

    /// Whether all addresses of `other`'s subnet are in this one's.
    pub fn covers(self, other: Self) -> bool {
        let same_version = self.address.is_ipv4() == other.address.is_ipv4();
        let widened = Self {
            prefix: self.prefix,
            ..other
        };
        same_version && self.prefix <= other.prefix && widened.network() == self.network()
    }

    /// Whether it is one address and no more.
    pub fn is_host(self) -> bool {
        self.prefix == bits(self.address)
    }
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

impl From<Ipv4Cidr> for IpCidr {
    fn from(cidr: Ipv4Cidr) -> Self {
        Self {
            address: cidr.address().into(),
            prefix: cidr.prefix(),
        }
    }
}

impl FromStr for IpCidr {
    type Err = ParseError;

    /// Without a length it is one address.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let parse = || {
            let Some((address, prefix)) = text.split_once('/') else {
                let address: IpAddr = text.parse().ok()?;
                return Self::new(address, bits(address));
            };
            let digits = !prefix.is_empty() && prefix.bytes().all(|c| c.is_ascii_digit());
            let prefix = digits.then(|| prefix.parse().ok()).flatten()?;
            Self::new(address.parse().ok()?, prefix)
        };
        parse().ok_or_else(|| ParseError::new(text, "a subnet like 10.0.0.0/24 or fd00::/64"))
    }
}

impl fmt::Display for IpCidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cidr(text: &str) -> IpCidr {
        text.parse().expect("a good subnet")
    }

    #[test]
    fn both_versions_are_read_and_cover_their_own_alone() {
        assert_eq!(cidr("10.1.2.3/24").network(), cidr("10.1.2.0/24"));
        assert_eq!(cidr("fd00::1:5/112").network(), cidr("fd00::1:0/112"));
        assert_eq!(cidr("10.0.0.9"), cidr("10.0.0.9/32"));
        assert!(cidr("10.0.0.1/8").covers(cidr("10.9.0.0/16")));
        assert!(!cidr("10.9.0.0/16").covers(cidr("10.0.0.0/8")));
        assert!(cidr("0.0.0.0/0").covers(cidr("1.2.3.4/32")));
        assert!(!cidr("0.0.0.0/0").covers(cidr("::1/128")));
        assert!(cidr("::/0").covers(cidr("fd00::/8")));
        for bad in ["", "10.0.0.0/33", "::/129", "10.0.0/8", "::/", "::/+1"] {
            assert!(bad.parse::<IpCidr>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn text_is_identity(bits: u128, prefix in 0u8..=128) {
            let cidr = IpCidr::new(Ipv6Addr::from_bits(bits).into(), prefix).unwrap();
            prop_assert_eq!(cidr.to_string().parse::<IpCidr>().unwrap(), cidr);
            prop_assert!(cidr.network().covers(cidr));
        }
    }
}
