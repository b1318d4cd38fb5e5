//! The twin: plain code that shows what the vector kernels must equal.

/// `into` becomes the exclusive or of all `sources`, which are as long as it.
pub fn xor(into: &mut [u8], sources: &[&[u8]]) {
    into.fill(0);
    for source in sources {
        for (sum, byte) in into.iter_mut().zip(*source) {
            *sum ^= byte;
        }
    }
}
