//! Copies of a disk that is in use.
//!
//! Both kinds are a device in front of the disk, for as long as the copy is made, and steps that somebody asks for:
//!
//! - [`Mirror`]: the copy follows the disk. When it has caught up, every write goes to both, and the disk can be exchanged
//!   for its copy between two requests. The copy may also be what the disk rests on.
//! - [`Backup`]: the copy is the disk as it was at one instant. What is about to be overwritten is copied first.
//!
//! # What a copy promises
//!
//! 1. **The disk's users see the disk.** Both devices keep the block contract with the disk's own answers. What goes wrong
//!    with the target ends the copy and no request: [`trouble`](Mirror::trouble) tells why.
//! 2. **No unfinished copy passes for one.** Only [`Mirror::settle`] and [`Backup::settle`] say that a copy is whole and
//!    durable, and they fail where it is not.
//! 3. **Bounds.** A step copies what it is asked to in pieces of [`PIECE`], of which [`PIECES`] are in memory. What holds no
//!    data is not counted by a mirror: it passes over some of it at once.

mod backup;
mod kept;
mod mirror;
mod piece;

pub use backup::Backup;
pub use mirror::{Mirror, Missing};
pub use piece::{PIECE, PIECES};
