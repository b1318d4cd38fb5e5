//! The program from outside: what a person or a script types, and what comes back.

mod disks;
mod labs;
mod networks;
mod program;
mod raid;
mod restart;
mod volumes;
