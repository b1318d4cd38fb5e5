//! Disks and NICs as vhost-user front ends: the work is done by a back end in another process.
//!
//! Each device has a thread that talks to its back end, so a back end that is slow or gone never stops a CPU. A
//! connection that breaks is made again for as long as the VM runs; meanwhile the guest's requests wait in its rings.
//! After it is back the rings go on behind the last answered request. Where the back end tracks what is in flight
//! (INFLIGHT_SHMFD), the region is kept here over its death and given to its successor, so that no request is lost and
//! none is done twice; without it, requests that were answered out of order may be done again.

mod attachment;
mod features;
mod retry;
mod session;
mod thread;

pub(crate) use attachment::Attachment;
pub use attachment::{DeviceStatus, Link};
pub(crate) use features::Kind;
pub(crate) use thread::start;

#[cfg(test)]
mod tests;
