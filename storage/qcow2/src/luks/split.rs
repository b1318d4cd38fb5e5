//! The anti-forensic splitter: a key made so long that losing any part of it loses all of it.
//!
//! Source: the LUKS specification, section 2.4.

use zeroize::Zeroizing;

use super::Random;
use super::hash::Hash;

/// Puts a key together again out of its stripes, each as long as the key.
pub(super) fn merge(hash: Hash, material: &[u8], key_bytes: usize) -> Zeroizing<Vec<u8>> {
    let mut key = Zeroizing::new(vec![0; key_bytes]);
    let mut stripes = material.chunks_exact(key_bytes).peekable();
    while let Some(stripe) = stripes.next() {
        mix(&mut key, stripe);
        if stripes.peek().is_some() {
            diffuse(hash, &mut key);
        }
    }
    key
}

/// Splits a key into `stripes` pieces of its own length.
pub(super) fn split(hash: Hash, key: &[u8], stripes: u32, random: Random) -> Zeroizing<Vec<u8>> {
    let mut material = Zeroizing::new(vec![0; key.len() * stripes as usize]);
    let last = material.len() - key.len();
    let (before, last) = material.split_at_mut(last);
    random(before);
    let mut sum = Zeroizing::new(vec![0; key.len()]);
    for stripe in before.chunks_exact(key.len()) {
        mix(&mut sum, stripe);
        diffuse(hash, &mut sum);
    }
    last.copy_from_slice(key);
    mix(last, &sum);
    material
}

fn mix(into: &mut [u8], with: &[u8]) {
    for (byte, other) in into.iter_mut().zip(with) {
        *byte ^= other;
    }
}

/// Hashes each run of a digest's length with its number before it; the last one may be shorter.
fn diffuse(hash: Hash, block: &mut [u8]) {
    for (number, run) in block.chunks_mut(hash.digest_bytes()).enumerate() {
        let before = Zeroizing::new(run.to_vec());
        hash.digest(&[&(number as u32).to_be_bytes(), &before], run);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::luks::tests::counting;

    #[test]
    fn what_was_split_merges_to_the_same_key() {
        for hash in [Hash::Sha1, Hash::Sha256, Hash::Sha512, Hash::Ripemd160] {
            for len in [16, 20, 24, 32, 64] {
                for stripes in [1, 2, 4000] {
                    let key: Vec<u8> = (0..len as u8).collect();
                    let material = split(hash, &key, stripes, &mut counting());
                    assert_eq!(material.len(), len * stripes as usize);
                    assert_eq!(*merge(hash, &material, len), key);
                }
            }
        }
    }

    #[test]
    fn any_bit_of_the_material_changes_the_key() {
        let key = [7; 32];
        let mut material = split(Hash::Sha256, &key, 50, &mut counting());
        for at in [0, 31, 32, 777, 50 * 32 - 1] {
            material[at] ^= 1;
            assert_ne!(*merge(Hash::Sha256, &material, 32), key);
            material[at] ^= 1;
        }
        assert_eq!(*merge(Hash::Sha256, &material, 32), key);
    }
}
