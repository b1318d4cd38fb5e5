//! Simulated block devices that fail, lie, slow down and lose power, and the oracle that judges what survives.
//!
//! Everything here is deterministic: a run is a function of its seed. A storage layer is tested by stacking it on
//! these devices, driving it with a [`Workload`] under an [`Executor`], cutting the power somewhere, and asking the
//! [`Oracle`] whether each sector holds a value that the acknowledgements and flushes it saw allow.
//!
//! - [`MemoryDevice`]: sparse memory, the well-behaved leaf.
//! - [`PowerCut`]: a leaf with a volatile cache; a [`PowerSupply`] shared by the members of an array cuts all at the
//!   same instant, after which each unflushed sector is kept, lost or torn.
//! - [`Faulty`]: errors, silent corruption, lost writes, answers that are lost or late, flushes that lie, a device that
//!   goes offline, switched at run time through [`Faults`].
//! - [`Slow`]: delays in virtual time and completions out of order.
//! - [`Oracle`]: watches a device and judges what is read from it.
//! - [`conformance`]: what any [`BlockDevice`](weft_block::BlockDevice) must pass, under any executor.
//! - [`for_each_seed`]: runs a test over many seeds and prints the command that replays a failing one.

mod clock;
pub mod conformance;
mod executor;
mod faulty;
mod memory;
mod oracle;
mod power;
mod seeds;
mod slow;
mod sparse;
mod task;
mod workload;

pub use clock::{Clock, Sleep};
pub use executor::{Deadlock, Executor};
pub use faulty::{Answers, Faults, Faulty, Rates};
pub use memory::MemoryDevice;
pub use oracle::Oracle;
pub use power::{PowerCut, PowerSupply};
pub use seeds::for_each_seed;
pub use slow::{Delays, Slow};
pub use sparse::SparseImage;
pub use task::Task;
pub use weft_block::yield_now;
pub use workload::{Mix, Outcome, Overlap, Workload};
