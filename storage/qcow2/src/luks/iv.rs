//! IVs: what a sector's number becomes before the cipher mixes it in.

use aes::Aes256;
use cipher::consts::U16;
use cipher::{Array, BlockCipherEncrypt, KeyInit};
use serpent::Serpent;
use twofish::Twofish;
use zeroize::Zeroize;

use super::hash::Hash;
use super::spec::{Algorithm, IvKind, Spec};

/// A block of 128 bits.
pub(super) type Block = Array<u8, U16>;

/// Encrypts blocks under a key that it keeps.
type Encrypt = Box<dyn Fn(&mut [Block]) + Send + Sync>;

/// Makes IVs.
pub(super) enum Iv {
    Plain,
    Plain64,
    Essiv(Encrypt),
}

impl Iv {
    /// The IVs that `spec` wants with this master key.
    pub(super) fn new(spec: Spec, key: &[u8]) -> Self {
        match spec.iv() {
            IvKind::Plain => Self::Plain,
            IvKind::Plain64 => Self::Plain64,
            IvKind::EssivSha256 => Self::Essiv(essiv(spec.algorithm(), key)),
        }
    }

    /// Those of the sectors from `first` on. A cipher with shorter blocks takes the first part of each.
    pub(super) fn fill(&self, first: u64, ivs: &mut [Block]) {
        for (sector, iv) in (first..).zip(ivs.iter_mut()) {
            iv.fill(0);
            match self {
                Self::Plain => iv[..4].copy_from_slice(&(sector as u32).to_le_bytes()),
                _ => iv[..8].copy_from_slice(&sector.to_le_bytes()),
            }
        }
        if let Self::Essiv(encrypt) = self {
            encrypt(ivs);
        }
    }
}

/// Encryption under the key's digest. As dm-crypt does it, the cipher is the payload's, but its key is as long as the
/// digest is.
fn essiv(algorithm: Algorithm, key: &[u8]) -> Encrypt {
    let mut digest = [0; 32];
    Hash::Sha256.digest(&[key], &mut digest);
    let encrypt: Encrypt = match algorithm {
        Algorithm::Serpent128 | Algorithm::Serpent192 | Algorithm::Serpent256 => {
            let cipher = Serpent::new_from_slice(&digest).expect("Serpent takes 32 bytes");
            Box::new(move |blocks| cipher.encrypt_blocks(blocks))
        }
        Algorithm::Twofish128 | Algorithm::Twofish192 | Algorithm::Twofish256 => {
            let cipher = Twofish::new_from_slice(&digest).expect("Twofish takes 32 bytes");
            Box::new(move |blocks| cipher.encrypt_blocks(blocks))
        }
        // CAST5 has no ESSIV: a spec of the two cannot be made.
        Algorithm::Aes128 | Algorithm::Aes192 | Algorithm::Aes256 | Algorithm::Cast5 => {
            let cipher = Aes256::new(&Array(digest));
            Box::new(move |blocks| cipher.encrypt_blocks(blocks))
        }
    };
    digest.zeroize();
    encrypt
}
