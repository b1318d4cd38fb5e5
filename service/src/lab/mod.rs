//! A lab: many objects declared in one TOML file, and what has to change so that they are there.
//!
//! [`file`] parses and checks the declaration; [`plan`] compares it with what is observed, without I/O. What the plan
//! lists, the daemon does, one command after the other; every step is one that a person could type.

pub mod file;
mod hosts;
pub mod plan;
mod source;
mod tunnels;
mod written;

pub use file::Lab;
pub use tunnels::LabStretch;
