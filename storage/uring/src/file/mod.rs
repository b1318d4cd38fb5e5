//! Files and block devices as block devices.

mod cached;
mod device;
mod errors;
mod job;
mod lock;
mod open;
mod queue;
#[allow(unsafe_code)] // A room of unsafe: disk operations that own the memory they name.
mod ring_job;
mod sync_job;

pub use device::FileDevice;
pub use open::{Direct, Engine, OpenOptions};
