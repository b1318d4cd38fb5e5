//! Copies of disks in use, under load and faults.

mod backup;
mod kit;
mod mirror;
