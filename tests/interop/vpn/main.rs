//! Our tunnel against those of others, administered by `wg`. Everything happens in namespaces of the tests' own, or in a
//! `LinuxGuest`.

mod administration;
mod kernel;
mod lab;
mod nat;
mod rekey;
mod rival;
