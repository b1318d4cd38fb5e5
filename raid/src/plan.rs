//! Pure planners: what to read and write for a request. They decide and do nothing.

mod judge;
mod merge;
mod read;
mod recipe;
mod write;

pub use judge::{Verdict, judge_copies, judge_row};
pub use merge::{MERGED_BYTES, Run, Waiting, pieces, runs, touched};
pub use read::{MemberIo, Part, read};
pub use recipe::{Recipe, recipe};
pub use write::{Method, Position, Unit, choose, split};

#[cfg(test)]
mod tests;
