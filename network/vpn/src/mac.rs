//! The MACs outside of Noise: BLAKE2s with a key and 16 bytes of output (whitepaper, 5.4.4).

use blake2::digest::consts::U16;
use blake2::digest::{FixedOutput, KeyInit, Update};
use blake2::{Blake2s256, Blake2sMac, Digest};

use crate::PublicKey;

pub(crate) type Mac = [u8; 16];

/// The MAC of `parts`, one behind the other, under `key`, which has at most 32 bytes.
pub(crate) fn mac(key: &[u8], parts: &[&[u8]]) -> Mac {
    let mut mac = Blake2sMac::<U16>::new_from_slice(key).expect("BLAKE2s takes keys of 32 bytes");
    for part in parts {
        Update::update(&mut mac, part);
    }
    mac.finalize_fixed().into()
}

/// Compares in a time that does not tell where the difference is.
pub(crate) fn equal(one: &Mac, other: &Mac) -> bool {
    let difference = one.iter().zip(other).fold(0, |all, (a, b)| all | a ^ b);
    std::hint::black_box(difference) == 0
}

/// The key of the first MACs of messages to the owner of `public`.
pub(crate) fn first_key(public: &PublicKey) -> [u8; 32] {
    labelled(b"mac1----", public)
}

/// The key that seals the cookies of the owner of `public`.
pub(crate) fn cookie_key(public: &PublicKey) -> [u8; 32] {
    labelled(b"cookie--", public)
}

fn labelled(label: &[u8; 8], public: &PublicKey) -> [u8; 32] {
    let mut hash = Blake2s256::new();
    Digest::update(&mut hash, label);
    Digest::update(&mut hash, public.0);
    Digest::finalize(hash).into()
}
