//! The header: what it says, checked once.

use super::SECTOR_BYTES;
use super::error::{LuksError, Result};
use super::hash::Hash;
use super::spec::{Spec, hash_of_name};

/// Bytes of a header, without the key material.
pub const HEADER_BYTES: usize = 592;

/// Key slots of a header.
pub const SLOTS: usize = 8;

/// An area that claims to be longer than this is damaged: the longest that QEMU writes has 2 MiB.
pub const MAX_AREA_BYTES: u64 = 16 << 20;

/// A header that asks for more is refused: QEMU and cryptsetup ask for 0.1 to 10 million, and this many take a minute.
pub const MAX_ITERATIONS: u32 = 1 << 28;

const MAGIC: [u8; 6] = *b"LUKS\xba\xbe";
const VERSION: u16 = 1;
const VERSION_AT: usize = 6;
const CIPHER_AT: usize = 8;
const MODE_AT: usize = 40;
const HASH_AT: usize = 72;
const NAME_BYTES: usize = 32;
const PAYLOAD_AT: usize = 104;
const KEY_BYTES_AT: usize = 108;
const DIGEST_AT: usize = 112;
const DIGEST_SALT_AT: usize = 132;
const DIGEST_ITERATIONS_AT: usize = 164;
const UUID_AT: usize = 168;
const UUID_BYTES: usize = 40;
const SLOTS_AT: usize = 208;
const SLOT_BYTES: usize = 48;
const IN_USE: u32 = 0x00ac_71f3;
const UNUSED: u32 = 0x0000_dead;

/// Bytes of the master key's digest, whatever the hash.
pub(super) const DIGEST_BYTES: usize = 20;
/// Bytes of each salt.
pub(super) const SALT_BYTES: usize = 32;

/// What a header says of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    pub(super) in_use: bool,
    pub(super) iterations: u32,
    pub(super) salt: [u8; SALT_BYTES],
    pub(super) material_sector: u32,
    pub(super) stripes: u32,
}

impl Slot {
    /// Whether it holds a key.
    pub fn is_in_use(&self) -> bool {
        self.in_use
    }

    /// PBKDF2 iterations between a passphrase and its key. Zero while it holds none.
    pub fn iterations(&self) -> u32 {
        self.iterations
    }

    /// First byte of its key material in the area.
    pub fn material_offset(&self) -> u64 {
        u64::from(self.material_sector) * SECTOR_BYTES as u64
    }

    /// How many pieces the master key is split into.
    pub fn stripes(&self) -> u32 {
        self.stripes
    }

    pub(super) fn to_bytes(&self) -> [u8; SLOT_BYTES] {
        let mut bytes = [0; SLOT_BYTES];
        let state = if self.in_use { IN_USE } else { UNUSED };
        bytes[..4].copy_from_slice(&state.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.iterations.to_be_bytes());
        bytes[8..40].copy_from_slice(&self.salt);
        bytes[40..44].copy_from_slice(&self.material_sector.to_be_bytes());
        bytes[44..].copy_from_slice(&self.stripes.to_be_bytes());
        bytes
    }
}

/// Where a slot is in the header.
pub(super) fn slot_at(slot: usize) -> usize {
    SLOTS_AT + slot * SLOT_BYTES
}

/// A header that was checked: nothing in it overlaps or leads out of its area.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    pub(super) spec: Spec,
    pub(super) hash: Hash,
    pub(super) payload_sector: u32,
    pub(super) digest: [u8; DIGEST_BYTES],
    pub(super) digest_salt: [u8; SALT_BYTES],
    pub(super) digest_iterations: u32,
    pub(super) uuid: [u8; UUID_BYTES],
    pub(super) slots: [Slot; SLOTS],
}

impl Header {
    /// Whether the bytes begin as a LUKS header of any version does.
    pub fn is_at_start_of(bytes: &[u8]) -> bool {
        bytes.starts_with(&MAGIC)
    }

