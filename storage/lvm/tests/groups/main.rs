//! Volume groups on simulated disks.

mod operations;
mod rig;
