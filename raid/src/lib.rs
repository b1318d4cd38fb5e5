//! Software RAID in the md 1.2 format.
//!
//! An array is a [`weft_block::BlockDevice`] over other block devices, its members. What is written to them is what
//! Linux md writes, so an array lives under this crate today and under a stock kernel tomorrow. The crate performs no
//! I/O of its own, reads no clock and draws no random number: members come in as devices, dates and identities as
//! arguments, and how long a member takes is asked of the executor.
//!
//! The pure half: [`superblock`], [`bitmap`], [`ppl`] and [`journal`] (bytes, hostile until parsed), [`geometry`] (where bytes lie),
//! [`parity`] (P and Q), [`plan`] (what to read and write).
//!
//! The running half: [`create`], [`assemble`] and [`examine`] make and find arrays, [`Array`] is one that runs,
//! [`Syncer`] makes it whole again.
//!
//! # What an array promises beside the block contract
//!
//! - A member that fails is out of the others' superblocks before any write that it missed is acknowledged.
//! - After a crash the array is consistent once its resync is done; until then reads of a mirror show one value.
//! - An array with parity that crashes while degraded may have lost what was being written (the write hole), unless it has
//!   a partial parity log or a [`journal`]; without, it does not start again unless it is told to.
//! - What redundancy cannot answer is an error, never made-up data.
//! - A read that redundancy can answer does not wait for a member that takes too long; a write waits for all.

mod array;
mod assemble;
mod bad_blocks;
pub mod bitmap;
mod create;
mod examine;
mod fields;
pub mod geometry;
pub mod journal;
mod layout;
pub mod level;
mod lifecycle;
pub mod parity;
pub mod plan;
pub mod ppl;
mod reshape;
mod status;
pub mod superblock;

pub use array::{Array, Mismatch, Progress, Scrub, ScrubReport, SyncAction, Syncer};
pub use assemble::{AssembleOptions, assemble};
pub use bad_blocks::parse_bad_blocks;
pub use create::{Consistency, CreateOptions, DEFAULT_CHUNK, MemberDevice, create};
pub use examine::{Examined, examine};
pub use lifecycle::{Growth, MemberSize};
pub use status::{ArrayState, MemberRole, MemberState, MemberStatus, Status};

#[cfg(test)]
mod tests;
