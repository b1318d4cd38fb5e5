//! Whose addresses were asked for lately.

use std::cell::{Cell, OnceCell};
use std::fmt;

use super::trie::Bits;

/// How many addresses are remembered: some more than a tunnel with a thousand peers has in use at once.
const PLACES: usize = 2048;

type Place<B, T> = Cell<Option<(B, T)>>;

/// Addresses and whose they are, each in the one place that it can have. A walk through the trie waits for memory at
/// each of its steps, with many prefixes at ten of them; here it is one. What is not found costs one look more.
pub(super) struct Recent<B, T>(OnceCell<Box<[Place<B, T>]>>);

impl<B: Bits, T: Copy> Recent<B, T> {
    pub(super) fn new() -> Self {
        Self(OnceCell::new())
    }

    /// Whose `address` is, by `find` if it is not remembered.
    pub(super) fn or_find(&self, address: B, find: impl FnOnce(B) -> Option<T>) -> Option<T> {
        let places = self
            .0
            .get_or_init(|| (0..PLACES).map(|_| Cell::new(None)).collect());
        let place = &places[address.spread() as usize % PLACES];
        if let Some((known, owner)) = place.get()
            && known == address
        {
            return Some(owner);
        }
        let owner = find(address)?;
        place.set(Some((address, owner)));
        Some(owner)
    }

    /// Forgets all, for addresses have changed their owners.
    pub(super) fn forget(&mut self) {
        self.0.take();
    }
}

impl<B, T> fmt::Debug for Recent<B, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recent").finish_non_exhaustive()
    }
}
