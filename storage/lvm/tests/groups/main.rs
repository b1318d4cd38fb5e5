//! Volume groups on simulated disks.

mod operations;
mod power;
mod rig;
