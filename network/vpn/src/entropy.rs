//! Where chance comes from.

use zeroize::Zeroizing;

/// A source of bytes that nobody can guess. In tests it follows from a seed.
pub trait Entropy: Send {
    /// Fills `bytes`. A source that has failed ends the program rather than give bytes that can be guessed.
    fn fill(&mut self, bytes: &mut [u8]);
}

impl<F: FnMut(&mut [u8]) + Send> Entropy for F {
    fn fill(&mut self, bytes: &mut [u8]) {
        self(bytes);
    }
}

pub(crate) fn draw<const N: usize>(entropy: &mut dyn Entropy) -> [u8; N] {
    let mut bytes = [0; N];
    entropy.fill(&mut bytes);
    bytes
}

pub(crate) fn draw_secret(entropy: &mut dyn Entropy) -> Zeroizing<[u8; 32]> {
    let mut bytes = Zeroizing::new([0; 32]);
    entropy.fill(&mut *bytes);
    bytes
}
