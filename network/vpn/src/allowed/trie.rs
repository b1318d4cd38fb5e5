//! A binary trie of prefixes whose one-way paths are left out, so that it has at most two nodes a prefix.

use super::recent::Recent;

/// An address as bits, the first one on top.
pub(super) trait Bits: Copy + Eq {
    /// How many there are.
    const COUNT: u8;

    /// The first `length` of them, and zeroes.
    fn first(self, length: u8) -> Self;
    /// How many of the first ones two addresses have in common.
    fn common(self, other: Self) -> u8;
    /// The bit at `place`, which is below [`Bits::COUNT`].
    fn bit(self, place: u8) -> usize;
    /// A number that is another for most other addresses, also for those beside it.
    fn spread(self) -> u32;
}

impl Bits for u32 {
    const COUNT: u8 = 32;

    fn first(self, length: u8) -> Self {
        self & Self::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0)
    }

    fn common(self, other: Self) -> u8 {
        (self ^ other).leading_zeros() as u8
    }

    fn bit(self, place: u8) -> usize {
        (self >> (31 - place) & 1) as usize
    }

    fn spread(self) -> u32 {
        spread(self.into())
    }
}

impl Bits for u128 {
    const COUNT: u8 = 128;

    fn first(self, length: u8) -> Self {
        self & Self::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0)
    }

    fn common(self, other: Self) -> u8 {
        (self ^ other).leading_zeros() as u8
    }

    fn bit(self, place: u8) -> usize {
        (self >> (127 - place) & 1) as usize
    }

    fn spread(self) -> u32 {
        spread((self >> 64) as u64 ^ self as u64)
    }
}

/// Multiplies by the golden ratio, which keeps neighbours apart.
fn spread(bits: u64) -> u32 {
    (bits.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32
}

/// The number of a node; `NONE` for no node.
type Number = u32;
const NONE: Number = Number::MAX;

#[derive(Debug)]
struct Node<B, T> {
    bits: B,
    length: u8,
    /// None where two paths part.
    owner: Option<T>,
    children: [Number; 2],
}

/// Where the number of a node stands.
#[derive(Debug, Clone, Copy)]
enum Link {
    Root,
    Child(Number, usize),
}

/// Prefixes and their owners.
#[derive(Debug)]
pub(super) struct Trie<B, T> {
    nodes: Vec<Node<B, T>>,
    free: Vec<Number>,
    root: Number,
    recent: Recent<B, T>,
}

impl<B: Bits, T: Copy> Trie<B, T> {
    pub(super) fn new() -> Self {
        Self {
            nodes: Vec::new(),
            free: Vec::new(),
            root: NONE,
            recent: Recent::new(),
        }
    }

    /// The owner of the longest prefix of `address`.
    pub(super) fn find(&self, address: B) -> Option<T> {
        self.recent.or_find(address, |address| self.walk(address))
    }

    fn walk(&self, address: B) -> Option<T> {
        let mut found = None;
        let mut at = self.root;
        while at != NONE {
            let node = &self.nodes[at as usize];
            if address.common(node.bits) < node.length {
                break;
            }
            found = node.owner.or(found);
            if node.length == B::COUNT {
                break;
            }
            at = node.children[address.bit(node.length)];
        }
        found
    }

    /// Gives a prefix to an owner, and tells whose it was.
    pub(super) fn insert(&mut self, bits: B, length: u8, owner: T) -> Option<T> {
        self.recent.forget();
        let bits = bits.first(length);
        let mut link = Link::Root;
        loop {
            let at = self.follow(link);
            if at == NONE {
                let leaf = self.add(bits, length, Some(owner));
                self.set(link, leaf);
                return None;
            }
            let node = &mut self.nodes[at as usize];
            let common = bits.common(node.bits).min(length).min(node.length);
            if common < node.length {
                self.part(link, at, common, (bits, length, owner));
                return None;
            }
            if length == node.length {
                return node.owner.replace(owner);
            }
            link = Link::Child(at, bits.bit(node.length));
        }
    }

    /// Puts a prefix in above the node `at`, with which it has less in common than the node is long.
    fn part(&mut self, link: Link, at: Number, common: u8, (bits, length, owner): (B, u8, T)) {
        let side = self.nodes[at as usize].bits.bit(common);
        let above = if common == length {
            self.add(bits, length, Some(owner))
        } else {
            let fork = self.add(bits.first(common), common, None);
            let leaf = self.add(bits, length, Some(owner));
            self.nodes[fork as usize].children[1 - side] = leaf;
            fork
        };
        self.nodes[above as usize].children[side] = at;
        self.set(link, above);
    }

    /// Takes a prefix away from its owner, and tells who that was.
    pub(super) fn remove(&mut self, bits: B, length: u8) -> Option<T> {
        self.recent.forget();
        let bits = bits.first(length);
        let (mut parent, mut link) = (None, Link::Root);
        loop {
            let at = self.follow(link);
            let node = self.nodes.get_mut(at as usize)?;
            if node.length > length || bits.common(node.bits) < node.length {
                return None;
            }
            if node.length == length {
                let owner = node.owner.take()?;
                self.shorten(link);
                if let Some(parent) = parent {
                    self.shorten(parent);
                }
                return Some(owner);
            }
            parent = Some(link);
            link = Link::Child(at, bits.bit(node.length));
        }
    }

    /// Takes the node out that a link leads to, unless it has an owner or parts two paths.
    fn shorten(&mut self, link: Link) {
        let at = self.follow(link);
        let node = &self.nodes[at as usize];
        if node.owner.is_some() {
            return;
        }
        let ([below, NONE] | [NONE, below]) = node.children else {
            return;
        };
        self.set(link, below);
        self.free.push(at);
    }

    fn add(&mut self, bits: B, length: u8, owner: Option<T>) -> Number {
        let node = Node {
            bits,
            length,
            owner,
            children: [NONE; 2],
        };
        if let Some(number) = self.free.pop() {
            self.nodes[number as usize] = node;
            return number;
        }
        let number = Number::try_from(self.nodes.len()).unwrap_or(NONE);
        assert!(number != NONE, "fewer than four billion nodes");
        self.nodes.push(node);
        number
    }

    fn follow(&self, link: Link) -> Number {
        match link {
            Link::Root => self.root,
            Link::Child(number, side) => self.nodes[number as usize].children[side],
        }
    }

    fn set(&mut self, link: Link, to: Number) {
        match link {
            Link::Root => self.root = to,
            Link::Child(number, side) => self.nodes[number as usize].children[side] = to,
        }
    }

    /// Nodes in use.
    #[cfg(test)]
    pub(super) fn size(&self) -> usize {
        self.nodes.len() - self.free.len()
    }
}
