//! The numbers by which peers name our handshakes and sessions.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use crate::entropy::{Entropy, draw};
use crate::{PeerId, Session};

/// What a number stands for.
#[derive(Debug)]
pub(crate) enum Named {
    /// A handshake with this peer that waits for its answer.
    Handshake(PeerId),
    /// A session.
    Session(Arc<Session>),
}

/// Which number stands for what. Numbers are drawn, so they tell nothing.
#[derive(Debug, Default)]
pub(crate) struct Indices(HashMap<u32, Named, BuildHasherDefault<Drawn>>);

/// Numbers that were drawn are as good as their hashes.
#[derive(Default)]
struct Drawn(u64);

impl Hasher for Drawn {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u32(byte.into());
        }
    }

    fn write_u32(&mut self, number: u32) {
        // The map takes its place from the low bits, and a mark from the top ones.
        self.0 = (self.0 ^ u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl Indices {
    /// A new number for what `named` makes with it.
    pub(crate) fn add(
        &mut self,
        entropy: &mut dyn Entropy,
        named: impl FnOnce(u32) -> Named,
    ) -> u32 {
        loop {
            let index = u32::from_le_bytes(draw(entropy));
            if let Entry::Vacant(entry) = self.0.entry(index) {
                entry.insert(named(index));
                return index;
            }
        }
    }

    /// Lets a number that stood for a handshake stand for its session.
    pub(crate) fn replace(&mut self, index: u32, session: Arc<Session>) {
        self.0.insert(index, Named::Session(session));
    }

    pub(crate) fn find(&self, index: u32) -> Option<&Named> {
        self.0.get(&index)
    }

    pub(crate) fn remove(&mut self, index: u32) {
        self.0.remove(&index);
    }

    pub(crate) fn remove_all(&mut self, sessions: impl IntoIterator<Item = Arc<Session>>) {
        for session in sessions {
            self.remove(session.local_index());
        }
    }

    /// How many are in use.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}
