//! IPv4 addresses with the length of their network's prefix.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use crate::{Ipv4Range, ParseError};

/// An IPv4 address within its subnet, like `10.0.0.1/24`: the address is kept, the subnet follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ipv4Cidr {
    address: Ipv4Addr,
    prefix: u8,
}

impl Ipv4Cidr {
    /// `None` if `prefix` is more than 32.
    pub fn new(address: Ipv4Addr, prefix: u8) -> Option<Self> {
        (prefix <= 32).then_some(Self { address, prefix })
    }

    /// The address as it was given.
    pub fn address(self) -> Ipv4Addr {
        self.address
    }

    /// The bits that all addresses of the subnet have in common.
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    fn mask(self) -> u32 {
        u32::MAX
            .checked_shl(32 - u32::from(self.prefix))
            .unwrap_or(0)
    }

    /// The mask of the subnet.
    pub fn netmask(self) -> Ipv4Addr {
        self.mask().into()
    }

    /// The subnet with its own first address, like `10.0.0.0/24`.
    pub fn network(self) -> Self {
        Self {
            address: (self.address.to_bits() & self.mask()).into(),
            prefix: self.prefix,
        }
    }

    /// Whether the address is the subnet's first, so that a subnet was meant rather than a host.
    pub fn is_network(self) -> bool {
        self.network() == self
    }

    /// The last address, to which broadcasts go.
    pub fn broadcast(self) -> Ipv4Addr {
        (self.address.to_bits() | !self.mask()).into()
    }

    /// Addresses in the subnet, with the first and the last.
    pub fn size(self) -> u64 {
        1 << (32 - self.prefix)
    }

    /// Whether `address` is in the subnet.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        address.to_bits() & self.mask() == self.address.to_bits() & self.mask()
    }

    /// Whether the two subnets have an address in common.
    pub fn overlaps(self, other: Self) -> bool {
        self.contains(other.network().address) || other.contains(self.network().address)
    }

    /// The addresses that hosts may have: all but the first and the last, or all of a /31 or /32 (RFC 3021).
    pub fn hosts(self) -> Ipv4Range {
        let first = self.network().address.to_bits();
        let last = self.broadcast().to_bits();
        let (first, last) = if self.prefix >= 31 {
            (first, last)
        } else {
            (first + 1, last - 1)
        };
        Ipv4Range::new(first.into(), last.into()).expect("the first address is below the last")
    }

    /// The `index`-th address of the subnet, counted from 0; `None` behind the last.
    pub fn nth(self, index: u64) -> Option<Ipv4Addr> {
        if index >= self.size() {
            return None;
        }
        let first = self.network().address.to_bits();
        u32::try_from(index)
            .ok()
            .map(|index| (first + index).into())
    }
}

impl FromStr for Ipv4Cidr {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let parse = || {
            let (address, prefix) = text.split_once('/')?;
            let digits = !prefix.is_empty() && prefix.bytes().all(|c| c.is_ascii_digit());
            let prefix = digits.then(|| prefix.parse().ok()).flatten()?;
            Self::new(address.parse().ok()?, prefix)
        };
        parse().ok_or_else(|| ParseError::new(text, "an IPv4 subnet like 10.0.0.0/24"))
    }
}

impl fmt::Display for Ipv4Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cidr(text: &str) -> Ipv4Cidr {
        text.parse().expect("a good subnet")
    }

    #[test]
    fn arithmetic() {
        let lab = cidr("10.1.2.3/24");
        assert_eq!(lab.to_string(), "10.1.2.3/24");
        assert_eq!(lab.network(), cidr("10.1.2.0/24"));
        assert_eq!(lab.netmask(), Ipv4Addr::new(255, 255, 255, 0));
        assert_eq!(lab.broadcast(), Ipv4Addr::new(10, 1, 2, 255));
        assert_eq!(lab.size(), 256);
        assert_eq!(lab.hosts().to_string(), "10.1.2.1-10.1.2.254");
        assert_eq!(cidr("10.0.0.0/31").hosts().size(), 2);
        assert_eq!(lab.nth(255), Some(lab.broadcast()));
        assert_eq!(lab.nth(256), None);
        assert!(!lab.is_network() && lab.network().is_network());
        let all = cidr("0.0.0.0/0");
        assert_eq!(all.size(), 1 << 32);
        assert!(all.overlaps(lab) && lab.overlaps(all));
        assert!(!lab.overlaps(cidr("10.1.3.0/24")));
        for bad in [
            "10.0.0.0",
            "10.0.0.0/33",
            "10.0.0/24",
            "10.0.0.0/+8",
            "10.0.0.0/",
            "x/8",
        ] {
            assert!(bad.parse::<Ipv4Cidr>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn text_is_identity(bits: u32, prefix in 0u8..=32) {
            let cidr = Ipv4Cidr::new(bits.into(), prefix).unwrap();
            prop_assert_eq!(cidr.to_string().parse::<Ipv4Cidr>().unwrap(), cidr);
        }

        #[test]
        fn overlap_is_containment(a: u32, p in 0u8..=32, b: u32, q in 0u8..=32) {
            let a = Ipv4Cidr::new(a.into(), p).unwrap();
            let b = Ipv4Cidr::new(b.into(), q).unwrap();
            prop_assert_eq!(a.overlaps(b), b.overlaps(a));
            let disjoint = a.broadcast() < b.network().address() || b.broadcast() < a.network().address();
            prop_assert_eq!(a.overlaps(b), !disjoint);
        }

        #[test]
        fn parsing_any_text_never_panics(text in "\\PC*") {
            let _ = text.parse::<Ipv4Cidr>();
            let _ = text.parse::<Ipv4Range>();
            let _ = text.parse::<crate::MacAddress>();
        }
    }
}
