//! The cipher of a payload.

use std::fmt;

use aes::{Aes128, Aes192, Aes256};
use cast5::Cast5;
use cipher::consts::U16;
use cipher::{BlockCipherDecrypt, BlockCipherEncrypt, BlockSizeUser, KeyInit};
use serpent::Serpent;
use twofish::Twofish;

use super::SECTOR_BYTES;
use super::cbc::Cbc;
use super::error::{LuksError, Result};
use super::header::Header;
use super::iv::Iv;
use super::key::MasterKey;
use super::spec::{Algorithm, Mode, Spec};
use super::xts::Xts;

/// What a mode does with a run of whole sectors.
pub(super) trait Sectors: Send + Sync {
    fn encrypt(&self, first: u64, data: &mut [u8]);
    fn decrypt(&self, first: u64, data: &mut [u8]);
}

/// Encrypts and decrypts sectors of a payload in place. It may be shared by threads, and its keys are overwritten when it
/// is dropped.
pub struct Cipher {
    spec: Spec,
    sectors: Box<dyn Sectors>,
}

impl Cipher {
    /// The cipher of an unlocked area's payload.
    ///
    /// # Errors
    /// `OtherKey` if the key is that of another area.
    pub fn new(header: &Header, key: &MasterKey) -> Result<Self> {
        if !key.is_of(header) {
            return Err(LuksError::OtherKey);
        }
        Ok(Self::of_bytes(header.spec(), key.bytes()))
    }

    /// A cipher with a key that is as long as `spec` says.
    pub(super) fn of_bytes(spec: Spec, key: &[u8]) -> Self {
        assert_eq!(key.len(), spec.key_bytes(), "the key is that of a cipher");
        let sectors = match spec.algorithm() {
            Algorithm::Aes128 => in_mode::<Aes128>(spec, key),
            Algorithm::Aes192 => in_mode::<Aes192>(spec, key),
            Algorithm::Aes256 => in_mode::<Aes256>(spec, key),
            Algorithm::Serpent128 | Algorithm::Serpent192 | Algorithm::Serpent256 => {
                in_mode::<Serpent>(spec, key)
            }
            Algorithm::Twofish128 | Algorithm::Twofish192 | Algorithm::Twofish256 => {
                in_mode::<Twofish>(spec, key)
            }
            // A spec of CAST5 is always one of CBC.
            Algorithm::Cast5 => cbc::<Cast5>(spec, key),
        };
        Self { spec, sectors }
    }

    /// Encrypts `data`, whose first sector is number `sector`.
    ///
    /// # Panics
    /// If `data` is not a number of whole sectors.
    pub fn encrypt(&self, sector: u64, data: &mut [u8]) {
        assert!(data.len().is_multiple_of(SECTOR_BYTES), "whole sectors");
        self.sectors.encrypt(sector, data);
    }

    /// Decrypts `data`, whose first sector is number `sector`.
    ///
    /// # Panics
    /// If `data` is not a number of whole sectors.
    pub fn decrypt(&self, sector: u64, data: &mut [u8]) {
        assert!(data.len().is_multiple_of(SECTOR_BYTES), "whole sectors");
        self.sectors.decrypt(sector, data);
    }
}

impl fmt::Debug for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { spec, .. } = self;
        write!(
            f,
            "Cipher({}-{})",
            spec.algorithm().name(),
            spec.mode_name()
        )
    }
}

fn keyed<C: KeyInit>(key: &[u8]) -> C {
    // Serpent and Twofish take any of the three lengths, AES and CAST5 their own.
    C::new_from_slice(key).expect("the key is as long as the cipher wants")
}

fn in_mode<C>(spec: Spec, key: &[u8]) -> Box<dyn Sectors>
where
    C: BlockCipherEncrypt
        + BlockCipherDecrypt
        + BlockSizeUser<BlockSize = U16>
        + KeyInit
        + Send
        + Sync
        + 'static,
{
    match spec.mode() {
        Mode::Cbc => cbc::<C>(spec, key),
        Mode::Xts => {
            let (data, tweak) = key.split_at(key.len() / 2);
            Box::new(Xts {
                data: keyed::<C>(data),
                tweak: keyed::<C>(tweak),
                iv: Iv::new(spec, key),
            })
        }
    }
}

fn cbc<C>(spec: Spec, key: &[u8]) -> Box<dyn Sectors>
where
    C: BlockCipherEncrypt + BlockCipherDecrypt + KeyInit + Send + Sync + 'static,
{
    Box::new(Cbc {
        cipher: keyed::<C>(key),
        iv: Iv::new(spec, key),
    })
}
