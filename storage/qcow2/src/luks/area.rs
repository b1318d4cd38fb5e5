//! The area before a payload, and what opens it.

use std::fmt;
use std::ops::Range;

use zeroize::Zeroizing;

use super::SECTOR_BYTES;
use super::cipher::Cipher;
use super::error::{LuksError, Result};
use super::header::{DIGEST_BYTES, Header, MAX_AREA_BYTES, SLOTS};
use super::key::MasterKey;
use super::split;

/// A header with its key material.
///
/// Methods that change it change its bytes in memory, and tell in a [`Change`] what of them has to be written, in which
/// order. Most work through PBKDF2, which takes a second or two of CPU for each slot by design.
#[derive(Clone, PartialEq, Eq)]
pub struct Area {
    pub(super) header: Header,
    pub(super) bytes: Vec<u8>,
}

/// What a passphrase opened.
#[derive(Debug)]
pub struct Unlocked {
    /// The slot that it fits.
    pub slot: usize,
    /// The key of the payload.
    pub key: MasterKey,
}

/// What has to be written after a change of keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The slot that now holds the key, or held the one that was erased.
    pub slot: usize,
    /// Ranges of [`Area::bytes`], whole sectors, in the order in which they must become durable: a flush belongs after
    /// each. After a cut between any of them all keys work that did so before and were not to be erased.
    pub writes: Vec<Range<usize>>,
}

impl Area {
    /// Reads an area: all bytes from the start of the header to the end of the key material or beyond it.
    ///
    /// # Errors
    /// The one sentence that says what is wrong with it.
    pub fn parse(mut bytes: Vec<u8>) -> Result<Self> {
        let header = Header::parse(&bytes)?;
        if (bytes.len() as u64) < header.area_bytes() {
            return Err(LuksError::Header("its key material is cut off"));
        }
        bytes.truncate(MAX_AREA_BYTES as usize);
        bytes.resize(bytes.len().next_multiple_of(SECTOR_BYTES), 0);
        Ok(Self { header, bytes })
    }

    /// What the header says.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The bytes, as they are on the medium once all changes were written.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Finds the first slot that the passphrase opens.
    ///
    /// # Errors
    /// `WrongPassphrase` if there is none.
    pub fn unlock(&self, passphrase: &[u8]) -> Result<Unlocked> {
        (0..SLOTS)
            .find_map(|slot| {
                let key = self.open_slot(slot, passphrase)?;
                Some(Unlocked { slot, key })
            })
            .ok_or(LuksError::WrongPassphrase)
    }

    /// All slots that the passphrase opens.
    pub fn slots_of(&self, passphrase: &[u8]) -> Vec<usize> {
        let opens = |slot: &usize| self.open_slot(*slot, passphrase).is_some();
        (0..SLOTS).filter(opens).collect()
    }

    /// The master key of one slot, if the passphrase opens it.
    fn open_slot(&self, number: usize, passphrase: &[u8]) -> Option<MasterKey> {
        let slot = &self.header.slots[number];
        if !slot.in_use {
            return None;
        }
        let (hash, spec) = (self.header.hash, self.header.spec);
        let mut slot_key = Zeroizing::new(vec![0; spec.key_bytes()]);
        hash.pbkdf2(passphrase, &slot.salt, slot.iterations, &mut slot_key);
        let mut material = Zeroizing::new(self.bytes[self.material(number)].to_vec());
        // The material's sectors are numbered from its own start.
        Cipher::of_bytes(spec, &slot_key).decrypt(0, &mut material);
        let len = spec.key_bytes() * slot.stripes as usize;
        self.master(split::merge(hash, &material[..len], spec.key_bytes()))
    }

    /// The bytes as the master key, if they are what the header has the digest of.
    fn master(&self, bytes: Zeroizing<Vec<u8>>) -> Option<MasterKey> {
        let Header {
            hash,
            digest_salt,
            digest_iterations,
            ..
        } = self.header;
        let mut digest = [0; DIGEST_BYTES];
        hash.pbkdf2(&bytes, &digest_salt, digest_iterations, &mut digest);
        (digest == self.header.digest).then_some(MasterKey {
            bytes,
            digest,
            digest_salt,
        })
    }

    /// The sectors of a slot's key material.
    pub(super) fn material(&self, slot: usize) -> Range<usize> {
        let (start, end) = self.header.material(slot);
        // Within the bytes, by the check of the header against them.
        start as usize..end as usize
    }
}

impl fmt::Debug for Area {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Area")
            .field("header", &self.header)
            .field("bytes", &self.bytes.len())
            .finish()
    }
}
