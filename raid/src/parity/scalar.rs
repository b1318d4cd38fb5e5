//! The twin: plain code that shows what the vector kernels must equal.

use super::{Term, field};

/// `into` becomes the exclusive or of all `sources`, which are as long as it.
pub fn xor(into: &mut [u8], sources: &[&[u8]]) {
    into.fill(0);
    for source in sources {
        for (sum, byte) in into.iter_mut().zip(*source) {
            *sum ^= byte;
        }
    }
}

/// `into` becomes the sum of the products of all `terms`, equally long.
pub fn sum(into: &mut [u8], terms: &[Term<'_>]) {
    into.fill(0);
    for (factor, source) in terms {
        for (sum, byte) in into.iter_mut().zip(*source) {
            *sum ^= field::mul(*factor, *byte);
        }
    }
}

/// `p` becomes the exclusive or of all `data`, `q` the sum in which data `i` has the generator's power `i`; all equally
/// long.
pub fn syndrome(p: &mut [u8], q: &mut [u8], data: &[&[u8]]) {
    xor(p, data);
    q.fill(0);
    for source in data.iter().rev() {
        for (sum, byte) in q.iter_mut().zip(*source) {
            *sum = field::double(*sum) ^ byte;
        }
    }
}
