//! Allowed IPs: which peer has which addresses (whitepaper, 2).
//!
//! A packet goes to the peer with the longest prefix of its destination, and one that comes from a peer is dropped
//! unless that peer has the longest prefix of its source. A prefix has one owner: giving it to another moves it.

mod prefix;
mod recent;
mod trie;

use std::net::IpAddr;

pub use prefix::{BadPrefix, Prefix};
use trie::Trie;

/// Which `T` has which addresses.
#[derive(Debug)]
pub struct AllowedIps<T> {
    v4: Trie<u32, T>,
    v6: Trie<u128, T>,
}

impl<T: Copy> AllowedIps<T> {
    /// Nobody has any.
    pub fn new() -> Self {
        Self {
            v4: Trie::new(),
            v6: Trie::new(),
        }
    }

    /// Whose an address is.
    pub fn find(&self, address: IpAddr) -> Option<T> {
        match address {
            IpAddr::V4(ip) => self.v4.find(ip.to_bits()),
            IpAddr::V6(ip) => self.v6.find(ip.to_bits()),
        }
    }

    /// Gives a prefix to an owner, and tells whose it was before.
    pub fn insert(&mut self, prefix: Prefix, owner: T) -> Option<T> {
        match prefix.address() {
            IpAddr::V4(ip) => self.v4.insert(ip.to_bits(), prefix.length(), owner),
            IpAddr::V6(ip) => self.v6.insert(ip.to_bits(), prefix.length(), owner),
        }
    }

    /// Takes a prefix away, and tells whose it was.
    pub fn remove(&mut self, prefix: Prefix) -> Option<T> {
        match prefix.address() {
            IpAddr::V4(ip) => self.v4.remove(ip.to_bits(), prefix.length()),
            IpAddr::V6(ip) => self.v6.remove(ip.to_bits(), prefix.length()),
        }
    }
}

impl<T: Copy> Default for AllowedIps<T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;
    use proptest::prelude::*;

    /// The same by looking at every prefix.
    #[derive(Default)]
    struct Twin(HashMap<Prefix, u16>);

    impl Twin {
        fn find(&self, address: IpAddr) -> Option<u16> {
            let longest = if address.is_ipv4() { 32 } else { 128 };
            (0..=longest)
                .rev()
                .find_map(|length| self.0.get(&Prefix::new(address, length)?).copied())
        }
    }

    /// Addresses close to each other, so that prefixes nest and meet.
    fn address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            (0u32..16, 0u32..32).prop_map(|(n, shift)| {
                Ipv4Addr::from_bits((0x0a00_0000 ^ n).rotate_left(shift)).into()
            }),
            (0u128..16, 0u32..128).prop_map(|(n, shift)| {
                Ipv6Addr::from_bits((0xfd00 ^ n).rotate_left(shift)).into()
            }),
        ]
    }

    fn prefix() -> impl Strategy<Value = Prefix> {
        (address(), 0u8..=128).prop_map(|(address, length)| {
            let most = if address.is_ipv4() { 32 } else { 128 };
            Prefix::new(address, length % (most + 1)).unwrap()
        })
    }

    #[derive(Debug, Clone)]
    enum Step {
        Insert(Prefix, u16),
        Remove(Prefix),
        Find(IpAddr),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (prefix(), 0u16..4).prop_map(|(prefix, owner)| Step::Insert(prefix, owner)),
            2 => prefix().prop_map(Step::Remove),
            4 => address().prop_map(Step::Find),
        ]
    }

    proptest! {
        #[test]
        fn does_as_its_brute_force_twin(steps in prop::collection::vec(step(), 1..300)) {
            let (mut trie, mut twin) = (AllowedIps::new(), Twin::default());
            for step in steps {
                match step {
                    Step::Insert(prefix, owner) => {
                        prop_assert_eq!(trie.insert(prefix, owner), twin.0.insert(prefix, owner));
                    }
                    Step::Remove(prefix) => {
                        prop_assert_eq!(trie.remove(prefix), twin.0.remove(&prefix));
                    }
                    Step::Find(address) => {
                        prop_assert_eq!(trie.find(address), twin.find(address));
                    }
                }
                let most = 2 * twin.0.len();
                prop_assert!(trie.v4.size() + trie.v6.size() <= most);
            }
        }
    }

    #[test]
    fn holds_and_gives_back_130_560_prefixes() {
        let mut trie = AllowedIps::new();
        let all: Vec<Prefix> = (0..130_560_u32)
            .map(|n| Prefix::new(Ipv4Addr::from_bits(n << 12).into(), 24).unwrap())
            .collect();
        for (n, &prefix) in all.iter().enumerate() {
            assert_eq!(trie.insert(prefix, n), None);
        }
        for (n, prefix) in all.iter().enumerate() {
            assert_eq!(trie.find(prefix.address()), Some(n));
        }
        for (n, &prefix) in all.iter().enumerate() {
            assert_eq!(trie.remove(prefix), Some(n));
        }
        assert_eq!(trie.v4.size(), 0);
    }
}
