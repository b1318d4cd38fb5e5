//! Adding, changing and erasing keys.

use zeroize::Zeroizing;

use super::area::{Area, Change};
use super::cipher::Cipher;
use super::error::{LuksError, Result};
use super::header::{HEADER_BYTES, SALT_BYTES, SLOTS, slot_at};
use super::key::MasterKey;
use super::work::Work;
use super::{Random, SECTOR_BYTES, split};

impl Area {
    /// Lets another passphrase open the payload: in the slot that is named, or the first free one.
    ///
    /// # Errors
    /// `NoFreeSlot`, `SlotInUse`, `NoSuchSlot`; `OtherKey` if the key is not this area's.
    pub fn add_key(
        &mut self,
        key: &MasterKey,
        passphrase: &[u8],
        slot: Option<usize>,
        work: Work,
        random: Random,
    ) -> Result<Change> {
        if !key.is_of(&self.header) {
            return Err(LuksError::OtherKey);
        }
        let slot = match slot {
            Some(slot) => self.check_slot(slot)?,
            None => self.free_slot()?,
        };
        if self.header.slots[slot].in_use {
            return Err(LuksError::SlotInUse(slot));
        }
        Ok(self.store_key(slot, key, passphrase, work, random))
    }

    /// Puts a new passphrase in the place of an old one. The key moves into another slot, so that one of the two opens the
    /// payload whenever the power fails.
    ///
    /// # Errors
    /// `WrongPassphrase`; `NoFreeSlot` when there is no slot to move to.
    pub fn change_key(
        &mut self,
        old: &[u8],
        new: &[u8],
        work: Work,
        random: Random,
    ) -> Result<Change> {
        let free = self.free_slot()?;
        let unlocked = self.unlock(old)?;
        let mut change = self.store_key(free, &unlocked.key, new, work, &mut *random);
        let erased = self.erase_slot(unlocked.slot, random);
        change.writes.extend(erased.writes);
        Ok(change)
    }

    /// Lets go of a key and destroys its material. The last one only when that is forced: without it the data is lost.
    ///
    /// # Errors
    /// `SlotUnused`, `LastSlot`, `NoSuchSlot`.
    pub fn erase_key(&mut self, slot: usize, force: bool, random: Random) -> Result<Change> {
        let slot = self.check_slot(slot)?;
        let slots = &self.header.slots;
        if !slots[slot].in_use {
            return Err(LuksError::SlotUnused(slot));
        }
        let is_last = slots.iter().filter(|slot| slot.in_use).count() == 1;
        if is_last && !force {
            return Err(LuksError::LastSlot(slot));
        }
        Ok(self.erase_slot(slot, random))
    }

    fn check_slot(&self, slot: usize) -> Result<usize> {
        if slot < SLOTS {
            Ok(slot)
        } else {
            Err(LuksError::NoSuchSlot(slot))
        }
    }

    fn free_slot(&self) -> Result<usize> {
        let free = self.header.slots.iter().position(|slot| !slot.in_use);
        free.ok_or(LuksError::NoFreeSlot)
    }

    pub(super) fn store_key(
        &mut self,
        number: usize,
        key: &MasterKey,
        passphrase: &[u8],
        work: Work,
        random: Random,
    ) -> Change {
        let (hash, spec) = (self.header.hash, self.header.spec);
        let mut salt = [0; SALT_BYTES];
        random(&mut salt);
        let mut slot_key = Zeroizing::new(vec![0; spec.key_bytes()]);
        hash.pbkdf2(passphrase, &salt, work.slot, &mut slot_key);
        let slot = &mut self.header.slots[number];
        let material = split::split(hash, key.bytes(), slot.stripes, random);
        slot.in_use = true;
        slot.iterations = work.slot;
        slot.salt = salt;
        let range = self.material(number);
        // The last sector may be longer than what it holds.
        let mut sectors = Zeroizing::new(vec![0; range.len()]);
        sectors[..material.len()].copy_from_slice(&material);
        Cipher::of_bytes(spec, &slot_key).encrypt(0, &mut sectors);
        self.bytes[range.clone()].copy_from_slice(&sectors);
        self.put_slot(number);
        Change {
            slot: number,
            writes: vec![range, header_sectors()],
        }
    }

    fn erase_slot(&mut self, number: usize, random: Random) -> Change {
        let slot = &mut self.header.slots[number];
        slot.in_use = false;
        slot.iterations = 0;
        slot.salt = [0; SALT_BYTES];
        self.put_slot(number);
        let range = self.material(number);
        random(&mut self.bytes[range.clone()]);
        Change {
            slot: number,
            writes: vec![header_sectors(), range],
        }
    }

    /// Puts a slot into the header's bytes, and leaves the rest of them as they were written by whoever made them.
    fn put_slot(&mut self, number: usize) {
        let bytes = self.header.slots[number].to_bytes();
        let at = slot_at(number);
        self.bytes[at..at + bytes.len()].copy_from_slice(&bytes);
    }
}

/// The sectors that the header is in.
fn header_sectors() -> std::ops::Range<usize> {
    0..HEADER_BYTES.next_multiple_of(SECTOR_BYTES)
}