    /// Reads a header from the first bytes of its area.
    ///
    /// # Errors
    /// The one sentence that says why it is none, or none that can be used.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        if !Self::is_at_start_of(bytes) {
            return Err(LuksError::NoHeader);
        }
        if bytes.len() < HEADER_BYTES {
            return Err(LuksError::Header("it is cut off"));
        }
        let version = u16::from_be_bytes([bytes[VERSION_AT], bytes[VERSION_AT + 1]]);
        if version != VERSION {
            return Err(LuksError::Version(version));
        }
        let key_bytes = u32_at(bytes, KEY_BYTES_AT) as usize;
        let spec = Spec::of_names(
            &name_at(bytes, CIPHER_AT)?,
            &name_at(bytes, MODE_AT)?,
            key_bytes,
        )?;
        let header = Self {
            spec,
            hash: hash_of_name(&name_at(bytes, HASH_AT)?)?,
            payload_sector: u32_at(bytes, PAYLOAD_AT),
            digest: array_at(bytes, DIGEST_AT),
            digest_salt: array_at(bytes, DIGEST_SALT_AT),
            digest_iterations: u32_at(bytes, DIGEST_ITERATIONS_AT),
            uuid: array_at(bytes, UUID_AT),
            slots: parse_slots(bytes)?,
        };
        header.check()?;
        Ok(header)
    }

    /// Its bytes.
    pub fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let mut put = |at: usize, part: &[u8]| bytes[at..at + part.len()].copy_from_slice(part);
        put(0, &MAGIC);
        put(VERSION_AT, &VERSION.to_be_bytes());
        put(CIPHER_AT, self.spec.algorithm().name().as_bytes());
        put(MODE_AT, self.spec.mode_name().as_bytes());
        put(HASH_AT, self.hash.name().as_bytes());
        put(PAYLOAD_AT, &self.payload_sector.to_be_bytes());
        put(KEY_BYTES_AT, &(self.spec.key_bytes() as u32).to_be_bytes());
        put(DIGEST_AT, &self.digest);
        put(DIGEST_SALT_AT, &self.digest_salt);
        put(DIGEST_ITERATIONS_AT, &self.digest_iterations.to_be_bytes());
        put(UUID_AT, &self.uuid);
        for (number, slot) in self.slots.iter().enumerate() {
            put(slot_at(number), &slot.to_bytes());
        }
        bytes
    }

    /// The cipher, its mode and its IVs.
    pub fn spec(&self) -> Spec {
        self.spec
    }

    /// The hash that derives and splits keys.
    pub fn hash(&self) -> Hash {
        self.hash
    }

    /// Where the payload begins after the start of the area, in bytes: meant for volumes, and of no use in an image. Zero
    /// says that the payload is somewhere else.
    pub fn payload_offset(&self) -> u64 {
        u64::from(self.payload_sector) * SECTOR_BYTES as u64
    }

    /// PBKDF2 iterations between the master key and its digest.
    pub fn digest_iterations(&self) -> u32 {
        self.digest_iterations
    }

    /// What the volume is called, as text, whatever it is.
    pub fn uuid(&self) -> String {
        let text = self.uuid.split(|byte| *byte == 0).next();
        text.unwrap_or_default().escape_ascii().to_string()
    }

    /// All eight slots.
    pub fn slots(&self) -> &[Slot; SLOTS] {
        &self.slots
    }

    /// Whether both have the digest of the same master key.
    pub fn has_key_of(&self, other: &Self) -> bool {
        self.digest == other.digest && self.digest_salt == other.digest_salt
    }

    /// Bytes from the start of the header to the end of the last key material, in whole sectors: what an [`Area`] needs.
    /// [`MAX_AREA_BYTES`] at most.
    ///
    /// [`Area`]: super::Area
    pub fn area_bytes(&self) -> u64 {
        let ends = (0..SLOTS).map(|slot| self.material(slot).1);
        ends.max().unwrap_or_default()
    }

    /// First byte of a slot's key material, and the one after its last sector.
    pub(super) fn material(&self, slot: usize) -> (u64, u64) {
        let Slot {
            material_sector,
            stripes,
            ..
        } = self.slots[slot];
        let sector = SECTOR_BYTES as u64;
        let len = self.spec.key_bytes() as u64 * u64::from(stripes);
        let start = u64::from(material_sector) * sector;
        (start, start + len.next_multiple_of(sector))
    }

    fn check(&self) -> Result<()> {
        let none = LuksError::Header("the digest of its master key has no iterations");
        check_iterations(self.digest_iterations, none)?;
        for (number, slot) in self.slots.iter().enumerate() {
            let damaged = |problem| LuksError::Slot {
                slot: number,
                problem,
            };
            if slot.stripes == 0 {
                return Err(damaged("it has no stripes"));
            }
            if slot.in_use {
                check_iterations(slot.iterations, damaged("its key has no iterations"))?;
            }
            let (start, end) = self.material(number);
            if start < HEADER_BYTES as u64 {
                return Err(damaged("its key material lies over the header"));
            }
            if end > MAX_AREA_BYTES {
                return Err(damaged("its key material is too long or too far away"));
            }
            if self.payload_sector != 0 && end > self.payload_offset() {
                return Err(damaged("its key material lies over the payload"));
            }
            let overlaps = (0..number).any(|other| {
                let (other_start, other_end) = self.material(other);
                start < other_end && other_start < end
            });
            if overlaps {
                return Err(damaged("its key material lies over that of another slot"));
            }
        }
        Ok(())
    }
}

/// Checks a number of iterations; `none` tells what is wrong when there are none.
fn check_iterations(number: u32, none: LuksError) -> Result<()> {
    match number {
        0 => Err(none),
        1..=MAX_ITERATIONS => Ok(()),
        _ => Err(LuksError::TooManyIterations(number.into())),
    }
}

fn parse_slots(bytes: &[u8]) -> Result<[Slot; SLOTS]> {
    let mut damaged = None;
    let slots = std::array::from_fn(|slot| {
        let at = slot_at(slot);
        let state = u32_at(bytes, at);
        if ![IN_USE, UNUSED].contains(&state) {
            let problem = "it is neither in use nor free";
            damaged = damaged.take().or(Some(LuksError::Slot { slot, problem }));
        }
        Slot {
            in_use: state == IN_USE,
            iterations: u32_at(bytes, at + 4),
            salt: array_at(bytes, at + 8),
            material_sector: u32_at(bytes, at + 40),
            stripes: u32_at(bytes, at + 44),
        }
    });
    damaged.map_or(Ok(slots), Err)
}

/// A name of at most 31 characters and a zero.
fn name_at(bytes: &[u8], at: usize) -> Result<String> {
    let field = &bytes[at..at + NAME_BYTES];
    let end = field.iter().position(|byte| *byte == 0);
    let end = end.ok_or(LuksError::Header("one of its names has no end"))?;
    // Hostile names end up in messages.
    Ok(field[..end].escape_ascii().to_string())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(array_at(bytes, at))
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}
