//! Volume groups on simulated disks.

mod hostile;
mod operations;
mod power;
mod rig;
