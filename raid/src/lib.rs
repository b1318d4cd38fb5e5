//! Software RAID in the md 1.2 format.
//!
//! An array is a [`weft_block::BlockDevice`] over other block devices, its members. What is written to them is what
//! Linux md writes, so an array lives under this crate today and under a stock kernel tomorrow. The crate performs no
//! I/O of its own, reads no clock and draws no random number: members come in as devices, times and identities as
//! arguments.
//!
//! The pure half: [`superblock`] and [`bitmap`] (bytes, hostile until parsed), [`geometry`] (where bytes lie),
//! [`parity`] (exclusive or), [`plan`] (what to read and write).

pub mod bitmap;
mod fields;
pub mod geometry;
pub mod level;
pub mod parity;
pub mod plan;
pub mod superblock;
