//! LUKS version 1, as QEMU writes it into images and cryptsetup onto disks.
//!
//! An [`Area`] is the bytes before the payload: a header, and the key material of eight slots. Each slot that is in use
//! holds the master key, split so that it can be destroyed, under a key that a passphrase makes. A passphrase unlocks it
//! into a [`MasterKey`]; a [`Cipher`] made of that encrypts and decrypts sectors of 512 bytes. All of it is functions over
//! bytes: nothing here reads, writes, knows a clock or draws a random number, and nothing knows what the payload is.
//!
//! # What it promises
//!
//! - **A wrong passphrase is an error, never noise**: the master key is compared with its digest before it is used.
//! - **Headers are hostile**: sizes, offsets, overlaps and iterations are checked before anything is derived from them, and
//!   each has a bound with a name.
//! - **A change of keys is safe at each of its writes**: key material is written before the header names it, and a header
//!   lets go of it before it is destroyed. The last key is not erased unless that is asked for by name.
//! - **Secrets are overwritten when they are dropped**, and no `Debug` shows them.
//!
//! # What it refuses
//!
//! ECB, ciphers and hashes other than those of [`Spec`] and [`Hash`], and LUKS version 2: each by its name.
//!
//! # The sector number
//!
//! What the cipher mixes into a sector is the number that the caller gives. Inside a qcow2 image that is the place in the
//! image file, in a volume of its own the place in the payload, both in units of [`SECTOR_BYTES`].
//!
//! Sources: "LUKS On-Disk Format Specification", version 1.2.1 (2011-10-16); QEMU's `docs/interop/qcow2.txt`, "Full disk
//! encryption header pointer" and "Data encryption"; IEEE 1619-2007 for XTS; RFC 8018 for PBKDF2.

mod area;
mod cbc;
mod cipher;
mod create;
mod error;
mod hash;
mod header;
mod iv;
mod key;
mod slots;
mod spec;
mod split;
mod work;
mod xts;

#[cfg(test)]
mod tests;

pub use area::{Area, Change, Unlocked};
pub use cipher::Cipher;
pub use create::{CreateOptions, area_bytes};
pub use error::{LuksError, Result};
pub use hash::Hash;
pub use header::{HEADER_BYTES, Header, MAX_AREA_BYTES, MAX_ITERATIONS, SLOTS, Slot};
pub use key::MasterKey;
pub use spec::{Algorithm, IvKind, Mode, Spec};
pub use work::{Rate, Work};

/// What the cipher works on and numbers.
pub const SECTOR_BYTES: usize = 512;

/// Draws random bytes that nobody can guess: keys are made of them.
pub type Random<'a> = &'a mut dyn FnMut(&mut [u8]);
