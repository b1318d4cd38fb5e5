//! Making a new area.

use zeroize::Zeroizing;

use super::area::Area;
use super::error::{LuksError, Result};
use super::hash::Hash;
use super::header::{DIGEST_BYTES, Header, SALT_BYTES, SLOTS, Slot};
use super::key::MasterKey;
use super::spec::Spec;
use super::work::Work;
use super::{Random, SECTOR_BYTES};

/// Where the first key material begins, and what each is aligned to.
const ALIGNMENT: usize = 4096;

/// How many pieces a new key is split into. QEMU takes no other number.
const STRIPES: usize = 4000;

/// What a new area is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CreateOptions {
    /// The cipher, its mode and its IVs.
    pub spec: Spec,
    /// What derives and splits keys.
    pub hash: Hash,
}

impl Default for CreateOptions {
    /// What QEMU takes: `aes-xts-plain64` with keys of 256 bits, and SHA-256.
    fn default() -> Self {
        Self {
            spec: Spec::default(),
            hash: Hash::Sha256,
        }
    }
}

fn material_bytes(spec: Spec) -> usize {
    (spec.key_bytes() * STRIPES).next_multiple_of(ALIGNMENT)
}

/// Bytes of a new area with this cipher: 2 MiB and less.
pub fn area_bytes(spec: Spec) -> u64 {
    (ALIGNMENT + SLOTS * material_bytes(spec)) as u64
}

impl Area {
    /// Makes a new area with a new master key, which `passphrase` opens by its first slot. All its bytes have to be
    /// written, the header last.
    ///
    /// # Errors
    /// `NotForQemu` for keys of 192 bits in CBC mode: their material would not be whole sectors, and QEMU dies of that.
    pub fn create(
        options: CreateOptions,
        passphrase: &[u8],
        work: Work,
        random: Random,
    ) -> Result<(Self, MasterKey)> {
        let CreateOptions { spec, hash } = options;
        if !(spec.key_bytes() * STRIPES).is_multiple_of(SECTOR_BYTES) {
            return Err(LuksError::NotForQemu);
        }
        let mut key = Zeroizing::new(vec![0; spec.key_bytes()]);
        random(&mut key);
        let mut digest_salt = [0; SALT_BYTES];
        random(&mut digest_salt);
        let mut digest = [0; DIGEST_BYTES];
        hash.pbkdf2(&key, &digest_salt, work.digest, &mut digest);
        let key = MasterKey {
            bytes: key,
            digest,
            digest_salt,
        };
        let len = area_bytes(spec) as usize;
        let header = Header {
            spec,
            hash,
            payload_sector: (len / SECTOR_BYTES) as u32,
            digest,
            digest_salt,
            digest_iterations: work.digest,
            uuid: new_uuid(&mut *random),
            slots: std::array::from_fn(|slot| Slot {
                in_use: false,
                iterations: 0,
                salt: [0; SALT_BYTES],
                material_sector: ((ALIGNMENT + slot * material_bytes(spec)) / SECTOR_BYTES) as u32,
                stripes: STRIPES as u32,
            }),
        };
        let mut bytes = vec![0; len];
        let head = header.to_bytes();
        bytes[..head.len()].copy_from_slice(&head);
        let mut area = Self { header, bytes };
        area.store_key(0, &key, passphrase, work, random);
        Ok((area, key))
    }
}

/// A random UUID (RFC 9562, version 4) in its usual text.
fn new_uuid(random: Random) -> [u8; 40] {
    let mut bytes = [0; 16];
    random(&mut bytes);
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut text = String::with_capacity(36);
    for (number, byte) in bytes.iter().enumerate() {
        if [4, 6, 8, 10].contains(&number) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    let mut field = [0; 40];
    field[..text.len()].copy_from_slice(text.as_bytes());
    field
}
