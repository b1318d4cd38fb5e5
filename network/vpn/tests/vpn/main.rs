//! Machines against each other, against time, against an eavesdropper and against other implementations.

mod differential;
mod eavesdropper;
mod exchange;
mod load;
mod primitives;
mod rival;
mod simulation;
mod time;
mod world;
