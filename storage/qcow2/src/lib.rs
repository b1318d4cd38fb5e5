//! qcow2 images.
//!
//! [`format`] is the bytes: header and extensions, tables, refcounts, snapshots, bitmaps, each parsed once into what is
//! valid and written back as QEMU writes it. It performs no I/O. The source of every number in it is QEMU's
//! `docs/interop/qcow2.txt`.
//! [`compress`] makes clusters shorter and long again.
//! [`luks`] is the encryption of an image's data: keys, and the cipher of its sectors; functions over bytes as well.

pub mod compress;
pub mod format;
pub mod luks;
