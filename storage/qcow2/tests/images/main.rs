//! Images as block devices: the contract, and what a power cut leaves.

mod amended;
mod bitmaps;
mod compressed;
mod conformance;
mod encrypted;
mod faults;
mod fill;
mod given_up;
mod killed;
mod kit;
mod neighbours;
mod power;
mod preallocated;
mod renamed;
mod reuse;
mod snapshots;
