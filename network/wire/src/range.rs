//! Ranges of IPv4 addresses.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use crate::ParseError;

/// All addresses from the first to the last, both included: never empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ipv4Range {
    first: Ipv4Addr,
    last: Ipv4Addr,
}

impl Ipv4Range {
    /// `None` if `last` is below `first`.
    pub fn new(first: Ipv4Addr, last: Ipv4Addr) -> Option<Self> {
        (first <= last).then_some(Self { first, last })
    }

    /// The lowest address.
    pub fn first(self) -> Ipv4Addr {
        self.first
    }

    /// The highest address.
    pub fn last(self) -> Ipv4Addr {
        self.last
    }

    /// How many addresses.
    pub fn size(self) -> u64 {
        u64::from(self.last.to_bits() - self.first.to_bits()) + 1
    }

    /// Whether `address` is one of them.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        self.first <= address && address <= self.last
    }

    /// The `index`-th address counted from 0, around the end.
    pub fn nth_wrapping(self, index: u64) -> Ipv4Addr {
        let offset = index % self.size();
        // The remainder is below the size, and the size counts 32-bit addresses.
        (self.first.to_bits() + offset as u32).into()
    }

    /// Each address once, upwards.
    pub fn iter(self) -> impl Iterator<Item = Ipv4Addr> {
        (self.first.to_bits()..=self.last.to_bits()).map(Ipv4Addr::from)
    }
}

impl FromStr for Ipv4Range {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let parse = || {
            let (first, last) = text.split_once('-')?;
            Self::new(first.trim().parse().ok()?, last.trim().parse().ok()?)
        };
        parse().ok_or_else(|| {
            ParseError::new(text, "a range of IPv4 addresses like 10.0.0.10-10.0.0.99")
        })
    }
}

impl fmt::Display for Ipv4Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_both_ends() {
        let range: Ipv4Range = "10.0.0.250-10.0.1.3".parse().unwrap();
        assert_eq!(range.size(), 10);
        assert_eq!(range.iter().count(), 10);
        assert_eq!(range.nth_wrapping(6), Ipv4Addr::new(10, 0, 1, 0));
        assert_eq!(range.nth_wrapping(10), range.first());
        assert!(range.contains(range.last()) && !range.contains(Ipv4Addr::new(10, 0, 1, 4)));
        let all: Ipv4Range = "0.0.0.0-255.255.255.255".parse().unwrap();
        assert_eq!(all.size(), 1 << 32);
        assert_eq!(all.nth_wrapping((1 << 32) - 1), all.last());
        assert!("10.0.0.2-10.0.0.1".parse::<Ipv4Range>().is_err());
        assert!("10.0.0.2".parse::<Ipv4Range>().is_err());
    }
}
