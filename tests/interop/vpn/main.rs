//! Our tunnel against wireguard-go, administered by `wg`. Everything happens in namespaces of the tests' own.

mod administration;
mod lab;
mod rival;
