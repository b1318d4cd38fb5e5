//! qcow2 images.
//!
//! [`format`] is the bytes: header and extensions, tables, refcounts, snapshots, bitmaps, each parsed once into what is
//! valid and written back as QEMU writes it. It performs no I/O. The source of every number in it is QEMU's
//! `docs/interop/qcow2.txt`.
//! [`compress`] makes clusters shorter and long again.
//! [`luks`] is the encryption of an image's data: keys, and the cipher of its sectors; functions over bytes as well.
//!
//! [`Image`] is an image as a block device, over a device that holds its file: a file, a volume, the other end of NBD. It
//! may be used from several threads, each with its own queue.
//!
//! # What an image promises
//!
//! 1. **The block contract**, of which it is a device with a volatile cache.
//! 2. **Power.** After a cut at any write the image opens, nothing in it contradicts anything else, and what was durable
//!    is there. At worst clusters are counted that nobody uses, and a repair finds them. This rests on sectors that are
//!    written whole or not at all, as the format does: it changes entries of tables where they are.
//! 3. **Failure.** A write that finds no room or fails leaves no trace in the tables. After a flush of the file has failed
//!    nobody knows what was lost: the image takes no more writes until it is opened again.
//! 4. **Strangers' bytes** are refused or answered with an error; they neither panic, nor allocate without bound, nor make
//!    a write land in the tables that are known.
//!
//! # What it refuses
//!
//! It opens no file by itself: an image may name a backing file and a data file, and whoever opens it decides whether
//! these may be opened, and how.

pub mod compress;
pub mod format;
mod image;
pub mod luks;

pub use image::{
    Amendment, BitmapInfo, CheckReport, CreateOptions, DEFAULT_CACHE, Fill, Image, OpenOptions,
    Packed, Packer, Part, Place, RedoMemory, Repair, SnapshotName, Zeroes, create, read_encryption,
    read_header,
};
